"""The ``.devcontainer/`` of this repository is what its templates make; nobody edits it by hand."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

TOOL = Path(__file__).parents[2] / "tools/own_devcontainer.py"


def test_it_is_as_generated() -> None:
    done = subprocess.run([sys.executable, TOOL, "--check"], stdout=subprocess.PIPE, text=True)
    assert done.returncode == 0, done.stdout
