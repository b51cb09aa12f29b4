"""``xfdev prebuild``"""

from __future__ import annotations

import argparse
import shutil
import time
from collections.abc import Mapping
from typing import Any

from xfdev import plan
from xfdev.cli import add_options, add_trace
from xfdev.commands import apply
from xfdev.commands.session import open_session
from xfdev.errors import CompileFailed
from xfdev.workspace import BUILD

EXAMPLE = "xfdev prebuild ~/src/project --arch '8.0;9.0'"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("path", nargs="?", default=".", help="the checkout (default: this folder)")
    parser.add_argument(
        "--only", metavar="UNIT", action="append", help="compile just this unit into the cache; no bundle is written"
    )
    add_trace(parser)
    add_options(parser, "arch", "venv", "cache", "jobs", "compile_cache", "compile_cache_write")


def run(args: argparse.Namespace, environ: Mapping[str, str]) -> Mapping[str, Any]:
    started = time.monotonic()
    session = open_session(args, environ, for_here=False)
    with session.locked():
        everything = plan.Plan("full", None, reconfigure=True)
        objects = session.root / BUILD / "objects"
        shutil.rmtree(objects, ignore_errors=True)
        built = apply.build_plan(session, everything, only=args.only, objects_to=objects)
        changed = [unit.source for unit in built.manifest.units if unit.inputs is None]
        if args.only:
            bundle = None
        elif changed:
            raise CompileFailed(
                f"{changed[0]} or a file it reads changed while it was compiled",
                hint="run the same command again, without editing meanwhile; finished units come from the cache",
            )
        else:
            bundle = apply.store_bundle(session, built.manifest, objects)
        shutil.rmtree(objects, ignore_errors=True)
    seconds = time.monotonic() - started
    total = len(built.compiled) + len(built.restored)
    where = f"bundle {bundle[:12]}" if bundle else "the cache"
    return {
        "checkout": str(session.root),
        "bundle": bundle,
        "compiled": list(built.compiled),
        "restored": list(built.restored),
        "elapsed": seconds,
        "lines": [f"{where}: {total} units, {len(built.compiled)} of them compiled now, {seconds:.1f} s"],
    }
