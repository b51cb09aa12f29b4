"""How a bundle looks in an OCI registry. Pure: names, documents and limits; nothing is read or sent here.

A bundle is an image manifest (OCI 1.1, with an artifact type and the empty configuration) whose layers are the
xfdev manifest, each output, and the compiler-cache objects, so that each reader fetches only what it needs. The
newest bundles of one kind of environment are listed, with their summaries, in an index behind a tag that a checkout
can name before it has anything.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from xfdev.bundle import Manifest
from xfdev.errors import BadBundle
from xfdev.files import sha256_of

MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
INDEX_TYPE = "application/vnd.oci.image.index.v1+json"
#: Of images that Docker pushed in its own, older form.
DOCKER_TYPES = (
    "application/vnd.docker.distribution.manifest.v2+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
)
BUNDLE = "application/vnd.xfdev.bundle.v1"
BUNDLES = "application/vnd.xfdev.bundles.v1"
RECIPE_LAYER = "application/vnd.xfdev.bundle.manifest.v1+json+gzip"
OUTPUT_LAYER = "application/vnd.xfdev.bundle.output.v1+gzip"
OBJECTS_LAYER = "application/vnd.xfdev.bundle.objects.v1.tar"
#: OCI image-spec 1.1, "Guidance for an Empty Descriptor".
EMPTY = b"{}"
EMPTY_TYPE = "application/vnd.oci.empty.v1+json"

#: A registry takes documents of 4 MiB (distribution-spec, "Pushing Manifests").
MOST_DOCUMENT = 4 << 20
#: Unpacked; that of 13 units takes 1 MB. Read as JSON, the most spiteful one takes twenty times as much memory.
MOST_RECIPE = 32 << 20
MOST_OUTPUT = 4 << 30
MOST_OBJECTS = 4 << 30
#: Bundles that an index lists: of each class of torch, arch and Python, and in all.
_OF_A_CLASS = 16
_IN_ALL = 240
_TITLE = "org.opencontainers.image.title"
_OURS = "org.xfdev.bundle."


@dataclass(frozen=True)
class Blob:
    """A layer: where it is from, and what it has to be."""

    digest: str
    size: int
    media: str
    title: str = ""


@dataclass(frozen=True)
class Entry:
    """A bundle as an index lists it. *digest* is that of its artifact; *recipe* its xfdev manifest."""

    digest: str
    id: str
    recipe: Blob
    labels: Mapping[str, str]

    def label(self, name: str) -> str:
        return self.labels.get(_OURS + name, "")


@dataclass(frozen=True)
class Artifact:
    recipe: Blob
    outputs: Mapping[str, Blob]
    objects: Blob | None


def digest_of(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def tag(project: str, machine: str, cuda: str) -> str:
    """Where the newest bundles for such an environment are listed: what every checkout knows of itself, and what a
    library can never be without. *cuda* is a major, "" without CUDA."""
    plain = re.sub(r"[-_.]+", "-", project).lower()
    name = re.sub(r"[^a-z0-9-]", "", plain)[:60].strip("-")
    if name != plain:  # two projects never share a tag
        name = f"{name or 'x'}-{hashlib.sha256(plain.encode()).hexdigest()[:8]}"
    return f"{name}-{machine}-{f'cu{cuda}' if cuda else 'cpu'}"


def tag_of(manifest: Manifest) -> str:
    machine = manifest.needs.machine or manifest.facts.get("platform", "").partition("-")[2] or "any"
    cuda = (manifest.needs.cuda or manifest.facts.get("cuda", "")).partition(".")[0]
    return tag(manifest.project, machine, cuda)


def own_tag(name: str) -> str:
    """The tag of one bundle, which never moves."""
    return f"bundle-{name}"


def labels(name: str, manifest: Manifest, recipe: Blob) -> dict[str, str]:
    """A bundle's summary as annotations; all that a reader needs to choose and to fetch its manifest."""
    found = {
        "id": name,
        **manifest.headline,
        "python": manifest.needs.python,
        "commit": manifest.origin.get("commit", ""),
        "inputs": sha256_of([dict(manifest.files), dict(manifest.submodules)]),
        "recipe": recipe.digest,
        "recipe-size": str(recipe.size),
    }
    return {_OURS + name: value for name, value in found.items() if value}


def plain(labels: Mapping[str, str]) -> dict[str, str]:
    """The annotations of ours by their short names, as ``Entry.label`` takes them."""
    return {name.removeprefix(_OURS): value for name, value in labels.items() if name.startswith(_OURS)}


def prefixed(labels: Mapping[str, str]) -> dict[str, str]:
    """The reverse of ``plain``."""
    return {_OURS + name: value for name, value in labels.items()}


def descriptor(blob: Blob) -> dict[str, Any]:
    found: dict[str, Any] = {"mediaType": blob.media, "digest": blob.digest, "size": blob.size}
    return {**found, "annotations": {_TITLE: blob.title}} if blob.title else found


def artifact_document(artifact: Artifact, notes: Mapping[str, str]) -> bytes:
    layers = [artifact.recipe, *artifact.outputs.values(), *([artifact.objects] if artifact.objects else [])]
    return _canonical({
        "schemaVersion": 2,
        "mediaType": MANIFEST_TYPE,
        "artifactType": BUNDLE,
        "config": {"mediaType": EMPTY_TYPE, "digest": digest_of(EMPTY), "size": len(EMPTY), "data": "e30="},
        "layers": [descriptor(blob) for blob in layers],
        "annotations": dict(notes),
    })  # fmt: skip


def read_artifact(data: bytes, where: str) -> Artifact:
    """Raises BadBundle, naming *where* it came from, for what is no bundle."""
    value = _document(data, where, BUNDLE)
    try:
        layers = [_blob(layer, where) for layer in value["layers"]]
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise _damaged(where) from error
    recipes = [blob for blob in layers if blob.media == RECIPE_LAYER]
    objects = [blob for blob in layers if blob.media == OBJECTS_LAYER]
    outputs = {blob.title: blob for blob in layers if blob.media == OUTPUT_LAYER}
    if len(recipes) != 1 or len(objects) > 1 or len(recipes) + len(objects) + len(outputs) != len(layers):
        raise _damaged(where)
    return Artifact(recipes[0], outputs, objects[0] if objects else None)


def index_document(entries: Iterable[Mapping[str, Any]]) -> bytes:
    return _canonical({"schemaVersion": 2, "mediaType": INDEX_TYPE, "artifactType": BUNDLES, "manifests": [*entries]})


def listed(digest: str, size: int, notes: Mapping[str, str]) -> dict[str, Any]:
    """A bundle's line in an index."""
    return {"mediaType": MANIFEST_TYPE, "artifactType": BUNDLE, "digest": digest, "size": size,
            "annotations": dict(notes)}  # fmt: skip


def read_index(data: bytes, where: str) -> tuple[list[dict[str, Any]], list[Entry]]:
    """The lines of an index, and those of them that are bundles, the newest first. Raises BadBundle."""
    value = _document(data, where, BUNDLES)
    try:
        lines = [dict(line) for line in value["manifests"]]
        found = [entry for line in lines if (entry := _entry(line)) is not None]
        return lines, sorted(found, key=lambda entry: -_number(entry.label("created")))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise _damaged(where) from error


def merged(lines: Iterable[Mapping[str, Any]], new: Mapping[str, Any]) -> list[dict[str, Any]]:
    """*lines* of an index with *new* among them: the newest of each class, and not too many."""
    chosen: list[dict[str, Any]] = []
    classes: dict[tuple[str, ...], int] = {}
    others = [line for line in lines if line.get("digest") != new["digest"]]
    for line in [new, *sorted(others, key=lambda line: -_number(_note(line, "created")))]:
        kind = tuple(_note(line, name) for name in ("torch", "arch", "python"))
        classes[kind] = classes.get(kind, 0) + 1
        if classes[kind] <= _OF_A_CLASS and len(chosen) < _IN_ALL:
            chosen.append(dict(line))
    return chosen


def _note(line: Mapping[str, Any], name: str) -> str:
    return str((line.get("annotations") or {}).get(_OURS + name, ""))


def _number(text: str) -> float:
    return float(text) if re.fullmatch(r"\d{1,15}(?:\.\d{1,9})?", text) else 0.0


def _entry(line: Mapping[str, Any]) -> Entry | None:
    notes = line.get("annotations") or {}
    if line.get("artifactType") != BUNDLE or not all(isinstance(value, str) for value in notes.values()):
        return None
    digest, name, recipe = str(line["digest"]), _note(line, "id"), _note(line, "recipe")
    size = int(_number(_note(line, "recipe-size")))
    if not (is_digest(digest) and is_digest(recipe) and re.fullmatch(r"[0-9a-f]{64}", name)):
        return None
    return Entry(digest, name, Blob(recipe, size, RECIPE_LAYER), notes) if 0 < size <= MOST_RECIPE else None


_MOST = {RECIPE_LAYER: MOST_RECIPE, OUTPUT_LAYER: MOST_OUTPUT, OBJECTS_LAYER: MOST_OBJECTS}


def _blob(layer: Mapping[str, Any], where: str) -> Blob:
    blob = Blob(layer["digest"], layer["size"], layer["mediaType"], (layer.get("annotations") or {}).get(_TITLE, ""))
    if (
        not is_digest(blob.digest)
        or not isinstance(blob.title, str)
        or type(blob.size) is not int
        or not 0 < blob.size <= _MOST.get(blob.media, 0)
    ):
        raise _damaged(where)
    return blob


def is_digest(text: object) -> bool:
    return isinstance(text, str) and re.fullmatch(r"sha256:[0-9a-f]{64}", text) is not None


def _document(data: bytes, where: str, kind: str) -> dict[str, Any]:
    try:
        value = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise _damaged(where) from error
    if not isinstance(value, dict) or value.get("artifactType") != kind:
        raise BadBundle(
            f"{where} is no {'bundle' if kind == BUNDLE else 'list of bundles'} of xfdev",
            why="something else was pushed there",
            hint="give another repository, or another tag",
        )
    return value


def _damaged(where: str) -> BadBundle:
    return BadBundle(
        f"{where} is damaged",
        why="another program wrote it, or changed it",
        hint="push the bundle again from its maker",
    )


def _canonical(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":")).encode()
