"""Where the checkout lies, how fast that is, and whose its files are."""

from __future__ import annotations

import math
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from xfdev.doctor.facts import Mount, Owners
from xfdev.doctor.look.ask import Ask

MOUNTS = Path("/proc/self/mountinfo")
_TEST_FOR = 0.4  # seconds, for each of the two tests
_BATCHES, _BATCH, _CHUNK = 12, 12, 1 << 18
_LOOK_FOR, _LOOK_AT = 0.6, 30_000
_NOT_OURS = frozenset({".venv", "node_modules", ".tools"})


def mount(ask: Ask, *, mounts: Path = MOUNTS) -> Mount:
    """The file system that the checkout is on, tried with some small files and a large one."""
    root = ask.root.resolve()
    system, point, read_only = mounted(root, mounts.read_text(errors="replace"))
    if read_only:
        return Mount(str(root), system, point, read_only=True, said="it is read-only")
    inside = root / ".xfdev" if (root / ".xfdev").is_dir() else root
    folder = inside / f".xfdev-doctor-{os.getpid()}-{time.monotonic_ns():x}"
    try:
        folder.mkdir()
    except OSError as error:
        return Mount(str(root), system, point, said=error.strerror or str(error))
    try:
        skew = _skew(folder / "now")
        return Mount(str(root), system, point, files=_files(folder), speed=_speed(folder / "large"), skew=skew)
    except OSError as error:  # full, or gone
        return Mount(str(root), system, point, said=error.strerror or str(error))
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def mounted(path: Path, mountinfo: str) -> tuple[str, str, bool]:
    """The kind of the file system that *path* is on, where that is mounted, and whether it is read-only."""
    best = ("unknown", "/", False)
    length = -1
    for line in mountinfo.splitlines():
        before, _, after = line.partition(" - ")
        fields, system = before.split(" "), after.split(" ")
        if len(fields) < 6 or not system[0]:
            continue
        point = re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), fields[4])
        # Of two that are mounted at one place the later one counts.
        if path.is_relative_to(point) and len(point) >= length:
            options = {*fields[5].split(","), *(system[2].split(",") if len(system) > 2 else ())}
            best, length = (system[0], point, "ro" in options), len(point)
    return best


def _skew(path: Path) -> float:
    """What time a file gets that is written now, against this machine's clock."""
    before = time.time()
    path.write_bytes(b"now")
    after = time.time()
    made = path.stat().st_mtime
    # The kernel's clock for files stands still for some milliseconds at a time.
    return made - after if made > after else min(0.0, made - before)


def _files(folder: Path) -> float:
    """Small files written, looked at, read and removed, each second."""
    path, data = folder / "small", b"x" * 4096

    def one() -> None:
        path.write_bytes(data)
        path.stat()
        path.read_bytes()
        path.unlink()

    return _BATCH / _quickest(one)


def _speed(path: Path) -> float:
    """Bytes written a second, as programs see it: into memory, where the file system lets them."""
    data = os.urandom(_CHUNK)
    with path.open("wb", buffering=0) as stream:
        return _BATCH * _CHUNK / _quickest(lambda: stream.write(data))


def _quickest(step: Callable[[], object]) -> float:
    """Seconds for a batch of steps: of several batches the quickest, as a busy machine only makes one slower, and other
    areas are looked at meanwhile."""
    best = math.inf
    until = time.monotonic() + _TEST_FOR
    for _ in range(_BATCHES):
        started = now = time.monotonic()
        for done in range(1, _BATCH + 1):
            step()
            now = time.monotonic()
            if now > until:  # so slow that there is no time for a whole batch
                return min(best, (now - started) / done * _BATCH)
        best = min(best, now - started)
    return max(best, 1e-6)


def owners(ask: Ask) -> Owners:
    """Whose the files are, as many as there is time for, those near the top first."""
    root, me = ask.root, os.geteuid()
    owner = root.stat().st_uid
    looked = foreign = closed = 0
    example = worst = ""
    until = time.monotonic() + _LOOK_FOR
    for path, uid in _entries(root):
        looked += 1
        if uid != owner:
            foreign += 1
            example = example or path
        if uid != me and not os.access(path, os.W_OK):
            closed += 1
            worst = worst or path
        if looked >= _LOOK_AT or time.monotonic() > until:
            break
    return Owners(str(root), me, os.getegid(), owner, looked, foreign, closed, worst or example)


def _entries(root: Path) -> Iterator[tuple[str, int]]:
    folders = [str(root)]
    yield str(root), root.stat().st_uid
    for folder in folders:  # grows meanwhile
        try:
            entries = list(os.scandir(folder))
        except OSError:
            continue
        for entry in entries:
            if entry.is_symlink():
                continue
            try:
                uid = entry.stat(follow_symlinks=False).st_uid
            except OSError:
                continue
            yield entry.path, uid
            if entry.is_dir() and entry.name not in _NOT_OURS:
                folders.append(entry.path)
