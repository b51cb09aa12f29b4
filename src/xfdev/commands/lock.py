"""``xfdev lock``"""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from xfdev import lockfile, options, project
from xfdev.cli import add_options
from xfdev.commands import pins
from xfdev.commands.session import Session, open_session
from xfdev.commands.trusting import Trust
from xfdev.console import console
from xfdev.errors import StaleLock, UsageError
from xfdev.files import write_atomic
from xfdev.lockfile import Bundle, Image, Lock
from xfdev.profile import toolchain_entry

EXAMPLE = "xfdev lock ~/src/project --image ghcr.io/team/dev:cu130"
_SECONDS = 20.0
#: What is said of a bundle, to choose by and to show.
_KEPT = ("project", "version", "kind", "arch", "torch", "cuda", "python", "commit", "created", "inputs", "content")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("path", nargs="?", default=".", help="the checkout (default: this folder)")
    parser.add_argument("--check", action="store_true", help="write nothing; fail where something would change")
    parser.add_argument(
        "--image", metavar="REF", action="append", default=[], help="an image to lock; those in the file stay in it"
    )
    parser.add_argument("--no-packages", action="store_true", help="leave the packages of the environment as they are")
    add_options(parser, "venv", "cache", *(name for name in options.SHARED if name != "locked"))


def run(args: argparse.Namespace, environ: Mapping[str, str]) -> Mapping[str, Any]:
    session = open_session(args, environ)
    trust = Trust(session.options, session.root, session.store)
    path = lockfile.place(session.root, session.options.lock)
    old = lockfile.read(path) or Lock()
    new = Lock(
        bundles=tuple(_bundles(session, trust)) if session.options.stores else None,
        images=tuple(_images([*args.image, *(image.reference for image in old.images)], session.environ)),
        wheels={} if args.no_packages else dict([_packages(session)]),
    )
    found = lockfile.merged(old, new)
    changes = list(lockfile.difference(old, found))
    if args.check:
        if changes:
            raise StaleLock(
                f"{path} would change:\n  " + "\n  ".join(changes[:20]),
                hint="xfdev lock writes it; commit what it writes",
            )
    elif changes or not path.exists():
        write_atomic(path, found.to_text())
    return {
        "lock": str(path),
        "changes": changes,
        "written": bool(changes) and not args.check,
        "lines": [*changes, f"{path}: {_summary(found)}" + ("" if changes else ", nothing changed")],
    }


def _summary(lock: Lock) -> str:
    packages = sum(len(wheels.files) for wheels in lock.wheels.values())
    return f"{len(lock.bundles or ())} bundles, {len(lock.images)} images, {packages} packages"


def _bundles(session: Session, trust: Trust) -> Iterator[Bundle]:
    """Of each store, the newest bundle for each torch, arch and Python; this commit's, where there is one."""
    from xfdev.stores import afar, artifact, oci

    facts, commit = session.toolchain.facts, session.checkout.commit or "none"
    tag = artifact.tag(
        project.project_name(session.root, session.profile),
        facts["platform"].partition("-")[2],
        facts.get("cuda", "").partition(".")[0],
    )
    for place in afar.repositories(session.options.stores or ()):
        store = oci.OciStore(place, session.environ, session.store.folder / "afar" / "blobs", patient=True)
        seen: set[tuple[str, ...]] = set()
        entries = store.entries(tag, seconds=_SECONDS)
        for entry in sorted(entries, key=lambda entry: entry.label("commit") != commit):
            kind = tuple(map(entry.label, ("torch", "arch", "python")))
            if kind in seen:
                continue
            objection = trust.of_signature(store, entry)
            if objection:
                console.warning(f"bundle {entry.id[:12]} of {store} is not locked: {objection}")
                continue
            seen.add(kind)
            labels = artifact.plain(entry.labels)
            # They are shown, and come from whoever may push.
            kept = {name: re.sub(r"[^\x21-\x7e ]", "?", value)[:200] for name, value in labels.items() if name in _KEPT}
            yield Bundle(entry.digest, entry.id, str(store), entry.recipe.digest, entry.recipe.size, kept)


def _images(references: Sequence[str], environ: Mapping[str, str]) -> Iterator[Image]:
    from xfdev.stores import oci
    from xfdev.stores.reference import reference

    for text in dict.fromkeys(references):
        place = reference(text)
        if place.version.startswith("sha256:"):
            raise UsageError(f"{text} is an image by its digest already", hint="name it by its tag")
        store = oci.OciStore(place, environ, Path(), patient=True)
        digest = store.image(place.version or "latest", seconds=_SECONDS)
        if digest is None:
            raise UsageError(f"there is no image {text}", hint="push it, or take it out of the lock file")
        yield Image(text, digest)


def _packages(session: Session) -> tuple[str, lockfile.Wheels]:
    environment = session.environment
    entry = toolchain_entry(environment.toolchain)
    packages = tuple(session.profile.check.get("packages", ())) if entry.torch else ()
    machine = session.toolchain.facts["platform"].partition("-")[2]
    found = pins.resolve(environment, entry, packages, session.environ)
    return lockfile.key(environment.toolchain, machine, environment.python), found
