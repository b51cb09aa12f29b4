"""The repository in which nights lie: documents behind tags and digests, each compared with its digest."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from functools import cached_property
from typing import Any

from xfdev.errors import BadBundle, StoreUnreachable
from xfdev.nightly import publish
from xfdev.stores.answers import refusal
from xfdev.stores.artifact import EMPTY, INDEX_TYPE, MANIFEST_TYPE, MOST_DOCUMENT, digest_of
from xfdev.stores.reference import Reference
from xfdev.stores.registry import PATIENT, Registry

#: What images and lists of them are kept as. Source: the media types of OCI image-spec 1.1 and of Docker's schema 2.
_TYPES = (
    INDEX_TYPE,
    MANIFEST_TYPE,
    "application/vnd.docker.distribution.manifest.list.v2+json",
    "application/vnd.docker.distribution.manifest.v2+json",
)
_ACCEPT = {"Accept": ", ".join(_TYPES)}
_WITHIN = 60.0
_PAGE = 1000


class Shelf:
    """The repository *place*. Reading asks for no right to write."""

    def __init__(self, place: Reference, environ: Mapping[str, str]) -> None:
        self.place = place
        self._environ = environ

    def __str__(self) -> str:
        return f"{self.place.name}/{self.place.repository}"

    @cached_property
    def _reader(self) -> Registry:
        return Registry(self.place, self._environ, wait=PATIENT)

    @cached_property
    def _writer(self) -> Registry:
        return Registry(self.place, self._environ, push=True, wait=PATIENT)

    def document(self, version: str) -> tuple[bytes, str] | None:
        """The manifest or index behind a tag or digest, and its media type; None where there is none.

        Raises StoreUnreachable, BadBundle for one that is not what its digest says.
        """
        found = self._reader.ask(
            "GET", f"{self._reader.base}/manifests/{version}", _ACCEPT, deadline=time.monotonic() + _WITHIN,
            most=MOST_DOCUMENT, good=(200, 404),
        )  # fmt: skip
        if found.status == 404:
            return None
        if version.startswith("sha256:") and digest_of(found.body) != version:
            raise BadBundle(f"{self}@{version[:19]} is corrupted: the registry sent something else")
        return found.body, found.headers.get("content-type", "").partition(";")[0]

    def digest(self, version: str) -> str | None:
        """The digest behind a tag; None where there is no such tag."""
        found = self.document(version)
        return None if found is None else digest_of(found[0])

    def blob(self, digest: str) -> bytes:
        """A small blob. Raises StoreUnreachable, BadBundle."""
        found = self._reader.ask(
            "GET", f"{self._reader.base}/blobs/{digest}", deadline=time.monotonic() + _WITHIN, most=64 << 20
        )
        if digest_of(found.body) != digest:
            raise BadBundle(f"a blob of {self} is corrupted: {digest[:19]}")
        return found.body

    def tags(self) -> list[str]:
        """All tags, however many pages they take; none where the repository does not exist yet."""
        names: list[str] = []
        last = ""
        while True:
            url = f"{self._reader.base}/tags/list?n={_PAGE}" + (f"&last={last}" if last else "")
            found = self._reader.ask("GET", url, deadline=time.monotonic() + _WITHIN, most=8 << 20, good=(200, 404))
            try:
                page = json.loads(found.body).get("tags") or [] if found.status == 200 else []
            except (ValueError, AttributeError) as error:
                raise StoreUnreachable(f"{self} lists its tags in no way that is known") from error
            fresh = [str(tag) for tag in page if tag not in names]
            names += fresh
            if not fresh or "link" not in found.headers:
                return names
            last = fresh[-1]

    def note(self, version: str) -> dict[str, Any] | None:
        """The document of ours behind a tag or digest; None where there is none, or another's."""
        found = self.document(version)
        if found is None:
            return None
        try:
            manifest = json.loads(found[0])
            if manifest.get("artifactType") != publish.RECORD:
                return None
            value = json.loads(self.blob(manifest["layers"][0]["digest"]))
        except (ValueError, KeyError, IndexError, TypeError, AttributeError):
            return None
        return value if isinstance(value, dict) else None

    def published(self, version: str = "latest") -> dict[str, Any] | None:
        """The record of the night behind a name; None where there is none."""
        found = self.document(version)
        digest = publish.record_of(found[0]) if found else None
        return self.note(digest) if digest else None

    def put(self, version: str, data: bytes, media: str) -> str:
        """Send a manifest or index to a tag, replacing what was there in one step; returns its digest."""
        found = self._writer.ask(
            "PUT", f"{self._writer.base}/manifests/{version}", {"Content-Type": media}, data,
            deadline=time.monotonic() + _WITHIN, good=(200, 201, 400),
        )  # fmt: skip
        if found.status == 400:
            raise StoreUnreachable(
                f"{self} takes no {version}: {refusal(found)}",
                why="it may be too old for artifacts of OCI 1.1, or forbid them",
                hint="publish to another registry",
            )
        return digest_of(data)

    def put_note(self, version: str, value: Mapping[str, Any], about: str) -> bytes:
        """Send a document of ours to a tag; returns the manifest that it got."""
        data = publish.canonical(value)
        manifest = publish.note(data, {publish.NAME: about})
        for blob in (EMPTY, data):
            self._put_blob(blob)
        self.put(version, manifest, MANIFEST_TYPE)
        return manifest

    def _put_blob(self, data: bytes) -> None:
        digest, deadline = digest_of(data), time.monotonic() + _WITHIN
        writer = self._writer
        if writer.ask("HEAD", f"{writer.base}/blobs/{digest}", deadline=deadline, good=(200, 404)).status == 200:
            return
        empty = {"Content-Length": "0"}
        started = writer.ask("POST", f"{writer.base}/blobs/uploads/", empty, b"", deadline=deadline, good=(202,))
        location = writer.join(started.headers.get("location", ""))
        location += ("&" if "?" in location else "?") + f"digest={digest}"
        kind = {"Content-Type": "application/octet-stream"}
        writer.ask("PUT", location, kind, data, deadline=deadline, good=(201, 204))

    def delete(self, digest: str) -> bool:
        """Delete a manifest and all tags of it; False where the registry does not do that for anybody like us."""
        found = self._writer.ask(
            "DELETE", f"{self._writer.base}/manifests/{digest}", deadline=time.monotonic() + _WITHIN,
            good=(200, 202, 400, 403, 404, 405, 501),
        )  # fmt: skip
        return found.status in (200, 202, 404)
