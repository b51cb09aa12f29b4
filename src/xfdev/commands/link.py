"""``xfdev link``"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping
from typing import Any

from xfdev.cli import add_options
from xfdev.commands import apply, report
from xfdev.commands.session import open_session

EXAMPLE = "xfdev link ~/src/xformers"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("path", nargs="?", default=".", help="the checkout (default: this folder)")
    parser.add_argument("--build", action="store_true", help="compile what cannot be linked, instead of failing")
    add_options(parser, "arch", "venv", "cache", "jobs")


def run(args: argparse.Namespace, environ: Mapping[str, str]) -> Mapping[str, Any]:
    started = time.monotonic()
    session = open_session(args, environ)
    with session.locked():
        decided, built, state = apply.bring_up_to_date(session, compile_allowed=args.build)
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
