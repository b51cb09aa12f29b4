"""A night in the registry: its names, ``latest`` among them; and old nights, which go as ``nightly.prune`` says."""

from __future__ import annotations

import json
import platform
import time
from collections.abc import Collection, Mapping
from dataclasses import asdict
from typing import Any

from xfdev.commands import cells
from xfdev.console import console
from xfdev.errors import BadBundle
from xfdev.nightly import decide
from xfdev.nightly import prune as policy
from xfdev.nightly import publish as documents
from xfdev.nightly.decide import NIGHT
from xfdev.nightly.settings import Settings
from xfdev.nightly.shelf import Shelf
from xfdev.stores.artifact import INDEX_TYPE, digest_of
from xfdev.stores.reference import reference


def publish(
    decision: decide.Decision, facts: decide.Facts, work: cells.Work, done: Mapping[str, Mapping[str, Any]]
) -> tuple[dict[str, Any], str]:
    """Give a night whose cells all passed its names; its record, and the digest of ``latest``.

    First the names that never move, then ``latest`` by one request: whoever reads it has all of one night or all of
    another. The variants' own names follow; a nightly that is stopped in between is finished by the next one.
    """
    shelf, settings = work.shelf, work.settings
    of_night = {cell.key: done[cell.key] for cell in decision.cells}
    images, manifests = {}, {}
    for cell in decision.cells:
        if cell.commit:
            continue
        entry = of_night[cell.key]["image"]
        found = shelf.document(entry["digest"])
        if found is None:
            raise BadBundle(
                f"{shelf} no longer has {entry['digest'][:19]}, the image of {cell.variant}",
                why="it was deleted there after it had been noted",
                hint=f"delete {shelf}:{decision.night}_{cell.note}, too, and run it again: the image is built anew",
            )
        same = entry["digest"] == (work.before or {}).get("images", {}).get(cell.variant, {}).get("digest")
        images[cell.variant] = {**entry, "new_bytes": 0 if same else entry["new_bytes"]}
        manifests[cell.variant] = found
    record = _record(decision, facts, work, of_night, images)
    note = shelf.put_note(f"{decision.night}_record", record, decision.night)
    index = documents.index(decision.night, settings.default, manifests, note, _machine())
    for variant, (data, media) in manifests.items():
        if shelf.digest(work.tag(variant)) is None:  # its image is that of an earlier night
            shelf.put(work.tag(variant), data, media)
    shelf.put(decision.night, index, INDEX_TYPE)
    shelf.put("latest", index, INDEX_TYPE)
    move(shelf, record["names"])
    return record, digest_of(index)


def move(shelf: Shelf, names: Mapping[str, str]) -> None:
    """Have each name lead to its digest."""
    for name, digest in names.items():
        found = shelf.document(digest)
        if found is not None and shelf.digest(name) != digest:
            shelf.put(name, *found)


def _record(
    decision: decide.Decision,
    facts: decide.Facts,
    work: cells.Work,
    of_night: Mapping[str, Mapping[str, Any]],
    images: Mapping[str, Mapping[str, Any]],
) -> dict[str, Any]:
    """All that is known of a night: the page is made of it, and the next night compares itself with it."""
    before = (work.before or {}).get("facts", {}).get("variants", {})
    bundles = [
        {**of_night[cell.key]["bundle"], "variant": cell.variant, "arch": cell.arch, "commit": cell.commit}
        for cell in decision.cells
        if cell.commit
    ]
    tonight = [outcome for outcome in of_night.values() if outcome.get("night") == decision.night]
    record: dict[str, Any] = {
        "night": decision.night,
        "id": decision.id,
        "created": time.time(),
        "repository": work.settings.repository,
        "image": str(work.shelf),
        "default": work.settings.default,
        "facts": asdict(facts),
        "changes": list(decision.reasons),
        "packages": {
            name: decide.packages(before.get(name, {}).get("packages", {}), so.packages)
            for name, so in facts.variants.items()
        },
        "images": images,
        "bundles": bundles,
        "cells": {key: {k: v for k, v in outcome.items() if k != "details"} for key, outcome in of_night.items()},
        "seconds": round(sum(outcome.get("seconds", 0.0) for outcome in tonight), 1),
        "names": {name: entry["digest"] for name, entry in images.items()},
    }
    newest = next((entry for entry in bundles if entry["variant"] == work.settings.default), None)
    if work.settings.history and newest:
        record["statistics"] = cells.statistics(work, newest)
    record["history"] = documents.history(work.before, documents.line(record))
    return record


def _machine() -> str:
    """This machine's architecture, as images name it."""
    found = platform.machine()
    return {"x86_64": "amd64", "aarch64": "arm64"}.get(found, found)


def prune(shelf: Shelf, settings: Settings, current: str, environ: Mapping[str, str]) -> list[str]:
    """Delete all but the newest nights; returns those that went. Raises StoreUnreachable, OSError for a lock file."""
    tags = shelf.tags()
    gone = policy.old(tags, settings.keep, current)
    if not gone:
        return []
    # A lock file that cannot be read may name anything: then nothing is deleted.
    protected = policy.named((settings.place / name).read_text() for name in settings.locks)
    records = {night: shelf.note(f"{night}_record") or {} for night in policy.nights(tags)}
    known, children = _read(shelf, tags)
    for digest in policy.doomed(known, gone, children, protected):
        if not shelf.delete(digest):
            console.info(f"{shelf} deletes nothing for us: old nights stay")
            return []
    kept = {digest for night, record in records.items() if night not in gone for digest in _bundles(record)}
    lost = {digest for night in gone for digest in _bundles(records[night])} - kept
    store = Shelf(reference(settings.bundles), environ)
    if lost:
        # What a list of bundles still shows is left to it.
        lists = [tag for tag in store.tags() if not tag.startswith("bundle-") and not NIGHT.match(tag)]
        _, listed = _read(store, lists)
        for digest in sorted(lost - protected - {inner for found in listed.values() for inner in found}):
            store.delete(digest)
    return gone


def _bundles(record: Mapping[str, object]) -> list[str]:
    found = record.get("bundles")
    return [str(entry["digest"]) for entry in found] if isinstance(found, list) else []


def _read(shelf: Shelf, tags: Collection[str]) -> tuple[dict[str, str], dict[str, list[str]]]:
    """The digest of each tag, and what each index lists, those in indexes too."""
    known: dict[str, str] = {}
    children: dict[str, list[str]] = {}

    def look(version: str) -> str | None:
        if version in children:
            return version
        found = shelf.document(version)
        if found is None:
            return None
        digest = digest_of(found[0])
        if digest not in children:
            entries = json.loads(found[0]).get("manifests", ())
            children[digest] = [str(entry["digest"]) for entry in entries]
            for entry in entries:
                if "index" in entry.get("mediaType", "") or "list" in entry.get("mediaType", ""):
                    look(str(entry["digest"]))
        return digest

    for tag in tags:
        digest = look(tag)
        if digest is not None:
            known[tag] = digest
    return known, children
