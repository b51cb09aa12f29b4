"""``xfdev watch``: real files, real builds, a real command; ended by the signal of Ctrl-C."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from faultkit import BEHAVIOUR, Scene, compiler, edit, processes_with, wait_for
from xfdev.checkout import open_checkout
from xfdev.saves import Saves


@pytest.fixture
def scene(tmp_path: Path, plain_prefix: Path) -> Scene:
    return Scene(tmp_path, plain_prefix)


class Watching:
    """A running ``xfdev watch``."""

    def __init__(self, scene: Scene, root: Path, *command: str, **variables: str) -> None:
        self.log = scene.folder / "said"
        words = ["watch", str(root), "--venv", str(scene.prefix), "--json", *(["--", *command] if command else [])]
        with self.log.open("w") as stream, (scene.folder / "result").open("w") as result:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "xfdev", *words],
                cwd=scene.folder, env={**scene.environ, **variables}, stdin=subprocess.DEVNULL,
                stdout=result, stderr=stream, start_new_session=True,
            )  # fmt: skip
        self.result = scene.folder / "result"

    def said(self, pattern: str, times: int = 1) -> None:
        """Wait until *pattern* was said *times* often."""
        wait_for(lambda: len(re.findall(pattern, self.log.read_text())) >= times or self.process.poll() is not None)
        assert len(re.findall(pattern, self.log.read_text())) == times, self.log.read_text()

    def end(self, number: int = signal.SIGINT) -> dict[str, object]:
        os.kill(self.process.pid, number)
        assert self.process.wait(20) == 0, self.log.read_text()
        found: dict[str, object] = json.loads(self.result.read_text())
        return found


@pytest.fixture
def started() -> Iterator[list[Watching]]:
    made: list[Watching] = []
    yield made
    for watching in made:
        if watching.process.poll() is None:
            os.killpg(watching.process.pid, signal.SIGKILL)
            watching.process.wait()


def test_a_save_builds_and_runs_the_command(scene: Scene, started: list[Watching]) -> None:
    root = scene.checkout()
    test = scene.folder / "ask.py"
    test.write_text("import counter, json; print('answer', json.dumps(counter.behaviour()))\n")
    watching = Watching(scene, root, "python", str(test))
    started.append(watching)
    watching.said("watching [0-9]+ files")
    assert f"answer {json.dumps(BEHAVIOUR)}" in watching.log.read_text()
    edit(root / "include" / "shared.h", "SHARED 1", "SHARED 2")
    watching.said("watching", 2)
    assert '"_first.one": 5' in watching.log.read_text()
    assert "saved: include/shared.h" in watching.log.read_text()
    edit(root / "csrc" / "one.cpp", "return", "return nothing +")
    watching.said("watching", 3)
    assert "one.cpp does not compile" in watching.log.read_text()
    watching.said("answer", 2)  # not after a build that failed
    temporary = root / "csrc" / ".one.cpp.new"  # as editors do it
    temporary.write_text((root / "csrc" / "one.cpp").read_text().replace("return nothing +", "return 20 *"))
    temporary.rename(root / "csrc" / "one.cpp")
    watching.said("watching", 4)
    (root / "csrc" / "four.cpp").write_text('extern "C" int four() { return 4; }\n')
    watching.said("watching", 5)
    test.write_text("print('other')\n")
    watching.said("watching", 6)
    assert "other" in watching.log.read_text()
    said = watching.end()
    assert (said["builds"], said["failed"], said["runs"]) == (6, 1, 5)


def test_what_no_save_is(scene: Scene, started: list[Watching]) -> None:
    root = scene.checkout()
    watching = Watching(scene, root)
    started.append(watching)
    watching.said("watching [0-9]+ files")
    for name in (".one.cpp.swp", "one.cpp~", "4913", "#one.cpp#", ".#one.cpp"):
        (root / "csrc" / name).write_text("")
    (root / "counter" / "__pycache__").mkdir(exist_ok=True)
    time.sleep(1)  # several looks
    assert "saved" not in watching.log.read_text()
    edit(root / "include" / "shared.h", "SHARED 1", "SHARED 2")
    watching.said("watching", 2)
    assert watching.end()["builds"] == 2


def test_a_save_ends_a_compile_and_what_is_finished_stays(scene: Scene, started: list[Watching]) -> None:
    root = scene.checkout()
    marks = scene.folder / "marks"
    marks.mkdir()
    body = f'case "$*" in *" -c "*two.cpp*) if [ -e {marks}/slow ]; then touch {marks}/at; sleep 60; fi;; esac'
    path = compiler(scene.folder, f'{body}\nexec c++ "$@"')
    watching = Watching(scene, root, CXX=path, CC=path)
    started.append(watching)
    watching.said("watching [0-9]+ files")
    (marks / "slow").touch()
    edit(root / "csrc" / "two.cpp", "* 10", "* 11")
    wait_for((marks / "at").exists)
    (root / "counter" / "__init__.py").write_text((root / "counter" / "__init__.py").read_text() + "\n")
    time.sleep(0.5)
    assert processes_with(f"{marks}/at") or processes_with(str(path)), "a file that is not compiled ended the compile"
    (marks / "slow").unlink()
    edit(root / "csrc" / "two.cpp", "* 11", "* 12")
    watching.said("watching", 2)
    assert scene.behaviour(root)["_first.two"] == BEHAVIOUR["_first.two"] // 10 * 12
    assert watching.end()["builds"] == 3


def test_a_save_ends_the_command(scene: Scene, started: list[Watching]) -> None:
    root = scene.checkout()
    script = scene.folder / "long.sh"
    script.write_text(f"echo begin; touch {scene.folder}/at; sleep 300 & wait\n")
    watching = Watching(scene, root, "sh", str(script))
    started.append(watching)
    wait_for((scene.folder / "at").exists)
    script.write_text("echo short\n")
    watching.said("watching [0-9]+ files")
    watching.said("(?m)^short$")
    assert processes_with("sleep\x00300") == [], "a child of the command was left"
    watching.end()


def test_ended_while_it_compiles(scene: Scene, started: list[Watching]) -> None:
    root = scene.checkout()
    path = compiler(scene.folder, f'touch {scene.folder}/at\ncase "$*" in *" -c "*) sleep 60;; esac\nexec c++ "$@"')
    watching = Watching(scene, root, CXX=path, CC=path)
    started.append(watching)
    wait_for(lambda: bool(processes_with("sleep\x0060")))
    began = time.monotonic()
    watching.end()
    assert time.monotonic() - began < 8
    wait_for(lambda: processes_with(str(root / ".xfdev")) == [], 5)


def test_what_no_save_can_mend(scene: Scene) -> None:
    root = scene.checkout()
    nothing = scene.process("watch", root, "--venv", scene.folder / "nowhere")
    assert nothing.status == 28
    missing = scene.process("watch", root, "--venv", scene.prefix, "--", "no-such-program")
    assert missing.status == 2
    assert "no-such-program is not installed" in missing.stderr


def test_a_change_of_branches_is_one_save(scene: Scene) -> None:
    root = scene.checkout()
    scene.git(root, "checkout", "-q", "-b", "other")
    for name in ("include/shared.h", "csrc/one.cpp", "csrc/two.cpp", "csrc/inner/deep.h"):
        (root / name).write_text((root / name).read_text() + "\n")
    (root / "csrc" / "four.cpp").write_text("int four;\n")
    scene.commit(root)
    saves = Saves(open_checkout(root, scene.environ))
    scene.git(root, "checkout", "-q", "main")
    first = saves.take()
    found = {*first, *saves.take_all(0.1, 5, lambda seconds: bool(time.sleep(seconds)))}
    assert found == {"include/shared.h", "csrc/one.cpp", "csrc/two.cpp", "csrc/inner/deep.h", "csrc/four.cpp"}
    assert saves.take() == []
