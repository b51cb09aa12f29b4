"""What a compiler's output says: the lines a person needs, and whether memory ran out. Pure functions."""

from __future__ import annotations

import re
import signal

_COLOUR = re.compile(r"\x1b\[[0-9;]*[A-Za-z]")

# g++ and clang "a.cpp:3:7: error: ", nvcc "a.cu(3): error: ", "a.cu(3): error #20: ", "nvcc fatal   : ",
# "ptxas a.ptx, line 4; error   : ", the linker's "undefined reference to ".
_ERROR = re.compile(r"\berror( #\S+)?\s*:|\bfatal( error)?\s*:|\bundefined (reference|symbol)\b")

# A diagnostic about the source and the source line it quotes; these may well contain the words below.
_ABOUT_SOURCE = re.compile(r"^\S[^:(]*(:\d+|\(\d+\))|^\s*\d*\s*\| ")

_MEMORY = re.compile(
    r"killed \(program |killed signal terminated program |died due to signal 9\b|terminated with signal 9\b"
    r"|unable to execute command: killed|virtual memory exhausted|cannot allocate memory"
    r"|memory allocation failure|\bout of memory\b|std::bad_alloc",
    re.IGNORECASE,
)

_LINES = 6
_WIDTH = 400  # a line about templates can have 20 000 characters


def first_error(log: str) -> str:
    """The first error in a compiler's *log* with the lines that explain it, or the log's last lines where
    nothing looks like an error; empty for an empty log."""
    lines = [line.rstrip() for line in _COLOUR.sub("", log).splitlines() if line.strip()]
    first = next((number for number, line in enumerate(lines) if _ERROR.search(line)), None)
    if first is None:
        chosen = lines[-_LINES:]
    else:
        chosen = lines[first : first + 1]
        for line in lines[first + 1 : first + _LINES]:
            if _ERROR.search(line):
                break
            chosen.append(line)
    return "\n".join(line if len(line) <= _WIDTH else line[:_WIDTH] + " ..." for line in chosen)


def first_link_error(log: str) -> str:
    """The first line in a linker's *log* that is no warning, and says more than that it failed."""
    lines = [line.strip() for line in _COLOUR.sub("", log).splitlines() if line.strip()]
    telling = [line for line in lines if "warning:" not in line and not line.startswith("collect2:")]
    return (telling or lines or [""])[0][:_WIDTH]


def killed_for_memory(returncode: int, log: str) -> bool:
    """Whether a compiler that ended with *returncode* (negative: minus the signal) had too little memory.

    SIGKILL counts as that: nobody else sends it to a compiler.
    """
    if returncode == 0:
        return False
    if returncode in (-signal.SIGKILL, 128 + signal.SIGKILL):
        return True
    said = (line for line in _COLOUR.sub("", log).splitlines() if not _ABOUT_SOURCE.search(line))
    return any(_MEMORY.search(line) for line in said)


def how_it_ended(returncode: int) -> str:
    """An exit status in words: ``exit status 1``, ``signal 11 (SIGSEGV)``."""
    if returncode >= 0:
        return f"exit status {returncode}"
    try:
        return f"signal {-returncode} ({signal.Signals(-returncode).name})"
    except ValueError:
        return f"signal {-returncode}"
