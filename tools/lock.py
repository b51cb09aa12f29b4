#!/usr/bin/env python3
"""Write the locks of the container image: every package by version and hash, one line each.

    python tools/lock.py [--find-links FOLDER]

Needs uv. What goes in comes from ``resources/toolchains.toml`` (torch, nvcc) and ``resources/devcontainer/tools.in``.
A line holds the hashes of all files of that version, so that one lock serves every Python from 3.11 on. The image's
Dockerfile installs the lines in three steps; ``cpu`` is torch from an index of its own, whose hashes stand in
``torch-cpu.hashes``.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "src"))

from xfdev.make_venv import BUILD_TOOLS  # noqa: E402
from xfdev.profile import toolchain_entry  # noqa: E402

FOLDER = ROOT / "src/xfdev/resources/devcontainer"
TOOLCHAINS = ("cu130", "cu128", "cpu")


def lock(requirements: list[str], *options: str) -> list[str]:
    """Each package of *requirements* and what it needs, as ``name==version --hash=... --hash=...``."""
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "requirements.in"
        source.write_text("\n".join(requirements) + "\n")
        done = subprocess.run(
            [
                "uv", "pip", "compile", "-q", "--generate-hashes", "--python-version", "3.11", "--no-header",
                "--python-platform", "x86_64-manylinux_2_28", "--no-annotate", "--no-emit-index-url",
                "--no-emit-find-links", *options, str(source),
            ],
            stdout=subprocess.PIPE, text=True, check=True,
        )  # fmt: skip
    return re.sub(r" \\\n +", " ", done.stdout).splitlines()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--find-links", metavar="FOLDER", help="wheels that no index has (torch without CUDA)")
    args = parser.parse_args()
    links = ["--find-links", args.find_links] if args.find_links else []
    tools = [line for line in (FOLDER / "tools.in").read_text().splitlines() if line and not line.startswith("#")]
    for name in TOOLCHAINS:
        entry = toolchain_entry(name)
        lines = lock([entry.torch, *entry.nvcc, *BUILD_TOOLS, *tools], *links)
        if entry.index:
            hashes = (FOLDER / "torch-cpu.hashes").read_text().split()
            lines = [
                " ".join([line.split()[0], *(f"--hash=sha256:{known}" for known in hashes)])
                if line.startswith("torch==")
                else line
                for line in lines
            ]
            lines.insert(0, f"--extra-index-url {entry.index}")
        lines.insert(0, f"# toolchain: {name}")
        (FOLDER / "requirements" / f"{name}.txt").write_text("\n".join(lines) + "\n")
    import tomllib

    ours = tomllib.loads((ROOT / "pyproject.toml").read_text())
    (FOLDER / "requirements" / "xfdev.txt").write_text(
        "\n".join(lock([*ours["project"]["dependencies"], *ours["build-system"]["requires"]])) + "\n"
    )


if __name__ == "__main__":
    main()
