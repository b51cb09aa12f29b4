"""What kernels take: registers, stack, shared memory, spills, read from what CUDA's tools say. Pure functions."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase


@dataclass(frozen=True)
class Usage:
    """One kernel on one arch (``sm_90``), by its mangled name: registers a thread, and bytes of each kind of memory.
    *spills* are bytes stored and loaded because registers ran out; None where nobody asked the compiler."""

    name: str
    arch: str
    registers: int
    stack: int
    shared: int
    local: int
    constant: int
    spills: tuple[int, int] | None = None


@dataclass(frozen=True)
class Pair:
    """A kernel now and in the build before; None where it is not there."""

    now: Usage | None
    before: Usage | None

    @property
    def one(self) -> Usage:
        found = self.now or self.before
        assert found is not None
        return found

    @property
    def differs(self) -> bool:
        return self.now != self.before


_ARCH = re.compile(r"^arch = (sm_\w+)", re.MULTILINE)
_FUNCTION = re.compile(r"^ Function (\S+):\n\s+(.*)$", re.MULTILINE)
_NUMBER = re.compile(r"(\w+)(?:\[\d+\])?:(\d+)")


def from_cuobjdump(text: str) -> list[Usage]:
    """The kernels in what ``cuobjdump --dump-resource-usage`` prints, an arch after the other."""
    found = []
    parts = _ARCH.split(text)
    for arch, part in zip(parts[1::2], parts[2::2], strict=True):
        for name, numbers in _FUNCTION.findall(part):
            values: dict[str, int] = {}
            for key, value in _NUMBER.findall(numbers):
                values[key] = values.get(key, 0) + int(value)  # constant memory has several banks
            registers, *memory = (values.get(key, 0) for key in ("REG", "STACK", "SHARED", "LOCAL", "CONSTANT"))
            stack, shared, local, constant = memory
            found.append(Usage(name, arch, registers, stack, shared, local, constant))
    return found


_PTXAS = re.compile(
    r"Compiling entry function '(?P<name>[^']+)' for '(?P<arch>sm_\w+)'|"
    r"(?P<stack>\d+) bytes stack frame, (?P<stores>\d+) bytes spill stores, (?P<loads>\d+) bytes spill loads|"
    r"Used (?P<registers>\d+) registers(?P<rest>.*)"
)


def from_ptxas(text: str) -> list[Usage]:
    """The kernels in what ``nvcc -Xptxas -v`` prints."""
    found: list[Usage] = []
    name = arch = ""
    stack, spills = 0, (0, 0)
    for match in _PTXAS.finditer(text):
        if match["name"]:
            name, arch = match["name"], match["arch"]
        elif match["stack"]:
            stack, spills = int(match["stack"]), (int(match["stores"]), int(match["loads"]))
        elif name:
            memory: dict[str, int] = {}
            for value, key in re.findall(r"(\d+) bytes (\w+)", match["rest"]):
                memory[key] = memory.get(key, 0) + int(value)  # several banks again
            found.append(
                Usage(
                    name, arch, int(match["registers"]), stack, memory.get("smem", 0), memory.get("lmem", 0),
                    memory.get("cmem", 0), spills,
                )
            )  # fmt: skip
            name, stack, spills = "", 0, (0, 0)
    return found


def with_spills(usages: Sequence[Usage], told: Sequence[Usage]) -> list[Usage]:
    """*usages* with the spills of *told*, which is of the same code."""
    known = {(usage.name, usage.arch): usage.spills for usage in told}
    return [Usage(**{**vars(usage), "spills": known.get((usage.name, usage.arch))}) for usage in usages]


def side_by_side(now: Sequence[Usage], before: Sequence[Usage]) -> list[Pair]:
    """The kernels of two builds, in the order of *now*, then those that are gone."""
    old = {(usage.name, usage.arch): usage for usage in before}
    pairs = [Pair(usage, old.pop((usage.name, usage.arch), None)) for usage in now]
    return [*pairs, *(Pair(None, usage) for usage in old.values())]


def chosen(pairs: Sequence[Pair], pattern: str, readable: Mapping[str, str]) -> list[Pair]:
    """Those of *pairs* whose name, mangled or *readable*, has *pattern* in it or matches it."""

    def fits(name: str) -> bool:
        return any(pattern in text or fnmatchcase(text, pattern) for text in (name, readable.get(name, name)))

    return [pair for pair in pairs if fits(pair.one.name)]


def lines(pairs: Sequence[Pair], readable: Mapping[str, str], *, compared: bool) -> list[str]:
    """A kernel a line; where two builds are *compared*, with what it was before."""
    return [_line(pair, readable.get(pair.one.name, pair.one.name), compared) for pair in pairs]


def _line(pair: Pair, name: str, compared: bool) -> str:
    one = pair.one
    was = pair.before if pair.now is not None and pair.before is not None else one
    parts = [f"{one.arch:<7}", _amount("registers", one.registers, was.registers)]
    for label, value, old in (
        ("stack", one.stack, was.stack),
        ("shared", one.shared, was.shared),
        ("local", one.local, was.local),
        ("constant", one.constant, was.constant),
    ):
        if value or old or label == "stack":
            parts.append(_amount(label, value, old))
    if one.spills is not None:
        parts.append(f"spills {one.spills[0]}/{one.spills[1]}")
    note = ""
    if compared:
        note = "gone: " if pair.now is None else "new: " if pair.before is None else ""
    return "  ".join(parts) + f"  {note}{name}"


def _amount(label: str, value: int, old: int) -> str:
    return f"{label} {value}" + (f" (was {old})" if old != value else "")
