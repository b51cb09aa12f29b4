"""``xfdev build``"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping
from typing import Any

from xfdev.cli import add_options
from xfdev.commands import apply, report
from xfdev.commands.session import open_session

EXAMPLE = "xfdev build ~/src/xformers --arch 9.0"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("path", nargs="?", default=".", help="the checkout (default: this folder)")
    parser.add_argument(
        "--only", metavar="UNIT", action="append", help="compile just this unit (the end of its path), link nothing"
    )
    add_options(parser, "arch", "venv", "cache", "jobs")


def run(args: argparse.Namespace, environ: Mapping[str, str]) -> Mapping[str, Any]:
    started = time.monotonic()
    session = open_session(args, environ)
    with session.locked():
        if args.only:
            decided = session.plan()
            built = apply.build_plan(session, decided, only=args.only)
            state: dict[str, Any] = {}
        else:
            decided, maybe, state = apply.bring_up_to_date(session, compile_allowed=True)
            if maybe is None:
                seconds = time.monotonic() - started
                source = decided.candidate.label if decided.candidate else ""
                line = f"nothing to compile: {source}, {seconds:.2f} s"
                return {
                    **report.as_json(session, decided), **state, "compiled": [], "restored": [], "elapsed": seconds,
                    "lines": [line],
                }  # fmt: skip
            built = maybe
    seconds = time.monotonic() - started
    line = (
        f"compiled {len(built.compiled)}, from the cache {len(built.restored)}, kept {len(built.kept)}"
        f" of {len(built.manifest.units)} units, {seconds:.2f} s"
    )
    return {
        **report.as_json(session, decided),
        **state,
        "compiled": list(built.compiled),
        "restored": list(built.restored),
        "kept": list(built.kept),
        "elapsed": seconds,
        "lines": [line],
    }
