"""xfdev.execute with real, small processes; no compiler is needed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from xfdev import diagnostics, limits
from xfdev.errors import CommandFailed, CompileFailed, OutOfMemory
from xfdev.execute import CPP_PEAK, NVCC_PEAK, Job, Outcome, run_jobs
from xfdev.schedule import Claim, choose, expected_peak, has_a_second, longest_first

GB = 1_000_000_000
ENV = {"PATH": os.environ["PATH"]}
SOURCE = Path(__file__).parents[2] / "src"


def shell(name: str, script: str, seconds: float | None = 1.0, peak: int | None = 1) -> Job:
    """A job whose script finds its output in $out."""
    return Job(name, ("sh", "-c", f"out={name}.o; {script}"), Path(f"{name}.o"), seconds, peak)


def python(name: str, code: str) -> Job:
    code = f"{textwrap.dedent(code)}\nopen('{name}.o', 'w')"
    return Job(name, (sys.executable, "-S", "-c", code), Path(f"{name}.o"), 1.0, 1)


def test_results_in_the_order_of_the_jobs(tmp_path: Path) -> None:
    jobs = [shell("a", "echo A; echo E >&2; echo 1 >$out", 1.0), shell("b", "echo B; : >$out", 2.0)]
    started: list[str] = []
    done: list[tuple[str, int, int]] = []
    outcomes = run_jobs(
        jobs,
        cwd=tmp_path,
        env=ENV,
        memory=GB,
        cpus=1,
        on_start=lambda job, running, total: started.append(f"{job.name} {running}/{total}"),
        on_done=lambda outcome, finished, total: done.append((outcome.job.name, finished, total)),
    )
    assert started == ["b 1/2", "a 1/2"]  # the longest first
    assert done == [("b", 1, 2), ("a", 2, 2)]
    assert [(o.job, o.log) for o in outcomes] == [(jobs[0], "A\nE\n"), (jobs[1], "B\n")]
    assert (tmp_path / "a.o").read_text() == "1\n"


def test_no_jobs(tmp_path: Path) -> None:
    assert run_jobs([], cwd=tmp_path, env=ENV, memory=0, cpus=1) == []


def most_at_once(jobs: list[Job], cwd: Path, memory: int, cpus: int) -> int:
    seen: list[int] = []
    run_jobs(
        jobs, cwd=cwd, env=ENV, memory=memory, cpus=cpus, on_start=lambda job, running, total: seen.append(running)
    )
    return max(seen)


@pytest.mark.parametrize(("memory", "cpus", "expected"), [(100, 3, 3), (25, 4, 2), (5, 4, 1), (100, 0, 1)])
def test_parallel_within_cpus_and_memory(tmp_path: Path, memory: int, cpus: int, expected: int) -> None:
    jobs = [shell(f"u{n}", "sleep 0.03; : >$out", peak=10 * 10**6) for n in range(6)]
    assert most_at_once(jobs, tmp_path, memory * 10**6, cpus) == expected


def test_a_big_log_does_not_block(tmp_path: Path) -> None:
    (outcome,) = run_jobs(
        [shell("a", "head -c 3000000 /dev/zero | tr '\\0' x; printf '\\377'; : >$out")],
        cwd=tmp_path,
        env=ENV,
        memory=GB,
        cpus=1,
    )
    assert len(outcome.log) == 3_000_001
    assert outcome.log.endswith("x\ufffd")


@pytest.mark.parametrize("pidfd", [True, False])
def test_reacts_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pidfd: bool) -> None:
    """13 cache hits of 50 ms on 2 CPUs take 7 rounds of 50 ms and hardly more, and cost no CPU time."""
    if not pidfd:
        monkeypatch.delattr(os, "pidfd_open", raising=False)
    jobs = [shell(f"u{n}", ": >$out; exec sleep 0.05") for n in range(13)]
    plain = ["sh", "-c", "exec sleep 0.05"]
    ratio = cpu = 9.0
    for _ in range(10):  # beside the same by two plain threads: the machine may be busy with something else
        started = time.monotonic()
        with ThreadPoolExecutor(2) as pool:
            list(pool.map(lambda _: subprocess.run(plain, check=True), jobs))
        middle, cpu = time.monotonic(), time.process_time()
        run_jobs(jobs, cwd=tmp_path, env=ENV, memory=GB, cpus=2)
        ratio, cpu = (time.monotonic() - middle) / (middle - started), time.process_time() - cpu
        if ratio < 1.25:
            break
    assert ratio < 1.25
    assert cpu < 0.15


def test_waiting_costs_nothing(tmp_path: Path) -> None:
    cpu = time.process_time()
    run_jobs([shell("a", ": >$out; exec sleep 0.7")], cwd=tmp_path, env=ENV, memory=GB, cpus=1)
    assert time.process_time() - cpu < 0.05


# -- failures


GCC_ERROR = """\
In file included from a.cpp:1:
a.h:3:9: warning: unused variable 'x' [-Wunused-variable]
a.cpp:7:3: error: 'frob' was not declared in this scope
    7 |   frob(x);
      |   ^~~~
a.cpp:9:3: error: another one
"""


def test_a_failure_ends_the_others_and_keeps_what_is_finished(tmp_path: Path) -> None:
    (tmp_path / "log").write_text(GCC_ERROR)
    jobs = [
        shell("quick", ": >$out", 9.0),
        shell("slow", "echo half >$out; sleep 30; echo whole >$out", 8.0),
        shell("bad", "sleep 0.2; echo half >$out; cat log; exit 3", 7.0),
        shell("later", ": >$out", 1.0),
    ]
    done: list[str] = []
    started = time.monotonic()
    with pytest.raises(CompileFailed) as caught:
        run_jobs(
            jobs,
            cwd=tmp_path,
            env=ENV,
            memory=GB,
            cpus=2,
            on_done=lambda outcome, finished, total: done.append(outcome.job.name),
            hint=lambda job: f"look at {job.name}",
        )
    assert time.monotonic() - started < 2
    assert done == ["quick"]
    assert sorted(path.name for path in tmp_path.glob("*.o")) == ["quick.o"]
    assert str(caught.value) == (
        "bad does not compile:\n"
        "a.cpp:7:3: error: 'frob' was not declared in this scope\n    7 |   frob(x);\n      |   ^~~~"
    )
    assert caught.value.why == "sh ended with exit status 3"
    assert caught.value.hint == "look at bad"
    assert "another one" in caught.value.details
    assert caught.value.details.startswith("$ sh -c ")


def test_what_ends_well_beside_a_failure_is_kept(tmp_path: Path) -> None:
    def slow_hint(job: Job) -> str:
        time.sleep(0.4)
        return ""

    jobs = [shell("bad", "exit 1", 2.0), shell("good", "sleep 0.1; : >$out", 1.0)]
    with pytest.raises(CompileFailed):
        run_jobs(jobs, cwd=tmp_path, env=ENV, memory=GB, cpus=2, hint=slow_hint)
    assert (tmp_path / "good.o").exists()


def test_sigkill_for_what_ignores_sigterm(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("xfdev.execute._GRACE_FAILED", 0.2)
    jobs = [
        shell("deaf", "trap '' TERM; echo $$ >pid; echo half >$out; sleep 30 & wait; sleep 30"),
        shell("bad", "while [ ! -s deaf.o ]; do sleep 0.01; done; exit 1"),
    ]
    with pytest.raises(CompileFailed):
        run_jobs(jobs, cwd=tmp_path, env=ENV, memory=GB, cpus=2)
    assert not (tmp_path / "deaf.o").exists()
    assert session_of(int((tmp_path / "pid").read_text())) == []


def test_keep_going(tmp_path: Path) -> None:
    jobs = [
        shell("a", "echo 'a.cu(3): error: no'; exit 1", 3.0),
        shell("b", ": >$out", 2.0),
        shell("c", "echo 'c.cu(4): error: no'; exit 1", 1.0),
    ]
    with pytest.raises(CompileFailed) as caught:
        run_jobs(jobs, cwd=tmp_path, env=ENV, memory=GB, cpus=1, keep_going=True)
    assert str(caught.value).splitlines() == [
        "2 of 3 units failed",
        "a does not compile:",
        "a.cu(3): error: no",
        "c does not compile:",
        "c.cu(4): error: no",
    ]
    assert (tmp_path / "b.o").exists()


def test_success_without_an_object_is_a_failure(tmp_path: Path) -> None:
    with pytest.raises(CompileFailed) as caught:
        run_jobs([shell("a", "exit 0")], cwd=tmp_path, env=ENV, memory=GB, cpus=1)
    assert str(caught.value) == "a does not compile; sh said nothing"
    assert caught.value.why == "sh ended with exit status 0, but a.o was not written"


def test_a_stale_object_is_gone_before_the_start(tmp_path: Path) -> None:
    (tmp_path / "a.o").write_text("stale")
    with pytest.raises(CompileFailed):
        run_jobs([shell("a", "test -e $out && exit 0; exit 1")], cwd=tmp_path, env=ENV, memory=GB, cpus=1)
    assert not (tmp_path / "a.o").exists()


def test_a_crash_names_the_signal(tmp_path: Path) -> None:
    with pytest.raises(CompileFailed) as caught:
        run_jobs([shell("a", "kill -SEGV $$")], cwd=tmp_path, env=ENV, memory=GB, cpus=1)
    assert caught.value.why == "sh ended with signal 11 (SIGSEGV)"


@pytest.mark.parametrize("mode", [None, 0o644])
def test_a_compiler_that_does_not_run(tmp_path: Path, mode: int | None) -> None:
    compiler = tmp_path / "c++"
    if mode is not None:
        compiler.write_text("#!/bin/sh\n")
        compiler.chmod(mode)
    jobs = [shell("a", "echo half >$out; sleep 30", 2.0), Job("b", (str(compiler),), Path("b.o"), 1.0, 1)]
    with pytest.raises(CommandFailed):
        run_jobs(jobs, cwd=tmp_path, env=ENV, memory=GB, cpus=2)
    assert list(tmp_path.glob("*.o")) == []


def test_an_exception_in_a_callback_ends_everything(tmp_path: Path) -> None:
    def boom(outcome: Outcome, finished: int, total: int) -> None:
        raise ZeroDivisionError

    jobs = [shell("a", "echo $$ >pid; echo half >$out; sleep 30"), shell("b", "sleep 0.1; : >$out")]
    with pytest.raises(ZeroDivisionError):
        run_jobs(jobs, cwd=tmp_path, env=ENV, memory=GB, cpus=2, on_done=boom)
    assert sorted(path.name for path in tmp_path.glob("*.o")) == ["b.o"]
    assert session_of(int((tmp_path / "pid").read_text())) == []


# -- memory


def test_killed_for_memory_runs_again_alone(tmp_path: Path) -> None:
    """A compiler that is killed whenever another one runs beside it."""
    compiler = "mkdir -p now; : >now/$$; sleep 0.1; n=$(ls now | wc -l); "
    compiler += "if [ $n -gt 1 ]; then sleep 0.05; rm now/$$; kill -9 $$; fi; sleep 0.05; rm now/$$; : >$out"
    retried: list[str] = []
    running: list[int] = []
    outcomes = run_jobs(
        [shell(f"u{n}", compiler) for n in range(4)],
        cwd=tmp_path,
        env=ENV,
        memory=GB,
        cpus=2,
        on_start=lambda job, now, total: running.append(now),
        on_retry=lambda job: retried.append(job.name),
    )
    assert len(outcomes) == 4
    assert retried  # at least one of the first two
    assert set(retried) <= {"u0", "u1"}
    assert set(running[2:]) == {1}  # 2 parallel jobs, halved


def test_killed_for_memory_halves_once_per_wave(tmp_path: Path) -> None:
    kill = "[ -e again-$out ] && : >$out && exit; : >again-$out; sleep 0.2; kill -9 $$"
    jobs = [shell(f"k{n}", kill, 9.0) for n in range(2)]
    jobs += [shell(f"u{n}", "sleep 0.3; : >$out", 5.0) for n in range(2)]
    jobs += [shell(f"v{n}", "sleep 0.1; : >$out", 1.0) for n in range(4)]
    started: list[tuple[str, int]] = []
    run_jobs(
        jobs,
        cwd=tmp_path,
        env=ENV,
        memory=GB,
        cpus=4,
        on_start=lambda job, now, total: started.append((job.name, now)),
    )
    assert started[:4] == [("k0", 1), ("k1", 2), ("u0", 3), ("u1", 4)]
    assert max(now for name, now in started if name.startswith("v")) == 2
    assert sorted(started[-2:]) == [("k0", 1), ("k1", 1)]


def test_killed_for_memory_twice(tmp_path: Path) -> None:
    jobs = [shell("good", ": >$out"), shell("big", "echo half >$out; kill -9 $$")]
    with pytest.raises(OutOfMemory) as caught:
        run_jobs(jobs, cwd=tmp_path, env=ENV, memory=2 * GB, cpus=2, hint=lambda job: "buy some")
    assert str(caught.value) == "big was killed for memory twice, the second time while it ran alone"
    assert "2.0 GB were available" in caught.value.why
    assert caught.value.hint == "buy some"
    assert sorted(path.name for path in tmp_path.glob("*.o")) == ["good.o"]


def test_a_source_error_counts_more_than_memory(tmp_path: Path) -> None:
    jobs = [shell("big", "exit 137", 2.0), shell("bad", "echo 'x.c:1:1: error: y'; exit 1", 1.0)]
    with pytest.raises(CompileFailed) as caught:
        run_jobs(jobs, cwd=tmp_path, env=ENV, memory=GB, cpus=1, keep_going=True)
    assert "2 of 2 units failed" in str(caught.value)


def test_what_runs_counts_with_what_it_really_holds(tmp_path: Path) -> None:
    """The first job takes 120 MB where 1 byte was expected: what would not fit beside it waits."""
    grow = python("grow", "import time; held = b'x' * 120_000_000; time.sleep(0.4)")
    tick = shell("tick", "sleep 0.25; : >$out", 0.5)
    late = shell("late", ": >$out", 0.4, peak=60_000_000)
    seen: dict[str, int] = {}
    run_jobs(
        [grow, tick, late],
        cwd=tmp_path,
        env=ENV,
        memory=150_000_000,
        cpus=2,
        on_start=lambda job, now, total: seen.update({job.name: now}),
    )
    assert seen == {"grow": 1, "tick": 2, "late": 1}


def measured_peak(folder: Path, argv: tuple[str, ...], *, by_children: bool = True) -> int:
    """The peak of a job that a small process runs: a child begins as a copy of the one that starts it, and what
    that one holds counts as the child's. Late in a run of all tests, pytest holds more than these jobs."""
    code = f"""
        import sys
        from pathlib import Path
        from xfdev import children
        from xfdev.execute import Job, run_jobs
        if not {by_children}:
            children._CHILDREN_FILE = Path("/nowhere")
        job = Job("a", tuple(sys.argv[1:]), Path("a.o"), 1.0, 1)
        (outcome,) = run_jobs([job], cwd=Path(), env={ENV}, memory={GB}, cpus=1)
        print(outcome.peak)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), *argv],
        cwd=folder,
        env={**ENV, "PYTHONPATH": str(SOURCE)},
        stdout=subprocess.PIPE,
        check=True,
    )
    return int(done.stdout)


@pytest.mark.parametrize("by_children", [True, False])
def test_peak_of_a_child(tmp_path: Path, by_children: bool) -> None:
    """Two compilers of 100 MB at once below a driver: what counts is their sum."""
    half = f"{sys.executable} -S -c \"import time; held = b'x' * 100_000_000; time.sleep(0.4)\""
    job = shell("a", f"{half} & {half}; wait; : >$out")
    assert 200_000_000 < measured_peak(tmp_path, job.argv, by_children=by_children) < 240_000_000


def test_peak_of_a_short_moment(tmp_path: Path) -> None:
    """Between two samples the kernel's own account counts."""
    job = python("a", "b'x' * 200_000_000")
    assert 200_000_000 < measured_peak(tmp_path, job.argv) < 240_000_000


@pytest.fixture
def small_group() -> Iterator[Path]:
    """A cgroup of this machine with room for 250 MB."""
    member = Path("/proc/self/cgroup").read_text().splitlines()
    v1 = next((line.split(":", 2)[2] for line in member if ":memory:" in line), None)
    if v1 is not None:
        parent, limit, swap = Path(f"/sys/fs/cgroup/memory{v1}"), "memory.limit_in_bytes", "memory.swappiness"
    else:
        parent, limit, swap = Path("/sys/fs/cgroup"), "memory.max", "memory.swap.max"
    group = parent / f"xfdev-test-{os.getpid()}"
    try:
        group.mkdir()
    except OSError as error:
        pytest.skip(f"no cgroup can be made here: {error}")
    try:
        try:
            (group / limit).write_text("250000000")
            if (group / swap).exists():
                (group / swap).write_text("0")
        except OSError as error:
            pytest.skip(f"the memory of a cgroup cannot be limited here: {error}")
        yield group
    finally:
        group.rmdir()


DRIVER = """\
import os, pathlib, sys, textwrap
sys.path.insert(0, {source!r})
from xfdev import limits
from xfdev.execute import Job, run_jobs
"""


def test_a_real_memory_limit(tmp_path: Path, small_group: Path) -> None:
    """Two jobs of 150 MB in 250 MB: the kernel kills one, and it goes well alone."""
    code = DRIVER.format(source=str(SOURCE)) + textwrap.dedent(
        """
        pathlib.Path(sys.argv[1], "cgroup.procs").write_text(str(os.getpid()))
        print(limits.memory())
        hold = "import sys, time; time.sleep(0.2); held = b'x' * 150_000_000; time.sleep(0.5); open(sys.argv[1], 'w')"
        jobs = [Job(n, (sys.executable, "-S", "-c", hold, n), pathlib.Path(n), 1.0, 1) for n in ("a.o", "b.o")]
        retried = []
        run_jobs(jobs, cwd=pathlib.Path.cwd(), env=os.environ, memory=10**9, cpus=2, on_retry=retried.append)
        print(len(retried))
        """
    )
    done = subprocess.run(
        [sys.executable, "-c", code, small_group], cwd=tmp_path, capture_output=True, text=True, check=True
    )
    available, retried = map(int, done.stdout.split())
    assert 200_000_000 < available < 250_000_000
    assert retried == 1
    assert (tmp_path / "a.o").exists()
    assert (tmp_path / "b.o").exists()


# -- interruption


def session_of(leader: int) -> list[int]:
    """The processes (zombies aside) of that session."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdecimal():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue
            if int(fields[3]) == leader and fields[0] != "Z":
                found.append(int(entry.name))
    return found


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_leaves_nothing(tmp_path: Path, number: signal.Signals) -> None:
    code = DRIVER.format(source=str(SOURCE)) + textwrap.dedent(
        """
        script = "echo $$ >pid-$0; echo half >$0; sleep 30 & sleep 30; echo whole >$0"
        jobs = [Job(n, ("sh", "-c", script, n), pathlib.Path(n), 1.0, 1) for n in ("a.o", "b.o", "c.o")]
        jobs.insert(0, Job("done.o", ("sh", "-c", ": >done.o"), pathlib.Path("done.o"), 9.0, 1))
        try:
            run_jobs(jobs, cwd=pathlib.Path.cwd(), env=os.environ, memory=10**9, cpus=2)
        except KeyboardInterrupt:
            print("interrupted")
            raise
        """
    )
    driver = subprocess.Popen(
        [sys.executable, "-c", code], cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    deadline = time.monotonic() + 10
    while len(pids := [p for p in tmp_path.glob("pid-*") if p.read_text().strip()]) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    sent = time.monotonic()
    driver.send_signal(number)
    out, err = driver.communicate(timeout=10)
    assert time.monotonic() - sent < 1.5
    assert driver.returncode == -number, err
    assert out == ("interrupted\n" if number == signal.SIGINT else "")
    assert sorted(path.name for path in tmp_path.glob("*.o") if "pid" not in path.name) == ["done.o"]
    assert [session_of(int(pid.read_text())) for pid in pids] == [[], []]


def test_an_ignored_signal_stays_ignored(tmp_path: Path) -> None:
    """As under nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        jobs = [shell("a", f"kill -HUP {os.getpid()}; sleep 0.05; : >$out")]
        assert len(run_jobs(jobs, cwd=tmp_path, env=ENV, memory=GB, cpus=1)) == 1
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_handlers_come_back_and_no_descriptor_is_left(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGINT), len(os.listdir("/proc/self/fd"))
    run_jobs([shell("a", ": >$out")], cwd=tmp_path, env=ENV, memory=GB, cpus=1)
    with pytest.raises(CompileFailed):
        run_jobs([shell("a", "exit 1")], cwd=tmp_path, env=ENV, memory=GB, cpus=1)
    assert (signal.getsignal(signal.SIGINT), len(os.listdir("/proc/self/fd"))) == before


def test_outside_the_main_thread(tmp_path: Path) -> None:
    found: list[Outcome] = []
    thread = threading.Thread(
        target=lambda: found.extend(
            run_jobs([shell("a", ": >$out")], cwd=tmp_path, env=ENV, memory=GB, cpus=1),
        )
    )
    thread.start()
    thread.join()
    assert len(found) == 1


# -- decisions


@pytest.mark.parametrize(
    ("names", "cpus", "memory", "expected"),
    [
        (["a.cu"], 2, 100, {"a.cu"}),
        (["a.cu"], 1, 100, set()),
        (["a.cu"], 2, 14, set()),
        (["a.cpp"], 2, 100, set()),
        (["a.cu", "b.cu"], 2, 100, {"a.cu", "b.cu"}),
        (["a.cu", "b.cpp", "c.cu", "d.cu"], 3, 100, {"d.cu"}),
        (["a.cu", "b.cu", "c.cpp"], 8, 100, {"a.cu", "b.cu"}),
        (["a.cu", "b.cu"], 8, 26, {"a.cu"}),
    ],
)
def test_what_all_runs_at_once_may_take_a_second_cpu(
    tmp_path: Path, names: list[str], cpus: int, memory: int, expected: set[str]
) -> None:
    jobs = [
        replace(
            shell(name, f'echo "$SECOND" >{name}.said; sleep 0.2; touch $out', 9.0 - index, 10),
            divides=name.endswith(".cu"),
        )
        for index, name in enumerate(names)
    ]
    outcomes = run_jobs(jobs, cwd=tmp_path, env=dict(os.environ), memory=memory, cpus=cpus, divided={"SECOND": "yes"})
    assert len(outcomes) == len(names)
    assert {name for name in names if "yes" in (tmp_path / f"{name}.said").read_text()} == expected


def test_what_was_killed_for_memory_gets_no_second_cpu(tmp_path: Path) -> None:
    once = replace(
        shell("a.cu", 'echo "$SECOND" >>said; test -e second || { touch second; kill -9 $$; }; touch $out'),
        divides=True,
    )
    retried: list[Job] = []
    run_jobs(
        [once], cwd=tmp_path, env=dict(os.environ), memory=100, cpus=4, divided={"SECOND": "yes"},
        on_retry=retried.append,
    )  # fmt: skip
    assert retried == [once]
    assert (tmp_path / "said").read_text() == "yes\n\n"


def test_has_a_second() -> None:
    unit = replace(job("a", 9, 10), divides=True)
    other, unknown, short = job("b", 9, 1), job("c", None, 1), job("d", 0.3, 1)
    assert has_a_second(unit, [], [], memory=15, slots=2)
    assert not has_a_second(unit, [], [], memory=14, slots=2)
    assert not has_a_second(unit, [], [], memory=99, slots=1)
    assert has_a_second(unit, [other], [], memory=99, slots=2)
    assert not has_a_second(unit, [other, unknown], [], memory=99, slots=2)
    assert has_a_second(unit, [other, *[short] * 9], [], memory=99, slots=2)
    assert has_a_second(unit, [other], [Claim(10, 1.0)], memory=25, slots=3)
    assert not has_a_second(unit, [other], [Claim(11, 1.0)], memory=25, slots=3)
    assert not has_a_second(replace(unit, divides=False), [], [], memory=99, slots=9)


def job(name: str, seconds: float | None, peak: int | None) -> Job:
    return Job(name, ("c++",), Path(name), seconds, peak)


def test_longest_first() -> None:
    jobs = [job("a", 1, 1), job("b", None, 1), job("c", 3, 1), job("d", None, 1), job("e", 3, 1)]
    assert "".join(j.name for j in longest_first(jobs)) == "bdcea"


@pytest.mark.parametrize(
    ("argv", "peak"),
    [
        (("/usr/local/cuda/bin/nvcc", "-c"), NVCC_PEAK),
        (("ccache", "nvcc", "-c"), NVCC_PEAK),
        (("c++", "-c", "nvcc"), CPP_PEAK),
    ],
)
def test_expected_peak(argv: tuple[str, ...], peak: int) -> None:
    assert expected_peak(Job("a", argv, Path("a.o"))) == peak
    assert expected_peak(Job("a", argv, Path("a.o"), peak=7)) == 7


BIG, SMALL = job("big", 300, 7), job("small", 20, 2)


@pytest.mark.parametrize(
    ("waiting", "running", "slots", "expected"),
    [
        ([], [], 4, None),
        ([job("huge", 1, 99)], [], 4, 0),  # at least one always runs
        ([BIG, SMALL], [Claim(1, 9)], 4, 0),
        ([BIG, SMALL], [Claim(1, 9)], 1, None),
        ([BIG, SMALL], [Claim(5, 30)], 4, 1),  # small ends before big could start
        ([BIG, SMALL], [Claim(5, 10)], 4, None),  # it would not
        ([BIG, SMALL], [Claim(5, 10), Claim(1, 60)], 4, None),  # big starts in 10 s beside the other one
        ([BIG, job("unknown", None, 2)], [Claim(5, 30)], 4, None),
        ([BIG, SMALL], [Claim(5, 0)], 4, None),  # nobody knows when big could start
        ([BIG, SMALL], [Claim(7, 30)], 4, None),  # small does not fit
    ],
)
def test_choose(waiting: list[Job], running: list[Claim], slots: int, expected: int | None) -> None:
    assert choose(waiting, running, 8, slots) == expected


# -- what compilers say


@pytest.mark.parametrize(
    "log",
    [
        "g++: fatal error: Killed signal terminated program cc1plus\ncompilation terminated.",
        "g++: internal compiler error: Killed (program cc1plus)",
        "nvcc error   : 'cicc' died due to signal 9 (Kill signal)",
        "collect2: fatal error: ld terminated with signal 9 [Killed]",
        "virtual memory exhausted: Cannot allocate memory",
        "cc1plus: out of memory allocating 65536 bytes after a total of 1048576 bytes",
        "c++: fatal error: cannot execute 'cc1plus': vfork: Cannot allocate memory",
        "terminate called after throwing an instance of 'std::bad_alloc'\n  what():  std::bad_alloc",
        "clang: error: unable to execute command: Killed",
        "LLVM ERROR: out of memory",
    ],
)
def test_killed_for_memory(log: str) -> None:
    assert diagnostics.killed_for_memory(1, log)
    assert not diagnostics.killed_for_memory(0, log)


@pytest.mark.parametrize(
    "log",
    [
        "a.cpp:3:9: error: 'class std::bad_alloc' has no member named 'frob'",
        'a.cu(3): error: class "std::bad_alloc" has no member "frob"',
        "a.cpp:3:1: error: x\n    3 | throw std::bad_alloc(); // out of memory\n      | ^~~",
        "nvcc error   : 'cicc' died due to signal 11 (Invalid memory reference)",
        "",
    ],
)
def test_not_killed_for_memory(log: str) -> None:
    assert not diagnostics.killed_for_memory(1, log)
    assert diagnostics.killed_for_memory(137, log)
    assert diagnostics.killed_for_memory(-9, log)


@pytest.mark.parametrize(
    ("log", "expected"),
    [
        ("", ""),
        ("one\n\ntwo\n", "one\ntwo"),
        ("note: x\na.cu(3): error: no\n  int x\n      ^\n\n1 error detected", None),
        ("a.cu(3): error #20: identifier\n", "a.cu(3): error #20: identifier"),
        ("w: error-prone\nnvcc fatal   : Unsupported gpu\n", "nvcc fatal   : Unsupported gpu"),
        ("x\nptxas a.ptx, line 4; error   : bad\nptxas fatal   : y", "ptxas a.ptx, line 4; error   : bad"),
        ("x\na.cpp:1:10: fatal error: cuda.h: No such file", "a.cpp:1:10: fatal error: cuda.h: No such file"),
        ("\x1b[1ma.c:1:\x1b[0m \x1b[31merror: \x1b[0mx", "a.c:1: error: x"),
        ("x\na.o: in function f:\na.c: undefined reference to `g'", "a.c: undefined reference to `g'"),
        ("error: " + "x" * 1000, "error: " + "x" * 393 + " ..."),
    ],
)
def test_first_error(log: str, expected: str | None) -> None:
    if expected is None:
        expected = "a.cu(3): error: no\n  int x\n      ^\n1 error detected"
    assert diagnostics.first_error(log) == expected


def test_limits_feed_the_executor(tmp_path: Path) -> None:
    jobs = [shell("a", ": >$out", peak=None)]
    assert len(run_jobs(jobs, cwd=tmp_path, env=ENV, memory=limits.memory(), cpus=limits.cpus())) == 1
