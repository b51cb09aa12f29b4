"""What runs now, as lines at the bottom of a terminal. Pure: state in, lines out; ``console`` draws them."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass

from xfdev.console import duration, size


@dataclass(frozen=True)
class Running:
    """A unit that compiles now: its seconds so far, those expected (None: nobody knows), the bytes it holds."""

    name: str
    seconds: float
    expected: float | None
    memory: int


@dataclass(frozen=True)
class State:
    """A compile in progress. *hits* of the *finished* units came from the cache; *left* is the estimate of the seconds
    that are left, None where nobody can know; *memory* are the bytes that jobs may have together."""

    finished: int
    total: int
    hits: int
    elapsed: float
    left: float | None
    memory: int
    running: Sequence[Running]


def lines(state: State, width: int, height: int) -> list[str]:
    """The first line sums up, each other is a unit that runs; none is wider than *width* columns, and there are at
    most *height*."""
    held = sum(unit.memory for unit in state.running)
    parts = [
        f"[{state.finished}/{state.total}]",
        clock(state.elapsed) + (f", about {duration(state.left)} left" if state.left is not None else ""),
        f"{size(held)} of {size(state.memory)}",
    ]
    if state.hits:
        parts.append(f"{state.hits} from the cache")
    # What does not fit goes, from the end: half a number says something else.
    head = parts[0]
    for part in parts[1:]:
        if cells(head) + 3 + cells(part) > width:
            break
        head += f" · {part}"
    shown = list(state.running[: max(0, height - 1)])
    hidden = len(state.running) - len(shown)
    if hidden and shown:
        shown.pop()
        hidden += 1
    rows = [_row(unit, width) for unit in shown]
    if hidden and height > 1:
        rows.append(fit(f"  and {hidden} more", width))
    return [fit(head, width), *rows]


def _row(unit: Running, width: int) -> str:
    times = clock(unit.seconds) + (f" of {clock(unit.expected)}" if unit.expected else "")
    left = f"  {times:>13}  {size(unit.memory):>8}  "
    room = width - cells(left)
    if room < 12:
        left, room = "  ", width - 2
    return fit(left + fit(unit.name, room, start=True), width)


def clock(seconds: float) -> str:
    """``0:41``, ``12:05``, ``1:00:00``: of the same width from one second to the next."""
    whole = int(seconds)
    minutes = f"{whole // 60 % 60}:{whole % 60:02}" if whole < 3600 else f"{whole // 60 % 60:02}:{whole % 60:02}"
    return minutes if whole < 3600 else f"{whole // 3600}:{minutes}"


def fit(text: str, width: int, *, start: bool = False) -> str:
    """*text* in at most *width* columns; what is too much is cut off at its end, or (*start*) at its start, where the
    folders of a path are. Signs that move the cursor become question marks."""
    text = "".join(sign if sign.isprintable() else "?" for sign in text)
    if cells(text) <= width:
        return text
    kept = ""
    for sign in reversed(text) if start else text:
        if cells(kept) + cells(sign) > width - 1:
            break
        kept = sign + kept if start else kept + sign
    return ("…" + kept if start else kept + "…") if width > 0 else ""


def cells(text: str) -> int:
    """The columns that *text* takes: two for a wide sign, none for one that is put onto another."""
    if text.isascii():
        return len(text)
    wide = sum(unicodedata.east_asian_width(sign) in "WF" for sign in text)
    return len(text) + wide - sum(unicodedata.combining(sign) > 0 for sign in text)
