"""What a build has finished so far, written down while it goes on: whatever ends it, those units need no compile."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

from xfdev import libraries, record
from xfdev.bundle import Manifest, Needs
from xfdev.checkout import Checkout
from xfdev.errors import XfdevError
from xfdev.files import write_atomic
from xfdev.workspace import LIB, UNFINISHED, extras

#: Writing it takes a part of a second. It may take this part of the build's time, on one CPU.
_SHARE = 0.05


class Unfinished:
    """The units of *recorder*'s manifest of which those in *todo* (by their objects) are being compiled.

    *facts* are the toolchain's, *before* the files of the checkout that the other units were made from.
    """

    def __init__(
        self,
        recorder: record.Recorder,
        todo: frozenset[str],
        checkout: Checkout,
        before: Mapping[str, str],
        facts: Mapping[str, str],
    ) -> None:
        self._recorder, self._todo, self._checkout, self._before = recorder, todo, checkout, before
        self._facts = facts
        self._done: dict[str, tuple[float | None, int | None]] = {}
        self._written = 0
        self._next = 0.0

    def done(self, name: str, seconds: float | None, peak: int | None) -> None:
        """The unit of the object *name* is compiled, or came from the cache (both None)."""
        self._done[name] = (seconds, peak)

    def tick(self) -> None:
        """Write it down if it is time; to be called some times a second, when whatever can compile does. After the last
        unit the build itself is recorded."""
        if len(self._done) < len(self._todo) and time.monotonic() >= self._next:
            self.write()

    def write(self) -> None:
        """Write it down, if there is anything new. What cannot be written is compiled again, no more."""
        if len(self._done) == self._written:
            return
        started = time.monotonic()
        with suppress(OSError, XfdevError):
            write_atomic(Path(self._recorder.places.checkout, UNFINISHED), self._manifest().to_bytes())
            self._written = len(self._done)
        now = time.monotonic()
        self._next = now + (now - started) / _SHARE

    def _manifest(self) -> Manifest:
        root = Path(self._recorder.places.checkout)
        manifest = record.complete(self._recorder, self._done, self._checkout, self._before)
        waiting = self._todo - self._done.keys()
        return replace(
            manifest,
            units=tuple(
                replace(unit, inputs=None, digest=None) if unit.object in waiting else unit for unit in manifest.units
            ),
            facts=self._facts,
            needs=Needs(),
            outputs={
                name: libraries.output(manifest, root, name)
                for name in extras(manifest)
                if (root / LIB / name).is_file()
            },
        )
