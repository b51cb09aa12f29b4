"""The ``.devcontainer/`` of this repository is what its templates make; nobody edits it by hand."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from packaging.requirements import Requirement

from xfdev import profile
from xfdev.profile import tomllib

TOOL = Path(__file__).parents[2] / "tools/own_devcontainer.py"


def test_it_is_as_generated() -> None:
    done = subprocess.run([sys.executable, TOOL, "--check"], stdout=subprocess.PIPE, text=True)
    assert done.returncode == 0, done.stdout


def test_the_lock_has_all_that_xfdev_needs() -> None:
    """The image installs xfdev itself without looking for what it needs."""
    text = (TOOL.parents[1] / "pyproject.toml").read_text()
    needed = [Requirement(line) for line in tomllib.loads(text)["project"]["dependencies"]]
    locked = {
        requirement.name: next(iter(requirement.specifier)).version
        for line in (profile.RESOURCES / "devcontainer/requirements/xfdev.txt").read_text().splitlines()
        if (requirement := Requirement(line.partition(" --hash")[0]))
    }
    for requirement in needed:
        if requirement.marker is None or requirement.marker.evaluate({"python_version": "3.11"}):
            assert requirement.name in locked
            assert requirement.specifier.contains(locked[requirement.name])
