"""Bundles in a folder of this machine: content-addressed, written in one step, checked on every read.

    bundles/<sha256 of manifest.json>/manifest.json
                                      summary.json     a few facts, to choose without reading every manifest
                                      outputs/<file>   checked against the manifest whenever one is used
                                      objects/<file>   compiler-cache entries
                                      without-objects  they were left where the bundle came from
                                      used             its time is that of the last use
    tmp/                                               half-made and half-removed bundles; swept when old

Writers never wait for each other: a bundle is made beside its place and moved there, and one that is there already
is the same one. A reader whose bundle is pruned meanwhile is told so and takes another.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from xfdev.bundle import Manifest, from_bytes
from xfdev.console import console
from xfdev.errors import BadBundle, UsageError
from xfdev.files import explained, read_json, sha256, write_atomic, write_json

_TAG = "Signature: 8a477f597d28d172789f06886806bc55\n# Bundles of xfdev; see https://bford.info/cachedir/\n"
_ABANDONED_AFTER = 24 * 3600.0


@dataclass(frozen=True)
class Summary:
    """What a listing shows of one bundle. *created* and *used* are seconds since the epoch, *size* bytes."""

    id: str
    project: str
    version: str
    kind: str
    arch: str
    torch: str
    cuda: str
    created: float
    used: float
    size: int
    content: str = ""


class LocalStore:
    """The store in *folder*, which is made when something is put into it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._bundles = folder / "bundles"

    def put(
        self, manifest: Manifest, outputs: Mapping[str, Path], objects: Path | None, data: bytes | None = None
    ) -> str:
        """Store a bundle; returns its id. *outputs* maps each output's name to its file; *objects* is the folder
        that ``manifest.objects`` describes, None where they are left elsewhere; ``add_objects`` adds them. *data* is
        the manifest as it was written elsewhere, perhaps by another version of xfdev: the bundle keeps its name.

        Raises BadBundle when a file is not what the manifest says, DiskFull, ReadOnlyCheckout.
        """
        import hashlib

        data = manifest.to_bytes() if data is None else data
        name = hashlib.sha256(data).hexdigest()
        place = self._bundles / name
        if place.exists():
            return name
        with explained(str(self.folder)):
            self._prepare()
            work = self._work("put")
            try:
                for output, source in outputs.items():
                    self._add(work / "outputs" / output, source, manifest.outputs[output].sha256)
                for entry, digest in manifest.objects.items():
                    if objects is not None:
                        self._add(work / "objects" / entry, objects / entry, digest)
                if manifest.objects and objects is None:
                    (work / _WITHOUT).touch()
                write_atomic(work / "manifest.json", data, 0o444, durable=True)
                write_json(work / "summary.json", _summary(manifest))
                (work / "used").touch()
                for folder, _, _ in os.walk(work, topdown=False):
                    _sync(Path(folder))
                try:
                    work.rename(place)
                except OSError:
                    if not place.exists():  # otherwise another writer was faster, with the same bundle
                        raise
            finally:
                shutil.rmtree(work, ignore_errors=True)
        return name

    def add_objects(self, name: str, manifest: Manifest, objects: Path) -> None:
        """Give a bundle the compiler-cache entries that it came without. Raises BadBundle, DiskFull."""
        folder = self._bundles / name
        with explained(str(self.folder)):
            self._prepare()
            work = self._work("put")
            try:
                for entry, digest in manifest.objects.items():
                    self._add(work / "objects" / entry, objects / entry, digest)
                with suppress(OSError):  # another writer was faster, with the same ones
                    (work / "objects").rename(folder / "objects")
                (folder / _WITHOUT).unlink(missing_ok=True)
            finally:
                shutil.rmtree(work, ignore_errors=True)

    def lacks_objects(self, name: str) -> bool:
        """Whether a bundle came without the compiler-cache entries that it has where it came from."""
        return (self._bundles / name / _WITHOUT).exists()

    def _add(self, target: Path, source: Path, digest: str) -> None:
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(source, target)
        if sha256(target) != digest:
            raise BadBundle(
                f"{source} changed while it was stored", hint="run the same command again, without editing meanwhile"
            )
        target.chmod(0o444)

    def _work(self, purpose: str) -> Path:
        """A new folder in ``tmp``."""
        import tempfile

        return Path(tempfile.mkdtemp(prefix=f"{purpose}-", dir=self.folder / "tmp"))

    def _prepare(self) -> None:
        self._bundles.mkdir(parents=True, exist_ok=True)
        (self.folder / "tmp").mkdir(exist_ok=True)
        tag = self.folder / "CACHEDIR.TAG"
        if not tag.exists():
            write_atomic(tag, _TAG)
        self._sweep()

    def _sweep(self) -> None:
        """Remove what killed writers left. One that is alive is younger."""
        for path in (self.folder / "tmp").iterdir():
            with suppress(OSError):
                if time.time() - path.stat().st_mtime > _ABANDONED_AFTER:
                    shutil.rmtree(path, ignore_errors=True)

    def ids(self) -> list[str]:
        try:
            return sorted(entry.name for entry in os.scandir(self._bundles) if len(entry.name) == 64)
        except OSError:
            return []

    def summaries(self) -> Iterator[Summary]:
        """Of all bundles, the newest first. A damaged summary is read from the manifest, if that is good."""
        found = []
        for name in self.ids():
            value = read_json(self._bundles / name / "summary.json")
            if not isinstance(value, dict):
                with suppress(BadBundle):
                    value = _summary(self.manifest(name))
            if isinstance(value, dict):
                value = {"created": 0.0, **value, "used": _used(self._bundles / name)}
                with suppress(TypeError):
                    found.append(Summary(id=name, **value))
        yield from sorted(found, key=lambda summary: (-summary.created, summary.id))

    def resolve(self, prefix: str) -> str:
        """The full id that starts with *prefix*. Raises BadBundle for none, UsageError for several."""
        found = [name for name in self.ids() if name.startswith(prefix)] if prefix else []
        if len(found) == 1:
            return found[0]
        if found:
            raise UsageError(f"{len(found)} bundles start with {prefix}", hint="give more of the id")
        raise BadBundle(f"there is no bundle {prefix} in {self.folder}", hint="xfdev bundle list shows those there are")

    def manifest(self, name: str) -> Manifest:
        """The manifest of a bundle, its digest checked. Raises BadBundle."""
        return from_bytes(self.written(name), self._bundles / name)

    def manifest_file(self, name: str) -> Path:
        """Where a bundle's manifest lies."""
        return self._bundles / name / "manifest.json"

    def written(self, name: str) -> bytes:
        """A bundle's manifest as it was written, its digest checked. Raises BadBundle."""
        import hashlib

        path = self.manifest_file(name)
        try:
            data = path.read_bytes()
        except OSError as error:
            raise BadBundle(f"bundle {name[:12]} is not in {self.folder}", details=str(error)) from error
        if hashlib.sha256(data).hexdigest() != name:
            raise BadBundle(
                f"bundle {name[:12]} is corrupted: its manifest is not the one it is named after",
                why="the disk, or another program, changed it",
                hint="xfdev bundle verify --remove throws it away",
            )
        return data

    def output(self, name: str, output: str) -> Path:
        """The file of an output. Its contents are the caller's to check, while it copies them."""
        return self._bundles / name / "outputs" / output

    def objects(self, name: str, manifest: Manifest) -> Path | None:
        """The folder of a bundle's compiler-cache entries, each checked; None where it has none or they are bad."""
        folder = self._bundles / name / "objects"
        if not manifest.objects:
            return None
        for entry, digest in manifest.objects.items():
            if not _is(folder / entry, digest):
                return None
        return folder

    def adopt(self, other: LocalStore) -> list[str]:
        """Copy those bundles of *other* that are not here; returns their ids. Damaged ones are left out."""
        added = []
        for name in sorted({*other.ids()} - {*self.ids()}):
            try:
                manifest = other.manifest(name)
                other.verify(name)
                outputs = {output: other.output(name, output) for output in manifest.outputs}
                added.append(self.put(manifest, outputs, other.objects(name, manifest), other.written(name)))
            except (BadBundle, FileNotFoundError) as error:
                console.warning(f"{error}; it is left out")
        return added

    def use(self, name: str) -> None:
        """Note that a bundle was used, for pruning by age."""
        with suppress(OSError):
            os.utime(self._bundles / name / "used")

    def verify(self, name: str) -> None:
        """Read all of a bundle. Raises BadBundle naming the first file that is wrong."""
        manifest = self.manifest(name)
        folder = self._bundles / name
        wanted = {f"outputs/{output}": entry.sha256 for output, entry in manifest.outputs.items()}
        if not self.lacks_objects(name):
            wanted.update({f"objects/{entry}": digest for entry, digest in manifest.objects.items()})
        for path, digest in wanted.items():
            if not (folder / path).is_file():
                raise BadBundle(f"bundle {name[:12]} is truncated: {path} is missing", hint=_REMOVE)
            if not _is(folder / path, digest):
                raise BadBundle(f"bundle {name[:12]} is corrupted: {path} is not what it was", hint=_REMOVE)
        kept = {"manifest.json", "summary.json", "used", _WITHOUT, *wanted}
        foreign = sorted(path for path in _files_below(folder) if path not in kept)
        if foreign:
            raise BadBundle(f"bundle {name[:12]} has a foreign file: {foreign[0]}", hint=_REMOVE)

    def remove(self, name: str) -> None:
        """Remove a bundle in one step for every reader."""
        with explained(str(self.folder)):
            (self.folder / "tmp").mkdir(exist_ok=True)
            work = self._work("del")
            with suppress(FileNotFoundError):
                (self._bundles / name).rename(work / name)
            shutil.rmtree(work, ignore_errors=True)

    def prune(self, *, max_size: int | None = None, max_age: float | None = None, now: float) -> list[Summary]:
        """Remove bundles not used for *max_age* seconds, then the longest unused until all fit into *max_size*
        bytes. Returns what was removed."""
        if not (self.folder / "CACHEDIR.TAG").exists():
            return []  # not a folder of ours, whatever is in it
        entries = sorted(self.summaries(), key=lambda summary: summary.used, reverse=True)
        removed, total = [], 0
        for entry in entries:
            total += entry.size
            too_old = max_age is not None and now - entry.used > max_age
            if too_old or (max_size is not None and total > max_size):
                self.remove(entry.id)
                removed.append(entry)
                total -= entry.size
        self._sweep()
        return removed


_WITHOUT = "without-objects"
_REMOVE = "xfdev bundle verify --remove throws it away; it is made anew when needed"


def _summary(manifest: Manifest) -> dict[str, object]:
    return {
        **manifest.headline,
        "created": float(manifest.origin.get("created", "0")),
        "size": sum(output.size for output in manifest.outputs.values()),
    }


def _used(bundle: Path) -> float:
    try:
        return (bundle / "used").stat().st_mtime
    except OSError:  # gone, perhaps just now
        return 0.0


def _is(path: Path, digest: str) -> bool:
    """Whether *path* is a file with that SHA-256; it may go away while it is read."""
    try:
        return sha256(path) == digest
    except OSError:
        return False


def _files_below(folder: Path) -> Iterator[str]:
    """All files and links, relative to *folder*; none where it goes away meanwhile."""
    for base, names, files in os.walk(folder):
        for name in (*files, *(name for name in names if os.path.islink(os.path.join(base, name)))):
            yield os.path.relpath(os.path.join(base, name), folder)


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
