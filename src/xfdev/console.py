"""What the user sees: plain lines on stderr, so that stdout stays free for results and ``--json``."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager


class Console:
    """Three levels: ``quiet`` shows warnings and errors, normal adds steps, ``verbose`` adds every command run."""

    def __init__(self) -> None:
        self.quiet = False
        self.verbose = False

    def _write(self, text: str) -> None:
        sys.stderr.write(text + "\n")
        sys.stderr.flush()

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

    @property
    def interactive(self) -> bool:
        return sys.stderr.isatty() and not self.quiet


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
