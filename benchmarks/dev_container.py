#!/usr/bin/env python3
"""The seed's scenarios: this repository's dev container beside a plain one, in one run on one machine.

    .ci/engine start FOLDER > env && . ./env
    python benchmarks/dev_container.py [--folder FOLDER] [--runs 3] [--slow-runs 1]

The plain one is the flow of the first public implementation, made anew: an image with the same torch and CUDA and a
compiled xFormers installed in it, and a post-create command that runs ``pip install --no-build-isolation -e .`` on the
developer's clone. Both have arch 9.0, torch 2.14.1, CUDA 13.0, xFormers 0.0.35; the fork is cloned from a folder, the
registry is on loopback. A scenario ends when an operator of the compiled library is found in a new Python process.

- A: nothing local, nothing in a registry
- B: the image is in the registry, nothing of it local
- C: the image is local, the project is new
- recreated: the container is thrown away and made anew after a kernel was edited and built
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from datetime import date
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE), str(HERE.parent / "tests"), str(HERE.parent / "tests/container")]

from edit_loop import EDITED, machine, note  # noqa: E402

import engine as engines  # noqa: E402
import workspaces  # noqa: E402
from xfdev.profile import toolchain_entry  # noqa: E402

ARCH, RELEASE, OPERATOR = "9.0", "xformers==0.0.35", "sparse24_largest_mask_2d"
MARK = "<!-- benchmarks/dev_container.py -->"

PLAIN = """\
ARG BASE_IMAGE
FROM ${BASE_IMAGE}
RUN apt-get update && apt-get install -y --no-install-recommends ca-certificates g++ git make python3-dev python3-venv
ENV TORCH_CUDA_ARCH_LIST=%(arch)s
RUN --mount=type=secret,id=ca --mount=type=secret,id=pip \\
    cat /etc/ssl/certs/ca-certificates.crt /run/secrets/ca > /dev/shm/ca.pem; export PIP_CERT=/dev/shm/ca.pem; \\
    python3 -m venv /opt/venv && chmod -R a+rwX /opt/venv && /opt/venv/bin/pip install -q --no-cache-dir \\
    %(requirements)s ninja 'setuptools>=77,<82' wheel packaging numpy
RUN cd /opt/venv/lib/python3*/site-packages/nvidia/cu13/lib && ln -s libcudart.so.13 libcudart.so && \\
    ln -s "$(dirname "$PWD")" /opt/cuda
ENV PATH=/opt/venv/bin:/opt/cuda/bin:${PATH} CUDA_HOME=/opt/cuda
RUN --mount=type=secret,id=ca --mount=type=secret,id=pip \\
    cat /etc/ssl/certs/ca-certificates.crt /run/secrets/ca > /dev/shm/ca.pem; export PIP_CERT=/dev/shm/ca.pem; \\
    pip install -q --no-cache-dir --no-build-isolation --no-deps --no-binary xformers %(release)s
"""


class Flow:
    """One way to get a dev container. *word* names it."""

    def __init__(self, word: str, engine: engines.Engine, folder: Path, fork: Path) -> None:
        self.word, self.engine, self.fork = word, engine, fork
        self.folder = folder / word
        self.image = f"{engine.registry}/{engine.name('bench')}-{word}"
        self.times: dict[str, list[float]] = {}

    def workspace(self, name: str) -> Path:
        target = self.folder / self.engine.name(name)
        shutil.rmtree(target, ignore_errors=True)
        target.parent.mkdir(parents=True, exist_ok=True)
        self.write(target)
        subprocess.run(["git", "clone", "-q", "--bare", self.fork, target / "xformers.git"], check=True)
        return target

    def write(self, target: Path) -> None:
        raise NotImplementedError

    def push(self) -> None:
        raise NotImplementedError

    def env(self, image: str | None) -> dict[str, str]:
        return {
            **self.engine.env, "XFDEV_USER": "root", "XFDEV_IMAGE": image or f"{self.engine.registry}/none",
            "XFDEV_STORES": "", "TORCH_CUDA_ARCH_LIST": ARCH,
        }  # fmt: skip

    def up(self, scenario: str, workspace: Path, image: str | None, *words: str) -> workspaces.Inside:
        """From ``devcontainer up`` to the first operator."""
        note(f"{self.word}: {scenario}")
        started = time.perf_counter()
        done = subprocess.run(
            ["devcontainer", "up", "--workspace-folder", str(workspace), *words],
            env=self.env(image), stdin=subprocess.DEVNULL, capture_output=True, text=True,
        )  # fmt: skip
        answer = json.loads(done.stdout.strip().splitlines()[-1])
        if answer["outcome"] != "success":
            raise SystemExit(done.stderr[-5000:])
        inside = workspaces.Inside(self.engine, answer)
        inside.python(f"import torch, xformers.ops; torch.ops.xformers.{OPERATOR}")
        self.times.setdefault(scenario, []).append(time.perf_counter() - started)
        return inside

    def forget(self) -> None:
        """Delete everything local: containers, images, build cache."""
        for name in self.engine.docker("ps", "-aq").stdout.split():
            self.engine.docker("rm", "-fv", name)
        for name in self.engine.docker("image", "ls", "-q").stdout.split():
            self.engine.docker("image", "rm", "-f", name, check=False)
        self.engine.docker("volume", "prune", "-af")
        self.engine.docker("builder", "prune", "-af")


class Ours(Flow):
    def write(self, target: Path) -> None:
        workspaces.this_repository(target)
        workspaces.edited(
            target,
            {
                "build": {"args": {"BASE_IMAGE": self.engine.base13, "XFORMERS_FIRST_BUILD_URL": RELEASE}},
                "remoteEnv": {"XFORMERS_FORK_URL": f"file:///workspaces/{target.name}/xformers.git"},
            },
        )

    def push(self) -> None:
        words = [Path(sys.executable).parent / "xfdev", "image", "build", self.workspace("push"), "--push"]
        subprocess.run([*words, "--tag", f"{self.image}:cu130"], env=self.env(self.image), check=True)


class Plain(Flow):
    def write(self, target: Path) -> None:
        entry = toolchain_entry("cu130")
        (target / ".devcontainer").mkdir(parents=True)
        (target / ".devcontainer/Dockerfile").write_text(
            PLAIN
            % {"arch": ARCH, "requirements": " ".join(f"'{name}'" for name in (entry.torch, *entry.nvcc)),
               "release": RELEASE}
        )  # fmt: skip
        options = ["--secret=id=ca,env=XFDEV_BUILD_CA", "--secret=id=pip,env=XFDEV_BUILD_PIP_CONF"]
        clone = f"git clone -q file:///workspaces/{target.name}/xformers.git xformers"
        config = {
            "build": {
                "dockerfile": "Dockerfile", "args": {"BASE_IMAGE": self.engine.base13},
                "cacheFrom": "${localEnv:XFDEV_IMAGE}:cu130", "options": options,
            },
            "postCreateCommand": f"[ -d xformers ] || {clone}; "
            "cd xformers && pip install -q --no-build-isolation --no-deps -e .",
        }  # fmt: skip
        (target / ".devcontainer/devcontainer.json").write_text(json.dumps(config))

    def push(self) -> None:
        folder = self.workspace("push")
        self.engine.docker(
            "buildx", "build", "-f", folder / ".devcontainer/Dockerfile", *self.engine.secrets(), "--build-arg",
            f"BASE_IMAGE={self.engine.base13}", "--cache-to", "type=inline", "--push", "--tag", f"{self.image}:cu130",
            folder / ".devcontainer", timeout=3600,
        )  # fmt: skip


def compressed(engine: engines.Engine, image: str) -> int:
    """The bytes that the layers of an image have in the registry."""
    name, _, tag = image.removeprefix(f"{engine.registry}/").rpartition(":")
    answer = engine._ask(f"/v2/{name}/manifests/{tag}")[0]
    if "manifests" in answer:
        answer = engine._ask(f"/v2/{name}/manifests/{answer['manifests'][0]['digest']}")[0]
    return sum(layer["size"] for layer in answer["layers"])


def measure(flow: Flow, runs: int, slow_runs: int) -> dict[str, float]:
    for _ in range(slow_runs):
        flow.forget()
        flow.up("A", flow.workspace("a"), None)
    flow.push()
    for _ in range(slow_runs):
        flow.forget()
        flow.up("B", flow.workspace("b"), flow.image)
    for number in range(runs if isinstance(flow, Ours) else slow_runs):
        inside = flow.up("C", flow.workspace(f"c{number}"), flow.image)
    place = flow.folder / flow.engine.name(f"c{number}")
    source = place / "xformers" / EDITED
    source.write_text(source.read_text() + f'\nextern "C" int edited_{time.time_ns()}() {{ return 1; }}\n')
    inside.run("xfdev build -q" if isinstance(flow, Ours) else "pip install -q --no-build-isolation --no-deps -e .",
               cwd="xformers")  # fmt: skip
    for _ in range(runs if isinstance(flow, Ours) else slow_runs):
        flow.up("recreated", place, flow.image, "--remove-existing-container")
    return {name: statistics.median(times) for name, times in flow.times.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("/tmp/xfdev-bench-container"))
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--slow-runs", type=int, default=1)
    args = parser.parse_args()
    shutil.rmtree(args.folder, ignore_errors=True)
    args.folder.mkdir(parents=True)
    engine = engines.find(os.environ)
    fork = workspaces.release(args.folder, RELEASE)
    flows = [Ours("xfdev", engine, args.folder, fork), Plain("plain", engine, args.folder, fork)]
    try:
        medians = [measure(flow, args.runs, args.slow_runs) for flow in flows]
        sizes = [compressed(engine, f"{flow.image}:cu130") for flow in flows]
    finally:
        engine.clean()
    lines = ["| scenario | here | plain | ratio |", "|---|---|---|---|"]
    for name, label in (
        ("A", "A: nothing local, no registry"),
        ("B", "B: first-time user, image in a registry"),
        ("C", "C: second project, image local"),
        ("recreated", "container recreated after a kernel edit"),
    ):
        ours, plain = medians[0][name], medians[1][name]
        ratio = f"{plain / ours:.1f} × faster" if plain > ours else f"{ours / plain:.2f} ×"
        lines.append(f"| {label} | {ours:.1f} s | {plain:.1f} s | {ratio} |")
    lines.append(f"| image, compressed | {sizes[0] / 1e9:.2f} GB | {sizes[1] / 1e9:.2f} GB | |")
    about = f"xFormers 0.0.35, arch {ARCH}, torch 2.14.1, CUDA 13.0; {machine()}; {date.today()}"
    about += f"; medians of {args.runs} runs of C and recreated here, {args.slow_runs} of all else"
    results = HERE / "results"
    (results / "dev_container.json").write_text(
        json.dumps({"about": about, "seconds": {flow.word: flow.times for flow in flows}, "bytes": sizes}, indent=1)
    )
    readme = HERE.parent / "README.md"
    before, _, rest = readme.read_text().partition(MARK + "\n")
    _, end, after = rest.partition("<!-- /" + MARK[5:])
    readme.write_text(f"{before}{MARK}\n" + "\n".join(lines) + f"\n\n{about}.\n{end}{after}")
    print("\n".join(lines))


if __name__ == "__main__":
    main()
