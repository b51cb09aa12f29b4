"""Where ``xfdev`` starts: what a build that has nothing to do says, else the command line."""

from __future__ import annotations

import os
import sys
import time


def main() -> int:
    """Run the command of this process; returns the exit status."""
    words = sys.argv[1:]
    if words[:1] == ["build"] and (status := _settled(words)) is not None:
        return status
    from xfdev.cli import main

    return main()


def _settled(words: list[str]) -> int | None:
    """The exit status of a build that was found to have nothing to do, None where that is not known."""
    from xfdev import settled

    started = time.monotonic()
    try:
        line = settled.answer(words, os.environ, os.getcwd())
    except OSError:  # the folder is gone, or closed: said in words by the command line
        return None
    if line is None:
        return None
    try:
        if line:
            print(f"{line}, {time.monotonic() - started:.2f} s", flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0
