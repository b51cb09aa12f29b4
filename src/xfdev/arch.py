"""``TORCH_CUDA_ARCH_LIST``: the entries torch takes, in one canonical form.

Source of the grammar: ``_get_cuda_arch_flags`` of ``torch/utils/cpp_extension.py`` (2.10 to 2.14): entries parted
by spaces or ``;``, each ``MAJOR.MINOR`` with an optional ``a`` and an optional ``+PTX``, sorted before use.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from difflib import get_close_matches

from xfdev.errors import UnknownArch

ENTRY = re.compile(r"(?P<major>\d{1,2})\.(?P<minor>\d)(?P<suffix>[af]?)(?P<ptx>\+PTX)?\Z")


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
    def sm(self) -> str:
        """As nvcc spells it: ``sm_90a``."""
        return f"sm_{self.major}{self.minor}{self.suffix}"

    def serves(self, device: Arch) -> bool:
        """Whether machine code of this arch runs on *device*.

        Within a major version code of a lower minor runs; code for ``a`` features only on that very device.
        Source: CUDA C++ Programming Guide, "Compute Capability" and "Feature Set Compiler Targets".
        """
        if self.major != device.major:
            return False
        return self.minor == device.minor if self.suffix == "a" else self.minor <= device.minor


def parse(text: str) -> tuple[Arch, ...]:
    """The entries of an arch list, sorted, without doubles. Raises UnknownArch naming the first bad entry."""
    found = set()
    for entry in re.split(r"[;\s]+", text.strip()):
        if not entry:
            continue
        match = ENTRY.match(entry)
        if match is None:
            raise UnknownArch(
                f"{entry!r} is not a CUDA arch",
                why="an arch is a compute capability such as 8.6, 9.0a or 12.0+PTX",
                hint="give one or more, for example --arch '8.0;9.0a'",
            )
        found.add(Arch(int(match["major"]), int(match["minor"]), match["suffix"], match["ptx"] is not None))
    return tuple(sorted(found))


def canonical(archs: Iterable[Arch]) -> str:
    """The list as torch takes it: sorted, parted by ``;``."""
    return ";".join(str(arch) for arch in sorted(set(archs)))


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
