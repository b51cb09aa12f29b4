"""The manifest of a bundle: what was compiled, from what, with what, and how.

A manifest is plain JSON in canonical form; its SHA-256 is the bundle's name. Paths of the checkout are relative and
use ``/``. Paths of the environment are written with the placeholders of ``Places``, so that a recipe recorded in one
checkout runs in another.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from xfdev.errors import BadBundle

SCHEMA = 1


@dataclass(frozen=True)
class Places:
    """Where a recorded command's paths lie on this machine."""

    checkout: str
    site_packages: str
    prefix: str
    cuda_home: str | None
    python_include: str
    python_base: str

    @cached_property
    def _pairs(self) -> list[tuple[str, str]]:
        pairs = [
            ("%{cuda}", self.cuda_home),
            ("%{site}", self.site_packages),
            ("%{prefix}", self.prefix),
            ("%{checkout}", self.checkout),
            ("%{python-include}", self.python_include),
            ("%{python}", self.python_base),
        ]
        return sorted(((mark, path) for mark, path in pairs if path), key=lambda pair: -len(pair[1]))

    def abstract(self, word: str) -> str:
        """*word* with this machine's paths replaced by placeholders, the longest path first."""
        for mark, path in self._pairs:
            word = word.replace(path, mark)
        return word

    def concrete(self, word: str) -> str:
        """The reverse of ``abstract``, for this machine."""
        if "%{" not in word:
            return word
        for mark, path in self._pairs:
            word = word.replace(mark, path)
        return word


@dataclass(frozen=True)
class Unit:
    """One translation unit. *object* is relative to the build folder; *seconds* and *peak* (bytes) are those of the
    last real compile, None while there was none; *inputs* the files of the checkout it read, None while unknown."""

    source: str
    object: str
    argv: tuple[str, ...]
    search: tuple[str, ...] = ()
    inputs: tuple[str, ...] | None = None
    external: Mapping[str, str] = field(default_factory=dict)
    probes: tuple[str, ...] = ()
    exact: tuple[str, ...] = ()
    opaque: bool = False
    beside: tuple[str, ...] = ()
    """Files that look as if they could shadow an input, but were there and did not."""
    seconds: float | None = None
    peak: int | None = None
    digest: str | None = None
    """SHA-256 of the object."""


@dataclass(frozen=True)
class Step:
    """A command that runs after all units, in order: device link, link. *output* is relative to the build folder."""

    argv: tuple[str, ...]
    output: str


@dataclass(frozen=True)
class Output:
    """A file of a bundle: *place* is where it belongs in the checkout."""

    place: str
    sha256: str
    size: int
    mode: int


@dataclass(frozen=True)
class Scripts:
    """What the build script depended on: contents, and lists in which a new file would matter."""

    files: Mapping[str, str] = field(default_factory=dict)
    globs: tuple[Mapping[str, Any], ...] = ()
    listings: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    generated: tuple[str, ...] = ()
    asked: Mapping[str, bool] = field(default_factory=dict)
    """Paths whose existence the script asked for, and what it was told."""
    linked: Mapping[str, str] = field(default_factory=dict)
    """Files of the checkout that the link commands read, or (empty) would read if they were there."""


@dataclass(frozen=True)
class Needs:
    """What the outputs need to load, read from the binaries. *torch* is ``==VERSION`` or ``>=VERSION``; *cuda* the
    major of its runtime; *python* is ``any``, ``abi3`` or ``X.Y``; *sass* and *ptx* the archs of its device code,
    *isa* the version of that PTX; *glibcxx* the version of libstdc++'s symbols (``3.4.30``)."""

    glibc: str = ""
    torch: str = ""
    cuda: str | None = None
    python: str = "any"
    machine: str = ""
    sass: tuple[str, ...] = ()
    ptx: tuple[str, ...] = ()
    isa: str = ""
    glibcxx: str = ""


@dataclass(frozen=True)
class Manifest:
    """Everything about a bundle but its files. *kind* is ``build`` (made by us, with units) or ``release`` (an
    official wheel, whose native inputs are known from its sdist by pattern)."""

    project: str
    version: str
    kind: str
    facts: Mapping[str, str] = field(default_factory=dict)
    variables: Mapping[str, str] = field(default_factory=dict)
    watched: tuple[str, ...] = ()
    needs: Needs = field(default_factory=Needs)
    scripts: Scripts = field(default_factory=Scripts)
    files: Mapping[str, str] = field(default_factory=dict)
    submodules: Mapping[str, str] = field(default_factory=dict)
    patterns: tuple[str, ...] = ()
    names: tuple[str, ...] = ()
    """Names of headers outside the checkout, as they may be spelled in an ``#include``."""
    roots: tuple[str, ...] = ()
    listing: tuple[str, ...] = ()
    """All files below *roots* when the units were compiled."""
    units: tuple[Unit, ...] = ()
    steps: tuple[Step, ...] = ()
    outputs: Mapping[str, Output] = field(default_factory=dict)
    metadata: Mapping[str, str] = field(default_factory=dict)
    metadata_files: Mapping[str, str] = field(default_factory=dict)
    source_root: str = ""
    """The folder of the checkout that goes on ``sys.path``: ``""`` or, say, ``src``."""
    objects: Mapping[str, str] = field(default_factory=dict)
    """The compiler-cache entries of all units: relative path -> SHA-256."""
    origin: Mapping[str, str] = field(default_factory=dict)
    link_seconds: float | None = None
    schema: int = SCHEMA

    def to_bytes(self) -> bytes:
        return self._encoded

    @cached_property
    def _encoded(self) -> bytes:
        # Written to more than one place; `asdict`, which copies everything, takes most of what a link takes.
        return json.dumps(self, default=_fields, sort_keys=True, separators=(",", ":")).encode()

    @property
    def id(self) -> str:
        return hashlib.sha256(self.to_bytes()).hexdigest()

    @property
    def content(self) -> str:
        """A digest of what the bundle is, without when it was made and how long that took: two compiles of the same
        inputs that gave the same outputs have the same."""
        units = tuple(replace(unit, seconds=None, peak=None, digest=None) for unit in self.units)
        objects = {"": ""} if self.objects else {}
        return replace(self, units=units, objects=objects, origin={}, link_seconds=None, metadata={}).id

    @property
    def headline(self) -> dict[str, str]:
        """What a list of bundles says of each, to choose by."""
        return {
            "project": self.project,
            "version": self.version,
            "kind": self.kind,
            "arch": self.facts.get("arch") or " ".join(self.needs.sass),
            "torch": self.facts.get("torch") or self.needs.torch,
            "cuda": self.facts.get("cuda") or self.needs.cuda or "",
            "created": self.origin.get("created", "0"),
            "content": self.content,
        }

    def elsewhere(self, places: Places) -> tuple[str, ...]:
        """What its commands name and the compiler cache had at another path (``seen``): the environment, Python."""
        now = seen(self.units, places)
        then: dict[str, str] = json.loads(self.origin.get("seen", "{}"))
        names = [_PLACES[mark] for mark in now if mark in then and now[mark] != then[mark]]
        return tuple(dict.fromkeys(names))

    def with_units(self, units: tuple[Unit, ...]) -> Manifest:
        return replace(self, units=units)


def _fields(value: Any) -> dict[str, Any]:
    return {entry.name: getattr(value, entry.name) for entry in fields(value)}


#: What a person calls the places of a command.
_PLACES = {
    "%{cuda}": "CUDA",
    "%{site}": "the environment",
    "%{prefix}": "the environment",
    "%{python-include}": "Python",
    "%{python}": "Python",
}


def seen(units: Iterable[Unit], places: Places) -> dict[str, str]:
    """The places that the commands of *units* name, as the compiler cache sees them: digests of their paths, by
    placeholder. What lies in the checkout is relative to it, and so the same in every checkout."""
    words = {word for unit in units for word in unit.argv if "%{" in word}
    found = {}
    for mark in _PLACES:
        if any(mark in word for word in words):
            path = os.path.join(places.concrete(mark), "")
            below = path.removeprefix(os.path.join(places.checkout, ""))
            found[mark] = hashlib.sha256(below.encode()).hexdigest()[:16]
    return found


def from_bytes(data: bytes, where: Path | str) -> Manifest:
    """The manifest in *data*. Raises BadBundle, naming *where* it came from, for anything that is none."""
    try:
        value = json.loads(data)
        if value["schema"] != SCHEMA:
            raise BadBundle(
                f"the manifest in {where} has schema {value['schema']}, this xfdev reads {SCHEMA}",
                why="another version of xfdev wrote it",
                hint="xfdev bundle prune --all removes what cannot be read; it is made anew when needed",
            )
        value["units"] = tuple(Unit(**{**unit, **_tuples(unit, _UNIT_LISTS)}) for unit in value["units"])
        value["steps"] = tuple(Step(tuple(step["argv"]), step["output"]) for step in value["steps"])
        value["outputs"] = {name: Output(**output) for name, output in value["outputs"].items()}
        value["needs"] = Needs(**{**value["needs"], **_tuples(value["needs"], ("sass", "ptx"))})
        scripts = value["scripts"]
        listings = {folder: tuple(names) for folder, names in scripts["listings"].items()}
        value["scripts"] = Scripts(
            **{**scripts, **_tuples(scripts, ("globs", "generated")), "listings": listings},
        )
        value.update(_tuples(value, ("watched", "patterns", "names", "roots", "listing")))
        manifest = Manifest(**value)
        _check_paths(manifest, where)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise BadBundle(
            f"the manifest in {where} is damaged",
            why="a write was cut short by another program, or the file was edited",
            hint="xfdev bundle verify --remove throws damaged bundles away",
            details=repr(error),
        ) from error
    return manifest


_UNIT_LISTS = ("argv", "search", "inputs", "probes", "exact", "beside")


def _tuples(value: Mapping[str, Any], names: tuple[str, ...]) -> dict[str, Any]:
    return {name: None if value[name] is None else tuple(value[name]) for name in names if name in value}


def _check_paths(manifest: Manifest, where: Path | str) -> None:
    """No file of a bundle may be read or written outside its folder."""
    names = [
        *manifest.outputs,
        *manifest.objects,
        *(output.place for output in manifest.outputs.values()),
        *manifest.metadata,
        manifest.metadata.get("name", "-"),
        manifest.source_root or "-",
        *(unit.object for unit in manifest.units),
        *(step.output for step in manifest.steps),
    ]
    for name in names:
        if name.startswith("/") or ".." in name.split("/") or "\0" in name or not name:
            raise BadBundle(
                f"the bundle in {where} has a file {name!r}, which leaves its folder",
                why="it was not made by xfdev",
                hint="xfdev bundle verify --remove throws such bundles away",
            )
