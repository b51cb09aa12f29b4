"""The forms of signatures, as cosign 2.5.0 and 3.1.1 wrote them, and what an enemy may make of them."""

from __future__ import annotations

import base64
import json
from dataclasses import replace
from pathlib import Path

import pytest

from xfdev import trust
from xfdev.errors import BadBundle
from xfdev.stores import keys, signature
from xfdev.stores.artifact import MANIFEST_TYPE, Blob
from xfdev.trust import Checked

DIGEST = "sha256:" + "a" * 64
OTHER = "sha256:" + "b" * 64
PAYLOAD = Blob("sha256:" + "c" * 64, 237, signature.PAYLOAD)


def test_places() -> None:
    assert signature.tag(DIGEST) == f"sha256-{'a' * 64}.sig"
    assert signature.referrers_tag(DIGEST) == f"sha256-{'a' * 64}"


def test_payload_names_the_digest() -> None:
    data = signature.payload("ghcr.io/team/bundles", DIGEST)
    assert signature.of_payload(data, base64.b64encode(b"x").decode()) == signature.Signed(data, b"x", DIGEST)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"[]",
        b"{}",
        b'{"critical": 1}',
        signature.payload("x", "sha256:short"),
        signature.payload("x", DIGEST).replace(b"cosign container", b"another"),
        b"[" * 100_000,
    ],
)
def test_other_payloads_are_about_nothing(data: bytes) -> None:
    assert signature.of_payload(data, "eA==").digest == ""


def test_manifest_round() -> None:
    entries = [(PAYLOAD, "eA=="), (PAYLOAD, "eQ==")]
    config = Blob(OTHER, 2, signature.CONFIG_TYPE)
    data = signature.manifest(entries, config)
    assert [(blob.digest, note) for blob, note in signature.read_manifest(data, "x")] == [
        (PAYLOAD.digest, "eA=="),
        (PAYLOAD.digest, "eQ=="),
    ]
    assert json.loads(signature.configuration(entries))["rootfs"]["diff_ids"] == [PAYLOAD.digest] * 2


@pytest.mark.parametrize("data", [b"", b"{}", b"[]", b'{"layers": 1}', b'{"layers": [1]}'])
def test_no_manifest(data: bytes) -> None:
    with pytest.raises(BadBundle):
        signature.read_manifest(data, "x")


def test_layers_that_cannot_be_fetched_are_left_out() -> None:
    layer = {"mediaType": signature.PAYLOAD, "digest": DIGEST, "size": 9, "annotations": {signature.ANNOTATION: "eA=="}}
    bad = [
        {**layer, "size": signature.MOST + 1},
        {**layer, "size": "9"},
        {**layer, "digest": "sha256:../../x"},
        {**layer, "annotations": {}},
        {**layer, "annotations": {signature.ANNOTATION: 1}},
        {**layer, "mediaType": "text/plain"},
    ]
    assert signature.read_manifest(json.dumps({"layers": bad}).encode(), "x") == []
    many = json.dumps({"layers": [layer] * 1000}).encode()
    assert len(signature.read_manifest(many, "x")) == signature.AT_MOST


def sigstore(digest: str = DIGEST, **changes: object) -> bytes:
    statement = {
        "_type": "https://in-toto.io/Statement/v1",
        "subject": [{"digest": {"sha256": digest.partition(":")[2]}, "annotations": {}}],
        "predicateType": signature.PREDICATE,
        "predicate": {},
        **changes,
    }
    envelope = {
        "payload": base64.b64encode(json.dumps(statement).encode()).decode(),
        "payloadType": signature.STATEMENT,
        "signatures": [{"sig": "eA=="}],
    }
    return json.dumps({"mediaType": f"{signature.BUNDLE_PREFIX}.v0.3+json", "dsseEnvelope": envelope}).encode()


def test_sigstore_bundle() -> None:
    (found,) = signature.of_sigstore_bundle(sigstore())
    assert (found.digest, found.value) == (DIGEST, b"x")
    assert found.data.startswith(b"DSSEv1 28 application/vnd.in-toto+json ")


@pytest.mark.parametrize(
    "changes",
    [
        {"predicateType": "https://slsa.dev/provenance/v1"},  # an attestation says something else than a signature
        {"subject": []},
        {"subject": [{"digest": {"sha256": "a" * 64}}, {"digest": {"sha256": "b" * 64}}]},
        {"subject": [{"digest": {"sha256": "x"}}]},
    ],
)
def test_statements_about_something_else(changes: dict[str, object]) -> None:
    found = signature.of_sigstore_bundle(sigstore(**changes))
    assert [entry.digest for entry in found] == [""]


@pytest.mark.parametrize("data", [b"", b"{}", b'{"dsseEnvelope": 1}', b'{"messageSignature": {}}', b"[" * 100_000])
def test_other_bundles(data: bytes) -> None:
    assert signature.of_sigstore_bundle(data) == []


def test_referrers() -> None:
    line = {"mediaType": MANIFEST_TYPE, "digest": OTHER, "size": 1, "artifactType": "application/vnd.oci.empty.v1+json"}
    index = json.dumps({"manifests": [line, {**line, "digest": "x"}, {**line, "mediaType": "text/plain"}]}).encode()
    assert signature.read_referrers(index, "x") == [OTHER]
    with pytest.raises(BadBundle):
        signature.read_referrers(b"{}", "x")
    kind = f"{signature.BUNDLE_PREFIX}.v0.3+json"
    layer = {"mediaType": kind, "digest": OTHER, "size": 9}
    document = {"layers": [layer], "subject": {"digest": DIGEST}, "artifactType": kind}

    def read(**changes: object) -> Blob | None:
        return signature.read_referrer(json.dumps({**document, **changes}).encode(), DIGEST, "x")

    assert read() == Blob(OTHER, 9, kind)
    assert read(subject={"digest": OTHER}) is None
    assert read(subject=1) is None
    assert read(artifactType="application/spdx+json") is None
    assert read(layers=[layer, layer]) is None


#: What cosign 3.1.1 (Debian) wrote, and the key it wrote it with.
COSIGN_KEY = """\
-----BEGIN PUBLIC KEY-----
MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEYgE2TDCE2X3QIYxTg+XuZ4d5MZl+
PK2ktO80AOd74PKSJBZWVE4TIaBCMA8/1QbMeJJgFTz7j6Ivnz4+QZBlsA==
-----END PUBLIC KEY-----
"""
COSIGN_PAYLOAD = (
    "eyJfdHlwZSI6Imh0dHBzOi8vaW4tdG90by5pby9TdGF0ZW1lbnQvdjEiLCJzdWJqZWN0IjpbeyJkaWdlc3QiOnsic2hhMjU2"
    "IjoiYTk1NTlmYmExMjQ2NmRjOWVmYzliZjQxMjI4MjhlZDM5OTAyNDViNDc1ZWViYTVmZjhlYzE4N2MzYzE1Nzk1MiJ9LCJh"
    "bm5vdGF0aW9ucyI6e319XSwicHJlZGljYXRlVHlwZSI6Imh0dHBzOi8vc2lnc3RvcmUuZGV2L2Nvc2lnbi9zaWduL3YxIiwi"
    "cHJlZGljYXRlIjp7fX0="
)
COSIGN_SIGNATURE = "MEYCIQCuzsp1/e92AAV3nsNeO4b1w0We44arGFPq6lo6nzTg0wIhAPx0ABn6VizHccX3JfidtWHgbR+xYX9LoLxG75hbsFhK"
COSIGN_DIGEST = "sha256:a9559fba12466dc9efc9bf4122828ed3990245b475eeba5ff8ec187c3c157952"


def test_what_cosign_3_wrote(tmp_path: Path) -> None:
    (tmp_path / "cosign.pub").write_text(COSIGN_KEY)
    envelope = {
        "payload": COSIGN_PAYLOAD,
        "payloadType": "application/vnd.in-toto+json",
        "signatures": [{"sig": COSIGN_SIGNATURE}],
    }
    (key,) = keys.public_keys([tmp_path / "cosign.pub"])
    (found,) = signature.of_sigstore_bundle(json.dumps({"dsseEnvelope": envelope}).encode())
    assert found.digest == COSIGN_DIGEST
    assert key.made(found)
    assert not key.made(replace(found, data=found.data[:-1] + b" "))
    assert not key.made(replace(found, value=found.value[:-1]))
    assert not key.made(replace(found, value=b""))


GOOD, FOREIGN, MOVED = Checked(DIGEST, "team.pub"), Checked(DIGEST, ""), Checked(OTHER, "team.pub")


@pytest.mark.parametrize(
    ("policy", "signatures", "said"),
    [
        ("off", [], ""),
        ("off", [FOREIGN], ""),
        ("optional", [], ""),
        ("optional", [FOREIGN], "another key"),
        ("optional", [MOVED], "is for sha256:bbbb"),
        ("required", [], "not signed"),
        ("required", [FOREIGN], "another key"),
        ("required", [MOVED, FOREIGN], "is for sha256:bbbb"),
        ("required", [Checked("", "team.pub")], "something else"),
        ("required", [FOREIGN, MOVED, GOOD], ""),
        ("optional", [FOREIGN, GOOD], ""),
    ],
)
def test_policies(policy: str, signatures: list[Checked], said: str) -> None:
    found = trust.unsigned(policy, DIGEST, signatures)
    assert said in found
    assert bool(found) == bool(said)


def test_naming_keys_is_enough() -> None:
    assert trust.policy_of(None, ()) == "off"
    assert trust.policy_of(None, ("a.pub",)) == "required"
    assert trust.policy_of("optional", ("a.pub",)) == "optional"


def test_locked() -> None:
    assert trust.unlocked(DIGEST, None, "xfdev.lock") == ""
    assert trust.unlocked(DIGEST, [DIGEST], "xfdev.lock") == ""
    assert trust.unlocked(DIGEST, [], "xfdev.lock") == "it is not in xfdev.lock"
