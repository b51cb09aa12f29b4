"""What this machine lets a build use now: CPUs and memory, inside the limits of containers and cgroups.

Nothing here starts a process. ``proc`` and ``cgroup`` are where those two file systems are mounted; cgroup
hierarchies mounted elsewhere than below ``/sys/fs/cgroup`` are not looked at.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath

PROC = Path("/proc")
CGROUP = Path("/sys/fs/cgroup")


def cpus(environ: Mapping[str, str] = os.environ, *, proc: Path = PROC, cgroup: Path = CGROUP) -> int:
    """CPUs that jobs can really have: this process's affinity, capped by the quota of every cgroup it is in.

    ``MAX_JOBS`` of *environ*, torch's own variable, lowers the result further; a value that is no positive
    number is ignored, as torch does. At least 1; a quota of 1.5 CPUs counts as 2, so that it can be used up.
    """
    found = [len(os.sched_getaffinity(0))]
    found += [math.ceil(quota) for quota in _cpu_quotas(proc, cgroup)]
    wanted = environ.get("MAX_JOBS", "").strip()
    if wanted.isdecimal() and int(wanted) > 0:
        found.append(int(wanted))
    return max(1, min(found))


def memory(*, proc: Path = PROC, cgroup: Path = CGROUP) -> int:
    """Bytes that jobs can really have before something is killed: the least of what the machine and every
    cgroup of this process have left. File cache that the kernel gives up first counts as left, swap does not.

    0 where nothing is known, so that jobs run one by one.
    """
    found = list(_group_memory(proc, cgroup))
    machine = _machine_memory(proc)
    if machine is not None:
        found.append(machine)
    return min(found, default=0)


def memory_limit(*, proc: Path = PROC, cgroup: Path = CGROUP) -> int | None:
    """The least number of bytes that any cgroup of this process allows; None where none sets a limit."""
    texts = [_text(group / "memory.max") for group in _groups("", proc, cgroup)]
    texts += [_text(group / "memory.limit_in_bytes") for group in _groups("memory", proc, cgroup)]
    # v1 writes "no limit" as the largest number of pages.
    found = [number for number in map(_number, texts) if number is not None and number < 2**60]
    return min(found, default=None)


def parallel_jobs(peaks: Sequence[int], memory: int, cpus: int) -> int:
    """How many of the jobs with these *peaks* (bytes each) can run at once, whichever they are: so many that
    the biggest ones fit into *memory* bytes together; at most *cpus*, at least 1."""
    fitting, total = 0, 0
    for peak in sorted(peaks, reverse=True)[:cpus]:
        total += peak
        if total > memory:
            break
        fitting += 1
    return max(1, fitting)


def _machine_memory(proc: Path) -> int | None:
    amounts = {}
    for line in _text(proc / "meminfo").splitlines():
        found = re.fullmatch(r"(\w+):\s+(\d+) kB", line.strip())
        if found:
            amounts[found[1]] = int(found[2]) * 1024
    if "MemAvailable" in amounts:
        return amounts["MemAvailable"]
    if "MemFree" in amounts:  # a /proc that is emulated, as some sandboxes do
        return amounts["MemFree"] + amounts.get("Cached", 0)
    return None


def _group_memory(proc: Path, cgroup: Path) -> Iterator[int]:
    for group in _groups("", proc, cgroup):
        # Above memory.high nobody is killed, but everybody is slowed until nothing moves.
        for limit in ("memory.max", "memory.high"):
            yield from _left(group, limit, "memory.current", "inactive_file")
    for group in _groups("memory", proc, cgroup):
        yield from _left(group, "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")


def _left(group: Path, limit_file: str, used_file: str, cache_key: str) -> Iterator[int]:
    limit, used = _number(_text(group / limit_file)), _number(_text(group / used_file))
    if limit is None or used is None:
        return
    cache = re.search(rf"^{cache_key} (\d+)$", _text(group / "memory.stat"), re.MULTILINE)
    yield max(0, limit - used + (min(used, int(cache[1])) if cache else 0))


def _cpu_quotas(proc: Path, cgroup: Path) -> Iterator[float]:
    pairs = [_text(group / "cpu.max").split() for group in _groups("", proc, cgroup)]
    pairs += [
        [_text(group / "cpu.cfs_quota_us"), _text(group / "cpu.cfs_period_us")]
        for group in _groups("cpu", proc, cgroup)
    ]
    for pair in pairs:
        numbers = [_number(text) for text in pair]
        if len(numbers) == 2 and numbers[0] is not None and numbers[1]:
            yield numbers[0] / numbers[1]


def _groups(controller: str, proc: Path, cgroup: Path) -> Iterator[Path]:
    """The folders of this process's cgroup and of its ancestors, as far as they are visible.

    *controller* names a v1 hierarchy (``memory``); empty means v2.
    """
    member = _membership(controller, proc)
    if member is None:
        return
    for root, point in _mounts(controller, proc, cgroup):
        # In a container without a cgroup namespace of its own the path is the host's, and mounted is only the
        # part below *root*. A path that leaves the namespace ("/../..") leads to nothing that we can see.
        visible = member.is_relative_to(root) and ".." not in member.parts
        inside = member.relative_to(root).parts if visible else ()
        for depth in range(len(inside), -1, -1):
            yield point.joinpath(*inside[:depth])


def _membership(controller: str, proc: Path) -> PurePosixPath | None:
    for line in _text(proc / "self" / "cgroup").splitlines():
        number, _, rest = line.partition(":")
        controllers, _, path = rest.partition(":")
        if (controller in controllers.split(",")) if controller else (number == "0" and not controllers):
            return PurePosixPath(path)
    return None


def _mounts(controller: str, proc: Path, cgroup: Path) -> Iterator[tuple[PurePosixPath, Path]]:
    """For each mount of the hierarchy: which cgroup is at its top, and the folder where that is."""
    for line in _text(proc / "self" / "mountinfo").splitlines():
        before, _, after = line.partition(" - ")
        mount, system = before.split(" "), after.split(" ")
        if len(mount) < 5 or len(system) < 3:
            continue
        matches = system[0] == "cgroup" and controller in system[2].split(",") if controller else system[0] == "cgroup2"
        point = PurePosixPath(_unescaped(mount[4]))
        if matches and point.is_relative_to(CGROUP):
            yield PurePosixPath(_unescaped(mount[3])), cgroup / point.relative_to(CGROUP)


def _unescaped(field: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), field)


def _number(text: str) -> int | None:
    """A limit or an amount; None for "max", -1 (v1: no quota), and for a file that is not there."""
    return int(text) if text.strip().isdecimal() else None


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
