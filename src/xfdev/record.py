"""After a compile: what each unit really read, from the dependency file its compiler wrote."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

from xfdev import shadows
from xfdev.bundle import Manifest, Places, Unit
from xfdev.checkout import Checkout, file_id
from xfdev.inputs import MOST_FILES, listed
from xfdev.workspace import BUILD, TEMP

#: Folders whose contents the toolchain's facts (host compiler, glibc) stand for.
SYSTEM = ("/usr/include/", "/usr/lib/", "/usr/lib64/", "/usr/share/")


def inputs_of(unit: Unit, places: Places, listing: Iterable[str]) -> tuple[Unit, list[str]]:
    """*unit* with what it read, and the names of headers it found outside the checkout.

    *listing* are the absolute files that could shadow a header. A unit whose dependency file is missing or empty
    keeps ``inputs=None``: it is compiled again next time.
    """
    root = places.checkout
    temp = os.path.join(root, TEMP)
    try:
        text = Path(root, BUILD, unit.object + ".d").read_text(errors="surrogateescape")
    except OSError:
        return replace(unit, inputs=None), []
    read = shadows.parse_depfile(text, temp)
    own = [path for path in read if shadows.is_source_path(path, root)]
    if not own:
        return replace(unit, inputs=None), []
    folders = [places.concrete(folder) for folder in unit.search]
    scanned = shadows.scan(own, folders)
    tree = (places.site_packages, places.prefix, places.cuda_home or places.prefix, places.python_include)
    external, names = {}, []
    for path in read:
        if shadows.is_source_path(path, root) or shadows.in_folder(path, os.path.join(root, BUILD)):
            continue
        names += _spellings(path, folders)
        if not path.startswith(SYSTEM) and not any(shadows.in_folder(path, folder) for folder in tree):
            external[places.abstract(path)] = file_id(path) or ""
    recorded = replace(
        unit,
        inputs=tuple(sorted({os.path.relpath(path, root) for path in [*own, *_embedded(own, scanned, listing)]})),
        external=external,
        probes=tuple(sorted(scanned.probes)),
        exact=tuple(sorted(os.path.relpath(p, root) for p in scanned.exact if shadows.in_folder(p, root))),
        opaque=scanned.opaque,
        beside=tuple(os.path.relpath(p, root) for p in shadows.find(read, folders, listing, scanned)),
    )
    return recorded, names


def _embedded(own: Iterable[str], scanned: shadows.Scan, listing: Iterable[str]) -> Iterable[str]:
    """What ``.incbin`` may have read, which no dependency file tells: any of the files that could be."""
    if scanned.opaque and any(b".incbin" in Path(path).read_bytes() for path in own if os.path.isfile(path)):
        return [path for path in listing if not path.endswith(os.sep)]
    return ()


def _spellings(path: str, folders: Iterable[str]) -> list[str]:
    found = [path[len(folder) + 1 :] for folder in folders if shadows.in_folder(path, folder)]
    return found or shadows.names_of_system(path)


@dataclass
class Recorder:
    """Learns what units read while others still compile; ``complete`` takes of it what still holds at the end.

    *started_ns* is a time stamp of the checkout's file system from before the first compiler started.
    """

    manifest: Manifest
    places: Places
    started_ns: int

    def __post_init__(self) -> None:
        self.endless = False
        self._units = {unit.object: unit for unit in self.manifest.units}
        self._learned: dict[str, tuple[Unit, list[str]]] = {}

    @cached_property
    def roots(self) -> list[str]:
        """The folders of the checkout in which a file may come that shadows an input: as few as cover all."""
        found = set(self.manifest.roots)
        for unit in self.manifest.units:
            found.update(_roots(unit, self.places))
        return _topmost(found)

    @cached_property
    def _listing(self) -> list[str]:
        found = listed(self.places.checkout, self.roots)
        self.endless = len(found) >= MOST_FILES
        # What came while compilers ran may have come too late for them: it counts as new next time.
        settled = _Settled(self.places.checkout, self.started_ns)
        return [path for path in found if settled(path)]

    def learn(self, name: str) -> None:
        """What the unit of the object *name* read, which is compiled now."""
        self._learned[name] = self._inputs(self._units[name])

    def _inputs(self, unit: Unit) -> tuple[Unit, list[str]]:
        root = f"{self.places.checkout}/"
        return inputs_of(unit, self.places, [root + path for path in self._listing])

    def settle(self) -> list[str]:
        """List the folders again, now that nothing compiles; what was learned with another listing is forgotten."""
        before = self.__dict__.pop("_listing", None)
        if before is not None and before != self._listing:
            self._learned = {}
        return self._listing

    def inputs(self, unit: Unit) -> tuple[Unit, list[str]]:
        return self._learned.get(unit.object) or self._inputs(unit)


def complete(
    recorder: Recorder,
    compiled: Mapping[str, tuple[float | None, int | None]],
    checkout: Checkout,
    before: Mapping[str, str],
) -> Manifest:
    """The recorder's manifest with the inputs of all units whose objects are there, after a compile.

    *compiled* maps a unit's object to seconds and peak bytes of its compile, both None where it came from a cache.
    A file that changed since the recorder's time stamp may have been read in either state, so the units that read it
    count as not compiled. *before* are the files that the other units were made from: should one be another now, its
    units are compiled next time.
    """
    manifest, places, started_ns = recorder.manifest, recorder.places, recorder.started_ns
    root = places.checkout
    names_found = recorder.settle()
    endless = recorder.endless
    names: set[str] = set(manifest.names)
    units = []
    for unit in manifest.units:
        if unit.object not in compiled:
            units.append(unit)
            continue
        seconds, peak = compiled[unit.object]
        recorded, outside = recorder.inputs(unit)
        names.update(outside)
        recorded = replace(
            recorded,
            seconds=unit.seconds if seconds is None else round(seconds, 2),
            peak=unit.peak if peak is None else peak,
            digest=object_digest(places, unit.object),
        )
        units.append(recorded)
    paths = sorted({path for unit in units for path in unit.inputs or ()})
    now = checkout.anew()  # not what it said before the build script and the compilers ran
    ids = now.identify(paths)
    # What is not checked out stands for its commit, as it did when its files were read.
    absent = tuple(
        f"{path}/"
        for path, module in now.submodules.items()
        if module.head is None and module.clean and manifest.submodules.get(path) == module.commit
    )
    ids.update((path, before.get(path)) for path in paths if path.startswith(absent))
    moving = {
        path for path in paths if not path.startswith(absent) and _changed_since(os.path.join(root, path), started_ns)
    }
    other = {path for path in paths if ids[path] != before.get(path)}
    units = [
        replace(unit, inputs=None)
        if endless or (moving if unit.object in compiled else moving | other).intersection(unit.inputs or ())
        else unit
        for unit in units
    ]
    return replace(
        manifest,
        units=tuple(units),
        names=tuple(sorted(names)),
        submodules={
            path: module.commit
            for path, module in now.submodules.items()
            if module.clean and (module.head is not None or manifest.submodules.get(path) == module.commit)
        },
        files={path: ids[path] or "" for path in paths if path not in moving},
        roots=tuple(recorder.roots),
        listing=tuple(sorted(names_found)),
    )


def _roots(unit: Unit, places: Places) -> set[str]:
    root = places.checkout
    folders = [places.concrete(folder) for folder in unit.search]
    read = [os.path.join(root, path) for path in (unit.source, *(unit.inputs or ()))]
    return {os.path.relpath(path, root) for path in shadows.roots(read, folders, root)}


def _topmost(folders: Iterable[str]) -> list[str]:
    found: list[str] = []
    for folder in sorted(folders):
        if folder == ".":
            return ["."]
        if not any(folder == other or folder.startswith(other + "/") for other in found):
            found.append(folder)
    return found


def object_digest(places: Places, name: str) -> str | None:
    """SHA-256 of an object in the build folder, None where it is not there."""
    try:
        with open(os.path.join(places.checkout, BUILD, name), "rb") as stream:
            return hashlib.sha256(stream.read()).hexdigest()
    except OSError:
        return None


def _changed_since(path: str, started_ns: int) -> bool:
    """By ctime, which only the kernel sets; the time that a file shows may be one of its own, in the future even."""
    try:
        return os.stat(path).st_ctime_ns >= started_ns
    except OSError:
        return True


class _Settled:
    """Whether a name lay where it lies before a point in time: neither it nor a folder above it changed since."""

    def __init__(self, root: str, started_ns: int) -> None:
        self._root = f"{root}/"
        self._started = started_ns
        self._folders: dict[str, bool] = {"": True}  # the checkout's own folder changes with every lock file

    def __call__(self, path: str) -> bool:
        path = path.rstrip("/")
        try:
            own = os.lstat(self._root + path).st_ctime_ns
        except OSError:
            return False
        return own < self._started and self._folder(path.rpartition("/")[0])

    def _folder(self, path: str) -> bool:
        known = self._folders.get(path)
        if known is None:
            full = self._root + path
            known = self._folder(path.rpartition("/")[0]) and not _changed_since(full, self._started)
            self._folders[path] = known = known and os.lstat(full).st_ctime_ns < self._started
        return known
