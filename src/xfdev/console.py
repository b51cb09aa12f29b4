"""What the user sees: plain lines on stderr, so that stdout stays free for results and ``--json``."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager


class Console:
    """Three levels: ``quiet`` shows warnings and errors, normal adds steps, ``verbose`` adds every command run."""

    def __init__(self) -> None:
        self.quiet = False
        self.verbose = False
        self.dumb = False
        self.colour = False
        self._block: list[str] = []  # what stands below all that was written, and moves on with it

    def configure(self, *, verbose: bool, quiet: bool, environ: Mapping[str, str]) -> None:
        """What the command line and the variables of a terminal (``TERM``, ``NO_COLOR``) say."""
        self.verbose, self.quiet = verbose, quiet
        self.dumb = environ.get("TERM", "dumb") in ("", "dumb")
        self.colour = not self.dumb and not environ.get("NO_COLOR")
        self._block = []

    def _write(self, text: str) -> None:
        self._draw(text + "\n", self._block)

    def _draw(self, above: str, block: list[str]) -> None:
        """Write *above* in the place of the block, and *block* below it: in one piece, each line over the one that was
        there, so that nothing flickers. The cursor is never hidden: whatever ends us, nothing has to be put right."""
        old, self._block = self._block, block
        if not old and not block:
            sys.stderr.write(above)
        else:
            width = self.width
            # Lines that a terminal made narrower meanwhile now takes more rows for.
            rows = sum(max(1, -(-len(line) // width)) for line in old)
            text = f"\x1b[{rows}A\r" if rows else ""
            text += "".join(f"{line}\x1b[K\n" for line in above.split("\n")[:-1])
            for number, line in enumerate(block):
                text += f"\x1b[2m{line}\x1b[0m\x1b[K\n" if self.colour and number else f"{line}\x1b[K\n"
            sys.stderr.write(text + "\x1b[J")
        sys.stderr.flush()

    def block(self, lines: Sequence[str]) -> None:
        """Show *lines*, each narrower than the terminal, below everything else until the next call; [] takes them
        away. Nothing happens where ``live`` is not so."""
        if self.live and (lines or self._block):
            self._draw("", list(lines))

    def info(self, text: str) -> None:
        if not self.quiet:
            self._write(text)

    def debug(self, text: str) -> None:
        if self.verbose:
            self._write(text)

    def warning(self, text: str) -> None:
        self._write(f"warning: {text}")

    def error(self, text: str) -> None:
        self._write(f"error: {text}")

    @contextmanager
    def step(self, text: str) -> Iterator[None]:
        """Announce long work, and say how long it took once it went well."""
        self.info(f"{text} ...")
        started = time.monotonic()
        yield
        self.info(f"{text}: {duration(time.monotonic() - started)}")

    def progress(self, text: str) -> None:
        """Replace the last line of a terminal while something goes on; with "" take it away. Nothing elsewhere."""
        if self.live:
            sys.stderr.write(f"\r\x1b[K{text}")
            sys.stderr.flush()

    @property
    def interactive(self) -> bool:
        return sys.stderr.isatty() and not self.quiet

    @property
    def live(self) -> bool:
        """Whether lines can be written over: on a terminal that can move its cursor."""
        return self.interactive and not self.dumb

    @property
    def width(self) -> int:
        return self._size()[0]

    @property
    def height(self) -> int:
        return self._size()[1]

    @staticmethod
    def _size() -> tuple[int, int]:
        """Columns and rows of the terminal; 80 and 24 where it does not say."""
        try:
            found = os.get_terminal_size(sys.stderr.fileno())
        except (OSError, ValueError):
            return 80, 24
        return found.columns or 80, found.lines or 24


def duration(seconds: float) -> str:
    """Seconds as a person says them: ``0.3 s``, ``42 s``, ``3 min 20 s``, ``2 h 5 min``."""
    if seconds < 10:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def size(count: float) -> str:
    """Bytes as a person says them, in powers of 1000: ``13.1 MB``."""
    for unit in ("bytes", "kB", "MB"):
        if count < 1000:
            return f"{count:.0f} {unit}" if unit == "bytes" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} GB"


console = Console()
