"""What a compile demands of a checkout and its environment before it starts: compilers, archs, submodules."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from xfdev.arch import check_known
from xfdev.arch_variables import translated
from xfdev.commands.session import Session
from xfdev.errors import (
    MissingSubmodule,
    NoCompiler,
    NoNvcc,
    SourceUnreachable,
    UnknownArch,
)
from xfdev.profile import toolchains
from xfdev.toolchain import nvcc_archs, torch_archs
from xfdev.venv import tools_memory

if TYPE_CHECKING:  # a link needs none of what a compile needs, and starts the sooner
    pass


def require_compilers(session: Session) -> None:
    """Raise NoCompiler, NoNvcc or UnknownArch before anything long starts."""
    chain, environment = session.toolchain, session.environment
    if chain.cxx is None:
        named = session.environ.get("CXX")
        raise NoCompiler(
            "there is no C++ compiler",
            why=f"CXX is {named!r}, which is no program" if named else "CXX is not set, and PATH has no c++",
            hint="set CXX to one that there is, or unset it" if named else "apt-get install g++, or set CXX to one",
        )
    if not chain.has_cuda:
        return
    if chain.nvcc is None:
        other = session.profile.toolchain_for("compile", session.release_version)
        able = other if toolchains()[other].nvcc else "cu130"
        arch = "" if session.gpus.devices else " --arch 9.0"
        raise NoNvcc(
            f"toolchain {environment.toolchain} cannot compile CUDA code: it has no nvcc",
            why=f"PyPI has no nvcc for CUDA {chain.facts.get('cuda')}, and none was found on this machine",
            hint=f"xfdev up {session.root} --toolchain {able}{arch} moves this checkout to one that can",
        )
    if not session.arch:
        raise UnknownArch(
            "there is no GPU here, and no arch was named to compile for",
            why="the arch comes from the GPU where there is one",
            hint="add --arch: 9.0 for an H100, 8.6 for an RTX 30xx, 12.0 for an RTX 50xx; xfdev arch --list has all",
        )
    translated(session.arch, session.profile.arch_variables)
    check_known(
        session.arch,
        nvcc=nvcc_archs(chain.nvcc, tools_memory(session.environ)),
        torch=torch_archs(environment.site_packages),
    )


def fetch_submodules(session: Session, read: Iterable[str] | None = None) -> None:
    """Check out the submodules that this project's build needs, and no others. *read* are the files that its units
    are known to read."""
    missing = missing_submodules(session, read)
    if not missing:
        return
    from xfdev import submodules

    try:
        submodules.obtain(session.root, missing)
    except SourceUnreachable as error:
        raise MissingSubmodule(
            f"the compile needs the submodule {missing[0]}, which cannot be fetched: {error}",
            why=error.why,
            hint=f"git -C {session.root} submodule update --init --depth 1 {' '.join(missing)}",
            details=error.details,
        ) from error
    for name in ("submodules", "_index", "_index_written", "_ids"):
        session.checkout.__dict__.pop(name, None)  # what it said before is no longer so


def missing_submodules(session: Session, read: Iterable[str] | None) -> list[str]:
    """Those that the build needs and that are not checked out; where somebody put files instead, those are it."""
    absent = [path for path, module in session.checkout.submodules.items() if module.head is None and module.clean]
    if session.profile.submodules:
        return [path for path in absent if path in session.profile.submodules]
    known = None if read is None else list(read)
    return [path for path in absent if known is None or any(name.startswith(f"{path}/") for name in known)]
