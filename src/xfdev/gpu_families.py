"""GPUs by compute capability, and what machine code runs on which. The facts are in resources/gpus.toml."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

from xfdev.arch import Arch

_FACTS = Path(__file__).parent / "resources" / "gpus.toml"


@dataclass(frozen=True)
class Row:
    """GPUs of one compute capability. *integrated*: part of a system on a chip, as in a Jetson."""

    capability: str
    family: str
    gpus: str
    note: str
    integrated: bool = False


@cache
def _facts() -> Mapping[str, Any]:
    found: Mapping[str, Any] = tomllib.loads(_FACTS.read_text())
    return found


@cache
def rows() -> Mapping[str, Row]:
    """All rows by capability (``9.0``), the oldest first."""
    return {entry["capability"]: Row(**entry) for entry in _facts()["gpus"]}


def names() -> Mapping[str, str]:
    """Names that stand for archs: ``Hopper`` for ``9.0+PTX``."""
    found: Mapping[str, str] = _facts()["names"]
    return found


def torch_wheels() -> tuple[str, ...]:
    """The CUDA releases that there are wheels of torch for, as far as is known."""
    return tuple(_facts()["torch_wheels"])


def torch_wheel(cuda: str, machine: str) -> tuple[str, ...]:
    """The capabilities that torch's own wheel for a CUDA release (``13.0``) has machine code for; () if not known."""
    return tuple(_facts()["torch_wheels"].get(cuda, {}).get(machine, "").split())


def described(capability: str) -> str:
    """``9.0 (Hopper: H100, H200, GH200)``; a capability that is not in the table stays as it is."""
    row = rows().get(capability.rstrip("af"))
    return f"{capability} ({row.family}: {row.gpus})" if row else capability


def serves(code: Arch, device: Arch) -> bool:
    """Whether machine code of arch *code* runs on a GPU of capability *device*.

    Code runs on its own capability and on later ones of the same major version; with feature ``a`` on its own alone,
    with ``f`` on its family. Between discrete and integrated GPUs nothing is exchanged: an integrated one runs its
    own code only. (CUDA 13.2 lifts that for some; a GPU for which it is in doubt gets code of its own.)
    """
    made, here = _renamed(code.base), _renamed(device.base)
    if code.suffix == "f":
        return here in _facts()["families"].get(f"{made}f", [made])
    if made == here:
        return True
    if code.suffix == "a" or _integrated(made) or _integrated(here):
        return False
    return code.major == device.major and code.minor <= device.minor


def compiles(ptx: Arch, device: Arch) -> bool:
    """Whether a driver makes machine code for *device* of PTX of arch *ptx*: of any earlier capability. With feature
    ``a`` for its own capability alone, with ``f`` for its family. (PTX ISA, ".target".)"""
    if ptx.suffix:
        return serves(ptx, device)
    return (ptx.major, ptx.minor) <= (device.major, device.minor)


def best(device: Arch, known: Iterable[Arch]) -> Arch | None:
    """Of the archs that a compiler knows, the one to compile for *device*: its own, else the nearest whose machine
    code runs on it, else the nearest whose PTX does; None where nothing would run."""
    plain = sorted(arch for arch in known if not arch.suffix)
    native = [arch for arch in plain if serves(arch, device)]
    if native:
        return next((arch for arch in native if arch.base == device.base), native[-1])
    older = [arch for arch in plain if compiles(arch, device)]
    return Arch(older[-1].major, older[-1].minor, "", True) if older else None


def _renamed(capability: str) -> str:
    now: str = _facts()["renamed"].get(capability, capability)
    return now


def _integrated(capability: str) -> bool:
    row = rows().get(capability)
    return row is not None and row.integrated
