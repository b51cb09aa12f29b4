"""``xfdev nightly``"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xfdev.cli import add_options
from xfdev.commands.session import local_store, resolve_options, with_cache
from xfdev.console import console, duration, size
from xfdev.errors import NightFailed, UsageError, XfdevError
from xfdev.files import locked, write_atomic

if TYPE_CHECKING:
    from xfdev.commands.cells import Work
    from xfdev.nightly.decide import Cell, Decision, Facts
    from xfdev.nightly.settings import Settings
    from xfdev.nightly.shelf import Shelf

EXAMPLE = "xfdev nightly nightly.toml --page site"
_PENDING = "nightly-pending"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "path", nargs="?", default=None, help="nightly.toml (default: here); with --history a git repository"
    )
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--plan", action="store_true", help="say what would be done; changes nothing")
    how.add_argument("--begin", action="store_true", help="note the night in the registry, for --cell, and stop")
    how.add_argument(
        "--cell",
        metavar="NAME",
        action="append",
        help="do only this cell of the night that was begun: cu130, cu130/9.0",
    )
    how.add_argument("--publish", action="store_true", help="publish the night that was begun, if all its cells passed")
    how.add_argument(
        "--history", metavar="N", type=int, help="only tell what each of the last N commits costs after the one before"
    )
    parser.add_argument("--bundle", metavar="ID", help="with --history: the bundle that tells what units read")
    parser.add_argument("--page", metavar="FOLDER", help="write the page of the nights, and its JSON, there")
    parser.add_argument("--work", metavar="FOLDER", help="scratch, worth keeping (default: in the cache folder)")
    parser.add_argument("--image", metavar="REF", help="the repository to publish to, instead of nightly.toml's")
    parser.add_argument("--take-over", action="store_true", help="go on although another nightly says that it works")
    add_options(parser, "cache")


def run(args: argparse.Namespace, environ: Mapping[str, str]) -> Mapping[str, Any]:
    environ = with_cache(resolve_options(args, None, environ), environ)
    if args.history is not None:
        if args.history < 1:
            raise UsageError("--history wants a number of commits", hint="for example --history 30")
        from xfdev.commands import history

        return history.run(Path(args.path or "."), args.history, args.bundle, local_store(environ), environ)
    from xfdev.nightly import settings
    from xfdev.nightly.shelf import Shelf
    from xfdev.stores.reference import reference

    chosen = settings.read(Path(args.path or "nightly.toml"), image=args.image)
    place = reference(chosen.image)
    if place.version:
        raise UsageError(f"image = {chosen.image!r} has a tag", hint="the nightly makes the tags: leave it out")
    return _Nightly(chosen, Shelf(place, environ), args, environ).run()


class _Nightly:
    """One run of the command."""

    def __init__(self, settings: Settings, shelf: Shelf, args: argparse.Namespace, environ: Mapping[str, str]) -> None:
        from xfdev.files import sha256_of
        from xfdev.venv import cache_folder

        self.settings, self.shelf, self.args, self.environ = settings, shelf, args, environ
        own = cache_folder(environ) / "nightly" / sha256_of(str(shelf))[:12]
        self.folder = (Path(args.work) if args.work else own).absolute()
        self.started = time.monotonic()
        self.outcomes: dict[str, Mapping[str, Any]] = {}

    def run(self) -> Mapping[str, Any]:
        from xfdev.nightly import lease

        if self.args.cell or self.args.publish:
            facts, locks = self._begun()
        else:
            from xfdev.nightly import ask

            facts, locks = ask.facts(self.settings, self.folder / "upstream.git", self.environ)
        decision = self._decide(facts)
        if self.args.plan or decision.todo == "nothing":
            return self._answer(decision, facts, {})
        cell = self.args.cell[0] if self.args.cell else ""
        with (
            locked(self.folder / f"lock-{cell.replace('/', '-')}", f"{self.shelf}", wait=0.0),
            lease.held(self.shelf, cell, take_over=self.args.take_over),
        ):
            decision = self._decide(facts)  # another one may have finished it a moment ago
            return self._work(decision, facts, locks)

    def _begun(self) -> tuple[Facts, dict[str, str]]:
        """What the night that was begun is made of. Raises UsageError where none was, or of other settings."""
        from xfdev.nightly.decide import Facts, VariantFacts, cells, identity

        pending = self.shelf.note(_PENDING)
        if pending is None:
            raise UsageError(f"no night was begun in {self.shelf}", hint="xfdev nightly --begin notes one")
        known = pending["facts"]
        variants = {name: VariantFacts(**entry) for name, entry in known["variants"].items()}
        facts = Facts(tuple(known["commits"]), known["recipe"], variants)
        if {*variants} != {entry.name for entry in self.settings.variants} or (
            identity(cells(self.settings, facts)) != pending["id"]
        ):
            raise UsageError(
                f"{pending['night']} was begun with another nightly.toml", hint="xfdev nightly --begin notes a new one"
            )
        return facts, pending["locks"]

    def _decide(self, facts: Facts) -> Decision:
        from xfdev.nightly import decide

        tags = {*self.shelf.tags()}
        published = self.shelf.published() if "latest" in tags else None
        pending = self.shelf.note(_PENDING) if _PENDING in tags else None
        found = decide.cells(self.settings, facts)
        self.outcomes.update((pending or {}).get("done", {}))
        for cell in found:
            tag = f"{(pending or {}).get('night')}_{cell.note}"
            note = self.shelf.note(tag) if tag in tags else None
            if note is not None and note.get("key") == cell.key:
                self.outcomes[cell.key] = note
        self.published = published
        self.names = (published or {}).get("names", {})
        return decide.decide(
            self.settings,
            facts,
            published=published,
            pending=pending,
            outcomes=self.outcomes,
            names={name: self.shelf.digest(name) if name in tags else None for name in self.names},
            tags=tags,
            today=time.strftime("%Y%m%d", time.gmtime()),
        )

    def _work(self, decision: Decision, facts: Facts, locks: Mapping[str, str]) -> Mapping[str, Any]:
        from xfdev.commands import cells, nights

        for reason in decision.reasons:
            console.info(f"{decision.night}: {reason}")
        if decision.todo in ("nothing", "finish"):
            return self._answer(decision, facts, self._finish(decision))
        work = cells.Work(
            self.settings, self.shelf, decision.night, facts.variants, locks, facts.commits, self.folder, self.environ,
            self.published,
        )  # fmt: skip
        if not (self.args.cell or self.args.publish):
            begun = {
                "night": decision.night,
                "id": decision.id,
                "facts": asdict(facts),
                "locks": dict(locks),
                # What a night that something newer has overtaken had done already.
                "done": {cell.key: decision.done[cell.key] for cell in decision.cells if cell.key in decision.done},
                "started": time.time(),
            }
            known = self.shelf.note(_PENDING) or {}
            if known.get("id") != decision.id:
                self.shelf.put_note(_PENDING, begun, decision.night)
        if self.args.begin:
            return self._answer(decision, facts, {})
        done = {key: dict(outcome) for key, outcome in decision.done.items()}
        if not self.args.publish:
            self._build(decision, work, done)
        if self.args.cell:
            chosen = [cell for cell in decision.cells if cell.chosen_by(self.args.cell)]
            return self._answer(decision, facts, {}, bad=[c for c in chosen if not done.get(c.key, {}).get("ok")])
        bad = [cell for cell in decision.cells if not done.get(cell.key, {}).get("ok")]
        if bad:
            return self._answer(decision, facts, {}, bad=bad)
        self.published, digest = nights.publish(decision, facts, work, done)
        return self._answer(decision, facts, {"published": digest, "pruned": self._prune(decision.night)})

    def _build(self, decision: Decision, work: Work, done: dict[str, dict[str, Any]]) -> None:
        """Do what is waiting, each outcome noted in the registry as soon as it is known."""
        from xfdev.commands import cells, engine

        known = {cell.key for cell in decision.waiting}
        if self.args.cell:
            known = {cell.key for cell in decision.waiting if cell.chosen_by(self.args.cell)}
            if not any(cell.chosen_by(self.args.cell) for cell in decision.cells):
                names = ", ".join(cell.name for cell in decision.cells)
                raise UsageError(f"this night has no cell {self.args.cell[0]}", hint=f"it has {names}")
        if known:
            engine.require(self.environ)
        for cell in decision.cells:
            image = next(entry for entry in decision.cells if entry.variant == cell.variant and not entry.commit)
            ready = done.get(image.key, {}).get("ok")
            if ready:
                work.images[cell.variant] = done[image.key]["image"]
            if cell.key not in known:
                continue
            if cell.commit and not ready:
                console.warning(f"{cell.name} is not tried: the image of {cell.variant} is not there")
                continue
            outcome = cells.build(cell, work)
            self.shelf.put_note(f"{decision.night}_{cell.note}", outcome, cell.name)
            done[cell.key] = outcome
            self.outcomes[cell.key] = outcome

    def _finish(self, decision: Decision) -> dict[str, Any]:
        """Move the names that a nightly which was stopped has left behind ``latest``."""
        from xfdev.commands import nights

        if decision.todo == "nothing":
            return {}
        nights.move(self.shelf, self.names)
        return {"published": self.shelf.digest("latest"), "pruned": self._prune(decision.night)}

    def _prune(self, current: str) -> list[str]:
        """Delete old nights; whatever goes wrong with it is said, and does not matter."""
        from xfdev.commands import nights

        try:
            return nights.prune(self.shelf, self.settings, current, self.environ)
        except (XfdevError, OSError) as error:
            console.warning(f"old nights stay: {error}")
            return []

    def _answer(
        self, decision: Decision, facts: Facts, more: Mapping[str, Any], bad: list[Cell] | None = None
    ) -> Mapping[str, Any]:
        rows = [self._row(cell) for cell in decision.cells]
        result: dict[str, Any] = {
            "night": decision.night,
            "todo": decision.todo,
            "reasons": list(decision.reasons),
            "cells": rows,
            "waiting": [cell.name for cell in decision.waiting],
            "failed": [cell.name for cell in bad or ()],
            "record": self.published,
            "elapsed": round(time.monotonic() - self.started, 1),
            **more,
        }
        if self.args.page:
            from xfdev.nightly import page

            folder = Path(self.args.page)
            folder.mkdir(parents=True, exist_ok=True)
            shown = page.shown(result, asdict(facts))
            write_atomic(folder / "nightly.json", page.as_json(shown))
            write_atomic(folder / "index.html", page.html(shown))
        result["lines"] = self._lines(result, decision)
        if bad:
            result["exit_code"] = NightFailed.exit_code
        return result

    def _row(self, cell: Cell) -> dict[str, Any]:
        outcome = self.outcomes.get(cell.key) or (self.published or {}).get("cells", {}).get(cell.key) or {}
        state = {True: "passed", False: "failed"}.get(outcome.get("ok"), "waiting")  # type: ignore[arg-type]
        shown = ("seconds", "steps", "error", "image", "bundle", "night")
        about = {"cell": cell.name, "variant": cell.variant, "arch": cell.arch, "commit": cell.commit, "state": state}
        return {**about, **{name: value for name, value in outcome.items() if name in shown}}

    def _lines(self, result: Mapping[str, Any], decision: Decision) -> list[str]:
        took = duration(result["elapsed"])
        lines = [f"  {row['cell']}: {row['state']}" + (f": {row['error']}" if row.get("error") else "")
                 for row in result["cells"]]  # fmt: skip
        latest = f"{self.shelf}:latest"
        if result["failed"]:
            count = f"{len(result['failed'])} of {len(lines)} cells are not good"
            return [f"{decision.night}: {count}; {latest} stays, {took}", *lines]
        if self.args.plan:
            return [f"{decision.night}: {decision.todo}", *(f"  {reason}" for reason in decision.reasons), *lines]
        if decision.todo == "nothing":
            return [f"nothing changed since {decision.night}, {took}"]
        if "published" not in result:
            return [f"{decision.night}, {took}", *lines]
        images = (result["record"] or {}).get("images", {})
        sizes = [f"  {name}: {size(entry['bytes'])}, {size(entry['new_bytes'])} of them new"
                 for name, entry in images.items()]  # fmt: skip
        return [f"{latest} is {decision.night}, {took}", *lines, *sizes,
                *(f"  {night} is deleted" for night in result["pruned"])]  # fmt: skip
