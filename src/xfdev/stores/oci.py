"""Bundles in an OCI registry: what they consist of is in ``artifact``, how the registry is talked to in ``registry``.

Nothing that arrives is used before its digest was compared, and it ends in the local store, which compares each file
with the bundle's manifest again.
"""

from __future__ import annotations

import random
import tempfile
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from xfdev.bundle import Manifest, from_bytes
from xfdev.console import console, size
from xfdev.errors import BadBundle, StoreUnreachable, UsageError
from xfdev.files import explained
from xfdev.stores import artifact as documents
from xfdev.stores.answers import refusal
from xfdev.stores.artifact import Artifact, Blob, Entry
from xfdev.stores.local import LocalStore
from xfdev.stores.packing import archive, blocks, check, expand, inflated, packed, unpack
from xfdev.stores.reference import Reference
from xfdev.stores.registry import PATIENT, WAIT, Registry
from xfdev.stores.transfer import Files, Transfer, bounded

_ACCEPT = {"Accept": f"{documents.MANIFEST_TYPE}, {documents.INDEX_TYPE}"}
_MERGES = 16
_UPLOADS = 3
_PUTS = 4
_AT_ONCE = 4
#: What an upload may take: half a minute, and longer the more there is (100 kB/s).
_UPLOAD = (30.0, 100_000)


class OciStore:
    """The store at *place*; what is being fetched lies in *folder*, where an interrupted fetch goes on."""

    def __init__(
        self, place: Reference, environ: Mapping[str, str], folder: Path, *, push: bool = False, patient: bool = False
    ) -> None:
        self.place = place
        self._registry = Registry(place, environ, push=push, wait=PATIENT if push or patient else WAIT)
        self._transfer = Transfer(self._registry, folder)

    def __str__(self) -> str:
        return f"{self.place.name}/{self.place.repository}"

    def document(self, version: str, *, seconds: float) -> bytes | None:
        """The index or artifact behind a tag or digest; None where there is none. Raises StoreUnreachable."""

        def ask() -> bytes | None:
            found = self._registry.ask(
                "GET", f"{self._registry.base}/manifests/{version}", _ACCEPT, deadline=time.monotonic() + seconds,
                most=documents.MOST_DOCUMENT, good=(200, 404),
            )  # fmt: skip
            if found.status == 404:
                return None
            if version.startswith("sha256:") and documents.digest_of(found.body) != version:
                raise BadBundle(
                    f"{self}@{version[:19]} is corrupted: the store sent something else", why="the store, or a proxy"
                )
            return found.body

        return bounded(ask, seconds, str(self))

    def image(self, version: str, *, seconds: float) -> str | None:
        """The digest of the image behind a tag; None where there is none. Raises StoreUnreachable."""
        accepted = {"Accept": ", ".join((*_ACCEPT.values(), *documents.DOCKER_TYPES))}

        def ask() -> str | None:
            found = self._registry.ask(
                "GET", f"{self._registry.base}/manifests/{version}", accepted, deadline=time.monotonic() + seconds,
                most=documents.MOST_DOCUMENT, good=(200, 404),
            )  # fmt: skip
            return documents.digest_of(found.body) if found.status == 200 else None

        return bounded(ask, seconds, str(self))

    def entries(self, tag: str, *, seconds: float) -> list[Entry]:
        """The bundles listed behind *tag*, the newest first; none where there is no such tag."""
        data = self.document(tag, seconds=seconds)
        return [] if data is None else documents.read_index(data, f"{self}:{tag}")[1]

    def recipe(self, blob: Blob, name: str, *, seconds: float) -> bytes:
        """The manifest of bundle *name*, its digest checked."""
        return _recipe(self.small(blob, seconds), name, str(self))

    def small(self, blob: Blob, seconds: float) -> bytes:
        """A blob in memory, its digest checked. Raises StoreUnreachable, BadBundle."""
        return bounded(lambda: self._transfer.small(blob, time.monotonic() + seconds), seconds, str(self))

    def artifact(self, digest: str, *, seconds: float) -> Artifact:
        data = self.document(digest, seconds=seconds)
        if data is None:
            raise BadBundle(f"there is no bundle {self.place.name}/{self.place.repository}@{digest[:19]}")
        return documents.read_artifact(data, f"{self}@{digest[:19]}")

    def referrers(self, digest: str, *, seconds: float) -> bytes | None:
        """The registry's own list of what refers to *digest*; None where it keeps none (OCI 1.0)."""

        def ask() -> bytes | None:
            found = self._registry.ask(
                "GET", f"{self._registry.base}/referrers/{digest}", _ACCEPT, deadline=time.monotonic() + seconds,
                most=documents.MOST_DOCUMENT, good=(200, 400, 404, 405),
            )  # fmt: skip
            return found.body if found.status == 200 else None

        return bounded(ask, seconds, str(self))

    def bring(self, found: Artifact, written: bytes, into: LocalStore, *, objects: bool) -> None:
        """Put the bundle whose manifest is *written* into *into*: its outputs, and its objects where they are wanted.

        Raises StoreUnreachable, BadBundle, DiskFull.
        """
        manifest, name = from_bytes(written, str(self)), documents.digest_of(written).partition(":")[2]
        _compare(found, manifest, str(self))
        wanted = [*found.outputs.values()]
        if objects and found.objects is not None and manifest.objects:
            wanted.append(found.objects)
        total = sum(blob.size for blob in wanted)
        with console.step(f"fetching {size(total)} of bundle {name[:12]} from {self}"):
            files = self._transfer.fetch(wanted)
        try:
            with explained(str(into.folder)):
                self._keep(files, found, manifest, written, into)
        except BadBundle as error:
            raise BadBundle(
                f"bundle {name[:12]} of {self} is not what its manifest says: {error}",
                why="it was not made by xfdev, or changed since",
                hint="push it again from its maker, or leave this store out",
            ) from error
        finally:
            files.remove()

    def _keep(self, files: Files, found: Artifact, manifest: Manifest, written: bytes, into: LocalStore) -> None:
        name = documents.digest_of(written).partition(":")[2]
        with tempfile.TemporaryDirectory(prefix="unpack-", dir=files.folder) as scratch:
            outputs = {}
            for number, (output, blob) in enumerate(found.outputs.items()):
                outputs[output] = Path(scratch, f"output-{number}")
                expand(files.path(blob), outputs[output], manifest.outputs[output].size, output)
            entries = None
            if found.objects in files.blobs and found.objects is not None:
                entries = Path(scratch, "objects")
                unpack(files.path(found.objects), entries, manifest.objects)
            if name in into.ids():
                if entries is not None:
                    into.add_objects(name, manifest, entries)
            else:
                into.put(manifest, outputs, entries, written)

    def push(self, store: LocalStore, name: str, *, sign: Callable[[str], None] | None = None) -> str:
        """Send a bundle of *store* and list it; returns the artifact's digest. Sending it again changes nothing.

        *sign* is called with the digest before the bundle is listed: nobody is offered it without its signature.
        """
        store.verify(name)
        manifest = store.manifest(name)
        objects = store.objects(name, manifest)
        with tempfile.TemporaryDirectory(prefix="xfdev-push-") as scratch:
            recipe = packed(Path(scratch, "manifest"), [store.written(name)], documents.RECIPE_LAYER)
            outputs = {
                output: packed(Path(scratch, f"output-{number}"), blocks(store.output(name, output)),
                                documents.OUTPUT_LAYER, title=output)
                for number, output in enumerate(sorted(manifest.outputs))
            }  # fmt: skip
            files = {blob.digest: Path(scratch, f"output-{number}") for number, blob in enumerate(outputs.values())}
            files[recipe.digest] = Path(scratch, "manifest")
            blob = None
            if objects is not None:
                blob = archive(objects, sorted(manifest.objects), Path(scratch, "objects"))
                files[blob.digest] = Path(scratch, "objects")
            Path(scratch, "empty").write_bytes(documents.EMPTY)
            files[documents.digest_of(documents.EMPTY)] = Path(scratch, "empty")
            total = sum(path.stat().st_size for path in files.values())
            with console.step(f"sending {size(total)} to {self}"), ThreadPoolExecutor(_AT_ONCE) as pool:
                for sent in [pool.submit(self.send, digest, path) for digest, path in files.items()]:
                    sent.result()
        notes = documents.labels(name, manifest, recipe)
        data = documents.artifact_document(Artifact(recipe, outputs, blob), notes)
        digest = documents.digest_of(data)
        self.put(documents.own_tag(name), data, documents.MANIFEST_TYPE)
        if sign is not None:
            sign(digest)
        self._list(documents.tag_of(manifest), documents.listed(digest, len(data), notes))
        return digest

    def send(self, digest: str, path: Path) -> None:
        """Send a blob, unless it is there already. Raises StoreUnreachable."""
        registry, length = self._registry, path.stat().st_size
        deadline = time.monotonic() + _UPLOAD[0] + length / _UPLOAD[1]
        url = f"{registry.base}/blobs/{digest}"
        if registry.ask("HEAD", url, deadline=deadline, good=(200, 404)).status == 200:
            return
        for attempt in range(_UPLOADS):
            # Each try needs an upload of its own: one that was cut short has an unknown state.
            started = registry.ask("POST", f"{registry.base}/blobs/uploads/", {"Content-Length": "0"}, b"",
                                   deadline=deadline, good=(202,))  # fmt: skip
            location = registry.join(started.headers.get("location", ""))
            location += ("&" if "?" in location else "?") + f"digest={digest}"
            headers = {"Content-Type": "application/octet-stream", "Content-Length": str(length)}
            try:
                registry.ask("PUT", location, headers, lambda: path.open("rb"), deadline=deadline, good=(201, 204),
                             tries=1)  # fmt: skip
                return
            except StoreUnreachable:
                if attempt + 1 == _UPLOADS or time.monotonic() > deadline:
                    raise

    def put(self, version: str, data: bytes, media: str) -> None:
        """Send a document, behind a tag or digest. Raises StoreUnreachable."""
        said = ""
        for _ in range(_PUTS):
            found = self._registry.ask(
                "PUT", f"{self._registry.base}/manifests/{version}", {"Content-Type": media}, data,
                deadline=time.monotonic() + _UPLOAD[0], good=(200, 201, 400),
            )  # fmt: skip
            if found.status != 400:
                return
            said = refusal(found)
            # Docker's registry 2.8.3 sometimes finds a wrong digest where several people push to it at once.
            time.sleep(random.uniform(0.1, 0.5))
        raise StoreUnreachable(
            f"the store {self} takes no bundle: {said}",
            why="it may be too old for artifacts of OCI 1.1, or forbid them",
            hint="push to another registry",
        )

    def _list(self, tag: str, line: Mapping[str, object]) -> None:
        """Add a line to an index. Registries cannot compare and swap: it is read back until the line has stayed."""
        seen, sent = 0, False
        for _ in range(_MERGES):
            started = time.monotonic()
            data = self.document(tag, seconds=_UPLOAD[0])
            lines = [] if data is None else documents.read_index(data, f"{self}:{tag}")[0]
            if any(other.get("digest") == line["digest"] for other in lines):
                seen += 1
                if not sent or seen > 1:
                    return
            else:
                self.put(tag, documents.index_document(documents.merged(lines, line)), documents.INDEX_TYPE)
                seen, sent = 0, True
            # Who has read what was there before us writes within the time that reading and writing takes.
            usual = max(0.2, 3 * (time.monotonic() - started))
            time.sleep(min(usual, 5.0) * random.uniform(1.0, 2.0))
        raise StoreUnreachable(
            f"the bundle was sent to {self}, but its entry in the list {tag} is overwritten again and again",
            why="others push to it at the same moment",
            hint="run the same command again",
        )

    def pulled(
        self, into: LocalStore, machine: str, allow: Callable[[str], None] = lambda digest: None
    ) -> dict[str, tuple[str, str]]:
        """Fetch what ``place`` names, whole: one bundle, or the newest of each class in a list.

        *allow* raises for a digest that may not be fetched. Returns the digests of artifact and recipe by bundle.
        """
        version = self.place.version or self._only_list(machine)
        data = self.document(version, seconds=20.0)
        where = f"{self}:{version}"
        if data is None:
            raise BadBundle(
                f"there is no {where}", hint="xfdev bundle push sends one; tags are written as in its answer"
            )
        try:
            found = {documents.digest_of(data): documents.read_artifact(data, where)}
        except BadBundle:
            entries = documents.read_index(data, where)[1]
            newest = {tuple(map(entry.label, ("torch", "arch", "python"))): entry for entry in reversed(entries)}
            found = {entry.digest: self.artifact(entry.digest, seconds=20.0) for entry in newest.values()}
        names = {}
        for digest, artifact in found.items():
            allow(digest)
            written = inflated(self.small(artifact.recipe, 20.0), documents.MOST_RECIPE, where)
            name = documents.digest_of(written).partition(":")[2]
            if name not in into.ids() or into.lacks_objects(name):
                self.bring(artifact, written, into, objects=True)
            names[name] = (digest, artifact.recipe.digest)
        return names

    def _only_list(self, machine: str) -> str:
        import json

        found = self._registry.ask("GET", f"{self._registry.base}/tags/list", deadline=time.monotonic() + 20.0,
                                   good=(200, 404))  # fmt: skip
        try:
            tags = [str(tag) for tag in json.loads(found.body).get("tags") or ()] if found.status == 200 else []
        except (ValueError, AttributeError, TypeError, RecursionError):
            tags = []
        lists = sorted(tag for tag in tags if f"-{machine}-" in tag and not tag.startswith("bundle-"))
        if len(lists) == 1:
            return lists[0]
        raise UsageError(
            f"which bundles of {self}?",
            hint=f"add one of these tags: {', '.join(lists[:20])}" if lists else "there is none for this machine yet",
        )


def _recipe(data: bytes, name: str, where: str) -> bytes:
    found = inflated(data, documents.MOST_RECIPE, where)
    if documents.digest_of(found) != f"sha256:{name}":
        raise BadBundle(f"bundle {name[:12]} in {where} is corrupted: its manifest is not the one it is named after")
    return found


def _compare(found: Artifact, manifest: Manifest, where: str) -> None:
    if {*found.outputs} != {*manifest.outputs}:
        raise BadBundle(f"a bundle in {where} has not the files that its manifest names")
    check(manifest, where)
