"""What a nightly has to do. Pure: what was published and what is so now in, what to do out.

A night is made of cells: each variant's image, and a bundle of each variant, arch and commit. A cell's key is a digest
of all that goes into it. Whatever was done for a key, in this night or an earlier one, need not be done again.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from xfdev.nightly.settings import Settings, Variant

NIGHT = re.compile(r"nightly-(\d{8})-[0-9a-f]{7,40}(?:\.\d+)?")
SHORT = 12

Todo = Literal["nothing", "build", "publish", "finish"]


@dataclass(frozen=True)
class VariantFacts:
    """*base* is the image built from, with its digest; *packages* maps names to versions; *lock* is a digest of the
    whole lock."""

    base: str
    packages: Mapping[str, str]
    lock: str


@dataclass(frozen=True)
class Facts:
    """What is so now. *commits* are upstream's, the newest first; *recipe* is a digest of what else makes the image."""

    commits: tuple[str, ...]
    recipe: str
    variants: Mapping[str, VariantFacts]


@dataclass(frozen=True)
class Cell:
    """An image (*commit* is ""), or a bundle of *arch* ("" without device code) and *commit*."""

    variant: str
    key: str
    arch: str = ""
    commit: str = ""

    @property
    def name(self) -> str:
        return f"{self.variant}/{self.arch or 'none'}/{self.commit[:SHORT]}" if self.commit else self.variant

    @property
    def note(self) -> str:
        """The end of the tag under which the cell's outcome is kept while the night is not published."""
        return self.key[:16]

    def chosen_by(self, names: Collection[str]) -> bool:
        """Whether one of *names* (``cu130``, ``cu130/9.0``, the whole) is this cell's: an image's is its own alone."""
        return any(
            name == self.name or (bool(self.commit) and "/" in name and self.name.startswith(name + "/"))
            for name in names
        )


@dataclass(frozen=True)
class Decision:
    """*cells* are all of the night, *waiting* those still to be done; *id* is what the night is of."""

    todo: Todo
    night: str
    id: str
    cells: tuple[Cell, ...]
    waiting: tuple[Cell, ...] = ()
    reasons: tuple[str, ...] = ()
    done: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Outcomes by key."""


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def filled(variant: Variant, settings: Settings, commit: str) -> dict[str, str]:
    """The build arguments of a variant, for one commit."""
    marks = {"{repository}": settings.repository, "{commit}": commit}
    found = {}
    for name, text in variant.args.items():
        for mark, value in marks.items():
            text = text.replace(mark, value)
        found[name] = text
    return found


def cells(settings: Settings, facts: Facts) -> tuple[Cell, ...]:
    """All cells, each image before its bundles."""
    found = []
    for variant in settings.variants:
        so = facts.variants[variant.name]
        image = _digest([
            "image", settings.image, variant.name, so.base, so.lock, facts.recipe,
            filled(variant, settings, facts.commits[0]), [*variant.contexts],
        ])  # fmt: skip
        found.append(Cell(variant.name, image))
        for commit in facts.commits:
            for arch in variant.archs or ("",):
                key = _digest(["bundle", settings.repository, settings.bundles, image, arch, commit])
                found.append(Cell(variant.name, key, arch, commit))
    return tuple(found)


def identity(found: Collection[Cell]) -> str:
    return _digest(sorted(cell.key for cell in found))


def decide(
    settings: Settings,
    facts: Facts,
    *,
    published: Mapping[str, Any] | None,
    pending: Mapping[str, Any] | None,
    outcomes: Mapping[str, Mapping[str, Any]],
    names: Mapping[str, str | None],
    tags: Collection[str],
    today: str,
) -> Decision:
    """What to do. *published* and *pending* are the records of those nights, *outcomes* those of cells by key, *names*
    the digests behind the names that people use, *tags* all that the registry has, *today* ``YYYYMMDD``.

    A cell that failed is waiting: whatever was wrong with it may be mended.
    """
    found = cells(settings, facts)
    name = identity(found)
    if published is not None and published.get("id") == name:
        night = str(published["night"])
        wrong = [tag for tag, digest in published.get("names", {}).items() if names.get(tag) != digest]
        if not wrong:
            return Decision("nothing", night, name, found, done=_good(published, outcomes))
        return Decision("finish", night, name, found, reasons=tuple(f"{tag} is not moved yet" for tag in wrong))
    if pending is not None and pending.get("id") == name:
        night = str(pending["night"])
    else:
        night = fresh(f"nightly-{today}-{facts.commits[0][:SHORT]}", tags, pending, published)
    good = _good(published, outcomes)
    waiting = tuple(cell for cell in found if cell.key not in good)
    reasons = tuple(differences(published, facts, settings))
    return Decision("build" if waiting else "publish", night, name, found, waiting, reasons, good)


def _good(
    published: Mapping[str, Any] | None, outcomes: Mapping[str, Mapping[str, Any]]
) -> dict[str, Mapping[str, Any]]:
    known = {**(published or {}).get("cells", {}), **outcomes}
    return {key: outcome for key, outcome in known.items() if outcome.get("ok")}


def fresh(
    name: str, tags: Collection[str], pending: Mapping[str, Any] | None, published: Mapping[str, Any] | None
) -> str:
    """A night's name that nothing has yet: such names never change what they are of."""
    begun = {str((record or {}).get("night")) for record in (pending, published)}
    taken = begun | {found[0] for tag in tags if (found := NIGHT.match(tag))}
    number, chosen = 1, name
    while chosen in taken:
        number += 1
        chosen = f"{name}.{number}"
    return chosen


def differences(published: Mapping[str, Any] | None, facts: Facts, settings: Settings) -> list[str]:
    """What is other than in the published night, in words."""
    if published is None:
        return ["nothing was published yet"]
    old = published.get("facts", {})
    found = []
    before, now = [*old.get("commits", [])], [*facts.commits]
    if before != now:
        found.append(f"upstream {(before or ['?'])[0][:SHORT]} -> {now[0][:SHORT]}")
    if old.get("recipe") != facts.recipe:
        found.append("the image's own files changed")
    for name, so in facts.variants.items():
        was = old.get("variants", {}).get(name)
        if was is None:
            found.append(f"{name} is new")
            continue
        if was.get("base") != so.base:
            found.append(f"{name}: another base image")
        moved = packages(was.get("packages", {}), so.packages)
        found += [f"{name}: {line}" for line in moved]
        if was.get("lock") != so.lock and not moved:
            found.append(f"{name}: other files of the same versions")
    found += [f"{name} is left out" for name in old.get("variants", {}) if name not in facts.variants]
    return found or ["nightly.toml changed"]


def packages(old: Mapping[str, str], new: Mapping[str, str]) -> list[str]:
    """``torch 2.14.0 -> 2.14.1`` for each package that came, went or moved."""
    return [
        f"{name} {old.get(name, 'none')} -> {new.get(name, 'none')}"
        for name in sorted({*old, *new})
        if old.get(name) != new.get(name)
    ]
