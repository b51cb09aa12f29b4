"""Note that a build has nothing to do, for ``settled``: who asked, and stamps of all that it looked at."""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from xfdev import editable, link, on_import, options, plan, profile, settled, stamps, status, workspace
from xfdev.bundle import Manifest
from xfdev.commands.apply import DATABASE
from xfdev.commands.session import Session
from xfdev.errors import XfdevError
from xfdev.files import write_atomic
from xfdev.toolchain import NVCC_PARTS, compiler_name
from xfdev.venv import environment_file

#: Of torch, besides its version: the archs that it knows.
_TORCH = ("torch/version.py", "torch/utils/cpp_extension.py")


@dataclass(frozen=True)
class Asked:
    """One run of ``xfdev build``: its words, variables and folder, and what was there before it looked at anything."""

    words: tuple[str, ...]
    environ: Mapping[str, str]
    folder: str
    gpus: str

    @classmethod
    def now(cls, args: argparse.Namespace, environ: Mapping[str, str]) -> Asked | None:
        """None for a run whose like ``settled`` does not answer."""
        words = tuple(getattr(args, "words", ()))
        loud = args.verbose or args.json != ("--json" in words)
        if not words or words[0] != "build" or loud or args.dry_run or args.only or args.trace:
            return None
        try:
            return cls(tuple(settled.plain(words)), environ, os.getcwd(), settled.gpus())
        except OSError:
            return None


def note(asked: Asked | None, session: Session, manifest: Manifest, bundle: str | None, source: str) -> None:
    """Leave the note, unless something could have changed while this build was at work, or cannot be seen by stamps.

    *manifest* is what is linked now, of *bundle* or (None) of the build here; the caller holds the checkout's lock.
    """
    place = session.root / settled.NOTE
    with suppress(OSError):
        place.unlink(missing_ok=True)
    if asked is None or "name" not in manifest.metadata or _asks_more(session, manifest, bundle):
        return
    lines = []
    for path in _outside(session, manifest, asked.folder):
        stamp = stamps.stamp(path)
        if stamp != "-" and int(stamp.rpartition(".")[2]) >= session.opened:
            return
        lines.append(f"output\t{stamp}\t-\t{path}")
    *_, found = _compiler_places(session.environ, asked.folder)
    if session.toolchain.cxx is not None and Path(found).resolve() != session.toolchain.cxx.path:
        return
    lines += [f"output\t{stamps.stamp(path)}\t-\t{path}" for path in _own(session, manifest, bundle)]
    lines += [f"there\t-\t{int(os.path.exists(path))}\t{path}" for path in _places(session)]
    if todo := status.todo_file(asked.environ, session.root):
        lines.append(f"there\t-\t0\t{todo}")  # it ends with this build
    head = {
        "words": repr(list(asked.words)),
        "folder": asked.folder,
        "variables": settled.digest(asked.environ),
        "gpus": asked.gpus,
        "when": repr(time.time()),
        "source": source,
    }
    text = settled.text_of(head, lines) if asked.gpus == settled.gpus() else None
    if text is not None:
        with suppress(XfdevError, UnicodeEncodeError):
            write_atomic(place, text.encode(errors="surrogateescape"))


def _asks_more(session: Session, manifest: Manifest, bundle: str | None) -> bool:
    """Whether the answer depends on what leaves no stamp."""
    trust = session.candidates.trust
    if bundle is not None and (trust.active or trust.lock is not None):
        return True
    if any(name in settled.PASSING for name in (*manifest.watched, *session.profile.variables)):
        return True
    # Code that starts slowly: a bundle with better code may come.
    return any(outcome.how == "jit" for outcome in plan.outcomes(manifest, session.devices, session.machine))


def _outside(session: Session, manifest: Manifest, folder: str) -> Iterator[str]:
    """Files that decide and that this build does not change: settings, the environment, compilers, xfdev itself."""
    environment = session.environment
    yield from map(str, options.config_files(session.root, session.environ))
    yield str(environment_file(environment.prefix))
    yield str(environment.interpreter)
    yield from (str(environment.site_packages / path) for path in _TORCH)
    if environment.cuda_home:
        yield from (os.path.join(environment.cuda_home, path) for path in NVCC_PARTS)
    yield from _compiler_places(session.environ, folder)
    yield from (str(session.root / path) for path in sorted(manifest.metadata_files))
    yield str(session.checkout.git_path("index"))
    package = os.path.dirname(settled.__file__)
    for module in list(sys.modules.values()):
        path = getattr(module, "__file__", None) or ""
        if path.startswith(package + os.sep):
            yield path
    yield from sorted(str(path) for path in profile.RESOURCES.rglob("*.toml"))


def _own(session: Session, manifest: Manifest, bundle: str | None) -> Iterator[str]:
    """What xfdev itself writes: the state of the checkout, the editable install, the bundle."""
    root, site = session.root, session.environment.site_packages
    yield from (str(root / path) for path in (settled.STAMPS, link.LINKED, workspace.MANIFEST, DATABASE))
    yield str(site)
    yield from (str(site / path) for path in editable.installed_files(manifest, on_import.module_names(manifest)))
    if bundle is not None:
        yield str(session.store.manifest_file(bundle))
    else:
        yield from (str(root / workspace.LIB / name) for name in sorted(manifest.outputs))


def _places(session: Session) -> Iterator[str]:
    """What matters by being there: what tells projects apart, a lock file."""
    for entry in profile.profiles().values():
        if entry.marker is not None:
            yield str(session.root / entry.marker)
    yield str(session.root / options.LOCK_FILE)


def _compiler_places(environ: Mapping[str, str], here: str) -> Iterator[str]:
    """Where the host compiler is looked for from the folder *here*, up to where it is."""
    name = compiler_name(environ)
    for folder in environ.get("PATH", os.defpath).split(os.pathsep) if "/" not in name else [""]:
        path = os.path.join(here, folder, name)
        yield path
        if os.access(path, os.X_OK) and os.path.isfile(path):
            return
