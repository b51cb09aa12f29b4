"""Kills, concurrency, corruption: whatever happens in the middle, the same command again ends right.

``XFDEV_KILLS=400`` kills more often; ``XFDEV_SEED`` repeats the moments of a failed run.
"""

from __future__ import annotations

import fcntl
import os
import random
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from faultkit import (
    BEHAVIOUR,
    Scene,
    compiler,
    copy_of,
    edit,
    kill_group,
    processes_with,
    tree,
    wait_for,
)
from xfdev import errors, files, make_venv, orphans
from xfdev.bundle import from_bytes
from xfdev.commands import session
from xfdev.stores.local import LocalStore

#: Read before the tests' protection takes the variables away.
KILLS = int(os.environ.get("XFDEV_KILLS", "20"))
SEED = int(os.environ.get("XFDEV_SEED", "0")) or random.SystemRandom().randrange(1, 10**6)


@pytest.fixture
def scene(tmp_path: Path, plain_prefix: Path) -> Scene:
    return Scene(tmp_path, plain_prefix)


def set_shared(root: Path, value: int) -> dict[str, int]:
    """Edit the header that two units read; returns what the project does from then on."""
    (root / "include" / "shared.h").write_text(f"#pragma once\n#define SHARED {value}\n")
    return {**BEHAVIOUR, "_first.one": value + 3, "_second.second": value * 100 + 5}


# --- killed at any moment


UNCACHED = "build with a compiler that nothing is cached for"
COMMANDS = {
    "build": ("build",),
    UNCACHED: ("build",),
    "link": ("link", "--build"),
    "prebuild": ("prebuild",),
    "up": ("up", "--toolchain", "plain"),
}


@pytest.mark.parametrize("verb", COMMANDS)
def test_killed_at_any_moment(scene: Scene, verb: str) -> None:
    chance = random.Random(f"{SEED} {verb}")
    root = scene.checkout()
    if verb == UNCACHED:
        script = compiler(scene.folder, 'exec c++ "$@"')
        scene.environ |= {"CC": script, "CXX": script}
    argv = [COMMANDS[verb][0], root, "--venv", scene.prefix, *COMMANDS[verb][1:]]
    set_shared(root, 2)
    started = time.monotonic()
    assert scene.process(*argv).status == 0
    usual = time.monotonic() - started
    struck, number = 0, 2
    while struck < max(1, round(KILLS / len(COMMANDS))):
        number += 1
        # Every other time a state that is in the cache: what is in doubt then is not the compile, but the rest.
        expected = set_shared(root, number if number % 2 else 2)
        if scene.git(root, "status", "--porcelain"):
            scene.commit(root)
        moment = chance.uniform(0, usual)
        process = scene.start(*argv)
        try:
            process.wait(moment)
            usual = max(usual * 0.9, 0.2)  # it was too late
        except subprocess.TimeoutExpired:
            struck += 1
        if chance.random() < 0.5:
            process.kill()  # as the kernel does it for memory: what it started goes on
        else:
            kill_group(process)
        process.communicate()
        if chance.random() < 0.3:  # what it left is of another state than what is wanted now
            expected = set_shared(root, number + 1000)
            scene.commit(root)
        where = f"seed {SEED}, {verb}, state {number}, killed after {moment:.3f} of {usual:.3f} s"
        said = scene.good(*argv)
        if verb == "prebuild":
            assert said["bundle"] in scene.bundles(), where
            scene.good("link", root, "--venv", scene.prefix)
        assert scene.behaviour(root) == expected, where
        assert scene.good("check", root, "--venv", scene.prefix)["problems"] == [], where
        scene.assert_tidy(root)
        assert processes_with(str(root / ".xfdev")) == [], where
    scene.assert_store_is_whole()


def test_killed_while_the_environment_is_made(scene: Scene) -> None:
    root = scene.checkout()
    prefix = scene.folder / "own" / ".venv"
    argv = ["up", root, "--toolchain", "plain", "--venv", prefix]
    moments = (
        lambda: (prefix / "bin" / "python").exists(),
        lambda: (prefix / "bin" / "activate").exists(),
        lambda: any(prefix.glob("lib/python*/site-packages/setuptools*")),
    )
    for moment in moments:
        process = scene.start(*argv)
        wait_for(moment)
        kill_group(process)
        process.communicate()
        ended = scene.xfdev("plan", root, "--venv", prefix)
        assert ended.status == errors.BadEnvironment.exit_code, "half an environment was taken for a whole one"
    scene.good(*argv)
    assert replace(scene, prefix=prefix).behaviour(root) == BEHAVIOUR
    script = f". {prefix}/bin/activate && python -c 'import setuptools, packaging, wheel' && ninja --version"
    done = subprocess.run(["sh", "-c", script], env=scene.environ, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    scene.assert_tidy(root)


def test_killed_while_an_environment_is_emptied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The toolchain changes: everything is removed, and the folder that says whose it is goes last."""
    prefix = tmp_path / ".venv"
    for name in ("xfdev", "bin", "lib", "zzz"):
        (prefix / name / "inner").mkdir(parents=True)
    (prefix / "pyvenv.cfg").write_text("version = 3.11")
    (prefix / "lib64").symlink_to("lib")
    remove = shutil.rmtree
    order: list[str] = []

    def note(path: Path, *rest: object) -> None:
        order.append(path.name)
        assert (prefix / "xfdev" / "inner").exists(), "killed here, the rest would be taken for somebody else's"
        remove(path)

    monkeypatch.setattr("shutil.rmtree", note)
    make_venv._empty(prefix)
    assert order[-1] == "xfdev"
    assert list(prefix.iterdir()) == []


def test_compiler_of_a_killed_run_does_not_write_into_the_next(scene: Scene) -> None:
    """The worst moment: the old compiler ends after the new one, and before the link."""
    root = scene.checkout()
    marks = scene.folder / "marks"
    marks.mkdir()
    slow = compiler(
        scene.folder,
        # Makes one.o from the source as it is now, and writes it much later.
        f'case "$*" in *" -c "*one.cpp*) if [ -e {marks}/slow ]; then\n'
        '  out=; for word; do [ "$previous" = -o ] && out=$word; previous=$word; done\n'
        f'  c++ "$@" && mv $out {marks}/late.o && touch {marks}/waiting && sleep 8 && mv {marks}/late.o $out\n'
        f"  touch {marks}/wrote; exit; fi;;\n"
        f'*" -c "*two.cpp*) [ -e {marks}/slow ] || sleep 10;; esac\n'
        'exec c++ "$@"',
    )
    (marks / "slow").touch()
    set_shared(root, 9)
    process = scene.start("build", root, "--venv", scene.prefix, CC=slow, CXX=slow)
    wait_for((marks / "waiting").exists)
    process.kill()
    process.communicate()
    (marks / "slow").unlink()
    assert processes_with(str(root / ".xfdev" / "build")), "the compiler did not survive: this tests nothing"
    expected = set_shared(root, 1)
    scene.build(root, CC=slow, CXX=slow)
    assert scene.behaviour(root) == expected
    assert not (marks / "wrote").exists()
    assert processes_with(str(root / ".xfdev" / "build")) == []


def test_build_script_of_a_killed_run_does_not_get_in_the_way(scene: Scene) -> None:
    """It goes on making what the next run removes."""
    root = scene.checkout()
    scratch = root / ".xfdev" / "scratch"
    makes = ["sh", "-c", f"while :; do mkdir -p {scratch}/temp/a/b/c; done"]
    orphan = subprocess.Popen(makes, env={**os.environ, "XFDEV_NINJA_LOG": f"{scratch}/ninja.jsonl"})
    try:
        wait_for(scratch.exists)
        scene.build(root)
        assert orphan.wait(5) == -signal.SIGKILL
    finally:
        orphan.kill()
    assert scene.behaviour(root) == BEHAVIOUR


def test_only_processes_with_our_own_variable_are_ended(tmp_path: Path) -> None:
    ours = subprocess.Popen(["sleep", "60"], env={**os.environ, "XFDEV_LAUNCH_LOG": f"{tmp_path}/a/launches"})
    other = subprocess.Popen(["sleep", "60"], env={**os.environ, "XFDEV_LAUNCH_LOG": f"{tmp_path}/a/launches-b"})
    try:
        wait_for(lambda: len(processes_with(f"{tmp_path}/a/launches")) == 2)
        assert orphans.end("XFDEV_LAUNCH_LOG", f"{tmp_path}/a/launches") == 1
        assert ours.wait(5) == -signal.SIGKILL
        assert other.poll() is None
        assert orphans.end("XFDEV_LAUNCH_LOG", f"{tmp_path}/nobody") == 0
    finally:
        ours.kill()
        other.kill()
        ours.wait()
        other.wait()


# --- halves that a kill leaves, made by hand


def test_output_of_a_half_done_link_that_the_next_bundle_has_not(scene: Scene) -> None:
    root = scene.checkout()
    scene.build(root)
    stale = root / "counter" / "_third.cpython-311-x86_64-linux-gnu.so"
    shutil.copy(next((root / "counter").glob("_first*.so")), stale)
    note = root / ".xfdev" / "linked.json"
    places = sorted(str(path.relative_to(root)) for path in (root / "counter").glob("*.so"))
    files.write_json(note, {"outputs": {}, "places": places, "bundle": None})
    scene.good("link", root, "--venv", scene.prefix)
    assert not stale.exists()
    assert scene.behaviour(root) == BEHAVIOUR


def test_copies_of_a_killed_link_are_removed(scene: Scene) -> None:
    root = scene.checkout()
    scene.build(root)
    folder = root / ".xfdev" / "placing"
    folder.mkdir()
    (folder / ".half.so").write_bytes(b"x")
    next((root / "counter").glob("_first*.so")).unlink()
    scene.good("link", root, "--venv", scene.prefix)
    assert not folder.exists()
    assert scene.behaviour(root) == BEHAVIOUR


def test_half_an_install_is_finished(scene: Scene) -> None:
    root = scene.checkout()
    own = replace(scene, prefix=copy_of(scene.prefix, scene.folder / "own" / ".venv"))
    own.build(root)
    site = next(own.prefix.glob("lib/python*/site-packages"))
    info = site / "counter-1.0.dist-info"
    for lost in (("RECORD",), ("METADATA",), ("direct_url.json",), ("INSTALLER",), ("RECORD", "METADATA"), ()):
        for name in lost:
            (info / name).unlink()
        if not lost:
            (site / "__editable__.counter-1.0.pth").write_text("/nowhere")
        own.good("link", root, "--venv", own.prefix)
        assert own.behaviour(root) == BEHAVIOUR, lost
        assert len(list(site.glob("counter-*.dist-info"))) == 1
    pip = [own.prefix / "bin" / "python", "-m", "pip"]
    done = subprocess.run([*pip, "show", "counter"], env=own.environ, capture_output=True, text=True)
    assert f"Editable project location: {root}" in done.stdout, done.stderr
    done = subprocess.run([*pip, "uninstall", "-y", "counter"], env=own.environ, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert not list(site.glob("*counter*"))


# --- at the same time


def test_four_at_once_on_one_checkout(scene: Scene) -> None:
    root = scene.checkout()
    for number, verbs in enumerate((("build", "build"), ("build", "link --build", "prebuild", "up --toolchain plain"))):
        expected = set_shared(root, 20 + number)
        started = []
        for words in verbs:
            verb, *rest = words.split()
            started.append(scene.start(verb, root, "--venv", scene.prefix, *rest, "--json"))
        ended = [(process, *process.communicate(timeout=120)) for process in started]
        for process, stdout, stderr in ended:
            assert process.returncode in (0, errors.Busy.exit_code), stdout + stderr
            assert "Traceback" not in stderr
        assert any(process.returncode == 0 for process, _, _ in ended)
        scene.build(root)
        assert scene.behaviour(root) == expected
    set_shared(root, 1)
    scene.build(root)
    scene.assert_tidy(root)
    scene.assert_store_is_whole()


@contextmanager
def held(root: Path) -> Iterator[None]:
    with (root / ".xfdev" / "lock").open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def test_busy_checkout(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    root = scene.checkout()
    scene.build(root)
    monkeypatch.setattr(session, "_LOCK_WAIT", 0.2)
    before = tree(root, beside=())
    with held(root):
        ended = scene.xfdev("build", root, "--venv", scene.prefix)
        assert ended.status == errors.Busy.exit_code
        assert str(root) in ended.stderr
        assert str(root / ".xfdev" / "lock") in ended.stderr
        assert scene.xfdev("plan", root, "--venv", scene.prefix).status == 0
        assert scene.xfdev("check", root, "--venv", scene.prefix).status == 0
    assert tree(root, beside=()) == before


def test_unlink_while_another_waits(scene: Scene) -> None:
    """The folder with the lock goes away while somebody waits for it; a third must not get in beside."""
    root = scene.checkout()
    scene.build(root)
    with held(root):
        process = scene.start("build", root, "--venv", scene.prefix, "--json")
        lock = str(root / ".xfdev" / "lock")
        wait_for(lambda: any(os.path.realpath(link) == lock for link in Path(f"/proc/{process.pid}/fd").iterdir()))
        shutil.rmtree(root / ".xfdev")
    stdout, stderr = process.communicate(timeout=60)
    assert process.returncode == 0, stdout + stderr
    assert (root / ".xfdev" / ".gitignore").exists()
    assert scene.behaviour(root) == BEHAVIOUR
    scene.assert_tidy(root)


def test_lock_whose_file_is_removed_is_not_held_twice(tmp_path: Path) -> None:
    path = tmp_path / "lock"
    inside: list[str] = []

    def work(name: str) -> None:
        with files.locked(path, "it", wait=10):
            inside.append(name)
            assert len(inside) == 1
            time.sleep(0.05)
            path.unlink(missing_ok=True)
            inside.remove(name)

    with ThreadPoolExecutor(6) as pool:
        list(pool.map(work, "abcdef"))


def test_checkouts_that_share_store_and_cache(scene: Scene) -> None:
    count = 3
    scenes = [replace(scene, prefix=copy_of(scene.prefix, scene.folder / f"e{i}" / ".venv")) for i in range(count)]
    roots = [scene.checkout(f"counter{i}") for i in range(count)]
    expected = [set_shared(root, 30 + number // 2) for number, root in enumerate(roots)]
    verbs = ["prebuild", "build", "build"]
    started = [
        own.start(verb, root, "--venv", own.prefix, "--json")
        for verb, own, root in zip(verbs, scenes, roots, strict=True)
    ]
    for process in started:
        stdout, stderr = process.communicate(timeout=120)
        assert process.returncode == 0, stdout + stderr
    scene.assert_store_is_whole()
    for own, root, wanted in zip(scenes, roots, expected, strict=True):
        own.good("link", root, "--venv", own.prefix)
        assert own.behaviour(root) == wanted
        assert own.good("check", root, "--venv", own.prefix)["problems"] == []


def test_two_checkouts_that_share_an_environment(scene: Scene) -> None:
    """The last one to link has it; never half of each."""
    roots = [scene.checkout(f"counter{i}") for i in range(2)]
    for root in roots:
        scene.build(root)
    for _ in range(3):
        started = [scene.start("link", root, "--venv", scene.prefix, "--json") for root in roots]
        for process in started:
            stdout, stderr = process.communicate(timeout=60)
            assert process.returncode == 0, stdout + stderr
        for root in roots:
            scene.good("link", root, "--venv", scene.prefix)
            assert scene.behaviour(root) == BEHAVIOUR


def test_same_bundle_put_by_many_at_once(scene: Scene) -> None:
    root = scene.checkout()
    name = scene.good("prebuild", root, "--venv", scene.prefix)["bundle"]
    bundle = scene.store / "bundles" / name
    manifest = from_bytes((bundle / "manifest.json").read_bytes(), bundle)
    outputs = {output: bundle / "outputs" / output for output in manifest.outputs}
    store = LocalStore(scene.folder / "second")
    start = threading.Barrier(6)

    def put(_: int) -> str:
        start.wait()
        return store.put(manifest, outputs, bundle / "objects")

    with ThreadPoolExecutor(6) as pool:
        assert set(pool.map(put, range(6))) == {name}
    store.verify(name)
    assert store.ids() == [name]
    assert list((store.folder / "tmp").iterdir()) == []


def test_prune_while_others_link(scene: Scene) -> None:
    root = scene.checkout()
    stop = threading.Event()
    store = LocalStore(scene.store)
    reports: list[BaseException] = []

    def prune() -> None:
        try:
            while not stop.is_set():
                list(store.summaries())
                for name in store.ids():
                    with_objects = None
                    try:
                        with_objects = store.objects(name, store.manifest(name))
                        store.verify(name)
                    except errors.BadBundle:
                        pass
                    assert with_objects is None or isinstance(with_objects, Path)
                store.prune(max_size=0, now=time.time())
                time.sleep(0.01)
        except BaseException as error:
            reports.append(error)

    threads = [threading.Thread(target=prune) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        for number in range(4):
            expected = set_shared(root, 40 + number % 2)
            shutil.rmtree(root / ".xfdev", ignore_errors=True)  # so that a bundle is the only thing to link
            ended = scene.process("link", root, "--build", "--venv", scene.prefix, "--json")
            assert ended.status == 0, ended.stdout + ended.stderr
            assert scene.behaviour(root) == expected
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert reports == []
    scene.assert_store_is_whole()


def test_bundle_that_goes_while_it_is_read(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between the plan and the copy: told, and compiled instead."""
    root = scene.checkout()
    scene.good("prebuild", root, "--venv", scene.prefix)
    shutil.rmtree(root / ".xfdev")
    original = LocalStore.output

    def pruned(self: LocalStore, name: str, output: str) -> Path:
        self.remove(name)
        return original(self, name, output)

    monkeypatch.setattr(LocalStore, "output", pruned)
    assert scene.xfdev("link", root, "--venv", scene.prefix).status == errors.NothingFits.exit_code
    assert not list((root / "counter").glob("*.so"))
    monkeypatch.undo()
    scene.build(root)
    assert scene.behaviour(root) == BEHAVIOUR


# --- memory


def test_compilers_that_do_not_fit_into_memory_together(scene: Scene) -> None:
    root = scene.checkout()
    marks = scene.folder / "marks"
    marks.mkdir()
    hungry = compiler(
        scene.folder,
        'case "$*" in *" -c "*) ;; *) exec c++ "$@";; esac\n'
        f"mkdir {marks}/busy 2>/dev/null || kill -9 $$\n"
        f'sleep 0.7; c++ "$@"; status=$?; echo "$*" >> {marks}/done; rmdir {marks}/busy; exit $status',
    )
    ended = scene.process("build", root, "--venv", scene.prefix, "--jobs", "2", CC=hungry, CXX=hungry)
    assert ended.status == 0, ended.stderr
    assert "was killed for memory; it runs again, alone" in ended.stderr
    compiled = (marks / "done").read_text().splitlines()
    assert len(compiled) == 4, "a finished unit was compiled again"
    assert scene.behaviour(root) == BEHAVIOUR


def test_unit_that_does_not_fit_into_memory_alone(scene: Scene) -> None:
    root = scene.checkout()
    hungry = compiler(scene.folder, 'case "$*" in *" -c "*two.cpp*) kill -9 $$;; esac\nexec c++ "$@"')
    ended = scene.process("build", root, "--venv", scene.prefix, "--json", CC=hungry, CXX=hungry)
    assert ended.status == errors.OutOfMemory.exit_code, ended.stderr
    assert "csrc/two.cpp" in ended.json["message"]
    assert not list((root / "counter").glob("*.so"))
    scene.build(root)
    assert scene.behaviour(root) == BEHAVIOUR


# --- the linked libraries, changed behind our back


def replaced(path: Path) -> None:
    path.write_bytes(b"not a library")


def replaced_keeping_times(path: Path) -> None:
    stat, data = path.stat(), bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


def moved(path: Path) -> None:
    other = path.with_name("saved")
    path.rename(other)
    shutil.copyfile(other, path)
    other.unlink()
    with path.open("ab") as stream:
        stream.write(b"x")


@pytest.mark.parametrize("harm", [Path.unlink, replaced, replaced_keeping_times, moved])
def test_linked_library_changed_behind_our_back(scene: Scene, harm: object) -> None:
    assert callable(harm)
    root = scene.checkout()
    scene.build(root)
    library = next((root / "counter").glob("_first*.so"))
    harm(library)
    place = str(library.relative_to(root))
    check = scene.xfdev("check", root, "--venv", scene.prefix, "--json")
    assert check.status == errors.CheckFailed.exit_code
    assert any(place in problem for problem in check.json["problems"])
    plan = scene.good("plan", root, "--venv", scene.prefix)
    assert plan["verdict"] == "reuse"
    assert any(place in problem for problem in plan["problems"])
    said = scene.good("link", root, "--venv", scene.prefix)
    assert said["changed"]
    assert scene.behaviour(root) == BEHAVIOUR
    assert scene.good("check", root, "--venv", scene.prefix)["problems"] == []
    assert scene.good("plan", root, "--venv", scene.prefix)["problems"] == []
    assert not scene.good("link", root, "--venv", scene.prefix)["changed"]


@pytest.mark.parametrize("part", ["lib/counter", "temp/csrc", "manifest.json"])
def test_kept_build_changed_behind_our_back(scene: Scene, part: str) -> None:
    root = scene.checkout()
    scene.build(root)
    shutil.rmtree(scene.store)  # nothing but the kept build
    place = root / ".xfdev" / "build" / part
    for path in [place] if place.is_file() else [path for path in place.rglob("*") if path.is_file()]:
        path.write_bytes(b"damaged")
    for path in (root / "counter").glob("*.so"):
        path.unlink()
    expected = set_shared(root, 6)
    scene.build(root)
    assert scene.behaviour(root) == expected
    shutil.rmtree(scene.store, ignore_errors=True)
    for path in (root / ".xfdev" / "build" / "lib").rglob("*.so"):
        path.write_bytes(b"damaged")
    for path in (root / "counter").glob("*.so"):
        path.unlink()
    scene.build(root)
    assert scene.behaviour(root) == expected
    edit(root / "include" / "shared.h", "SHARED 6", "SHARED 1")
    scene.build(root)
    assert scene.behaviour(root) == BEHAVIOUR
    scene.assert_tidy(root)
