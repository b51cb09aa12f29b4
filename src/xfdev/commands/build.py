"""``xfdev build``"""

from __future__ import annotations

import argparse
import shlex
import time
from collections.abc import Mapping, Sequence
from typing import Any

from xfdev.cli import add_options, add_trace
from xfdev.commands import apply, report, settling
from xfdev.commands.session import Session, open_session
from xfdev.errors import NothingFits
from xfdev.options import SHARED
from xfdev.timeline import timeline
from xfdev.workspace import TEMP, last_recipe

EXAMPLE = "xfdev build ~/src/project --arch 9.0"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("path", nargs="?", default=".", help="the checkout (default: this folder)")
    parser.add_argument(
        "--only",
        metavar="UNIT",
        action="append",
        help="compile just this unit (the end of its path, or a pattern as *_sm90.cu), link nothing",
    )
    parser.add_argument(
        "--dry-run", action="store_true", help="print the commands that would compile what changed, and run none"
    )
    add_trace(parser)
    add_options(parser, "arch", "venv", "cache", "jobs", *SHARED, "compile_cache", "compile_cache_write")


def run(args: argparse.Namespace, environ: Mapping[str, str]) -> Mapping[str, Any]:
    started = time.monotonic()
    asked = settling.Asked.now(args, environ)
    session = open_session(args, environ)
    if args.dry_run:
        return _dry_run(session, args.only)
    with session.locked():
        if args.only:
            decided = session.plan()
            built = apply.build_plan(session, decided, only=args.only)
            state: dict[str, Any] = {}
        else:
            decided, maybe, state = apply.bring_up_to_date(session, compile_allowed=True)
            if maybe is None:
                seconds = time.monotonic() - started
                assert decided.candidate is not None  # it was linked
                source, manifest = decided.candidate.label, decided.candidate.manifest
                settling.note(asked, session, manifest, decided.candidate.bundle, source)
                line = f"nothing to compile: {source}, {seconds:.2f} s"
                return {
                    **report.as_json(session, decided), **state, "compiled": [], "restored": [], "elapsed": seconds,
                    "lines": [line],
                }  # fmt: skip
            built = maybe
            settling.note(asked, session, built.manifest, None, "the last build here")
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
        "phases": {name: round(took, 3) for name, took in timeline.seconds("phase").items()},
        "lines": [line, *report.spent(timeline, seconds)],
    }


def _dry_run(session: Session, only: Sequence[str] | None) -> Mapping[str, Any]:
    """The commands of the units that a build would compile now; those that may come back from the cache are among
    them."""
    decided = session.plan()
    manifest = decided.candidate.manifest if decided.candidate and decided.candidate.manifest.units else None
    manifest = manifest or last_recipe(session.root)
    if manifest is None:
        raise NothingFits(
            f"nobody knows yet what {session.root} compiles",
            why="its build script never ran here, and no bundle tells",
            hint=f"xfdev build {shlex.quote(str(session.root))} asks it, and compiles",
        )
    sources = [unit.source for unit in manifest.units]
    if only:
        chosen = set(apply.resolve_units(list(only), sources))
    else:
        chosen = {*decided.affected} if decided.candidate else {*sources}
    commands = {
        unit.source: [session.places.concrete(word) for word in unit.argv]
        for unit in manifest.units
        if unit.source in chosen
    }
    notes = ["the build script runs first, and may tell other commands than it did last"] if decided.reconfigure else []
    lines = [f"cd {shlex.quote(str(session.root / TEMP))}", *map(shlex.join, commands.values())] if commands else []
    return {
        **report.as_json(session, decided),
        "commands": commands,
        "folder": str(session.root / TEMP),
        "lines": [*(lines or ["nothing to compile"]), *(f"# {note}" for note in notes)],
    }
