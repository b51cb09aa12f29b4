"""Which job starts next, given what runs and what memory there is. Pure functions."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

CPP_PEAK = 1_500_000_000
"""Bytes assumed for a job with unknown peak: generous for a C++ unit that includes torch's headers."""

NVCC_PEAK = 3_000_000_000
"""The same for a job that runs nvcc, whose cicc takes far more for templates; more still with ``--threads``."""

SHORT = 1.0
"""Seconds after which a CPU is free again so soon that nobody waits for it: what comes from a cache takes less."""


@dataclass(frozen=True)
class Job:
    """A process to run for one output file; what it took in an earlier run (seconds, bytes), if known."""

    name: str  # what a person calls it: "csrc/gemm.cu"
    argv: tuple[str, ...]
    output: Path  # relative to the working folder, or absolute; deleted before the start and after a failure
    seconds: float | None = None
    peak: int | None = None
    divides: bool = False
    """Whether it can make use of a second CPU, if it is told of one that is free."""


@dataclass(frozen=True)
class Claim:
    """What a running job takes: bytes, and seconds until it is expected to give them back (0: unknown)."""

    peak: int
    remaining: float


def expected_peak(job: Job, cpus: int = 1) -> int:
    """Bytes the job is expected to take; half as much again with a second CPU, as two of its processes run then."""
    # argv[1]: behind a launcher such as ccache
    unknown = NVCC_PEAK if any(Path(word).name == "nvcc" for word in job.argv[:2]) else CPP_PEAK
    peak = unknown if job.peak is None else job.peak
    return peak * (1 + cpus) // 2


def has_a_second(job: Job, waiting: Sequence[Job], running: Sequence[Claim], memory: int, slots: int) -> bool:
    """Whether *job*, which starts now, may take a second CPU: all that is left to do runs at once, but for what is
    short, so that the longest decides when it is done, and more CPUs are free soon; and there is the memory."""
    left = 1 + len(running) + sum(other.seconds is None or other.seconds > SHORT for other in waiting)
    needed = sum(claim.peak for claim in running) + expected_peak(job, cpus=2)
    return job.divides and slots > 1 and left <= slots and needed <= memory


def longest_first(jobs: Sequence[Job]) -> list[Job]:
    """The order to start in. A long job that starts last costs most, so those of unknown length are first."""
    return sorted(jobs, key=lambda job: -math.inf if job.seconds is None else -job.seconds)


def choose(waiting: Sequence[Job], running: Sequence[Claim], memory: int, slots: int) -> int | None:
    """Which of the *waiting* jobs starts now beside the *running* ones, as an index; None: none.

    The first one, once a slot and its memory are free. While its memory is not, a later job that fits may go
    ahead if it is expected to end before the first one could start anyway: it costs no time.
    """
    if not waiting or (running and len(running) >= slots):
        return None
    free = memory - sum(claim.peak for claim in running)
    if not running or expected_peak(waiting[0]) <= free:
        return 0
    room, start = free, 0.0
    for claim in sorted(running, key=lambda claim: claim.remaining):
        room, start = room + claim.peak, claim.remaining
        if expected_peak(waiting[0]) <= room:
            break
    for index, job in enumerate(waiting):
        if job.seconds is not None and job.seconds <= start and expected_peak(job) <= free:
            return index
    return None
