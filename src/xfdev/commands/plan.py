"""``xfdev plan``"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any

from xfdev import link
from xfdev.cli import add_options
from xfdev.commands import report
from xfdev.commands.session import open_session
from xfdev.options import SHARED

EXAMPLE = "xfdev plan ~/src/project"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("path", nargs="?", default=".", help="the checkout (default: this folder)")
    add_options(parser, "arch", "venv", "cache", "jobs", *SHARED)


def run(args: argparse.Namespace, environ: Mapping[str, str]) -> Mapping[str, Any]:
    session = open_session(args, environ)
    decided = session.plan()
    problems = link.disturbed(session.root, link.read_linked(session.root) or {})
    lines = [*report.describe(decided), *(f"problem: {problem}" for problem in problems)]
    return {**report.as_json(session, decided), "problems": problems, "lines": lines}
