"""Gather facts, each area in a thread of its own, and judge them."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from xfdev.doctor.facts import Facts, Unseen
from xfdev.doctor.finding import Finding, unknown
from xfdev.doctor.registry import NETWORK, Check

#: How an area is looked at; it may wait for another, with what it is given.
Look = Callable[[Callable[[type], Any]], Any]


def gather(looks: Mapping[type, Look], areas: Iterable[type], *, seconds: float, given: Mapping[type, Any]) -> Facts:
    """Look at *areas* and what they wait for, all at once; what is not there after *seconds* is Unseen.

    The threads are daemons: a file system that never answers must not keep the doctor from answering.
    """
    found: dict[type, Any] = dict(given)
    deadline = time.monotonic() + seconds
    changed = threading.Condition()
    started: set[type] = set()

    def start(area: type) -> None:
        with changed:
            if area in started or area in found or area not in looks:
                return
            started.add(area)
        threading.Thread(target=run, args=(area,), daemon=True, name=area.__name__).start()

    def wait(area: type) -> Any:
        start(area)
        with changed:
            changed.wait_for(lambda: area in found or area not in started, timeout=deadline - time.monotonic())
            result = found.get(area, Unseen(f"{area.__name__.lower()} was not seen in time"))
        if isinstance(result, Unseen):
            raise result
        return result

    def run(area: type) -> None:
        try:
            result = looks[area](wait)
        except Unseen as reason:
            result = reason
        except Exception as error:  # one area that fails is not the end of the others
            result = Unseen(f"{type(error).__name__}: {error}")
        with changed:
            found.setdefault(area, result)
            changed.notify_all()

    wanted = [area for area in dict.fromkeys(areas) if area in looks]
    for area in wanted:
        start(area)
    with changed:
        changed.wait_for(lambda: all(area in found for area in wanted), timeout=max(0.0, deadline - time.monotonic()))
        known = dict(found)
    for area in wanted:
        known.setdefault(area, Unseen(f"not seen within {seconds:g} s; with --only there is more time"))
    return Facts(known)


def areas_of(checks: Iterable[Check], *, network: bool) -> list[type]:
    """What has to be looked at for *checks*."""
    found = [area for check in checks if network or not check.network for area in check.needs]
    return [area for area in dict.fromkeys(found) if network or area not in NETWORK]


def judge(check: Check, facts: Facts, *, network: bool) -> Finding:
    """What *check* finds; what it cannot look at, and a bug of its own, is ``unknown``."""
    if check.network and not network:
        return unknown(ASK)
    try:
        return check.judge(facts)
    except Unseen as reason:
        return unknown(str(reason))
    except Exception as error:
        return unknown(f"the check failed: {type(error).__name__}: {error}")


#: What a check of the network says while nobody asked for those.
ASK = "needs the network: xfdev doctor --network"
