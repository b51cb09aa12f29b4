"""What a check finds."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from typing import Literal, get_args

#: From good to bad; ``unknown`` is what could not be looked at here.
Status = Literal["ok", "not-applicable", "unknown", "warning", "error"]
SEVERITY = {status: number for number, status in enumerate(get_args(Status))}


@dataclass(frozen=True)
class Repair:
    """A fix that is safe to make: a command, or a file to remove while it is still the one that was seen."""

    words: tuple[str, ...] = ()
    remove: str = ""
    identity: tuple[int, ...] = ()

    def __str__(self) -> str:
        return shlex.join(self.words or ("rm", self.remove))


@dataclass(frozen=True)
class Finding:
    """*evidence* is what was seen, *fix* a command, or what to do where there is none."""

    status: Status
    evidence: str
    fix: str = ""
    repairs: tuple[Repair, ...] = ()


def ok(evidence: str) -> Finding:
    return Finding("ok", evidence)


def not_applicable(evidence: str) -> Finding:
    return Finding("not-applicable", evidence)


def unknown(evidence: str, fix: str = "") -> Finding:
    return Finding("unknown", evidence, fix)


def warning(evidence: str, fix: str, *repairs: Repair) -> Finding:
    return Finding("warning", evidence, fix, repairs)


def error(evidence: str, fix: str, *repairs: Repair) -> Finding:
    return Finding("error", evidence, fix, repairs)


def numbers(version: str) -> tuple[int, ...]:
    """A version's leading numbers, to compare: ``28.2.2-rc.1`` is (28, 2, 2)."""
    found: list[int] = []
    for part in version.lstrip("v").split("."):
        digits = part[: len(part) - len(part.lstrip("0123456789"))]
        if not digits:
            break
        found.append(int(digits))
        if digits != part:
            break
    return tuple(found)
