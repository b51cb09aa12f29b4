"""How long the jobs that are left will still take. Pure functions."""

from __future__ import annotations

import heapq
from collections.abc import Sequence

#: A unit that runs longer than it should is expected to go on for this part of what it took so far.
_OVERDUE = 0.1
#: Beyond these, the earlier times were not those of this compile at all.
_SLOWEST, _FASTEST = 8.0, 0.125


def speed(finished: Sequence[tuple[float, float]]) -> float:
    """This machine's times in those of the records: 2.0 where compiles take twice as long as they took then.

    *finished* are pairs of expected and real seconds; 1.0 where there are none.
    """
    expected = sum(pair[0] for pair in finished)
    real = sum(pair[1] for pair in finished)
    if expected <= 0:
        return 1.0
    return min(max(real / expected, _FASTEST), _SLOWEST)


def seconds_left(
    running: Sequence[tuple[float, float]], waiting: Sequence[float], slots: int, factor: float = 1.0
) -> float:
    """Seconds until all jobs are done.

    *running* are pairs of seconds run and seconds expected in all, *waiting* the seconds expected of jobs in the order
    in which they start, *slots* how many run side by side; expected seconds are multiplied by *factor*.
    """
    ends = [max(expected * factor - elapsed, elapsed * _OVERDUE) for elapsed, expected in running]
    ends += [0.0] * (max(1, slots) - len(ends))
    heapq.heapify(ends)
    for expected in waiting:
        heapq.heapreplace(ends, ends[0] + expected * factor)
    return max(ends)
