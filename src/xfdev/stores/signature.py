"""Signatures of bundles as cosign writes and reads them. Pure: names and documents; no key is used here.

Two forms are in use, and both are read:

- "simple signing" (cosign's SIGNATURE_SPEC.md, the form of cosign 1 and 2): a manifest behind a tag made of the digest
  that was signed, each layer a payload that names that digest, its signature in an annotation. It is also what is
  written here, because every cosign reads it.
- a sigstore bundle (cosign 3): an artifact that refers to what was signed, found by the registry's list of referrers
  or, where it keeps none, behind the tag ``sha256-...`` (distribution-spec 1.1, "Referrers Tag Schema"). In it, an
  in-toto statement in a DSSE envelope (secure-systems-lab/dsse, protocol.md).

The signed bytes name the digest, so that a signature cannot be moved to another bundle. The name of a repository in
them is not looked at, as cosign does not: a bundle that was copied stays what it is.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from xfdev.errors import BadBundle
from xfdev.stores.artifact import MANIFEST_TYPE, Blob, digest_of, is_digest

PAYLOAD = "application/vnd.dev.cosign.simplesigning.v1+json"
ANNOTATION = "dev.cosignproject.cosign/signature"
KIND = "cosign container image signature"
#: cosign 3 writes 0.3; later ones of 0.x keep what is read here.
BUNDLE_PREFIX = "application/vnd.dev.sigstore.bundle"
STATEMENT = "application/vnd.in-toto+json"
PREDICATE = "https://sigstore.dev/cosign/sign/v1"
CONFIG_TYPE = "application/vnd.oci.image.config.v1+json"
#: A payload takes 250 bytes, a sigstore bundle with a certificate and a log entry 10 kB.
MOST = 256 << 10
#: Signatures of one bundle that are looked at: anybody who may push can add more.
AT_MOST = 16


@dataclass(frozen=True)
class Signed:
    """A signature *value* of *data*, which say that they are about *digest* ("" where they say nothing of the kind)."""

    data: bytes
    value: bytes
    digest: str


def tag(digest: str) -> str:
    """Where signatures of what has *digest* lie."""
    return f"{digest.replace(':', '-')}.sig"


def referrers_tag(digest: str) -> str:
    return digest.replace(":", "-")


def payload(repository: str, digest: str) -> bytes:
    """What is signed, for a bundle with *digest* in *repository* (``ghcr.io/team/bundles``)."""
    image = {"docker-manifest-digest": digest}
    critical = {"identity": {"docker-reference": repository}, "image": image, "type": KIND}
    return json.dumps({"critical": critical, "optional": None}, separators=(",", ":")).encode()


def of_payload(data: bytes, signature: str) -> Signed:
    """The signature of a simple-signing payload."""
    digest = ""
    try:
        critical = json.loads(data)["critical"]
        if critical["type"] == KIND:
            digest = critical["image"]["docker-manifest-digest"]
    except (ValueError, KeyError, TypeError, RecursionError):
        pass
    return Signed(data, decoded(signature), digest if is_digest(digest) else "")


def of_sigstore_bundle(data: bytes) -> list[Signed]:
    """The signatures in a sigstore bundle; none where it holds something else."""
    try:
        envelope = json.loads(data)["dsseEnvelope"]
        kind, body = str(envelope["payloadType"]), decoded(envelope["payload"])
        values = [decoded(entry["sig"]) for entry in envelope["signatures"]]
        statement = json.loads(body)
        subjects = [f"sha256:{entry['digest']['sha256']}" for entry in statement["subject"]]
        about = kind == STATEMENT and statement["predicateType"] == PREDICATE and len(subjects) == 1
        digest = subjects[0] if about and is_digest(subjects[0]) else ""
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return []
    return [Signed(_pre_authentication(kind, body), value, digest) for value in values]


def _pre_authentication(kind: str, body: bytes) -> bytes:
    """What DSSE signs (PAE)."""
    name = kind.encode()
    return b"DSSEv1 %d %s %d %s" % (len(name), name, len(body), body)


def decoded(text: object) -> bytes:
    """Base64 as cosign writes it; b"" for what is none."""
    try:
        return base64.b64decode(text, validate=True) if isinstance(text, str) else b""
    except ValueError:
        return b""


def read_manifest(data: bytes, where: str) -> list[tuple[Blob, str]]:
    """The payloads of a signature manifest, each with its signature. Raises BadBundle for what is no manifest."""
    found = []
    for layer in _layers(data, where):
        note = (layer.get("annotations") or {}).get(ANNOTATION)
        blob = _blob(layer)
        if layer.get("mediaType") == PAYLOAD and isinstance(note, str) and blob is not None:
            found.append((blob, note))
    return found[:AT_MOST]


def read_referrers(data: bytes, where: str) -> list[str]:
    """The digests of an index of referrers that may be signatures.

    Only the artifact itself tells what it is: the index that cosign writes for registries without such lists names
    another type (seen with cosign 3.1.1).
    """
    try:
        lines = json.loads(data)["manifests"]
        found = [line["digest"] for line in lines if line.get("mediaType") == MANIFEST_TYPE]
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise _damaged(where) from error
    return [digest for digest in found if is_digest(digest)][-AT_MOST:]


def read_referrer(data: bytes, digest: str, where: str) -> Blob | None:
    """The sigstore bundle of an artifact that refers to *digest*; None where it is something else."""
    layers = _layers(data, where)
    value = json.loads(data)
    subject = value.get("subject")
    ours = isinstance(subject, dict) and subject.get("digest") == digest
    if not ours or not str(value.get("artifactType")).startswith(BUNDLE_PREFIX) or len(layers) != 1:
        return None
    return _blob(layers[0])


def manifest(entries: Sequence[tuple[Blob, str]], config: Blob) -> bytes:
    """The signature manifest with *entries*, each a payload and its signature."""
    layers = [
        {"mediaType": PAYLOAD, "digest": blob.digest, "size": blob.size, "annotations": {ANNOTATION: signature}}
        for blob, signature in entries
    ]
    return json.dumps(
        {
            "schemaVersion": 2,
            "mediaType": MANIFEST_TYPE,
            "config": {"mediaType": CONFIG_TYPE, "digest": config.digest, "size": config.size},
            "layers": layers,
        },
        separators=(",", ":"),
    ).encode()


def configuration(entries: Sequence[tuple[Blob, str]]) -> bytes:
    """The configuration that goes with such a manifest: some registries read it as that of an image."""
    layers = {"type": "layers", "diff_ids": [blob.digest for blob, _ in entries]}
    return json.dumps({"architecture": "", "os": "", "config": {}, "rootfs": layers}, separators=(",", ":")).encode()


def payload_blob(data: bytes) -> Blob:
    return Blob(digest_of(data), len(data), PAYLOAD)


def _layers(data: bytes, where: str) -> list[Mapping[str, Any]]:
    try:
        layers = json.loads(data)["layers"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise _damaged(where) from error
    if not isinstance(layers, list) or not all(isinstance(layer, dict) for layer in layers):
        raise _damaged(where)
    return layers


def _blob(layer: Mapping[str, Any]) -> Blob | None:
    digest, size = layer.get("digest"), layer.get("size")
    if not is_digest(digest) or type(size) is not int or not 0 < size <= MOST:
        return None
    return Blob(str(digest), size, str(layer.get("mediaType")))


def _damaged(where: str) -> BadBundle:
    return BadBundle(f"the signatures at {where} are damaged", why="another program wrote or changed them",
                     hint="sign the bundle again")  # fmt: skip
