"""Where the time of a command went: spans that modules note while they work, and the same as a trace to look at.

The file is in Chrome's trace event format, which https://ui.perfetto.dev and ``chrome://tracing`` open.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Span:
    """Something that took time: *start* and *seconds* by ``time.monotonic``. *kind* is ``phase`` for what xfdev itself
    does, one thing after the other, ``compile`` or ``restore`` for units, ``nvcc`` for a unit's parts."""

    kind: str
    name: str
    start: float
    seconds: float
    details: Mapping[str, Any] = field(default_factory=dict)


@dataclass
class Timeline:
    """The spans of one command."""

    spans: list[Span] = field(default_factory=list)
    memory: list[tuple[float, int]] = field(default_factory=list)
    """Bytes that all compilers held, by the time they were seen to."""
    wanted: bool = False
    """Whether somebody wants a trace: what costs time is noted only then."""
    parts: bool = False
    """Whether nvcc is to tell its own phases."""

    def restart(self) -> None:
        self.spans.clear()
        self.memory.clear()
        self.wanted = self.parts = False

    def add(self, kind: str, name: str, start: float, seconds: float, **details: Any) -> None:
        self.spans.append(Span(kind, name, start, seconds, details))

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Note how long the block takes, however it ends."""
        started = time.monotonic()
        try:
            yield
        finally:
            self.add("phase", name, started, time.monotonic() - started)

    def seconds(self, kind: str) -> dict[str, float]:
        """Seconds by name, in the order in which each came first."""
        found: dict[str, float] = {}
        for span in self.spans:
            if span.kind == kind:
                found[span.name] = found.get(span.name, 0.0) + span.seconds
        return found

    def write(self, path: Path, what: str) -> None:
        """Write the trace of the command *what* to *path*. Raises what ``write_atomic`` raises."""
        import json

        from xfdev.files import write_atomic

        write_atomic(path, json.dumps({"traceEvents": events(self.spans, self.memory, what)}, indent=0) + "\n")


def events(spans: Sequence[Span], memory: Sequence[tuple[float, int]], what: str) -> list[dict[str, Any]]:
    """*spans* as trace events: xfdev's phases in one row, units in as many rows as ran side by side."""
    if not spans:
        return []
    zero = min([span.start for span in spans] + [when for when, _ in memory])
    rows = lanes([span for span in spans if span.kind in ("compile", "restore")])
    found: list[dict[str, Any]] = [_named("process_name", 0, what), _named("thread_name", 0, "xfdev")]
    found += [_named("thread_name", row, f"compile {row}") for row in sorted(set(rows.values()))]
    for span in spans:
        owner = span.details.get("unit") if span.kind == "nvcc" else span.name
        row = 0 if span.kind == "phase" else rows.get(str(owner), 1)
        found.append({
            "ph": "X", "pid": 1, "tid": row, "cat": span.kind, "name": span.name,
            "ts": round((span.start - zero) * 1e6), "dur": round(span.seconds * 1e6), "args": dict(span.details),
        })  # fmt: skip
    for when, amount in memory:
        at = round((when - zero) * 1e6)
        found.append({"ph": "C", "pid": 1, "tid": 0, "name": "memory", "ts": at, "args": {"bytes": amount}})
    return found


def _named(what: str, row: int, name: str) -> dict[str, Any]:
    return {"ph": "M", "pid": 1, "tid": row, "name": what, "args": {"name": name}}


def lanes(spans: Sequence[Span]) -> dict[str, int]:
    """A row for each of *spans* by its name, from 1 on, so that spans of one row do not overlap."""
    ends: list[float] = []
    found = {}
    for span in sorted(spans, key=lambda span: span.start):
        row = next((index for index, end in enumerate(ends) if end <= span.start), len(ends))
        if row == len(ends):
            ends.append(0.0)
        ends[row] = span.start + span.seconds
        found[span.name] = row + 1
    return found


timeline = Timeline()
