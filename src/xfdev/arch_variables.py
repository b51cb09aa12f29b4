"""Arch lists as projects read them that do not ask for TORCH_CUDA_ARCH_LIST."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from xfdev.arch import Arch, from_sm, parse
from xfdev.errors import UnknownArch


@dataclass(frozen=True)
class ArchVariable:
    """How one variable spells an arch list.

    *entry* is one arch, *with_ptx* one that PTX is wanted of; ``{number}`` in them is 90, ``{capability}`` 9.0, both
    with the letter of a feature. *known* are the only archs that the project compiles for, () where it takes any.
    """

    entry: str
    with_ptx: str
    separator: str = ";"
    known: tuple[str, ...] = ()


def translate(archs: Sequence[Arch], variable: ArchVariable) -> str:
    """*archs* in the variable's spelling. One that the project does not know becomes that of its own whose machine
    code runs there (8.6: 8.0); raises UnknownArch where there is none."""
    spelled = []
    for arch in archs:
        entry = _known(arch, variable)
        form = variable.with_ptx if entry.ptx else variable.entry
        number = f"{entry.major}{entry.minor}{entry.suffix}"
        spelled.append(form.format(number=number, capability=entry.capability))
    return variable.separator.join(dict.fromkeys(spelled))


def translated(archs: Sequence[Arch], variables: Mapping[str, ArchVariable]) -> dict[str, str]:
    """The value of every variable; {} without an arch, so that the projects' own defaults hold."""
    return {name: translate(archs, variable) for name, variable in variables.items()} if archs else {}


def _known(arch: Arch, variable: ArchVariable) -> Arch:
    if not variable.known:
        return arch
    from xfdev.gpu_families import serves

    known = parse(";".join(variable.known))
    if any(entry == Arch(arch.major, arch.minor, arch.suffix) for entry in known):
        return arch
    (device,) = from_sm([f"sm_{arch.major}{arch.minor}"])
    fitting = [entry for entry in known if serves(entry, device)]
    if not fitting:
        raise UnknownArch(
            f"this project does not compile for arch {arch}",
            why=f"its build script knows {', '.join(variable.known)}, and no machine code for those runs on {device}",
            hint="name another arch with --arch, or teach the build script this one",
        )
    return fitting[-1]
