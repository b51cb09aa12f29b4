#!/usr/bin/env python3
"""What could make one unit compile faster without another machine code, each way tried on its own.

    python benchmarks/faster_compiles.py CHECKOUT [--unit sparse24_apply.cu] [--runs 3]

CHECKOUT was built by ``xfdev build`` here. The unit's recorded command is run as it is, and changed in one way at a
time, one run of each after the other, so that a machine that gets slower does so for all; the instructions of each
object (``cuobjdump --dump-sass``, fetched where it is missing) are compared with those of the command as recorded.
Writes the medians to benchmarks/results/ and prints a table.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from datetime import date
from pathlib import Path

from edit_loop import machine

HERE = Path(__file__).parent
XFDEV = Path(sys.executable).parent / "xfdev"
LAUNCHER = HERE.parent / "src" / "xfdev" / "resources" / "launcher"
RAM = Path("/dev/shm")
#: Runs nvcc's commands as the launcher does where a CPU is free.
SIDE_BY_SIDE = """
import os, sys
sys.path.insert(0, sys.argv[1])
import phases
sys.exit({None: "left to nvcc"}.get(status := phases.side_by_side(sys.argv[2:], dict(os.environ)), status))
"""
#: As many as the project's own wheels of CUDA 13 are compiled for (their fat binaries), without features of one GPU.
ALL = ("80", "90", "100", "103", "110", "120", "121")


def commands(checkout: Path, unit: str) -> tuple[list[str], Path]:
    """The recorded command of a unit, and the folder that it runs in."""
    words = [XFDEV, "inspect", unit, checkout, "--command", "--json"]
    answer = json.loads(subprocess.run(words, capture_output=True, text=True, check=True).stdout)
    _, folder, _, *command = shlex.split(answer["command"])  # cd FOLDER && ...
    return command, Path(folder)


def without(command: list[str], word: str, values: int = 0) -> list[str]:
    place = command.index(word)
    return command[:place] + command[place + 1 + values :]


def variants(command: list[str]) -> dict[str, tuple[list[str], Mapping[str, str]]]:
    """The command changed in one way each, with variables."""
    (gencode,) = (word for word in command if word.startswith("-gencode"))
    every = [f"-gencode=arch=compute_{arch},code=sm_{arch}" for arch in ALL]
    found: dict[str, tuple[list[str], Mapping[str, str]]] = {
        "as recorded": (command, {}),
        f"for {len(ALL)} archs": ([*without(command, gencode), *every], {}),
        "temporaries in RAM": (command, {"TMPDIR": str(RAM)}),
        "--split-compile 0": ([*command, "--split-compile", "0"], {}),
        "host and device side by side": ([sys.executable, "-IS", "-c", SIDE_BY_SIDE, str(LAUNCHER), *command], {}),
    }
    if "--generate-line-info" in command:
        found["without line numbers"] = (without(command, "--generate-line-info"), {})
    if "--threads" in command:
        found["--threads 1"] = (without(command, "--threads", 1), {})
    return found


def to(command: list[str], target: Path) -> list[str]:
    """The command, writing elsewhere."""
    command = list(command)
    for flag, suffix in (("-o", ".o"), ("-MF", ".d")):
        if flag in command:
            command[command.index(flag) + 1] = str(target.with_suffix(suffix))
    return command


def instructions(tool: Path, path: Path, arch: str) -> str:
    """A digest of the instructions for *arch*."""
    words = [tool, "--dump-sass", "--gpu-architecture", arch, path]
    path_of_tools = f"{tool.parent}{os.pathsep}{os.environ['PATH']}"  # it looks for nvdisasm there
    done = subprocess.run(words, env={**os.environ, "PATH": path_of_tools}, capture_output=True, text=True)
    # Names of what is local to a unit hold a number that is another at each run, and decide the order of kernels.
    kernels = done.stdout.split("Function : ")[1:]
    code = sorted("".join(re.findall(r"^\s+/\*[0-9a-f]{4,}\*/\s+(.*?);", kernel, re.M)) for kernel in kernels)
    assert any("EXIT" in kernel for kernel in code), f"no machine code for {arch} in {path}: {done.stderr[-500:]}"
    return hashlib.sha256(re.sub(r"`\([^)]*\)", "", "\n".join(code)).encode()).hexdigest()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkout", type=Path)
    parser.add_argument("--unit", action="append", help="default: sparse24_apply.cu")
    parser.add_argument("--way", action="append", help="one of the ways, beside the command as recorded; default: all")
    parser.add_argument("--runs", type=int, default=3)
    args = parser.parse_args()
    from xfdev import cuda_tools, venv

    environment = venv.read(args.checkout / ".venv")
    assert environment is not None, f"{args.checkout} has no environment"
    tool = cuda_tools.find("cuobjdump", environment, os.environ)
    results = {"about": f"{machine()}; {date.today()}", "units": {}}
    rows = []
    for unit in args.unit or ["sparse24_apply.cu"]:
        command, folder = commands(args.checkout, unit)
        arch = "sm_" + re.search(r"code=sm_(\w+)", " ".join(command))[1]  # type: ignore[index]
        ways = {
            name: way
            for name, way in variants(command).items()
            if name in ("as recorded", *(args.way or variants(command)))
        }
        times: dict[str, list[float]] = {name: [] for name in ways}
        code: dict[str, str] = {}
        with tempfile.TemporaryDirectory() as scratch:
            target = Path(scratch, "unit.o")
            for _ in range(args.runs):
                for name, (words, more) in ways.items():
                    started = time.perf_counter()
                    subprocess.run(
                        to(words, target), cwd=folder, env={**os.environ, **more}, check=True, capture_output=True
                    )
                    times[name].append(time.perf_counter() - started)
                    code[name] = instructions(tool, target, arch)
                    print(f"{unit}: {name}: {times[name][-1]:.2f} s", file=sys.stderr, flush=True)
        base = statistics.median(times["as recorded"])
        for name, taken in times.items():
            same = code[name] == code["as recorded"]
            middle = statistics.median(taken)
            rows.append(f"| {unit} | {name} | {middle:.2f} s | {middle / base:.2f} × | {'yes' if same else 'no'} |")
            results["units"].setdefault(unit, {})[name] = {"seconds": taken, "same code": same}  # type: ignore[index]
    (HERE / "results" / "faster_compiles.json").write_text(json.dumps(results, indent=1) + "\n")
    print("| unit | how | median | | same machine code |\n|---|---|---|---|---|\n" + "\n".join(rows))
    print(f"\n{results['about']}; {args.runs} runs of each, one after the other.")


if __name__ == "__main__":
    main()
