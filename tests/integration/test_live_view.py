"""What a terminal shows of a compile, on a real pseudo-terminal, and what is left when it is interrupted."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import signal
import struct
import subprocess
import sys
import termios
import time
from pathlib import Path

import pytest

import screen
from faultkit import Scene, compiler, processes_with


@pytest.fixture
def scene(tmp_path: Path, plain_prefix: Path) -> Scene:
    return Scene(tmp_path, plain_prefix)


#: What keeps a real compiler busy; a script in its place is not cached.
MINUTES = "".join(
    f"constexpr int f{n}() {{ int s = 0; for (int i = 0; i < 5000; i++) for (int j = 0; j < 1300; j++) s += j ^ i;"
    f" return s; }}\nstatic_assert(f{n}() != {n});\n"
    for n in range(200)
)


class Terminal:
    """xfdev on a terminal of its own, *columns* wide."""

    def __init__(self, scene: Scene, *words: str | Path, columns: int = 80, **variables: str) -> None:
        self._own, other = pty.openpty()
        fcntl.ioctl(other, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        self.process = subprocess.Popen(
            [sys.executable, "-m", "xfdev", *map(str, words)],
            cwd=scene.folder,
            env={**scene.environ, "TERM": "xterm", **variables},
            stdin=other,
            stdout=subprocess.DEVNULL,
            stderr=other,
            start_new_session=True,
        )
        os.close(other)
        self.text = ""

    def read(self, until: str = "") -> str:
        """What was written until *until* came, or (empty) the end."""
        deadline = time.monotonic() + 60
        while not until or until not in self.text:
            assert time.monotonic() < deadline, self.text
            try:
                data = os.read(self._own, 65536)
            except OSError:  # the other end is closed
                data = b""
            if not data:
                assert not until, self.text
                break
            self.text += data.decode().replace("\r\n", "\n")
        return self.text

    def end(self) -> int:
        self.read()
        os.close(self._own)
        return self.process.wait(60)


def waits_for(scene: Scene, name: str) -> tuple[str, Path]:
    """A compiler that tells when it is at *name*, and goes on once a file is there; and that file."""
    go, marks = scene.folder / "go", scene.folder / "at"
    body = (
        f'case "$*" in *" -c "*{name}*) touch {marks}\n'
        f'  n=0; while [ ! -e {go} ] && [ $n -lt 600 ]; do sleep 0.1; n=$((n+1)); done;; esac\nexec c++ "$@"'
    )
    return compiler(scene.folder, body), go


@pytest.mark.parametrize("columns", [100, 40])
def test_what_is_seen_while_and_after(scene: Scene, columns: int) -> None:
    root = scene.checkout()
    slow, go = waits_for(scene, "two.cpp")
    terminal = Terminal(
        scene, "build", root, "--venv", scene.prefix, "--jobs", "1", columns=columns, CXX=slow, CC=slow, NO_COLOR="1"
    )
    terminal.read("0:01 ")  # it runs for a second: the view moves on
    now = [line for line in screen.show(terminal.text) if "two.cpp" in line and "/" in line]
    assert len(now) == 1, "lines are written over, not added"
    assert all(len(line) < columns for line in screen.show(terminal.text) if line.startswith(("[", "  ")))
    go.touch()
    assert terminal.end() == 0
    shown = screen.show(terminal.text)
    assert sum(line.startswith("[4/4] ") for line in shown) == 1
    assert not any("left" in line or " of " in line for line in shown if line.startswith("[")), "the view is gone"
    assert "\x1b[2m" not in terminal.text, "NO_COLOR"


def test_a_dumb_terminal_gets_plain_lines(scene: Scene) -> None:
    root = scene.checkout()
    terminal = Terminal(scene, "build", root, "--venv", scene.prefix, TERM="dumb")
    assert terminal.end() == 0
    assert "\x1b" not in terminal.text
    assert "[4/4] " in terminal.text


@pytest.mark.parametrize("how", ["ctrl-c", "term"])
def test_interrupted(scene: Scene, how: str) -> None:
    root = scene.checkout()
    long = root / "csrc" / "two.cpp"
    long.write_text(long.read_text() + MINUTES)
    terminal = Terminal(scene, "build", root, "--venv", scene.prefix)
    terminal.read("[3/4] ")
    started = time.monotonic()
    os.kill(terminal.process.pid, signal.SIGINT if how == "ctrl-c" else signal.SIGTERM)
    code = terminal.end()
    assert time.monotonic() - started < 5
    assert code == (130 if how == "ctrl-c" else -signal.SIGTERM)
    if how == "ctrl-c":
        assert screen.show(terminal.text)[-1].startswith("error: interrupted")
    assert processes_with(str(root / ".xfdev")) == []
    scene.git(root, "checkout", "--", "csrc/two.cpp")
    again = scene.build(root)
    assert len(again["kept"]) == 3, "what was finished is kept"
    assert again["compiled"] == ["csrc/two.cpp"]


def test_trace_of_a_build_and_of_one_that_fails(scene: Scene) -> None:
    root = scene.checkout()
    trace = scene.folder / "trace.json"
    said = scene.build(root, "--trace", str(trace))
    events = json.loads(trace.read_text())["traceEvents"]
    units = {event["name"] for event in events if event.get("cat") == "compile"}
    assert units == set(said["compiled"])
    assert {"comparing", "compiling", "linking"} <= {event["name"] for event in events if event.get("cat") == "phase"}
    compiling = next(event for event in events if event["name"] == "compiling")
    for event in events:
        if event.get("cat") == "compile":
            assert compiling["ts"] <= event["ts"]
            assert event["ts"] + event["dur"] <= compiling["ts"] + compiling["dur"] + 1000
    assert set(said["phases"]) >= {"comparing", "compiling", "linking"}
    trace.unlink()
    (root / "csrc" / "one.cpp").write_text("int one( { }\n")
    assert scene.xfdev("build", root, "--venv", scene.prefix, "--trace", trace).status == 25
    assert json.loads(trace.read_text())["traceEvents"]
    nowhere = scene.xfdev("build", root, "--venv", scene.prefix, "--trace", "/nowhere/trace.json")
    assert (nowhere.status, "no such folder" in nowhere.stderr) == (2, True)
    refused = scene.xfdev("build", root, "--venv", scene.prefix, "--trace-nvcc")
    assert refused.status == 2
    assert "--trace FILE" in refused.stderr
