#!/usr/bin/env python3
"""The everyday steps, side by side with what a user would do otherwise, in one run on one machine.

    python benchmarks/edit_loop.py [--folder FOLDER] [--runs 5] [--slow-runs 3] [--keep]

Makes an environment with torch 2.14.1 and CUDA 13.0 for --arch 9.0 (8 GB, some minutes), compiles xFormers 0.0.35
once, then times each step in fresh clones. Prints a Markdown table of medians and ratios and writes it with all
times to benchmarks/results/, and the table into README.md. What is compared:

- ``pip install -e .``: --no-build-isolation --no-deps, in the same environment but without xfdev's settings;
- "with warm ccache": the same ccache 4.14.2 in depend mode, base_dir set, hash_dir off, filled by the very same
  command before: pip's build folder has a random name, so it does not help;
- ``build_ext --inplace``: the project's own incremental build, in a folder where it has been run;
- "pinned build folder": the same pip with ``build_temp`` set in a file that DIST_EXTRA_CONFIG names, so that its second
  build takes the objects of its first;
- for one edited kernel: nvcc for that unit, and the link, each as a command of its own.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from datetime import date
from pathlib import Path

HERE = Path(__file__).parent
XFDEV = Path(sys.executable).parent / "xfdev"
EDITED = "xformers/csrc/sparse24/meta_utils.cu"
ARCH = "9.0"


def call(*words: object, cwd: Path, env: Mapping[str, str]) -> float:
    """Run a command to its end; returns its wall time in seconds."""
    started = time.perf_counter()
    done = subprocess.run([str(word) for word in words], cwd=cwd, env=dict(env), capture_output=True, text=True)
    seconds = time.perf_counter() - started
    if done.returncode:
        raise SystemExit(f"{words} failed in {cwd}:\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}")
    return seconds


def peak_megabytes(*words: object, cwd: Path, env: Mapping[str, str]) -> float:
    """The largest resident set of a command and its children."""
    script = (
        "import resource, subprocess, sys; subprocess.run(sys.argv[1:], check=True, stdout=subprocess.DEVNULL);"
        "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, *map(str, words)], cwd=cwd, env=dict(env), stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL, text=True, check=True,
    )  # fmt: skip
    return int(done.stdout) * resource.getpagesize() / 4096 / 1000


class Bench:
    def __init__(self, folder: Path, runs: int, slow_runs: int) -> None:
        self.folder, self.runs, self.slow_runs = folder, runs, slow_runs
        self.env = {**os.environ, "XFDEV_CACHE": str(folder / "cache")}
        self.env.pop("PYTHONDONTWRITEBYTECODE", None)  # users' Pythons do keep what they compiled
        self.main = folder / "xformers-0.0.35"
        self.venv = self.main / ".venv"
        self.times: dict[str, list[float]] = {}
        self.memory: dict[str, float] = {}
        self.clones = 0

    def prepare(self) -> None:
        note("environment, and one full compile")
        call(XFDEV, "up", "xformers==0.0.35", "--arch", ARCH, "--into", self.main, cwd=self.folder, env=self.env)

    def fresh(self) -> Path:
        """A new clone that nothing was built in, and no xFormers in the environment."""
        self.clones += 1
        target = self.folder / f"clone-{self.clones}"
        shutil.rmtree(target, ignore_errors=True)  # of a run in the same folder that was ended
        call("git", "clone", "-q", "--local", self.main, target, cwd=self.folder, env=self.env)
        # Each checkout has its environment at .venv; a link stands in for 8 GB.
        (target / ".venv").symlink_to(self.venv)
        call(self.venv / "bin/python", "-m", "pip", "uninstall", "-q", "-y", "xformers", cwd=self.folder, env=self.env)
        return target

    def kept(self, name: str) -> Path:
        """A clone that is built in more than once."""
        target = self.folder / name
        shutil.rmtree(target, ignore_errors=True)
        return self.fresh().rename(target)

    def measure(self, name: str, runs: int, prepare: Callable[[], Path], step: Callable[[Path], float]) -> None:
        note(name)
        for _ in range(runs):
            place = prepare()
            self.times.setdefault(name, []).append(step(place))
            if place.name.startswith("clone-") and place.exists():
                shutil.rmtree(place)
        self.save()

    def xfdev(self, verb: str) -> Callable[[Path], float]:
        return lambda place: call(XFDEV, verb, place, "-q", cwd=self.folder, env=self.env)

    def plain_env(self, ccache: Path | None = None, extra: str = os.devnull) -> dict[str, str]:
        """The same environment as a user has it without xfdev: nothing pinned, and ccache only if given."""
        cuda = self.venv / "lib" / f"python{platform.python_version().rpartition('.')[0]}" / "site-packages/nvidia/cu13"
        nvcc = str(cuda / "bin/nvcc")
        env = {
            **self.env,
            "PATH": f"{self.venv}/bin:{os.environ['PATH']}",
            "CUDA_HOME": str(cuda),
            "TORCH_CUDA_ARCH_LIST": ARCH,
            "DIST_EXTRA_CONFIG": extra,
            "TORCH_NO_COMPILER_WRAPPER": "1",
            "PYTORCH_NVCC": nvcc,
            "CCACHE_DISABLE": "1",
        }
        if ccache is not None:
            del env["CCACHE_DISABLE"]
            env.update({
                "PYTORCH_NVCC": f"{self.venv}/xfdev/bin/ccache.real {nvcc}",
                "CCACHE_DIR": str(ccache), "CCACHE_DEPEND": "1", "CCACHE_BASEDIR": str(self.folder),
                "CCACHE_NOHASHDIR": "1", "CCACHE_COMPILERCHECK": "content",
            })  # fmt: skip
        return env

    def plainly(self, *words: object, cwd: Path, ccache: Path | None = None, extra: str = os.devnull) -> float:
        """Run a command in the environment while xfdev's settings, which a .pth file makes, are out of the way."""
        (settings,) = self.venv.glob("lib/python*/site-packages/xfdev_environment.pth")
        aside = settings.rename(settings.with_suffix(".aside"))
        try:
            return call(*words, cwd=cwd, env=self.plain_env(ccache, extra))
        finally:
            aside.rename(settings)

    def pip(self, ccache: Path | None = None, extra: str = os.devnull) -> Callable[[Path], float]:
        pip = [self.venv / "bin/python", "-m", "pip", "install", "-q", "--no-build-isolation", "--no-deps", "-e", "."]
        return lambda place: self.plainly(*pip, cwd=place, ccache=ccache, extra=extra)

    def inplace(self, place: Path) -> float:
        return self.plainly(self.venv / "bin/python", "setup.py", "-q", "build_ext", "--inplace", cwd=place)

    def edited(self) -> Path:
        return self.edit(self.fresh())

    @staticmethod
    def edit(place: Path) -> Path:
        source = place / EDITED
        # Code, not a comment: every build must really compile it; a new text each time, so that no cache has it.
        source.write_text(source.read_text() + f'\nextern "C" int edited_{time.time_ns()}() {{ return 1; }}\n')
        return place

    def alone(self, place: Path) -> tuple[float, float]:
        """nvcc for the edited unit, and the link, as xfdev's own build ran them, without anything around; seconds."""
        manifest = json.loads((place / ".xfdev/build/manifest.json").read_text())
        unit = next(unit for unit in manifest["units"] if unit["source"] == EDITED)
        session = json.loads(
            subprocess.run(
                [XFDEV, "plan", place, "--json"], env=self.env, capture_output=True, text=True,
                check=True,
            ).stdout
        )  # fmt: skip
        assert session["verdict"] == "reuse"
        site = place / ".venv/lib" / f"python{platform.python_version().rpartition('.')[0]}" / "site-packages"
        base = Path(os.path.realpath(self.venv / "bin/python")).parent.parent
        version = platform.python_version().rpartition(".")[0]
        paths = {
            "%{cuda}": f"{site}/nvidia/cu13", "%{site}": str(site), "%{prefix}": f"{place}/.venv",
            "%{checkout}": str(place), "%{python-include}": f"{base}/include/python{version}", "%{python}": str(base),
        }  # fmt: skip

        def concrete(argv: list[str]) -> list[str]:
            for mark, path in paths.items():
                argv = [word.replace(mark, path) for word in argv]
            return argv

        temp = place / ".xfdev/build/temp"
        command = concrete(unit["argv"])
        command[command.index("-o") + 1] = str(self.folder / "alone.o")
        if "-MF" in command:
            command[command.index("-MF") + 1] = str(self.folder / "alone.d")
        seconds = call(*command, cwd=temp, env=self.plain_env())
        linking = 0.0
        for step in manifest["steps"]:
            command = concrete(step["argv"])
            command[command.index("-o") + 1] = str(self.folder / "alone.so")
            linking += call(*command, cwd=temp, env=self.plain_env())
        return seconds, linking

    def run(self) -> None:
        self.prepare()
        self.measure("link", self.runs, self.fresh, self.xfdev("link"))
        linked = self.fresh()
        self.xfdev("link")(linked)
        self.measure("link again", self.runs, lambda: self.main, self.xfdev("link"))
        self.measure("plan", self.runs, lambda: self.main, self.xfdev("plan"))
        self.measure("build, nothing changed", self.runs, lambda: self.main, self.xfdev("build"))
        env = self.env
        self.memory = {
            "plan": peak_megabytes(XFDEV, "plan", self.main, cwd=self.folder, env=env),
            "link": peak_megabytes(XFDEV, "link", self.fresh(), cwd=self.folder, env=env),
        }

        def edit_and_build(place: Path) -> float:
            seconds = self.xfdev("build")(place)
            self.times.setdefault("nvcc and link alone", []).append(sum(self.alone(place)))
            return seconds

        def build_and_compile(place: Path) -> float:
            seconds = self.xfdev("build")(place)
            self.times.setdefault("nvcc alone", []).append(self.alone(place)[0])
            return seconds

        self.measure("build, one .cu edited", self.runs, self.edited, edit_and_build)
        place = self.kept("inplace")
        self.inplace(place)
        self.measure("build_ext --inplace, nothing changed", self.runs, lambda: place, self.inplace)
        again = "build, edited again"
        self.measure(again, self.runs, lambda: self.edit(self.main), build_and_compile)
        self.measure("build_ext --inplace, edited", self.runs, lambda: self.edit(place), self.inplace)
        pinned = self.folder / "pinned.cfg"
        # Options are looked up by the name of the class, here that of torch's BuildExtension.with_options.
        pinned.write_text(f"[cls_with_options]\nbuild_temp = {self.folder / 'pinned'}\n")
        pip = self.pip(extra=str(pinned))
        kept = self.kept("pinned-checkout")
        pip(kept)
        self.measure("pip install -e ., edited, pinned build folder", self.runs, lambda: self.edit(kept), pip)
        # The cold runs are made with an empty compiler cache, and the last of them fills the one of the warm runs.
        caches = [self.folder / f"ccache-{number}" for number in range(self.slow_runs)]
        remaining = iter(caches)
        self.measure(
            "pip install -e ., cold", self.slow_runs, self.fresh, lambda place: self.pip(next(remaining))(place)
        )
        self.measure("pip install -e ., warm ccache", self.slow_runs, self.fresh, self.pip(caches[-1]))
        warm = "pip install -e ., one .cu edited, warm ccache"
        self.measure(warm, self.slow_runs, self.edited, self.pip(caches[-1]))

    def median(self, name: str) -> float:
        return statistics.median(self.times[name])

    def save(self) -> str:
        """Write what was measured so far, here and into README.md."""
        heading = f"xFormers 0.0.35, arch {ARCH}, torch 2.14.1, CUDA 13.0; {machine()}; {date.today()}"
        text = f"{heading}\n\n{self.table()}\n"
        results = HERE / "results"
        results.mkdir(exist_ok=True)
        (results / "edit_loop.md").write_text(text)
        (results / "edit_loop.json").write_text(
            json.dumps({"about": heading, "seconds": self.times, "megabytes": self.memory}, indent=1) + "\n"
        )
        mark = "<!-- benchmarks/edit_loop.py -->"
        readme = HERE.parent / "README.md"
        before, _, rest = readme.read_text().partition(mark + "\n")
        _, end, after = rest.partition("<!-- /" + mark[5:])
        readme.write_text(f"{before}{mark}\n{self.table()}\n\n{heading}.\n{end}{after}")
        return text

    def table(self) -> str:
        rows = [
            ("`xfdev link`, fresh checkout, bundle local", "link", "pip install -e ., cold"),
            ("", "link", "pip install -e ., warm ccache"),
            ("`xfdev link`, linked already", "link again", None),
            ("`xfdev plan`, clean checkout", "plan", None),
            ("`xfdev build`, nothing changed", "build, nothing changed", "build_ext --inplace, nothing changed"),
            ("`xfdev build`, one `.cu` edited, fresh checkout", "build, one .cu edited", "nvcc and link alone"),
            ("", "build, one .cu edited", "pip install -e ., one .cu edited, warm ccache"),
            ("`xfdev build`, one `.cu` edited again", "build, edited again", "nvcc alone"),
            ("", "build, edited again", "build_ext --inplace, edited"),
            ("", "build, edited again", "pip install -e ., edited, pinned build folder"),
        ]
        lines = ["| step | median | otherwise | median | ratio |", "|---|---|---|---|---|"]
        for label, ours, theirs in rows:
            if ours not in self.times or (theirs is not None and theirs not in self.times):
                continue  # the run was ended before it came to that
            mine = self.median(ours)
            if theirs is None:
                lines.append(f"| {label} | {mine:.2f} s | – | | |")
                continue
            other = self.median(theirs)
            ratio = f"{other / mine:.0f} × faster" if other > 2 * mine else f"{mine / other:.2f} ×"
            ratio = f"{other / mine:.2f} × faster" if mine < other <= 2 * mine else ratio
            lines.append(f"| {label} | {mine:.2f} s | `{theirs}` | {other:.2f} s | {ratio} |")
        lines += [f"| peak memory of `{verb}` | {size:.0f} MB | – | | |" for verb, size in self.memory.items()]
        return "\n".join(lines)


def note(text: str) -> None:
    print(f"[{time.strftime('%H:%M:%S')}] {text}", file=sys.stderr, flush=True)


def machine() -> str:
    model = next(
        (
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if "model name" in line
        ),
        platform.machine(),
    )
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    return f"{len(os.sched_getaffinity(0))} cores of {model}, {memory:.0f} GB, Python {platform.python_version()}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="where to work (default: a temporary folder)")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--slow-runs", type=int, default=3, help="of what compiles everything")
    parser.add_argument("--keep", action="store_true", help="leave the folder")
    args = parser.parse_args()
    folder = args.folder or Path(tempfile.mkdtemp(prefix="xfdev-bench-"))
    folder.mkdir(parents=True, exist_ok=True)
    bench = Bench(folder.resolve(), args.runs, args.slow_runs)
    try:
        bench.run()
    finally:
        if not args.keep and args.folder is None:
            shutil.rmtree(folder, ignore_errors=True)
    print(bench.save())


if __name__ == "__main__":
    main()
