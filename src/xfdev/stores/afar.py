"""The stores after this machine's own: asked when nothing here serves, believed only by digest, left alone once they
fail.

What was asked is kept below the local store, so that the next command need not ask again, and needs no network for
what has arrived:

    afar/<store>-<tag>.json   the list of bundles, as it was when the file was written
    afar/<store>.down         until when a store that failed is not asked, and why
    afar/manifests/<id>       manifests that were looked at
    afar/from/<id>.json       where a bundle of the local store is from
    afar/signed/<digest>.json which keys were found to have signed an artifact, and its recipe
    afar/blobs/               what is being fetched
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from xfdev import engine_login
from xfdev.bundle import Manifest, from_bytes
from xfdev.console import console, duration
from xfdev.errors import BadBundle, StoreUnreachable, UsageError, XfdevError
from xfdev.files import locked, read_json, write_atomic, write_json
from xfdev.stores.artifact import MOST_DOCUMENT, Entry, read_index
from xfdev.stores.local import LocalStore
from xfdev.stores.oci import OciStore
from xfdev.stores.packing import check
from xfdev.stores.reference import Reference, reference

_BUDGET = 4.0  # seconds that a plan waits for one store, in all
_ASK_AGAIN_AFTER = 300.0
_LONGEST_REST = 3600.0
_CANDIDATES = 6


#: Says what is against a bundle of a store, "" for nothing: by the artifact's digest, until a deadline. Raises
#: StoreUnreachable and BadBundle.
Judge = Callable[[OciStore, Entry, float], str]


@dataclass(frozen=True)
class Offer:
    """A bundle that a store has."""

    id: str
    store: str
    manifest: Manifest


def repositories(texts: Sequence[str]) -> list[Reference]:
    """The stores of the option. Raises UsageError for what is none."""
    found = [reference(text) for text in texts]
    for place in found:
        if place.version:
            raise UsageError(f"the store {place} has a tag", hint="a store is a whole repository: leave the tag out")
    return found


class Afar:
    """The stores at *places*, in that order, before *local*."""

    def __init__(
        self,
        places: Sequence[Reference],
        environ: Mapping[str, str],
        local: LocalStore,
        judge: Judge = lambda store, entry, deadline: "",
        locked: Callable[[str], Sequence[Entry]] = lambda store: (),
    ) -> None:
        """*judge* decides on each bundle before anything of it counts; *locked* are those that a lock file names, by
        store: they are known without a list."""
        self._judge = judge
        self._locked = locked
        self.refused: list[tuple[str, str]] = []
        """Bundles that were not allowed, and why."""
        self._environ = environ
        self._local = local
        self._folder = local.folder / "afar"
        self._stores = {str(place): OciStore(place, environ, self._folder / "blobs") for place in places}
        self._out: set[str] = set()
        self._sources: dict[str, tuple[str, str, str]] = {}
        self._written: dict[str, bytes] = {}

    def offers(self, tag: str, distance: Callable[[Entry], tuple[bool, ...]], known: Container[str]) -> Iterator[Offer]:
        """What the stores have behind *tag*, the least distant first, without bundles whose id or content is *known*.

        A store that fails, or lies, costs one warning, and what it had.
        """
        for name, store in self._stores.items():
            if name in self._out or self._rests(name):
                continue
            deadline = time.monotonic() + _BUDGET
            try:
                seen: set[tuple[str, ...]] = set()
                refused = 0
                entries = {entry.digest: entry for entry in self._entries(name, store, tag, deadline)}
                listed = {*entries}
                entries.update({entry.digest: entry for entry in self._locked(name)})
                for entry in sorted(entries.values(), key=distance):
                    same = tuple(map(entry.label, ("inputs", "torch", "arch", "python")))
                    if entry.id in known or entry.label("content") in known or same in seen:
                        continue
                    objection = self._judge(store, entry, deadline)
                    if entry.digest not in listed and not self._there(store, entry, deadline):
                        objection = "the lock file names it, and the store has it no more"
                    if objection:
                        refused += 1
                        if refused <= _CANDIDATES:
                            self.refused.append((f"bundle {entry.id[:12]} of {name}", objection))
                        continue
                    seen.add(same)
                    manifest = self._manifest(store, entry, deadline)
                    self._sources[entry.id] = (name, entry.digest, entry.recipe.digest)
                    yield Offer(entry.id, name, manifest)
                    if name in self._out or len(seen) >= _CANDIDATES:
                        break
            except (StoreUnreachable, BadBundle) as error:
                self.refuse(name, error)

    def bring(self, name: str, *, objects: bool) -> None:
        """Have bundle *name*, which was offered, in the local store, with its compiler-cache entries if wanted.

        Raises StoreUnreachable or BadBundle, having said so and put that store aside; DiskFull.
        """
        place, digest, recipe = self._sources.get(name) or self._from(name)
        store = self._stores[place]
        try:
            with locked(self._folder / f"{name}.lock", f"bundle {name[:12]}", wait=120.0):
                here = name in self._local.ids()
                if here and not (objects and self._local.lacks_objects(name)):
                    return
                written = self._written.get(name) or self._local.written(name)
                found = store.artifact(digest, seconds=_BUDGET)
                if recipe and found.recipe.digest != recipe:
                    raise BadBundle(
                        f"{place} lists bundle {name[:12]} with a manifest that is not its artifact's",
                        why="somebody changed the list",
                        hint="push the bundle again from its maker, or leave this store out",
                    )
                store.bring(found, written, self._local, objects=objects)
                note_origin(self._local, name, place, digest, recipe)
                with suppress(OSError):
                    (self._folder / f"{name}.lock").unlink()
        except (StoreUnreachable, BadBundle) as error:
            self.refuse(place, error)
            raise

    def knows(self, name: str) -> bool:
        """Whether bundle *name* can be asked for."""
        return name in self._sources or self._from(name)[0] in self._stores

    def _from(self, name: str) -> tuple[str, str, str]:
        return origin(self._local, name) or ("", "", "")

    def refuse(self, place: str, error: XfdevError) -> None:
        """Do without a store, in this command and for a while in the next ones."""
        self._out.add(place)
        asked = error.after if isinstance(error, StoreUnreachable) else 0.0
        rest = min(max(_ASK_AGAIN_AFTER, asked), _LONGEST_REST)
        console.warning(f"{error}; it is left out for {duration(rest)}")
        with suppress(OSError, XfdevError):
            write_json(self._place(f"{_key(place)}.down"), {"until": time.time() + rest, "why": str(error)})

    def _rests(self, place: str) -> bool:
        """Whether a store failed a short while ago; a new login is a reason to ask again."""
        file = self._folder / f"{_key(place)}.down"
        value = read_json(file)
        if not isinstance(value, dict) or not isinstance(value.get("until"), int | float):
            return False
        left = value["until"] - time.time()
        if not 0 < left <= _LONGEST_REST:
            return False
        with suppress(OSError):
            if engine_login.config_file(self._environ).stat().st_mtime > file.stat().st_mtime:
                return False
        console.debug(f"{place} is not asked for another {duration(left)}: {value.get('why')}")
        return True

    def _entries(self, place: str, store: OciStore, tag: str, deadline: float) -> list[Entry]:
        file = self._folder / f"{_key(place)}-{tag}.json"
        where = f"{place}:{tag}"
        with suppress(OSError, BadBundle):
            if 0 <= time.time() - file.stat().st_mtime < _ASK_AGAIN_AFTER and file.stat().st_size <= MOST_DOCUMENT:
                data = file.read_bytes()
                return read_index(data, where)[1] if data else []
        found = store.document(tag, seconds=_left(deadline))
        entries = [] if found is None else read_index(found, where)[1]
        with suppress(OSError, XfdevError):
            write_atomic(self._place(file.name), found or b"")
        return entries

    def _there(self, store: OciStore, entry: Entry, deadline: float) -> bool:
        looked_at = (self._folder / "manifests" / entry.id).exists()
        return looked_at or store.document(entry.digest, seconds=_left(deadline)) is not None

    def _manifest(self, store: OciStore, entry: Entry, deadline: float) -> Manifest:
        file = self._folder / "manifests" / entry.id
        try:
            data = file.read_bytes()
        except OSError:
            data = b""
        if hashlib.sha256(data).hexdigest() != entry.id:
            data = store.recipe(entry.recipe, entry.id, seconds=_left(deadline))
            with suppress(OSError, XfdevError):
                write_atomic(self._place(f"manifests/{entry.id}"), data)
                self._sweep()
        manifest = from_bytes(data, str(store))
        check(manifest, str(store))
        self._written[entry.id] = data
        return manifest

    def _place(self, name: str) -> Path:
        path = self._folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def _sweep(self) -> None:
        """Forget manifests that were fetched long ago; they are small, but there is one of each night."""
        for path in (self._folder / "manifests").iterdir():
            if time.time() - path.stat().st_mtime > 30 * 24 * 3600.0:
                path.unlink()


def origin(local: LocalStore, name: str) -> tuple[str, str, str] | None:
    """The store that a bundle was fetched from, and the digests of its artifact and its recipe there; None for one
    that was made here."""
    value = read_json(local.folder / "afar" / "from" / f"{name}.json")
    if not isinstance(value, dict):
        return None
    return str(value.get("store")), str(value.get("digest")), str(value.get("recipe") or "")


def note_origin(local: LocalStore, name: str, store: str, digest: str, recipe: str) -> None:
    """Remember where a bundle of *local* is from."""
    path = local.folder / "afar" / "from" / f"{name}.json"
    with suppress(OSError, XfdevError):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, {"store": store, "digest": digest, "recipe": recipe})


def forget(local: LocalStore, place: Reference) -> None:
    """Ask a store again, whatever happened before: somebody did by hand, and it answered."""
    name = _key(f"{place.name}/{place.repository}")
    for path in (local.folder / "afar").glob(f"{name}*"):
        path.unlink(missing_ok=True)


def _key(place: str) -> str:
    return hashlib.sha256(place.encode()).hexdigest()[:16]


def _left(deadline: float) -> float:
    return max(0.2, deadline - time.monotonic())
