"""Runs compile jobs side by side, within the CPUs and the memory that there are.

What comes out is all objects, or an error that names the unit: objects of finished jobs stay, of the others
none is left, and no process outlives the call. Nothing is printed here; callers pass callbacks.
"""

from __future__ import annotations

import math
import shlex
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from xfdev.children import Child, Children, signals_held
from xfdev.console import size
from xfdev.diagnostics import first_error, how_it_ended, killed_for_memory
from xfdev.errors import CompileFailed, OutOfMemory, XfdevError
from xfdev.files import explained, full_disk
from xfdev.schedule import CPP_PEAK, NVCC_PEAK, Claim, Job, choose, expected_peak, has_a_second, longest_first

__all__ = ["CPP_PEAK", "NVCC_PEAK", "Busy", "Job", "Outcome", "run_jobs"]

_GRACE_FAILED = 2.0  # seconds from SIGTERM to SIGKILL when another job failed
_TICK = 0.2  # seconds between two calls of on_tick
_GRACE_INTERRUPTED = 0.5  # the same when a person or the system wants us to stop


@dataclass(frozen=True)
class Outcome:
    """A job that went well: seconds it took, bytes all its processes held at most, what it printed."""

    job: Job
    seconds: float
    peak: int
    log: str
    started: float = 0.0
    """By ``time.monotonic``."""


@dataclass(frozen=True)
class Busy:
    """A job that runs now: seconds since it started, bytes that its processes held when last seen."""

    job: Job
    seconds: float
    memory: int


OnStart = Callable[[Job, int, int], None]
OnDone = Callable[[Outcome, int, int], None]
OnTick = Callable[[Sequence[Busy], Sequence[Job]], None]


def run_jobs(
    jobs: Sequence[Job],
    *,
    cwd: Path,
    env: Mapping[str, str],
    memory: int,
    cpus: int,
    divided: Mapping[str, str] | None = None,
    on_start: OnStart | None = None,
    on_done: OnDone | None = None,
    on_retry: Callable[[Job], None] | None = None,
    on_tick: OnTick | None = None,
    on_abandon: Callable[[], None] | None = None,
    hint: Callable[[Job], str] | None = None,
    keep_going: bool = False,
) -> list[Outcome]:
    """Run all *jobs* in *cwd* with *env*, at most *cpus* at once and within *memory* bytes; return their
    outcomes in the order of *jobs*. *divided* are the variables that tell a job of a second CPU.

    Calls on_start(job, jobs now running, all jobs), on_done(outcome, jobs finished, all jobs), on_retry(job)
    when a job was killed for memory and will run again, alone, and on_tick(running, waiting in the order of their
    start) after every change and some times a second, on_abandon() once nothing runs any more because of an error
    or a signal, which may end this process next; *hint* makes the hint of the error for a job.

    Raises CompileFailed for the first job that fails, after ending the running ones; with *keep_going* only
    once all others have run. Raises OutOfMemory likewise for a job that was killed for memory when alone.
    Whatever is raised, KeyboardInterrupt included: finished objects are kept, and no process and no other
    object is left.
    """
    with signals_held() as (wake, interrupted):
        run = _Run(
            jobs,
            Children(wake),
            cwd,
            env,
            memory,
            slots=max(1, cpus),
            divided=divided,
            keep_going=keep_going,
            on_start=on_start or (lambda job, running, total: None),
            on_done=on_done or (lambda outcome, finished, total: None),
            on_retry=on_retry or (lambda job: None),
            on_tick=on_tick,
            hint=hint or (lambda job: ""),
        )
        try:
            return run.all(interrupted)
        except BaseException as error:
            run.abandon(_GRACE_FAILED if isinstance(error, XfdevError) else _GRACE_INTERRUPTED)
            if on_abandon is not None:
                on_abandon()
            raise


def combined(errors: Sequence[XfdevError], total: int) -> XfdevError:
    """One error for those of several jobs: the first that is about the source, with the messages of all."""
    first = next((error for error in errors if isinstance(error, CompileFailed)), errors[0])
    if len(errors) == 1:
        return first
    return type(first)(
        "\n".join([f"{len(errors)} of {total} units failed", *map(str, errors)]),
        why=first.why,
        hint=first.hint,
        details="\n\n".join(error.details for error in errors),
    )


@dataclass
class _Run:
    jobs: Sequence[Job]
    children: Children
    cwd: Path
    env: Mapping[str, str]
    memory: int
    slots: int  # jobs that may run at once
    keep_going: bool
    divided: Mapping[str, str] | None
    on_start: OnStart
    on_done: OnDone
    on_retry: Callable[[Job], None]
    on_tick: OnTick | None
    hint: Callable[[Job], str]

    def __post_init__(self) -> None:
        self.waiting = longest_first(self.jobs)
        self.again: list[Job] = []  # killed for memory once: each runs alone when nothing else is left
        self.alone: Job | None = None
        self.halved = -math.inf  # when the number of slots was last halved
        self.running: dict[Child, Job] = {}
        self.with_two: set[int] = set()  # pids of those that have a second CPU
        self.outcomes: dict[int, Outcome] = {}  # by id(job)
        self.errors: list[XfdevError] = []

    def all(self, interrupted: Callable[[], bool]) -> list[Outcome]:
        while True:
            if interrupted():
                raise KeyboardInterrupt
            if self.errors and not self.keep_going:
                # Those that finished well meanwhile are kept.
                self.take([child for child in self.children.wait(0) if child.succeeded()])
                raise combined(self.errors, len(self.jobs))
            self.start_what_fits()
            if not self.running:
                break
            self.take(self.children.wait(self.tick()))
        if self.errors:
            raise combined(self.errors, len(self.jobs))
        return [self.outcomes[id(job)] for job in self.jobs]

    def tick(self) -> float:
        """Tell how things stand; returns until when to wait."""
        if self.on_tick is None:
            return math.inf
        now = time.monotonic()
        busy = [Busy(job, now - child.started, child.memory) for child, job in self.running.items()]
        self.on_tick(busy, [*self.waiting, *self.again])
        return now + _TICK

    def start_what_fits(self) -> None:
        while (index := choose(self.waiting, self.claims(), self.memory, self.slots)) is not None:
            self.start(self.waiting.pop(index))
        if self.again and not self.running:
            self.alone = self.again.pop(0)
            self.start(self.alone)

    def claims(self) -> list[Claim]:
        now = time.monotonic()
        return [
            # What it holds already counts when it is more than expected.
            Claim(
                max(expected_peak(job, cpus), child.peak),
                max(0.0, (job.seconds or 0.0) - (now - child.started)),
            )
            for child, job in self.running.items()
            for cpus in [2 if child.pid in self.with_two else 1]
        ]

    def start(self, job: Job) -> None:
        output = self.cwd / job.output
        with explained(str(output)):
            output.unlink(missing_ok=True)
            output.parent.mkdir(parents=True, exist_ok=True)
        # One that was killed for memory is not to take more of it.
        waiting = [*self.waiting, *self.again]
        may = job is not self.alone and self.divided is not None
        second = may and has_a_second(job, waiting, self.claims(), self.memory, self.slots)
        env = {**self.env, **(self.divided or {})} if second else self.env
        child = self.children.start(job.argv, cwd=self.cwd, env=env)
        if second:
            self.with_two.add(child.pid)
        self.running[child] = job
        self.on_start(job, len(self.running), len(self.jobs))

    def take(self, ended: Sequence[Child]) -> None:
        """Judge children that ended: done, failed, or to be run again."""
        for child in ended:
            parallel = len(self.running)
            job = self.running[child]
            self.with_two.discard(child.pid)
            status, seconds, log = self.children.reap(child)
            if status == 0 and (self.cwd / job.output).exists():
                del self.running[child]
                self.outcomes[id(job)] = outcome = Outcome(job, seconds, child.peak, log, child.started)
                self.on_done(outcome, len(self.outcomes), len(self.jobs))
                continue
            (self.cwd / job.output).unlink(missing_ok=True)
            del self.running[child]
            if not killed_for_memory(status, log):
                self.errors.append(self.compile_failed(job, status, log))
            elif job is self.alone:
                self.errors.append(self.out_of_memory(job, child.peak, log))
            else:
                self.put_back(job, child, parallel)

    def put_back(self, job: Job, child: Child, parallel: int) -> None:
        self.again.append(job)
        if child.started > self.halved:  # else it was killed together with the one that halved already
            self.slots, self.halved = max(1, parallel // 2), time.monotonic()
        self.on_retry(job)

    def abandon(self, grace: float) -> None:
        self.children.end_all(grace)
        for job in self.running.values():
            (self.cwd / job.output).unlink(missing_ok=True)

    def compile_failed(self, job: Job, status: int, log: str) -> XfdevError:
        program = Path(job.argv[0]).name
        said = first_error(log)
        ending = how_it_ended(status) if status else f"exit status 0, but {job.output} was not written"
        return full_disk(log, str((self.cwd / job.output).parent)) or CompileFailed(
            f"{job.name} does not compile" + (f":\n{said}" if said else f"; {program} said nothing"),
            why=f"{program} ended with {ending}",
            hint=self.hint(job),
            details=f"$ {shlex.join(job.argv)}\n{log.rstrip()}",
        )

    def out_of_memory(self, job: Job, peak: int, log: str) -> XfdevError:
        return OutOfMemory(
            f"{job.name} was killed for memory twice, the second time while it ran alone",
            why=f"it held up to {size(peak)}, and {size(self.memory)} were available at the start",
            hint=self.hint(job),
            details=f"$ {shlex.join(job.argv)}\n{log.rstrip()}",
        )
