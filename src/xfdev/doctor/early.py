"""Before long work: the few checks that find in the first second what would else be found after minutes.

They read what is known already, and ask the kernel: together less than 50 ms, and no process is started.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable, Mapping
from pathlib import Path

from xfdev import cuda_releases, limits, venv
from xfdev.console import console
from xfdev.doctor.compare import (
    judge_compiler,
    judge_driver,
    judge_memory,
    judge_nvcc,
    judge_room,
    judge_script,
)
from xfdev.doctor.finding import Finding
from xfdev.doctor.look.host_compiler import any_compiler_allowed, compiler_kind, of_nvcc, unchecked
from xfdev.doctor.wanted import wanted
from xfdev.errors import BadEnvironment, DiskFull, Unhealthy, XfdevError
from xfdev.toolchain import Toolchain, is_script

_DRIVER = Path("/proc/driver/nvidia/version")


def before_environment(prefix: Path, *, cuda: bool, environ: Mapping[str, str]) -> None:
    """Before packages are fetched into *prefix*. Raises DiskFull where they cannot fit."""
    if not cuda:
        return
    # One that is begun holds some of it already.
    least = 0 if prefix.exists() else wanted().environment_least
    devices: set[int] = set()
    _room(prefix, least, wanted().environment, "an environment with CUDA", devices)
    _room(Path(environ.get("TMPDIR") or "/tmp"), 0, wanted().temporary, "what pip fetches", devices)


def before_compile(chain: Toolchain, environ: Mapping[str, str], folders: Iterable[Path], *, full: bool) -> None:
    """Before the compilers start; *folders* are written into. What keeps a compile from ending well is an error,
    what may, or what keeps its result from running here, a line."""
    if chain.cxx is not None:
        _tell(judge_script(str(chain.cxx.path), is_script(chain.cxx.path)), None)
    if not chain.has_cuda:
        return
    nvcc = chain.nvcc.version if chain.nvcc else None
    cuda = chain.torch.cuda if chain.torch else None
    entry = cuda_releases.release(nvcc) if nvcc else None
    loaded = cuda_releases.release(cuda) if cuda else None
    _tell(judge_nvcc(nvcc, cuda), BadEnvironment)
    gcc, clang = (entry.gcc, entry.clang) if entry else (None, None)
    device, allowed = of_nvcc(environ, venv.tools_memory(environ)), any_compiler_allowed(environ)
    apart = device is not None and (chain.cxx is None or device.version != chain.cxx.version)
    judged = [(chain.cxx, allowed or (apart and unchecked(environ))), (device if apart else None, allowed)]
    for one, let in judged:
        if one is not None:
            kind = compiler_kind(one.path.name)
            _tell(judge_compiler(str(one.path), one.version, kind, nvcc, gcc, clang, allowed=let), Unhealthy)
    devices: set[int] = set()
    for folder in folders:
        _room(folder, wanted().build_least if full else 0, wanted().disk_least, "a build", devices)
    _tell(judge_memory(limits.memory(), wanted().memory_least), None)
    driver = running_driver()
    if driver is not None:
        # Elsewhere the result may run very well.
        _tell(judge_driver(driver, None, cuda, loaded.least_driver if loaded else None, seen=True), None)


def running_driver(file: Path = _DRIVER) -> str | None:
    """The version of the driver that runs, as the kernel says; None where there is none."""
    try:
        match = re.search(r"\b(\d{3,}\.\d+(?:\.\d+)?)\b", file.read_text(errors="replace"))
    except OSError:
        return None
    return match[1] if match else None


def _room(folder: Path, least: int, enough: int, what: str, devices: set[int]) -> None:
    """Judge the room in *folder*, unless its file system is one of *devices*, of which enough was said."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    try:
        free, device = shutil.disk_usage(folder).free, folder.stat().st_dev
    except OSError:
        return
    if device in devices:
        return
    devices.add(device)
    _tell(judge_room(str(folder), free, least=least, enough=enough, what=what), DiskFull)


def _tell(found: Finding, kind_of_error: type[XfdevError] | None) -> None:
    """Raise what is an error, print what is a warning."""
    if found.status == "error" and kind_of_error is not None:
        raise kind_of_error(
            found.evidence, why="found before anything was compiled or fetched; xfdev doctor has more", hint=found.fix
        )
    if found.status in ("warning", "error"):
        console.warning(f"{found.evidence}; do: {found.fix}")
