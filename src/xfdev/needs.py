"""What compiled libraries need to load, read from their ELF and fat binaries, not from names."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from xfdev import elf, fatbin
from xfdev.bundle import Needs, Unit
from xfdev.errors import BadBundle


def of_outputs(libraries: Iterable[Path], *, torch: str, python: str, stable: str | None) -> Needs:
    """The needs of *libraries* together.

    *torch* and *python* (``3.11``) are those they were compiled with; *stable* is the least torch that a library may
    be used with when it keeps to torch's stable ABI, None when its flags do not say that it does. Code that needs
    more than the stable ABI in spite of its flags is tied to the exact torch.
    """
    glibc: tuple[int, ...] = ()
    glibcxx: tuple[int, ...] = ()
    isa: tuple[int, ...] = ()
    cuda: str | None = None
    machine = ""
    unstable = tied = False
    sass: set[str] | None = None
    ptx: set[str] | None = None
    pythons = set()
    for path in libraries:
        library = elf.read(path)
        machine = library.machine
        glibc = max(glibc, library.glibc or ())
        glibcxx = max(glibcxx, library.glibcxx or ())
        if library.cuda_major is not None:
            cuda = str(library.cuda_major)
        outside = bool(library.torch_symbols_outside_stable_abi)
        unstable = unstable or outside
        tied = tied or outside or any(name.startswith(("libtorch", "libc10")) for name in library.needed)
        if library.python_symbols:
            pythons.add("abi3" if ".abi3." in path.name else python)
        code = fatbin.read(path)
        if code.units:
            # Several libraries of one project serve different archs (kernels for Hopper only, say): what any has.
            sass = (sass or set()) | code.common_sass
            ptx = (ptx or set()) | code.common_ptx
            isa = max(isa, *(unit.isa or () for unit in code.units))
    if not tied:
        needs_torch = ""
    elif stable is not None and not unstable:
        needs_torch = f">={stable}"
    else:
        needs_torch = f"=={torch}"
    exact = pythons - {"abi3"}
    return Needs(
        glibc=".".join(map(str, glibc)),
        torch=needs_torch,
        cuda=cuda,
        python=exact.pop() if exact else ("abi3" if pythons else "any"),
        machine=machine,
        sass=tuple(sorted(sass or ())),
        ptx=tuple(sorted(ptx or ())),
        isa=".".join(map(str, isa)) if ptx else "",
        glibcxx=".".join(map(str, glibcxx)),
    )


def stable_torch(units: Sequence[Unit]) -> str | None:
    """The least torch of units compiled for torch's stable ABI; None where some unit is not.

    Source: torch/headeronly/version.h: TORCH_TARGET_VERSION is the version's three parts in the three highest bytes.
    """
    least = None
    for unit in units:
        if not any(word == "-DTORCH_STABLE_ONLY" for word in unit.argv):
            return None
        value = next((w.partition("=")[2] for w in unit.argv if w.startswith("-DTORCH_TARGET_VERSION=")), None)
        if value is None:
            return None
        try:
            number = int(value.rstrip("uUlL"), 0)
        except ValueError:
            return None
        least = f"{number >> 56}.{number >> 48 & 0xFF}"
    return least


def is_library(path: Path) -> bool:
    """Whether *path* is an ELF file at all."""
    try:
        with path.open("rb") as stream:
            return stream.read(4) == b"\x7fELF"
    except OSError as error:
        raise BadBundle(f"{path} cannot be read: {error}") from error
