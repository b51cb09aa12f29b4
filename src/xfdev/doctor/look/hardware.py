"""This machine: the container it may be, memory, disks, GPUs, caches."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from xfdev import gpu, limits
from xfdev.doctor.facts import Caches, Disk, Disks, Gpus, Machine
from xfdev.doctor.look.ask import Ask

PROC = Path("/proc")
_COUNT_FOR = 1.6  # seconds for the sizes of the caches


def machine(ask: Ask, *, proc: Path = PROC, root: Path = Path("/")) -> Machine:
    kernel = _text(proc / "sys/kernel/osrelease").lower()
    total = re.search(r"^MemTotal:\s+(\d+) kB", _text(proc / "meminfo"), re.MULTILINE)
    memory = limits.memory(proc=proc)
    return Machine(
        container=_container(ask, proc, root),
        wsl="microsoft" in kernel,
        uid=os.geteuid(),
        gid=os.getegid(),
        memory=memory,
        total=int(total[1]) * 1024 if total else 0,
        limit=limits.memory_limit(proc=proc),
        platform=os.uname().machine,
    )


def _container(ask: Ask, proc: Path, root: Path) -> str:
    if (root / ".dockerenv").exists():
        return "docker"
    if (root / "run/.containerenv").exists():
        return "podman"
    named = ask.environ.get("container", "")
    if named:
        return named
    return "kubernetes" if "kubepods" in _text(proc / "1/cgroup") else ""


def gpus(ask: Ask) -> Gpus:
    found = gpu.detect(ask.environ)
    traces = found.driver is not None or any(Path(path).exists() for path in ("/proc/driver/nvidia", "/dev/dxg"))
    return Gpus(
        devices=tuple(f"{device.name} ({device.capability})" for device in found.devices),
        traces=traces or shutil.which("nvidia-smi", path=ask.environ.get("PATH")) is not None,
        driver=found.driver,
        cuda=found.cuda,
        notes=found.notes,
        archs=found.archs,
    )


def disks(ask: Ask) -> Disks:
    """What is free where things are written, each file system asked by the nearest folder that is there."""
    temporary = Path(ask.environ.get("TMPDIR") or tempfile.gettempdir())
    places = {"checkout": ask.root, "environment": Path(ask.made.prefix), "cache": ask.cache, "temporary": temporary}
    found = []
    for what, path in places.items():
        with suppress(OSError):
            found.append(disk(what, path))
    return Disks(tuple(found))


def disk(what: str, path: Path) -> Disk:
    """Raises OSError where not even a folder above it can be asked."""
    while not path.exists() and path != path.parent:
        path = path.parent
    said = os.statvfs(path)
    inodes = said.f_favail if said.f_files else None
    return Disk(what, str(path), path.stat().st_dev, said.f_bavail * said.f_frsize, inodes)


def caches(ask: Ask) -> Caches:
    """The sizes of what may be thrown away, as far as there is time to count."""
    home = Path(ask.environ.get("HOME") or "/")
    general = Path(ask.environ.get("XDG_CACHE_HOME") or home / ".cache")
    places = {
        "bundles": ask.cache / "store",
        "compiler cache": Path(ask.made.environ.get("CCACHE_DIR") or ask.cache / "ccache"),
        "pip": Path(ask.environ.get("PIP_CACHE_DIR") or general / "pip"),
        "torch extensions": Path(ask.environ.get("TORCH_EXTENSIONS_DIR") or general / "torch_extensions"),
    }
    until = time.monotonic() + _COUNT_FOR
    found = []
    for name, folder in places.items():
        if folder.is_dir():
            total, whole = 0, True
            for count in _sizes(folder, set()):
                total += count
                if time.monotonic() > until:
                    whole = False
                    break
            found.append((name, str(folder), total, whole))
    return Caches(tuple(found))


def _sizes(folder: Path, seen: set[tuple[int, int]]) -> Iterator[int]:
    """The bytes on disk of every file below *folder*, linked ones once; what cannot be read counts nothing."""
    try:
        entries = list(os.scandir(folder))
    except OSError:
        return
    for entry in entries:
        try:
            if entry.is_dir(follow_symlinks=False):
                yield from _sizes(Path(entry.path), seen)
                continue
            stat = entry.stat(follow_symlinks=False)
        except OSError:
            continue
        if stat.st_nlink > 1:
            if (stat.st_dev, stat.st_ino) in seen:
                continue
            seen.add((stat.st_dev, stat.st_ino))
        yield stat.st_blocks * 512


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""
