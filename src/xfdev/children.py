"""Processes that run side by side: told apart when they end, measured while they run, ended as a group.

Each child leads a session of its own (``run.spawn``), so that its compilers can be ended together and Ctrl-C
reaches them only through us.
"""

from __future__ import annotations

import os
import select
import signal
import tempfile
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import IO, Any

from xfdev.files import explained
from xfdev.run import spawn

_SAMPLE = 0.1  # seconds between two looks at the memory of the children
_POLL = 0.005  # seconds between two looks at who ended, where the kernel or this Python has no pidfd
_PAGE = os.sysconf("SC_PAGE_SIZE")
_CHILDREN_FILE = Path("/proc/thread-self/children")


class Child:
    """One started process and its output.

    ``memory`` is, in bytes, what its whole session was seen to hold last, ``peak`` the most so far.
    """

    def __init__(self, argv: Sequence[str], *, cwd: Path, env: Mapping[str, str]) -> None:
        self.started = time.monotonic()
        with explained(tempfile.gettempdir()):
            self._output: IO[bytes] = tempfile.TemporaryFile(prefix="xfdev-log-")  # noqa: SIM115 - see reap()
        try:
            self._process: Any = spawn(argv, cwd=cwd, env=env, output=self._output.fileno())
        except BaseException:
            self._output.close()
            raise
        self.pid: int = self._process.pid
        self.peak = self.memory = 0
        self.pidfd = _pidfd(self.pid)

    def ended(self) -> bool:
        return self._exit() is not None

    def succeeded(self) -> bool:
        """Whether it ended, with exit status 0."""
        found = self._exit()
        return found is not None and found.si_status == 0  # for one that was killed: the signal

    def _exit(self) -> os.waitid_result | None:
        return os.waitid(os.P_PID, self.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT)

    def signal(self, number: int) -> None:
        """Signal the whole group. Only before reap(): until then nobody else gets its number."""
        with suppress(ProcessLookupError, PermissionError):  # nobody is left, or only another user's
            os.killpg(self.pid, number)

    def reap(self) -> tuple[int, float, str]:
        """Wait for the end; return the exit status (minus the signal), seconds run and what it printed."""
        _, status, usage = os.wait4(self.pid, 0)
        seconds = time.monotonic() - self.started
        self._process.returncode = os.waitstatus_to_exitcode(status)  # so that Popen does not wait as well
        # The biggest single process, also between two samples; never less than we had when it was started,
        # because it began as a copy of us.
        self.peak = max(self.peak, usage.ru_maxrss * 1024)
        if self.pidfd is not None:
            os.close(self.pidfd)
        with self._output as stream:
            stream.seek(0)
            log = stream.read().decode(errors="replace")
        return self._process.returncode, seconds, log


class Children:
    """The children that run now."""

    def __init__(self, wake: int | None) -> None:
        """*wake*: a file descriptor that ends a wait when it becomes readable."""
        self.running: list[Child] = []
        self._poll = select.poll()
        self._next_sample = 0.0
        if wake is not None:
            self._poll.register(wake, select.POLLIN)

    def start(self, argv: Sequence[str], *, cwd: Path, env: Mapping[str, str]) -> Child:
        child = Child(argv, cwd=cwd, env=env)
        if not self.running:
            self._next_sample = child.started + _SAMPLE
        self.running.append(child)
        if child.pidfd is not None:
            self._poll.register(child.pidfd, select.POLLIN)
        return child

    def wait(self, until: float) -> list[Child]:
        """The children that have ended, not yet reaped: as soon as there are any, at the latest at *until* (a
        time.monotonic()) or when woken (then perhaps none). Memory is measured meanwhile."""
        while True:
            now = time.monotonic()
            if now >= self._next_sample:
                self._measure()
                now = time.monotonic()
                self._next_sample = now + _SAMPLE
            blind = any(child.pidfd is None for child in self.running)
            pause = min(until, self._next_sample) - now
            if blind:
                pause = min(pause, _POLL)
            ready = {handle for handle, _ in self._poll.poll(max(0, pause) * 1000)}
            ended = [c for c in self.running if (c.ended() if c.pidfd is None else c.pidfd in ready)]
            woken = bool(ready - {child.pidfd for child in ended})
            if ended or woken or time.monotonic() >= until:
                return ended

    def reap(self, child: Child) -> tuple[int, float, str]:
        """Take a child off the list once it ends; what is left of the group of one that failed is killed."""
        if child.ended() and not child.succeeded():
            child.signal(signal.SIGKILL)
        if child.pidfd is not None:
            self._poll.unregister(child.pidfd)
        self.running.remove(child)
        return child.reap()

    def end_all(self, grace: float) -> None:
        """End every child's group: SIGINT, so that compilers remove their temporary files (nvcc does so for no other
        signal), SIGTERM for those that take no notice in half of *grace* seconds, SIGKILL for what is left after the
        other half. Afterwards none is running."""
        ending = list(self.running)
        groups = {child.pid for child in ending}
        for number in (signal.SIGINT, signal.SIGTERM):
            for child in ending:
                child.signal(number)
            deadline = time.monotonic() + grace / 2
            # Not the leaders alone: ccache does not wait for an nvcc that is still removing its files.
            while (alive := _any_alive(groups)) and time.monotonic() < deadline:
                time.sleep(_POLL)
            if not alive:
                break
        for child in ending:
            child.signal(signal.SIGKILL)
            self.reap(child)
        # Grandchildren die a moment later than the leader, and until then may still create a file.
        deadline = time.monotonic() + 0.2
        while time.monotonic() < deadline and any(_group_exists(child.pid) for child in ending):
            time.sleep(0.001)

    def _measure(self) -> None:
        now = resident({child.pid for child in self.running})
        for child in self.running:
            child.memory = now[child.pid]
            child.peak = max(child.peak, child.memory)


def _any_alive(groups: Collection[int]) -> bool:
    """Whether a process of one of these groups runs; those that have ended and that nobody waited for do not."""
    for place in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # it is gone
            state, _, group = place.read_text(errors="replace").rpartition(") ")[2].split()[:3]
            if int(group) in groups and state not in "ZX":
                return True
    return False


def resident(leaders: Collection[int]) -> dict[int, int]:
    """Bytes in memory now of each session leader with all its descendants; 0 for one that is gone."""
    if _CHILDREN_FILE.exists():
        return {leader: sum(map(_resident_pages, _tree(leader))) * _PAGE for leader in leaders}
    # A kernel without CONFIG_PROC_CHILDREN: one look through all processes that there are.
    found = dict.fromkeys(leaders, 0)
    for name in filter(str.isdecimal, os.listdir("/proc")):
        fields = _read(f"/proc/{name}/stat").rpartition(")")[2].split()
        if len(fields) > 21 and int(fields[3]) in found:
            found[int(fields[3])] += int(fields[21]) * _PAGE
    return found


def _tree(leader: int) -> Iterator[int]:
    pids = [leader]
    for pid in pids:  # grows while we go
        yield pid
        try:
            threads = os.listdir(f"/proc/{pid}/task")
        except OSError:
            continue
        for thread in threads:
            pids.extend(map(int, _read(f"/proc/{pid}/task/{thread}/children").split()))


def _resident_pages(pid: int) -> int:
    fields = _read(f"/proc/{pid}/statm").split()
    return int(fields[1]) if len(fields) > 1 else 0


def _read(path: str) -> str:
    try:
        with open(path, encoding="utf-8", errors="replace") as stream:
            return stream.read()
    except OSError:  # the process ended meanwhile
        return ""


def _pidfd(pid: int) -> int | None:
    """A descriptor that becomes readable when *pid* ends; None where kernel, sandbox or Python lacks it."""
    try:
        return os.pidfd_open(pid)
    except (AttributeError, OSError):
        return None


def _group_exists(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


@contextmanager
def signals_held() -> Iterator[tuple[int | None, Callable[[], bool]]]:
    """Hold back the signals that end a program, so that none is lost or strikes between starting a child and
    knowing of it. They take their usual effect when the block is left.

    Yields a file descriptor that becomes readable when one came, and a function that tells whether one came.
    Outside the main thread nothing is held (Python delivers no signal there).
    """
    received: list[int] = []
    readable, writable = os.pipe()

    def hold(number: int, frame: FrameType | None) -> None:
        received.append(number)
        os.write(writable, b"!")

    previous: dict[int, Any] = {}
    try:
        for number in map(int, (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)):
            if signal.getsignal(number) not in (signal.SIG_IGN, None):
                try:
                    previous[number] = signal.signal(number, hold)
                except ValueError:  # not the main thread
                    break
        yield readable, lambda: bool(received)
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
        os.close(readable)
        os.close(writable)
        if received:
            signal.raise_signal(received[0])
