"""One nightly at a time: a note in the registry, which every machine sees, says who works and until when.

Registries cannot compare and swap. So the note is read back after as long as another's request may take; of two who
begin in the same moment, the one whose note has stayed goes on. Should both go on all the same, they build the same
cells, and send the same documents: time is lost, nothing else.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from xfdev.console import duration
from xfdev.errors import Busy, XfdevError
from xfdev.nightly.shelf import Shelf

TAG = "nightly-lock"
#: A note counts for this long after it was last renewed: a machine that died blocks the others no longer.
_SECONDS = 900.0
_RENEW_AFTER = 240.0
_SETTLES = 1.0


def mine(since: float) -> dict[str, Any]:
    """Who this process is, as others can tell it."""
    return {"host": socket.gethostname(), "boot": _boot(), "pid": os.getpid(), "since": since}


def _boot() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def holder(note: Mapping[str, Any] | None, now: float) -> str:
    """Who holds a lease, "" for nobody: nobody renewed it, or its process on this very machine is gone."""
    if not note or not isinstance(note.get("until"), int | float) or not now < note["until"] < now + 10 * _SECONDS:
        return ""
    here = note.get("host") == socket.gethostname() and note.get("boot") == _boot()
    if here and (note.get("pid") == os.getpid() or not os.path.exists(f"/proc/{note.get('pid')}")):
        return ""
    since = duration(max(now - float(note.get("since") or now), 0.0))
    return f"process {note.get('pid')} on {note.get('host')}, for {since}"


def require_free(shelf: Shelf, tags: list[str], own: str, *, whole: bool) -> None:
    """Raise Busy where another nightly works on *shelf*. Single cells may be worked on at the same time."""
    for tag in tags:
        clash = tag in (TAG, own) or (whole and tag.startswith(TAG))
        if clash and (who := holder(shelf.note(tag), time.time())):
            raise _busy(shelf, who)


def _busy(shelf: Shelf, who: str) -> Busy:
    return Busy(
        f"another nightly is working on {shelf}: {who}",
        why=f"its note is {shelf}:{TAG}; it counts until {duration(_SECONDS)} after it was last renewed",
        hint="wait for it to finish, or stop it, and run the same command again; --take-over does not ask",
    )


@contextmanager
def held(shelf: Shelf, cell: str = "", *, take_over: bool = False) -> Iterator[None]:
    """Hold the lease of *shelf*, or of one cell of its night. Raises Busy, naming who has it."""
    tag = f"{TAG}-{cell.replace('/', '-')}" if cell else TAG
    if not take_over:
        require_free(shelf, shelf.tags(), tag, whole=not cell)
    me = mine(time.time())

    def write(until: float) -> None:
        shelf.put_note(tag, {**me, "until": until}, "lease")

    write(time.time() + _SECONDS)
    time.sleep(_SETTLES)
    note = shelf.note(tag) or {}
    if {key: note.get(key) for key in me} != me:
        raise _busy(shelf, holder(note, time.time()) or "somebody who began in the same moment")
    done = threading.Event()

    def renew() -> None:
        while not done.wait(_RENEW_AFTER):
            with suppress(XfdevError):  # the next try is in time as well
                write(time.time() + _SECONDS)

    thread = threading.Thread(target=renew, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
        with suppress(XfdevError):
            write(0.0)
