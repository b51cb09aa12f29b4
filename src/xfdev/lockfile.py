"""The lock file: what of elsewhere a team takes, by digest. Reading, writing and comparing; nothing is fetched here.

JSON, as it is read at every start; keys sorted and one value a line, so that a change is a readable diff.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from xfdev.errors import StaleLock, UsageError
from xfdev.options import LOCK_FILE

NAME = LOCK_FILE
SCHEMA = 1


@dataclass(frozen=True)
class Bundle:
    """A bundle of a store. *digest* is its artifact's, *id* its own; *recipe* and *recipe_size* are those of its
    manifest there, so that it is found without a list. *labels* say what it is for."""

    digest: str
    id: str
    store: str
    recipe: str
    recipe_size: int
    labels: Mapping[str, str] = field(default_factory=dict)

    def __str__(self) -> str:
        what = " ".join(filter(None, (self.labels.get(name) for name in ("version", "arch", "torch"))))
        return f"bundle {self.id[:12]} of {self.store}" + (f" ({what})" if what else "")


@dataclass(frozen=True)
class Image:
    """An image by its name and digest."""

    reference: str
    digest: str


@dataclass(frozen=True)
class Wheels:
    """What an environment of one toolchain is made of, on one kind of machine: ``name==version`` with the SHA-256 of
    the file that is installed. *wanted* are the requirements that led to it."""

    wanted: tuple[str, ...]
    files: Mapping[str, str]


@dataclass(frozen=True)
class Lock:
    """All of a lock file; a part that is None, or not there, was not locked."""

    bundles: tuple[Bundle, ...] | None = None
    images: tuple[Image, ...] = ()
    wheels: Mapping[str, Wheels] = field(default_factory=dict)
    """By toolchain, machine and Python: ``cu130 x86_64 3.11``."""

    @property
    def digests(self) -> frozenset[str] | None:
        """Of the bundles that may be used; None for all."""
        return None if self.bundles is None else frozenset(bundle.digest for bundle in self.bundles)

    def image(self, reference: str) -> str | None:
        return next((image.digest for image in self.images if image.reference == reference), None)

    def to_text(self) -> str:
        value: dict[str, Any] = {"schema": SCHEMA}
        if self.bundles is not None:
            value["bundles"] = [asdict(bundle) for bundle in sorted(self.bundles, key=lambda entry: entry.digest)]
        if self.images:
            value["images"] = [asdict(image) for image in sorted(self.images, key=lambda entry: entry.reference)]
        if self.wheels:
            value["wheels"] = {name: asdict(entry) for name, entry in self.wheels.items()}
        return json.dumps(value, indent=1, sort_keys=True) + "\n"


def key(toolchain: str, machine: str, python: str) -> str:
    """Under which the wheels of an environment stand."""
    return f"{toolchain} {machine} {python}"


def read(path: Path) -> Lock | None:
    """The lock in *path*, None where there is none. Raises StaleLock for one that cannot be read: what it would have
    forbidden is not known."""
    try:
        text = path.read_text()
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise _unreadable(path, str(error)) from error
    try:
        value = json.loads(text)
        if value["schema"] != SCHEMA:
            raise StaleLock(
                f"{path} has schema {value['schema']}, this xfdev reads {SCHEMA}",
                why="another version of xfdev wrote it",
                hint="install that version, or write it anew: xfdev lock",
            )
        bundles = value.get("bundles")
        lock = Lock(
            None if bundles is None else tuple(Bundle(**entry) for entry in bundles),
            tuple(Image(**entry) for entry in value.get("images", ())),
            {
                name: Wheels(tuple(entry["wanted"]), dict(entry["files"]))
                for name, entry in value.get("wheels", {}).items()
            },
        )
        _check(lock)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise _unreadable(path, repr(error)) from error
    return lock


def _check(lock: Lock) -> None:
    """Raise ValueError for values of another kind than was written."""
    digests = [
        *(digest for bundle in lock.bundles or () for digest in (bundle.digest, bundle.recipe, f"sha256:{bundle.id}")),
        *(image.digest for image in lock.images),
        *(f"sha256:{digest}" for wheels in lock.wheels.values() for digest in wheels.files.values()),
    ]
    if any(not isinstance(digest, str) or not re.fullmatch(r"sha256:[0-9a-f]{64}", digest) for digest in digests):
        raise ValueError("a digest is none")
    if any(type(bundle.recipe_size) is not int or not isinstance(bundle.labels, dict) for bundle in lock.bundles or ()):
        raise ValueError("a bundle has values of another kind")
    for wheels in lock.wheels.values():
        if any(not re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.!+_-]+", name) for name in wheels.files):
            raise ValueError("a requirement is none")


def _unreadable(path: Path, details: str) -> StaleLock:
    return StaleLock(
        f"{path} cannot be read as a lock file",
        why="a merge left its marks in it, or it was edited",
        hint="git checkout it, or remove it and write it anew: xfdev lock",
        details=details,
    )


def place(root: Path, named: str | None) -> Path:
    """Where the lock file of a checkout lies. Raises UsageError for a folder."""
    path = root / (named or NAME)
    if path.is_dir():
        raise UsageError(f"{path} is a folder", hint=f"the option lock names a file, such as {NAME}")
    return path


def required(path: Path) -> StaleLock:
    """The error where there has to be a lock file and is none."""
    return StaleLock(
        f"there is no {path}", why="locked was asked for", hint="xfdev lock writes it; commit it, so that all have it"
    )


def merged(old: Lock, new: Lock) -> Lock:
    """*old* with the parts that *new* has."""
    return replace(
        old,
        bundles=old.bundles if new.bundles is None else new.bundles,
        images=tuple({image.reference: image for image in (*old.images, *new.images)}.values()),
        wheels={**old.wheels, **new.wheels},
    )


def difference(old: Lock, new: Lock) -> Iterator[str]:
    """What changes from *old* to *new*, a line each, as a person reads it."""
    before = {bundle.digest: bundle for bundle in old.bundles or ()}
    after = {bundle.digest: bundle for bundle in new.bundles or ()}
    yield from (f"- {before[digest]}" for digest in before if digest not in after)
    yield from (f"+ {after[digest]}" for digest in after if digest not in before)
    if old.bundles is None and new.bundles == ():
        yield "+ no bundle of any store"
    for image in new.images:
        known = old.image(image.reference)
        if known != image.digest:
            yield f"{'~' if known else '+'} image {image.reference}: " + _moved(known, image.digest)
    yield from (f"- image {image.reference}" for image in old.images if new.image(image.reference) is None)
    for name in sorted({*old.wheels, *new.wheels}):
        yield from _wheels(name, old.wheels.get(name), new.wheels.get(name))


def _moved(old: str | None, new: str) -> str:
    return f"{old[:19]} -> {new[:19]}" if old else new[:19]


def _wheels(name: str, old: Wheels | None, new: Wheels | None) -> Iterator[str]:
    if old is None or new is None:
        files = (old or new or Wheels((), {})).files
        yield f"{'-' if new is None else '+'} {len(files)} packages of {name}"
        return
    before = dict(entry.split("==") for entry in old.files)
    after = dict(entry.split("==") for entry in new.files)
    for package in sorted({*before, *after}):
        if package not in after:
            yield f"- {name}: {package} {before[package]}"
        elif package not in before:
            yield f"+ {name}: {package} {after[package]}"
        elif before[package] != after[package]:
            yield f"~ {name}: {package} {before[package]} -> {after[package]}"
        elif old.files[f"{package}=={before[package]}"] != new.files[f"{package}=={after[package]}"]:
            yield f"~ {name}: {package} {after[package]} is another file"
