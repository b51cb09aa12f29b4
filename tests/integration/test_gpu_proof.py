"""The script that compares predictions with a real GPU, as far as it goes without one."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import support

SCRIPT = Path(__file__).parents[2] / "tools" / "gpu_proof.py"
GIVEN = os.environ.get("XFDEV_TEST_CUDA_VENV")
#: Of what is compiled, in order: 9.0, 8.0, 8.0+PTX, 12.0, 9.0a, 8.6;9.0, 10.0+PTX; PTX of 8.0, 9.0, 9.0a, 12.0.
EXPECTED = {
    "9.0": "native no jit no native native no jit jit jit no",
    "8.6": "no native native no no native no jit no no no",
    "12.0": "no no jit native no no jit jit jit no jit",
}


@pytest.mark.parametrize("device", EXPECTED)
def test_dry_run(tmp_path: Path, device: str) -> None:
    nvcc = next(Path(str(GIVEN)).glob("lib/python3*/site-packages/nvidia/cu13/bin/nvcc"), None) if GIVEN else None
    program = str(nvcc) if nvcc else shutil.which("nvcc")
    if program is None or shutil.which("g++") is None:
        support.missing("no nvcc and g++ here")
    if Path("/proc/driver/nvidia/version").exists():
        pytest.skip("this machine has a GPU: run the script itself")
    words = [sys.executable, str(SCRIPT), "--dry-run", "--only", "kernel", "--only", "PTX", "--device", device]
    words += ["--nvcc", str(program), "--work", str(tmp_path / "work"), "--out", str(tmp_path / "table.md")]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    rows = [line.split("|") for line in (tmp_path / "table.md").read_text().splitlines() if line.startswith("| kernel")]
    assert [row[3].split(":")[0].strip() for row in rows] == EXPECTED[device].split()
    assert all(row[5].strip() == "–" for row in rows), "nothing was compared: there is no GPU"


def test_without_a_gpu_it_says_so() -> None:
    if Path("/proc/driver/nvidia/version").exists():
        pytest.skip("this machine has a GPU")
    done = subprocess.run([sys.executable, str(SCRIPT)], capture_output=True, text=True)
    assert (done.returncode, done.stdout.startswith("no GPU here: ")) == (2, True)
