"""A compile as it goes: seen on a terminal while it runs, and noted for the summary and the trace."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from xfdev import forecast, progress
from xfdev.console import console, duration
from xfdev.execute import Busy, Job, Outcome
from xfdev.timeline import timeline

_MOST_ROWS = 12  # on a machine with many CPUs the rest of the terminal stays for what was said before


class LiveView:
    """What ``execute.run_jobs`` calls back; *slots* and *memory* are what it was given."""

    def __init__(self, total: int, slots: int, memory: int) -> None:
        self.total, self.slots, self.memory = total, slots, memory
        self.started = time.monotonic()
        self.finished = self.hits = 0
        self._pairs: list[tuple[float, float]] = []  # expected and real seconds of what was compiled

    def done(self, outcome: Outcome, finished: int, *, hit: bool) -> None:
        """A unit is finished, compiled or (*hit*) taken from the cache."""
        self.finished, self.hits = finished, self.hits + hit
        name, how = outcome.job.name, "from the cache" if hit else duration(outcome.seconds)
        console.info(f"[{finished}/{self.total}] {name}: {how}")
        for line in outcome.log.strip().splitlines():
            console.debug(f"    {line}")
        if hit:
            timeline.add("restore", name, outcome.started, outcome.seconds)
            return
        if outcome.job.seconds:
            self._pairs.append((outcome.job.seconds, outcome.seconds))
        timeline.add("compile", name, outcome.started, outcome.seconds, peak=outcome.peak)

    def tick(self, running: Sequence[Busy], waiting: Sequence[Job]) -> None:
        """How things stand now."""
        if timeline.wanted:
            timeline.memory.append((time.monotonic(), sum(busy.memory for busy in running)))
        if not console.live:
            return
        units = [progress.Running(busy.job.name, busy.seconds, busy.job.seconds, busy.memory) for busy in running]
        units.sort(key=lambda unit: -unit.seconds)  # who came first stays first: rows do not change places
        state = progress.State(
            self.finished, self.total, self.hits, time.monotonic() - self.started,
            self._left(running, waiting), self.memory, units,
        )  # fmt: skip
        height = min(_MOST_ROWS, console.height - 1)
        # The last column stays free: some terminals go on to the next line when it is written.
        console.block(progress.lines(state, console.width - 1, height))

    def _left(self, running: Sequence[Busy], waiting: Sequence[Job]) -> float | None:
        times = [job.seconds for job in (*(busy.job for busy in running), *waiting) if job.seconds]
        times += [pair[0] for pair in self._pairs]
        if not times:
            return None
        typical = sorted(times)[len(times) // 2]
        return forecast.seconds_left(
            [(busy.seconds, busy.job.seconds or typical) for busy in running],
            [job.seconds or typical for job in waiting],
            self.slots,
            forecast.speed(self._pairs),
        )


@contextmanager
def shown(total: int, slots: int, memory: int) -> Iterator[LiveView]:
    """A view for one run of *total* jobs, which is gone from the terminal afterwards."""
    try:
        yield LiveView(total, slots, memory)
    finally:
        console.block([])


@contextmanager
def parts_noted() -> Iterator[dict[str, str]]:
    """Variables with which the launcher has nvcc tell its phases; what it told is in the timeline afterwards.

    Without effect unless the timeline wants them.
    """
    if not timeline.parts:
        yield {}
        return
    folder = Path(tempfile.mkdtemp(prefix="xfdev-nvcc-times-"))
    try:
        yield {"XFDEV_NVCC_TIMES": str(folder)}
        units = {span.name: span.start for span in timeline.spans if span.kind == "compile"}
        for path in sorted(folder.iterdir()):
            _note_parts(path.read_text(errors="replace"), units)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _note_parts(table: str, units: dict[str, float]) -> None:
    """Put the phases of one nvcc behind each other from its start on: it says how long each took, not when."""
    for source, name, seconds, arch in nvcc_phases(table):
        unit = next((unit for unit in units if source == unit or source.endswith("/" + unit)), None)
        if unit is None:
            continue
        timeline.add("nvcc", name, units[unit], seconds, unit=unit, arch=arch)
        units[unit] += seconds


def nvcc_phases(table: str) -> list[tuple[str, str, float, str]]:
    """The rows of a table of ``nvcc --time``: source, phase, seconds, arch. Those in other units are left out."""
    found = []
    for line in table.splitlines():
        fields = [field.strip() for field in line.split(",")]
        if len(fields) == 8 and fields[0] and fields[7] == "ms":
            try:
                found.append((fields[0], fields[1], float(fields[6]) / 1000, fields[4]))
            except ValueError:
                continue
    return found
