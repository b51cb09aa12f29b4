"""What test_failures and test_faults have in common: checkouts to break, and xfdev as a process that can be killed."""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import pytest

from xfdev import cli

PROJECT = Path(__file__).parents[1] / "projects" / "counter"
#: What the counter's functions return as it lies in tests/projects.
BEHAVIOUR = {"_first.one": 4, "_first.two": 70, "_first.three": 5, "_second.second": 105}
#: Folders that are no part of what a command may change: ours, and a home in which other tools keep their notes.
OURS = (".xfdev", ".venv", ".git", "home")


def missing(reason: str) -> None:
    """Skip, or fail where everything has to be there."""
    if os.environ.get("XFDEV_REQUIRE"):
        pytest.fail(reason)
    pytest.skip(reason)


def base_environ(home: Path) -> dict[str, str]:
    """The variables of a user with an empty home, nothing of theirs reaching a build."""
    dropped = ("GIT_", "XDG_", "XFDEV_", "TORCH_", "CUDA", "CCACHE_", "COUNTER_")
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(dropped) and name not in ("CC", "CXX", "CFLAGS", "CXXFLAGS", "VIRTUAL_ENV")
    }
    return {
        **kept,
        "HOME": str(home),
        "GIT_CONFIG_COUNT": "3",
        "GIT_CONFIG_KEY_0": "user.name",
        "GIT_CONFIG_VALUE_0": "A",
        "GIT_CONFIG_KEY_1": "user.email",
        "GIT_CONFIG_VALUE_1": "a@b",
        "GIT_CONFIG_KEY_2": "init.defaultBranch",
        "GIT_CONFIG_VALUE_2": "main",
    }


@dataclass(frozen=True)
class Ended:
    """A finished xfdev."""

    status: int
    stdout: str
    stderr: str

    @property
    def json(self) -> dict[str, Any]:
        """The one JSON object on stdout; anything beside it there is a ValueError."""
        value = json.loads(self.stdout)
        assert isinstance(value, dict)
        return value


@dataclass
class Scene:
    """A machine for one test: a home, a cache, an environment that checkouts share."""

    folder: Path
    prefix: Path
    environ: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        home = self.folder / "home"
        home.mkdir(exist_ok=True)
        self.environ = {**base_environ(home), "XFDEV_CACHE": str(self.folder / "cache"), **self.environ}

    @property
    def store(self) -> Path:
        return self.folder / "cache" / "store"

    def checkout(self, name: str = "counter", into: Path | None = None) -> Path:
        """A new git checkout of the counter, all of it committed."""
        root = (into or self.folder) / name
        shutil.copytree(PROJECT, root)
        self.git(root, "init", "-q")
        self.commit(root)
        return root.resolve()

    def git(self, root: Path, *words: str) -> str:
        done = subprocess.run(["git", "-C", str(root), *words], env=self.environ, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def commit(self, root: Path) -> None:
        self.git(root, "add", "-A")
        self.git(root, "commit", "-q", "-m", "state")

    def start(self, *words: str | Path, cwd: Path | None = None, **variables: str) -> subprocess.Popen[str]:
        """Start xfdev in a process group of its own."""
        argv = [sys.executable, "-m", "xfdev", *map(str, words)]
        return subprocess.Popen(
            argv,
            cwd=cwd or self.folder,
            env={**self.environ, **variables},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )

    def process(self, *words: str | Path, cwd: Path | None = None, **variables: str) -> Ended:
        """Run xfdev as a user does."""
        process = self.start(*words, cwd=cwd, **variables)
        stdout, stderr = process.communicate(timeout=300)
        return Ended(process.returncode, stdout, stderr)

    def xfdev(self, *words: str | Path, cwd: Path | None = None, **variables: str) -> Ended:
        """Run xfdev in this process, which is faster; a traceback on stderr is a failure of every test."""
        out, err, before = io.StringIO(), io.StringIO(), Path.cwd()
        with mock.patch.dict(os.environ, {**self.environ, **variables}, clear=True):
            try:
                os.chdir(cwd or self.folder)
                with redirect_stdout(out), redirect_stderr(err):
                    status = cli.main([str(word) for word in words])
            finally:
                os.chdir(before)
        if "--verbose" not in words:
            assert "Traceback" not in err.getvalue(), err.getvalue()
        return Ended(status, out.getvalue(), err.getvalue())

    def good(self, *words: str | Path, cwd: Path | None = None, **variables: str) -> dict[str, Any]:
        """Run xfdev with --json; it has to end well."""
        ended = self.xfdev(*words, "--json", cwd=cwd, **variables)
        assert ended.status == 0, f"{ended.stdout}\n{ended.stderr}"
        return ended.json

    def build(self, root: Path, *words: str, **variables: str) -> dict[str, Any]:
        return self.good("build", root, "--venv", self.prefix, *words, **variables)

    def behaviour(self, root: Path) -> dict[str, int]:
        """What the project does in a fresh process, imported as its users import it."""
        code = "import counter, json; print(json.dumps([counter.__file__, counter.behaviour()]))"
        python = str(self.prefix / "bin" / "python")
        done = subprocess.run([python, "-c", code], cwd=self.folder, env=self.environ, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        file, result = json.loads(done.stdout)
        assert Path(file).is_relative_to(root), f"{file} is not in {root}"
        assert isinstance(result, dict)
        return result

    def bundles(self) -> list[str]:
        folder = self.store / "bundles"
        return sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []

    def assert_store_is_whole(self) -> None:
        said = self.good("bundle", "verify")
        assert said["bad"] == {}

    def assert_tidy(self, root: Path) -> None:
        """Nothing in the tree but what belongs there: sources, ignored outputs and files of the build script."""
        assert self.git(root, "status", "--porcelain").strip() == ""
        expected = {path.relative_to(PROJECT).as_posix() for path in PROJECT.rglob("*") if path.is_file()}
        expected = {path for path in expected if "__pycache__" not in path}
        strange = [
            path
            for path in tree(root)
            if path not in expected
            and not path.endswith("/")
            and not path.endswith(".so")
            and path != "csrc/generated.h"
            and "__pycache__" not in path
            and ".egg-info/" not in path
        ]
        assert strange == []


def tree(root: Path, *, beside: tuple[str, ...] = OURS) -> dict[str, str]:
    """Every file below *root* with the digest of its contents, or where it links to."""
    found = {}
    for folder, names, files in os.walk(root):
        if Path(folder) == root:
            names[:] = [name for name in names if name not in beside]
        for name in files:
            path = Path(folder, name)
            key = path.relative_to(root).as_posix()
            found[key] = os.readlink(path) if path.is_symlink() else hashlib.sha256(path.read_bytes()).hexdigest()
        found.update({(Path(folder, name).relative_to(root).as_posix() + "/"): "" for name in names})
    return found


def edit(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))


def compiler(folder: Path, body: str) -> str:
    """A compiler of our own for CXX and CC: a shell script; *body* ends in running the real one."""
    path = folder / "compiler"
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return str(path)


def wait_for(condition: Any, seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.01)


def processes_with(text: str) -> list[int]:
    """The processes whose command line or environment has *text* in it, zombies not counted."""
    found = []
    for name in filter(str.isdecimal, os.listdir("/proc")):
        if int(name) == os.getpid():
            continue
        with suppress(OSError):
            said = Path("/proc", name, "cmdline").read_bytes() + Path("/proc", name, "environ").read_bytes()
            if text.encode() in said:
                found.append(int(name))
    return found


def kill_group(process: subprocess.Popen[str], number: int = signal.SIGKILL) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, number)


@contextmanager
def mounted(place: Path, *options: str) -> Iterator[Path]:
    """Mount something on *place* (made where it is not there) and unmount it afterwards; needs root."""
    place.mkdir(exist_ok=True)
    done = subprocess.run(["mount", *options, str(place)], capture_output=True, text=True)
    if done.returncode != 0:
        missing(f"cannot mount: {done.stderr.strip()}")
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)


@contextmanager
def small_disk(place: Path, megabytes: float) -> Iterator[Path]:
    with mounted(place, "-t", "tmpfs", "-o", f"size={int(megabytes * 1024)}k", "tmpfs") as folder:
        yield folder


@contextmanager
def read_only(root: Path) -> Iterator[Path]:
    """*root* as it is, and not writable, not even for root."""
    with mounted(root, "--bind", str(root)):
        done = subprocess.run(["mount", "-o", "remount,bind,ro", str(root)], capture_output=True, text=True)
        if done.returncode != 0:
            missing(f"cannot mount read-only: {done.stderr.strip()}")
        yield root


def copy_of(prefix: Path, target: Path) -> Path:
    """An environment of its own for a test that damages it. Its launchers are still those of *prefix*."""
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copytree(prefix, target, symlinks=True)
    return target


def environment_of(prefix: Path) -> Mapping[str, Any]:
    value = json.loads((prefix / "xfdev" / "environment.json").read_text())
    assert isinstance(value, dict)
    return value
