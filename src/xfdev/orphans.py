"""Compilers and build scripts that a killed xfdev left running: they would write over what the next one makes.

SIGKILL (the kernel's, for memory, or a person's) leaves us no moment to end our children. They are told by a
variable that we gave them, whose value names the checkout; nobody else has it.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterable
from contextlib import suppress

from xfdev.console import console

_WAIT = 5.0  # seconds for killed processes to be gone


def end(variable: str, value: str) -> int:
    """Kill every process that has *variable* set to *value*; return how many there were.

    The caller holds the checkout's lock, so that none of them belongs to an xfdev that is alive.
    """
    setting = os.fsencode(f"{variable}={value}")
    found = _with(setting)
    for pid in found:
        with suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signal.SIGKILL)
    if found:
        console.info(f"ended {len(found)} processes that a killed xfdev had left running")
        deadline = time.monotonic() + _WAIT
        # One of them may have started another while we looked.
        while (left := _with(setting)) and time.monotonic() < deadline:
            for pid in left:
                with suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.01)
    return len(found)


def _with(setting: bytes) -> list[int]:
    return [pid for pid in _pids() if pid != os.getpid() and setting in _environment(pid).split(b"\0")]


def _pids() -> Iterable[int]:
    return [int(name) for name in os.listdir("/proc") if name.isdecimal()]


def _environment(pid: int) -> bytes:
    try:
        with open(f"/proc/{pid}/environ", "rb") as stream:
            return stream.read()
    except OSError:  # another user's, or it has ended; a zombie's is empty
        return b""
