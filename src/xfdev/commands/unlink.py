"""``xfdev unlink``"""

from __future__ import annotations

import argparse
import shutil
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from xfdev import link, venv
from xfdev import run as processes
from xfdev.checkout import open_checkout
from xfdev.cli import add_options
from xfdev.commands.session import resolve_options
from xfdev.files import locked

EXAMPLE = "xfdev unlink ~/src/project"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("path", nargs="?", default=".", help="the checkout (default: this folder)")
    add_options(parser, "venv")


def run(args: argparse.Namespace, environ: Mapping[str, str]) -> Mapping[str, Any]:
    checkout = open_checkout(Path(args.path), environ)
    root = checkout.root
    chosen = resolve_options(args, root, environ)
    if not (root / ".xfdev").is_dir():
        return {"removed": [], "lines": ["nothing was linked"]}
    removed, kept = [], []
    with locked(root / ".xfdev" / "lock", str(root), wait=10.0):
        linked = link.read_linked(root) or {}
        for place in linked.get("places", []):
            entry = linked.get("outputs", {}).get(place)
            if checkout.tracked(place) or not (root / place).exists():
                continue
            if entry is not None and link.identity(root / place) != entry["identity"]:
                kept.append(place)  # somebody else's build replaced it
                continue
            (root / place).unlink()
            removed.append(place)
        link.exclude(checkout, [])
        environment = venv.read(root / (chosen.venv or ".venv"))
        if environment is not None and linked.get("metadata"):
            import sys

            name = linked["metadata"].removesuffix(".dist-info").rpartition("-")[0]
            pip = [sys.executable, "-m", "pip", "--python", str(environment.interpreter)]
            processes.capture([*pip, "uninstall", "-q", "-y", name], env=environ, check=False)
        with suppress(OSError):
            shutil.rmtree(root / ".xfdev")
    lines = [f"removed {len(removed)} outputs; the environment stays"]
    lines += [f"{place} stays: another build made it" for place in kept]
    return {"removed": removed, "kept": kept, "lines": lines}
