"""xfdev.limits against fake /proc and /sys/fs/cgroup trees."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from xfdev import limits

GB = 1_000_000_000
V2 = "29 22 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate"
V1 = [
    "31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755",
    "32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime - cgroup cgroup rw,cpu,cpuacct",
    "35 31 0:32 / /sys/fs/cgroup/memory rw,relatime - cgroup cgroup rw,memory",
]


class Machine:
    """A machine as /proc and /sys/fs/cgroup show it."""

    def __init__(self, root: Path) -> None:
        self.proc, self.cgroup = root / "proc", root / "cgroup"
        (self.proc / "self").mkdir(parents=True)
        self.cgroup.mkdir()

    def meminfo(self, **kilobytes: int) -> None:
        lines = [f"{name}:{amount:>16} kB" for name, amount in kilobytes.items()]
        (self.proc / "meminfo").write_text("\n".join(lines) + "\nHugePages_Total:       0\n")

    def member(self, *lines: str) -> None:
        (self.proc / "self" / "cgroup").write_text("\n".join(lines) + "\n")

    def mounts(self, *lines: str) -> None:
        noise = "22 1 8:1 / / rw,relatime shared:1 - ext4 /dev/sda1 rw"
        (self.proc / "self" / "mountinfo").write_text("\n".join([noise, *lines]) + "\n")

    def group(self, path: str, **files: str) -> None:
        folder = self.cgroup / path
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            (folder / name.replace("__", ".")).write_text(text + "\n")

    def memory(self) -> int:
        return limits.memory(proc=self.proc, cgroup=self.cgroup)

    def cpus(self, **environ: str) -> int:
        return limits.cpus(environ, proc=self.proc, cgroup=self.cgroup)


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(16)))
    made = Machine(tmp_path)
    made.meminfo(MemTotal=32_000_000, MemFree=1_000_000, MemAvailable=16_000_000)
    return made


def test_no_cgroups(machine: Machine) -> None:
    assert machine.memory() == 16_000_000 * 1024
    assert machine.cpus() == 16


def test_no_proc(tmp_path: Path) -> None:
    assert limits.memory(proc=tmp_path, cgroup=tmp_path) == 0


def test_old_meminfo(machine: Machine) -> None:
    machine.meminfo(MemTotal=32_000_000, MemFree=1_000_000, Cached=2_000_000)
    assert machine.memory() == 3_000_000 * 1024


def test_v2_limit_and_cache(machine: Machine) -> None:
    machine.member("0::/user.slice/run-1.scope")
    machine.mounts(V2)
    machine.group("", memory__stat="anon 5\ninactive_file 9\n", cgroup__controllers="cpu memory")
    machine.group("user.slice", memory__max="max", memory__current="9000000000", cpu__max="max 100000")
    machine.group(
        "user.slice/run-1.scope",
        memory__max=f"{8 * GB}",
        memory__current=f"{5 * GB}",
        memory__stat=f"anon {GB}\ninactive_anon 7\ninactive_file {2 * GB}\nactive_file {GB}",
        cpu__max="350000 100000",
    )
    assert machine.memory() == 5 * GB
    assert machine.cpus() == 4  # 3.5


def test_v2_ancestor_is_tighter(machine: Machine) -> None:
    machine.member("0::/kubepods/pod7/box")
    machine.mounts(V2)
    machine.group("kubepods", memory__max=f"{10 * GB}", memory__current=f"{9 * GB}", cpu__max="200000 100000")
    machine.group("kubepods/pod7", memory__max="max", memory__current=f"{GB}", cpu__max="max 100000")
    machine.group("kubepods/pod7/box", memory__max=f"{6 * GB}", memory__current=f"{GB}", cpu__max="800000 100000")
    assert machine.memory() == GB
    assert machine.cpus() == 2


def test_v2_memory_high(machine: Machine) -> None:
    machine.member("0::/box")
    machine.mounts(V2)
    machine.group("box", memory__max=f"{9 * GB}", memory__high=f"{4 * GB}", memory__current=f"{GB}")
    assert machine.memory() == 3 * GB


def test_v2_over_its_limit_is_zero(machine: Machine) -> None:
    machine.member("0::/")
    machine.mounts(V2)
    machine.group("", memory__max=f"{GB}", memory__current=f"{2 * GB}")
    assert machine.memory() == 0


def test_v2_container_with_its_own_namespace(machine: Machine) -> None:
    machine.member("0::/")
    machine.mounts(V2)
    machine.group("", memory__max=f"{2 * GB}", memory__current=f"{GB}", cpu__max="50000 100000")
    assert machine.memory() == GB
    assert machine.cpus() == 1


def test_v2_path_outside_the_namespace(machine: Machine) -> None:
    machine.member("0::/../../elsewhere")
    machine.mounts(V2)
    machine.group("", memory__max=f"{2 * GB}", memory__current=f"{GB}")
    assert machine.memory() == GB


def test_v1(machine: Machine) -> None:
    machine.member("4:memory:/slurm/job_1", "2:cpu,cpuacct:/slurm/job_1", "1:name=systemd:/", "0::/")
    machine.mounts(*V1)
    machine.group("memory/slurm", memory__limit_in_bytes="9223372036854771712", memory__usage_in_bytes="5")
    machine.group(
        "memory/slurm/job_1",
        memory__limit_in_bytes=f"{4 * GB}",
        memory__usage_in_bytes=f"{3 * GB}",
        memory__stat=f"inactive_file 1\ntotal_inactive_file {2 * GB}",
    )
    machine.group("cpu,cpuacct/slurm", cpu__cfs_quota_us="300000", cpu__cfs_period_us="100000")
    machine.group("cpu,cpuacct/slurm/job_1", cpu__cfs_quota_us="-1", cpu__cfs_period_us="100000")
    assert machine.memory() == 3 * GB
    assert machine.cpus() == 3


def test_v1_container_sees_the_path_of_the_host(machine: Machine) -> None:
    machine.member("4:memory:/docker/0123/inner")
    machine.mounts("35 31 0:32 /docker/0123 /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory")
    machine.group("memory", memory__limit_in_bytes=f"{3 * GB}", memory__usage_in_bytes=f"{GB}")
    machine.group("memory/inner", memory__limit_in_bytes=f"{2 * GB}", memory__usage_in_bytes=f"{GB}")
    assert machine.memory() == GB


def test_hybrid_like_wsl(machine: Machine) -> None:
    """v1 controllers with an empty v2 hierarchy beside them; nothing is limited."""
    machine.member("8:memory:/", "2:cpu:/", "0::/")
    machine.mounts(*V1, "41 31 0:38 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw")
    machine.group("unified", cgroup__controllers="")
    machine.group("memory", memory__limit_in_bytes="9223372036854771712", memory__usage_in_bytes=f"{GB}")
    machine.group("cpu,cpuacct", cpu__cfs_quota_us="-1", cpu__cfs_period_us="100000")
    assert machine.memory() == 16_000_000 * 1024
    assert machine.cpus() == 16


def test_mount_point_with_a_space_and_mounts_elsewhere(machine: Machine) -> None:
    machine.member("4:memory:/")
    machine.mounts(
        "35 31 0:32 / /sys/fs/cgroup/my\\040memory rw - cgroup cgroup rw,memory",
        "36 31 0:32 / /var/lib/box/cgroup rw - cgroup cgroup rw,memory",
        "truncated",
    )
    machine.group("my memory", memory__limit_in_bytes=f"{3 * GB}", memory__usage_in_bytes=f"{GB}")
    assert machine.memory() == 2 * GB


@pytest.mark.parametrize(
    ("wanted", "expected"), [("3", 3), (" 4 ", 4), ("64", 16), ("", 16), ("0", 16), ("-2", 16), ("many", 16)]
)
def test_max_jobs_only_lowers(machine: Machine, wanted: str, expected: int) -> None:
    assert machine.cpus(MAX_JOBS=wanted) == expected


def test_this_machine() -> None:
    assert 1 <= limits.cpus({}) <= (os.cpu_count() or 1)
    assert 0 < limits.memory() <= os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


@pytest.mark.parametrize(
    ("peaks", "memory", "cpus", "expected"),
    [
        ([], 10, 4, 1),
        ([3, 3, 3, 3], 10, 4, 3),
        ([1, 1, 1, 9], 10, 4, 2),
        ([1, 1, 1, 1], 10, 2, 2),
        ([20], 10, 4, 1),  # at least one always runs
        ([1, 1], 10, 8, 2),
        ([1, 1], 0, 8, 1),
        ([1, 1], 10, 0, 1),
    ],
)
def test_parallel_jobs(peaks: list[int], memory: int, cpus: int, expected: int) -> None:
    assert limits.parallel_jobs(peaks, memory, cpus) == expected
