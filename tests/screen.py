"""A terminal for tests: what is on its screen after a program wrote to it."""

from __future__ import annotations

import re

_SEQUENCE = re.compile(r"\x1b\[(\d*)([A-Za-z])")


def show(text: str) -> list[str]:
    """The lines that are seen, from the first to the last one that is not empty. Knows what xfdev writes: moving up,
    erasing to the end of the line and of the screen, colours; anything else is an AssertionError."""
    lines: list[str] = [""]
    row = column = place = 0
    while place < len(text):
        found = _SEQUENCE.match(text, place)
        if found is not None:
            place = found.end()
            number, what = int(found[1] or 0), found[2]
            if what == "A":
                row -= number
                assert row >= 0, "moved above the first line"
            elif what == "K":
                lines[row] = lines[row][:column]
            elif what == "J":
                lines[row + 1 :] = []
                lines[row] = lines[row][:column]
            else:
                assert what == "m", f"unknown sequence {found[0]!r}"
            continue
        sign = text[place]
        place += 1
        if sign == "\r":
            column = 0
        elif sign == "\n":
            row, column = row + 1, 0
            lines += [""] * (row + 1 - len(lines))
        else:
            assert sign != "\x1b", f"unknown sequence {text[place - 1 : place + 8]!r}"
            lines[row] = lines[row][:column].ljust(column) + sign + lines[row][column + 1 :]
            column += 1
    while lines and not lines[-1].strip():
        lines.pop()
    return [line.rstrip() for line in lines]
