"""How a night looks in a registry. Pure: documents and their digests; nothing is sent here.

Everything of a night is one index: the default variant's image, which engines choose by its platform; the images of
the other variants and the record of the night, with a platform that no engine has, as attestations have it. So
``latest`` is moved by one request, and whoever reads it has all of one night or all of another, never a mixture.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from xfdev.stores.artifact import EMPTY, EMPTY_TYPE, INDEX_TYPE, MANIFEST_TYPE, digest_of

RECORD = "application/vnd.xfdev.nightly.v1+json"
VARIANT = "org.xfdev.nightly.variant"
NAME = "org.xfdev.nightly"
_NOWHERE = {"architecture": "unknown", "os": "unknown"}
#: Nights whose sizes and durations are kept for the page.
MOST_HISTORY = 180


def canonical(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()


def note(data: bytes, annotations: Mapping[str, str]) -> bytes:
    """The manifest of an artifact with one document in it."""
    return canonical({
        "schemaVersion": 2,
        "mediaType": MANIFEST_TYPE,
        "artifactType": RECORD,
        "config": {"mediaType": EMPTY_TYPE, "digest": digest_of(EMPTY), "size": len(EMPTY), "data": "e30="},
        "layers": [{"mediaType": RECORD, "digest": digest_of(data), "size": len(data)}],
        "annotations": dict(annotations),
    })  # fmt: skip


def index(night: str, default: str, images: Mapping[str, tuple[bytes, str]], record: bytes, machine: str) -> bytes:
    """The index of a night. *images* maps each variant to its manifest (or index) and the media type of that; *record*
    is the manifest of the record's artifact; *machine* is the platform's architecture, as Docker calls it."""
    entries: list[dict[str, Any]] = []
    for variant in sorted(images, key=lambda name: (name != default, name)):
        data, media = images[variant]
        mark = {VARIANT: variant}
        if variant != default:
            entries.append({**_descriptor(data, media), "platform": _NOWHERE, "annotations": mark})
            continue
        inner = json.loads(data)
        if "manifests" in inner:  # an index in an index is not what every engine can choose from
            entries += [
                {**entry, "annotations": {**entry.get("annotations", {}), **mark}} for entry in inner["manifests"]
            ]
        else:
            place = {"architecture": machine, "os": "linux"}
            entries.append({**_descriptor(data, media), "platform": place, "annotations": mark})
    entries.append({**_descriptor(record, MANIFEST_TYPE), "artifactType": RECORD, "platform": _NOWHERE})
    document = {"schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": entries, "annotations": {NAME: night}}
    return canonical(document)


def record_of(data: bytes) -> str | None:
    """The digest of the record's artifact that an index lists; None where it is no night."""
    try:
        entries = json.loads(data)["manifests"]
        return next((str(entry["digest"]) for entry in entries if entry.get("artifactType") == RECORD), None)
    except (ValueError, KeyError, TypeError, AttributeError):
        return None


def _descriptor(data: bytes, media: str) -> dict[str, Any]:
    return {"mediaType": media, "digest": digest_of(data), "size": len(data)}


def history(published: Mapping[str, Any] | None, line: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The summaries of all nights so far, the newest last."""
    return [*(published or {}).get("history", []), line][-MOST_HISTORY:]


def line(record: Mapping[str, Any]) -> dict[str, Any]:
    """What the page's plots need of one night."""
    images = record["images"]
    return {
        "night": record["night"],
        "created": record["created"],
        "bytes": {name: entry.get("bytes") for name, entry in images.items()},
        "seconds": record["seconds"],
        "changes": len(record["changes"]),
    }


def sizes(layers: Sequence[Mapping[str, Any]], before: Sequence[str]) -> tuple[int, int]:
    """The compressed bytes of an image's layers, and of those that somebody with layers *before* has to fetch."""
    known = {*before}
    total = sum(int(layer["size"]) for layer in layers)
    return total, sum(int(layer["size"]) for layer in layers if layer["digest"] not in known)
