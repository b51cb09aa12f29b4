"""``TORCH_CUDA_ARCH_LIST``: the entries torch takes, in one canonical form.

Source of the grammar: ``_get_cuda_arch_flags`` of ``torch/utils/cpp_extension.py`` (2.10 to 2.14): entries parted
by spaces or ``;``, each ``MAJOR.MINOR`` with an optional ``a`` and an optional ``+PTX``, or a name such as Hopper,
or ``native``; sorted before use. ``all`` and ``all-major`` are nvcc's (nvcc --help, --gpu-architecture), ``auto`` is
xfdev's own: machine code for the GPUs here, and nothing else.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from difflib import get_close_matches

from xfdev.errors import UnknownArch

ENTRY = re.compile(r"(?P<major>\d{1,2})\.(?P<minor>\d)(?P<suffix>[af]?)(?P<ptx>\+PTX)?\Z")
SM = re.compile(r"(?:sm|compute)_(?P<major>\d{1,2})(?P<minor>\d)(?P<suffix>[af]?)\Z")
AUTO = "auto"
OF_DEVICES = (AUTO, "native")
OF_COMPILER = ("all", "all-major")


@dataclass(frozen=True, order=True)
class Arch:
    """One entry: machine code for compute capability *major*.*minor* and, with *ptx*, PTX of it too."""

    major: int
    minor: int
    suffix: str = ""
    ptx: bool = False

    def __str__(self) -> str:
        return f"{self.capability}{'+PTX' if self.ptx else ''}"

    @property
    def capability(self) -> str:
        """Without PTX, as in ``9.0a``."""
        return f"{self.major}.{self.minor}{self.suffix}"

    @property
    def base(self) -> str:
        """Without PTX and features, as in ``9.0``."""
        return f"{self.major}.{self.minor}"

    @property
    def sm(self) -> str:
        """As nvcc spells it: ``sm_90a``."""
        return f"sm_{self.major}{self.minor}{self.suffix}"


def parse(
    text: str, *, devices: Collection[Arch] | None = None, compiler: Collection[Arch] | None = None
) -> tuple[Arch, ...]:
    """The entries of an arch list, sorted, without doubles. Raises UnknownArch naming the first bad entry.

    *devices* are the capabilities that ``auto`` and ``native`` stand for, *compiler* the archs that ``all`` and
    ``all-major`` do; None where nobody can say, which makes those words an error.
    """
    found: set[Arch] = set()
    for entry in re.split(r"[;\s]+", text.strip()):
        match = ENTRY.match(entry)
        if match is not None:
            found.add(Arch(int(match["major"]), int(match["minor"]), match["suffix"], match["ptx"] is not None))
        elif entry in OF_DEVICES:
            found |= _of_devices(entry, devices)
        elif entry in OF_COMPILER:
            found |= _of_compiler(entry, compiler)
        elif entry:
            found |= set(_of_name(entry))
    return tuple(sorted(found))


def only_auto(text: str) -> bool:
    """Whether a list says no more than to take the GPUs here."""
    return {*re.split(r"[;\s]+", text.strip())} == {AUTO}


def from_sm(names: Iterable[str]) -> tuple[Arch, ...]:
    """Archs as nvcc spells them (``sm_90a``), sorted; what is none is left out."""
    found = (SM.match(name) for name in names)
    return tuple(sorted({Arch(int(m["major"]), int(m["minor"]), m["suffix"]) for m in found if m}))


def canonical(archs: Iterable[Arch]) -> str:
    """The list as torch takes it: sorted, parted by ``;``."""
    return ";".join(str(arch) for arch in sorted(set(archs)))


def _of_devices(word: str, devices: Collection[Arch] | None) -> set[Arch]:
    if not devices:
        why = "no GPU is visible here" if devices is not None else "nobody looks for GPUs at this place"
        hint = "name the arch: xfdev arch --list shows them all"
        raise UnknownArch(f"{word!r} stands for the GPUs of this machine, and there is none", why=why, hint=hint)
    plain = sorted({replace(device, ptx=False) for device in devices})
    if word == "native":  # as torch has it: newer GPUs can be served by the PTX of the newest one
        plain[-1] = replace(plain[-1], ptx=True)
    return set(plain)


def _of_compiler(word: str, compiler: Collection[Arch] | None) -> set[Arch]:
    plain = sorted({replace(arch, ptx=False) for arch in compiler or () if not arch.suffix})
    if not plain:
        why = "no compiler for CUDA was found" if compiler is not None else "no compiler is asked at this place"
        raise UnknownArch(f"{word!r} stands for what nvcc compiles for, and there is none", why=why, hint="name archs")
    if word == "all-major":
        # nvcc: every X.0, and the earliest that there is.
        plain = sorted({plain[0], *(arch for arch in plain if arch.minor == 0)})
    newest = max((arch for arch in plain if arch.minor == 0), default=plain[-1])
    return {*plain, replace(newest, ptx=True)} - {newest}


def _of_name(entry: str) -> tuple[Arch, ...]:
    from xfdev.gpu_families import names

    known = names()
    if entry in known:
        return parse(known[entry])
    raise UnknownArch(
        f"{entry!r} is not a CUDA arch",
        why="an arch is a compute capability such as 8.6, 9.0a or 12.0+PTX, a name such as Hopper, or one of "
        + ", ".join((*OF_DEVICES, *OF_COMPILER)),
        hint=f"{_nearest(entry)}give one or more, for example --arch '8.0;9.0a'; xfdev arch --list shows them all",
    )


def _nearest(entry: str) -> str:
    """What may have been meant: 90 and sm_90 for 9.0, 9.0b for 9.0a, hoper for Hopper."""
    from xfdev.gpu_families import names, rows

    found: list[str] = []
    number = re.fullmatch(r"(?:sm|compute)?[_-]?(\d{1,2}?)\.?(\d)(?:\.0)?([a-z]?)(\+?ptx)?", entry, re.IGNORECASE)
    if number:
        base = f"{number[1]}.{number[2]}" if number[1] else f"{number[2]}.0"
        exact = base + (number[3] if number[3] in ("a", "f") else "") + ("+PTX" if number[4] else "")
        if base in rows():
            found = [exact]
        else:
            found = sorted(rows(), key=lambda name: abs(float(name) - float(base)))[:3]
    elif entry.isdigit() and f"{entry}.0" in rows():
        found = [f"{entry}.0"]
    words = {word.lower(): word for word in (*names(), *OF_DEVICES, *OF_COMPILER)}
    found += [words[near] for near in get_close_matches(entry.lower(), words, n=2, cutoff=0.7)]
    return f"nearest: {', '.join(found)}; " if found else ""


def check_known(archs: Iterable[Arch], *, nvcc: Collection[str], torch: Collection[str]) -> None:
    """Raise UnknownArch for the first entry that the compiler or torch refuses.

    *nvcc* holds what ``nvcc --list-gpu-code`` prints (``sm_90``, ...), *torch* the table of its cpp_extension
    (``9.0``, ``9.0a``, ...). An empty collection means that nobody could be asked.
    """
    for arch in archs:
        if torch and arch.capability not in torch:
            raise _unknown(arch, "torch", sorted(torch))
        if nvcc and arch.sm not in nvcc and f"sm_{arch.major}{arch.minor}" not in nvcc:
            raise _unknown(arch, "nvcc", sorted(nvcc))


def _unknown(arch: Arch, who: str, known: list[str]) -> UnknownArch:
    spelled = arch.sm if who == "nvcc" else arch.capability
    near = get_close_matches(spelled, known, n=3, cutoff=0.5) or known[-3:]
    return UnknownArch(
        f"{who} of this toolchain does not know arch {arch}",
        why=f"it knows {', '.join(known)}",
        hint=f"nearest: {', '.join(near)}; another toolchain may know more (xfdev up --toolchain NAME)",
    )
