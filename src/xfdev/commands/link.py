"""``xfdev link``"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping
from typing import Any

from xfdev import on_import
from xfdev.cli import add_options
from xfdev.commands import apply, report
from xfdev.commands.session import open_session
from xfdev.options import SHARED

EXAMPLE = "xfdev link ~/src/project"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("path", nargs="?", default=".", help="the checkout (default: this folder)")
    parser.add_argument("--build", action="store_true", help="compile what cannot be linked, instead of failing")
    parser.add_argument(
        "--rebuild-on-import",
        action=argparse.BooleanOptionalAction,
        default=None,
        help="from now on importing the project after an edit builds first (see XFDEV_IMPORT); --no-: warn only",
    )
    add_options(parser, "arch", "venv", "cache", "jobs", *SHARED)


def run(args: argparse.Namespace, environ: Mapping[str, str]) -> Mapping[str, Any]:
    started = time.monotonic()
    session = open_session(args, environ)
    mode = None
    if args.rebuild_on_import is not None:
        mode = on_import.REBUILD if args.rebuild_on_import else on_import.WARN
    with session.locked():
        decided, built, state = apply.bring_up_to_date(session, compile_allowed=args.build, mode=mode)
    seconds = time.monotonic() - started
    compiled = list(built.compiled) if built else []
    verb = "linked" if state["changed"] else "linked already"
    source = decided.candidate.label if decided.candidate else "a full compile"
    return {
        **report.as_json(session, decided),
        **state,
        "compiled": compiled,
        "elapsed": seconds,
        "lines": [f"{verb}: {session.root} from {source}, {len(compiled)} units compiled, {seconds:.2f} s"],
    }
