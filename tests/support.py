"""What several tests share: xfdev as a user starts it, git, and checkouts of the project ``counter``."""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from xfdev import cli

PROJECTS = Path(__file__).parent / "projects"

#: Variables of the tests' own; everything else named XFDEV_* is the developer's and stays out.
KEPT = ("XFDEV_REQUIRE", "XFDEV_SEQUENCES", "XFDEV_REPORT", "XFDEV_SEED")
_FOREIGN = ("XFDEV_", "CCACHE_", "GIT_", "DIST_EXTRA_CONFIG", "UV_", "TORCH_", "NVCC_", "CUDA", "PYTHON")
_BUILD = (
    *("CC", "CXX", "CFLAGS", "CXXFLAGS", "CPPFLAGS", "LDFLAGS", "LDSHARED", "LDCXXSHARED", "CPATH", "C_INCLUDE_PATH"),
    *("CPLUS_INCLUDE_PATH", "LIBRARY_PATH", "LD_RUN_PATH", "MAX_JOBS", "FORCE_CUDA", "VIRTUAL_ENV", "DEBUG"),
    *("SOURCE_DATE_EPOCH", "COUNTER_FLAGS", "PYTORCH_NVCC"),
)
#: Of git's own variables only the certificates matter to a test that reaches the network.
_GIT_KEPT = ("GIT_SSL_CAINFO",)


def missing(reason: str) -> None:
    """A real part is not there: skip, or fail where everything has to be (``XFDEV_REQUIRE``)."""
    if os.environ.get("XFDEV_REQUIRE"):
        pytest.fail(reason)
    pytest.skip(reason)


def foreign_variables(environ: Mapping[str, str]) -> list[str]:
    """The variables that would make a test depend on who runs it."""
    return [
        name
        for name in environ
        if name in _BUILD or (name.startswith(_FOREIGN) and name not in KEPT and name not in _GIT_KEPT)
    ]


def own_variables(folder: Path) -> dict[str, str]:
    """Settings that keep xfdev, git and ccache of a test inside *folder*."""
    config = {
        "protocol.file.allow": "always",  # the submodules of the tests come from file:// servers
        "user.name": "A Tester",
        "user.email": "tester@example.org",
        "init.defaultBranch": "main",
        "safe.directory": "*",
        "gc.auto": "0",
        "advice.detachedHead": "false",
    }
    found = {
        "XFDEV_CACHE": str(folder / "cache"),
        "XDG_CONFIG_HOME": str(folder / "config"),
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_CONFIG_GLOBAL": os.devnull,
        "GIT_CONFIG_COUNT": str(len(config)),
    }
    for number, (key, value) in enumerate(config.items()):
        found[f"GIT_CONFIG_KEY_{number}"] = key
        found[f"GIT_CONFIG_VALUE_{number}"] = value
    # pip's settings of the user (an index, a proxy) stay, although the folder of settings moves.
    base = os.environ.get("XDG_CONFIG_HOME") or os.path.expanduser("~/.config")
    pip_conf = os.path.join(base, "pip", "pip.conf")
    if "PIP_CONFIG_FILE" not in os.environ and os.path.exists(pip_conf):
        found["PIP_CONFIG_FILE"] = pip_conf
    return found


def open_to_others(folder: Path) -> None:
    """Let other users reach *folder*: those that pytest makes, a process of pytest-xdist one deeper, are closed."""
    temporary = Path(tempfile.gettempdir())
    for place in (folder, *folder.parents):
        if place.is_relative_to(temporary) and place != temporary:
            place.chmod(0o755)


def git(folder: Path, *words: str, check: bool = True) -> str:
    done = subprocess.run(["git", "-C", str(folder), *words], capture_output=True, text=True)
    if check:
        assert done.returncode == 0, f"git {' '.join(words)}: {done.stderr}{done.stdout}"
    return done.stdout.strip()


@dataclass(frozen=True)
class Said:
    """What one run of xfdev left: its exit status, its JSON (empty without ``--json``), stdout and stderr."""

    code: int
    json: dict[str, Any]
    out: str
    err: str

    def ok(self) -> dict[str, Any]:
        assert self.code == 0, f"exit status {self.code}: {self.json or self.out}\n{self.err}"
        return self.json


@dataclass
class Xfdev:
    """The command line, in this process (``__call__``) or as users have it (``process``).

    *variables* come on top of the environment; *options* after every verb's arguments.
    """

    variables: dict[str, str] = field(default_factory=dict)
    options: tuple[str, ...] = ()

    def __call__(self, verb: str, *words: str | Path) -> Said:
        argv = [verb, *map(str, words), *self.options, "--json"]
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                code = cli.main(argv, {**os.environ, **self.variables})
            except SystemExit as exit_:  # argparse
                code = exit_.code if isinstance(exit_.code, int) else 1
        return self._said(code, out.getvalue(), err.getvalue())

    def process(self, verb: str, *words: str | Path, json_wanted: bool = True, cwd: Path | None = None) -> Said:
        argv = [sys.executable, "-m", "xfdev", verb, *map(str, words), *self.options]
        done = subprocess.run(
            [*argv, "--json"] if json_wanted else argv,
            env={**os.environ, **self.variables},
            cwd=cwd,
            capture_output=True,
            text=True,
        )
        return self._said(done.returncode, done.stdout, done.stderr)

    @staticmethod
    def _said(code: int, out: str, err: str) -> Said:
        try:
            value = json.loads(out)
        except ValueError:
            value = {}
        return Said(code, value if isinstance(value, dict) else {}, out, err)


def make_counter(folder: Path) -> Path:
    """``folder/counter``: the project as a git repository whose ``vendor/tally`` is a submodule, served from
    ``folder/tally`` (its commits are tagged ``v1``, ``v2``, ``v3``)."""
    origin = folder / "tally"
    shutil.copytree(PROJECTS / "counter" / "vendor" / "tally", origin)
    git(origin, "init", "-q")
    _commit(origin, "v1")
    (origin / "include" / "tally.h").write_text("#pragma once\n#define TALLY 8\n")
    _commit(origin, "v2")
    (origin / "include" / "tally.h").write_text('#pragma once\n#include "digits.h"\n#define TALLY DIGITS\n')
    (origin / "include" / "digits.h").write_text("#define DIGITS 10\n")
    _commit(origin, "v3")
    root = folder / "counter"
    shutil.copytree(PROJECTS / "counter", root, ignore=shutil.ignore_patterns("tally", *_LEFTOVERS))
    git(root, "init", "-q")
    git(root, "submodule", "--quiet", "add", f"file://{origin}", "vendor/tally")
    git(root / "vendor" / "tally", "checkout", "-q", "v1")
    git(root, "add", "-A")
    git(root, "commit", "-q", "-m", "the counter")
    return root


_LEFTOVERS = ("*.so", "build", "__pycache__", ".xfdev", ".venv", "*.egg-info", "generated.h")


def _commit(folder: Path, tag: str) -> None:
    git(folder, "add", "-A")
    git(folder, "commit", "-q", "-m", tag)
    git(folder, "tag", tag)


def copy_tree(source: Path, target: Path) -> Path:
    """A copy with its times and links; git looks at every file once, as its notes are those of the original."""
    shutil.copytree(source, target, symlinks=True)
    if (target / ".git").exists():
        git(target, "status", "--porcelain")
    return target


def behaviour(interpreter: Path, tree: Path) -> dict[str, int]:
    """What the functions of the libraries in *tree* return, in a process of their own."""
    code = "import json, sys; sys.path.insert(0, sys.argv[1]); import counter; print(json.dumps(counter.behaviour()))"
    done = subprocess.run([str(interpreter), "-ISBc", code, str(tree)], capture_output=True, text=True, cwd=tree)
    assert done.returncode == 0, done.stderr
    found: dict[str, int] = json.loads(done.stdout)
    return found


#: Lines that a test adds to the summary at the end of a run.
SUMMARY = pytest.StashKey[list[str]]()
