"""Files written whole or not at all, digests, and locks."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from xfdev.errors import Busy, DiskFull, ReadOnlyCheckout, XfdevError


@contextmanager
def explained(what: str) -> Iterator[None]:
    """Turn the operating system's refusals to write *what* into errors with a name."""
    try:
        yield
    except OSError as error:
        named = _explain(what, error)
        if named is None:
            raise
        raise named from error


def full_disk(said: str, what: str) -> DiskFull | None:
    """The error where another program *said* that it found no space left while it worked on *what*."""
    for line in said.splitlines():
        if "No space left on device" in line or "Disk quota exceeded" in line:
            return _disk_full(what, line.strip(), said)
    return None


def check_space(said: str, what: str) -> None:
    """Raise DiskFull where another program *said* that it found no space left while it worked on *what*."""
    error = full_disk(said, what)
    if error is not None:
        raise error


def _disk_full(what: str, why: str = "", details: str = "") -> DiskFull:
    return DiskFull(
        f"no space left while writing {what}",
        why=why or "the disk, or your quota, is full; an environment with CUDA alone takes 5 to 8 GB",
        hint="df -h shows which disk; free some (xfdev bundle prune --max-age 30d), then run the same command again",
        details=details,
    )


def _explain(what: str, error: OSError) -> XfdevError | None:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return _disk_full(what)
    if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
        return ReadOnlyCheckout(
            f"{what} cannot be written: {error.strerror or error}",
            why="the file system is read-only, or the files belong to another user",
            hint=f"ls -ld {error.filename or what}; make it writable, or work in a clone of your own",
        )
    return None


def write_atomic(path: Path, content: bytes | str, mode: int = 0o644, *, durable: bool = False) -> None:
    """Replace *path* by *content* in one step; a reader sees the old or the new file, never half of one.

    *durable*: also after the machine lost power. It takes as long as the disk needs for all that is still to be
    written (0.3 s and more after a clone), so the state of a checkout goes without: what reads it back checks it.
    """
    data = content.encode() if isinstance(content, str) else content
    with explained(str(path)):
        handle, name = temporary(path)
        try:
            with os.fdopen(handle, "wb") as stream:
                stream.write(data)
                if durable:
                    stream.flush()
                    os.fsync(stream.fileno())
            os.chmod(name, mode)
            os.replace(name, path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise


def temporary(target: Path) -> tuple[int, str]:
    """A new empty file beside *target*, open for writing, and its name. (``tempfile`` takes long to import.)"""
    while True:
        name = f"{target.parent}/.{target.name}.{os.getpid()}-{time.monotonic_ns():x}"
        try:
            return os.open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), name
        except FileExistsError:
            continue


def write_json(path: Path, value: Any) -> None:
    write_atomic(path, json.dumps(value, indent=1, sort_keys=True) + "\n")


def read_json(path: Path) -> Any:
    """The JSON in *path*, or None where there is none or it is damaged: such a file is as good as absent."""
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None


def sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def sha256_of(value: Any) -> str:
    """The digest of a JSON value in canonical form (sorted keys, no spaces)."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


@contextmanager
def locked(path: Path, what: str, *, wait: float) -> Iterator[None]:
    """Hold an exclusive lock on *path*; the kernel frees it when the process ends, however it ends.

    Raises Busy after *wait* seconds.
    """
    deadline = time.monotonic() + wait
    handle = _open_lock(path)
    try:
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    raise Busy(
                        f"another xfdev is working on {what}",
                        why=f"it holds the lock {path}",
                        hint="wait for it to finish, or stop it, and run the same command again",
                    ) from None
                time.sleep(0.05)
                continue
            if _is_at(handle, path):
                break
            # Its holder removed the file before letting go; others lock the new one.
            os.close(handle)
            handle = _open_lock(path)
        yield
    finally:
        os.close(handle)


def _open_lock(path: Path) -> int:
    with explained(str(path)):
        path.parent.mkdir(parents=True, exist_ok=True)
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)


def _is_at(handle: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), os.stat(path))
    except FileNotFoundError:
        return False
