"""Signatures in a registry: those that are there, and one more. Their form is in ``signature``."""

from __future__ import annotations

import base64
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

from xfdev.errors import BadBundle
from xfdev.stores import signature as form
from xfdev.stores.artifact import MANIFEST_TYPE, Blob, digest_of
from xfdev.stores.oci import OciStore
from xfdev.stores.signature import Signed

_SECONDS = 30.0


def signatures(store: OciStore, digest: str, *, deadline: float) -> Iterator[Signed]:
    """The signatures that *store* has for *digest*, in both forms, fetched as they are asked for.

    What is damaged, or something else, is left out: anybody who may push can put it there. Raises StoreUnreachable
    by *deadline* (of ``time.monotonic``).
    """

    def left() -> float:
        return max(0.2, deadline - time.monotonic())

    where = f"{store}:{form.tag(digest)}"
    with suppress(BadBundle):
        data = store.document(form.tag(digest), seconds=left())
        for blob, value in form.read_manifest(data, where) if data is not None else ():
            with suppress(BadBundle):
                yield form.of_payload(store.small(blob, left()), value)
    with suppress(BadBundle):
        listed = store.referrers(digest, seconds=left())
        if listed is None:
            listed = store.document(form.referrers_tag(digest), seconds=left())
        for referrer in form.read_referrers(listed, where) if listed is not None else ():
            with suppress(BadBundle):
                found = store.document(referrer, seconds=left())
                bundle = None if found is None else form.read_referrer(found, digest, where)
                if bundle is not None:
                    yield from form.of_sigstore_bundle(store.small(bundle, left()))


def sign(store: OciStore, digest: str, key: Callable[[bytes], bytes]) -> None:
    """Add the signature that *key* makes for *digest*, beside those that are there.

    Raises StoreUnreachable, BadBundle.
    """
    data, tag = form.payload(str(store), digest), form.tag(digest)
    known = store.document(tag, seconds=_SECONDS)
    entries = [] if known is None else form.read_manifest(known, f"{store}:{tag}")
    entries.append((form.payload_blob(data), base64.b64encode(key(data)).decode()))
    config = form.configuration(entries)
    with tempfile.TemporaryDirectory(prefix="xfdev-sign-") as scratch:
        for content in (data, config):
            file = Path(scratch, "content")
            file.write_bytes(content)
            store.send(digest_of(content), file)
    described = Blob(digest_of(config), len(config), form.CONFIG_TYPE)
    store.put(tag, form.manifest(entries, described), MANIFEST_TYPE)
