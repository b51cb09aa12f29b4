"""Whom a command trusts: the lock file, the keys, and what was found about bundles of stores."""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from xfdev.errors import StaleLock, Untrusted, UsageError, XfdevError
from xfdev.files import read_json, write_json
from xfdev.options import LOCK_FILE, Options
from xfdev.stores.local import LocalStore

if TYPE_CHECKING:  # a link without lock file and keys, which is the usual one, needs none of it
    from xfdev import lockfile
    from xfdev.stores.artifact import Entry
    from xfdev.stores.keys import Key
    from xfdev.stores.oci import OciStore


class Trust:
    """What *options* say about trust, for the checkout at *root* (None: there is none, and so no lock file)."""

    def __init__(self, options: Options, root: Path | None, local: LocalStore) -> None:
        self._options = options
        self._local = local
        self.lock_file = root / (options.lock or LOCK_FILE) if root is not None else None
        self.policy = "off"
        if options.signatures or options.keys:
            from xfdev import trust

            self.policy = trust.policy_of(options.signatures, options.keys or ())
        if self.policy != "off" and not options.keys:
            raise UsageError(
                f"signatures are {self.policy}, and no key says whose",
                hint="name the public keys in the option keys; signatures without key pairs: docs/how-to/trust.md",
            )

    @cached_property
    def lock(self) -> lockfile.Lock | None:
        """The lock in force. Raises StaleLock where it cannot be read, or has to be there and is not."""
        if self.lock_file is None or not (self._options.locked or self.lock_file.exists()):
            return None
        from xfdev import lockfile

        found = lockfile.read(self.lock_file)
        if self._options.locked:
            if found is None:
                raise lockfile.required(self.lock_file)
            if self._options.stores and found.bundles is None:
                raise StaleLock(
                    f"{self.lock_file} names no bundles, although stores are configured",
                    why="it was written before they were",
                    hint="xfdev lock writes it anew",
                )
        return found

    def check(self) -> None:
        """Raise StaleLock for a lock file that is damaged, or missing where it has to be there: before anything is
        linked, whether or not something would come from afar."""
        _ = self.lock

    @property
    def active(self) -> bool:
        """Whether anything could be against a bundle."""
        return self.policy != "off" or (self.lock is not None and self.lock.bundles is not None)

    def locked(self, store: str) -> Sequence[Entry]:
        """The bundles of *store* that the lock file names."""
        from xfdev.stores.artifact import RECIPE_LAYER, Blob, Entry, prefixed

        return [
            Entry(
                bundle.digest,
                bundle.id,
                Blob(bundle.recipe, bundle.recipe_size, RECIPE_LAYER),
                prefixed(bundle.labels),
            )
            for bundle in (self.lock.bundles if self.lock is not None else None) or ()
            if bundle.store == store
        ]

    def of_store(self, store: OciStore, entry: Entry, deadline: float) -> str:
        """What is against a bundle that *store* lists, "" for nothing. Raises StoreUnreachable, BadBundle."""
        return self._unlocked(entry.digest) or self._unsigned(store, entry.digest, entry.recipe.digest, deadline)

    def of_signature(self, store: OciStore, entry: Entry) -> str:
        """What is against locking a bundle: its signature alone decides. Raises StoreUnreachable, BadBundle."""
        return self._unsigned(store, entry.digest, entry.recipe.digest, time.monotonic() + 20.0)

    def of_artifact(self, store: OciStore, digest: str) -> None:
        """Raise Untrusted where something is against an artifact that was asked for by hand."""
        recipe = store.artifact(digest, seconds=20.0).recipe.digest if self.policy != "off" else ""
        objection = self._unsigned(store, digest, recipe, time.monotonic() + 20.0)
        if objection:
            raise refused(f"{store}@{digest[:19]}", objection)

    def of_local(self, bundle: str) -> str:
        """What is against a bundle of the local store: nothing where it was made here."""
        if not self.active:
            return ""
        from xfdev.stores import afar

        origin = afar.origin(self._local, bundle)
        if origin is None:
            return ""
        _, digest, recipe = origin
        objection = self._unlocked(digest)
        if not objection and self.policy == "required" and not self._known(digest, recipe):
            return "it was fetched before its signature counted"
        return objection

    def _unlocked(self, digest: str) -> str:
        if self.lock is None or self.lock_file is None:
            return ""
        from xfdev import trust

        return trust.unlocked(digest, self.lock.digests, self.lock_file.name)

    @cached_property
    def _keys(self) -> list[Key]:
        from xfdev.stores.keys import public_keys

        return public_keys([key_path(self._options, name) for name in self._options.keys or ()])

    def _unsigned(self, store: OciStore, digest: str, recipe: str, deadline: float) -> str:
        if self.policy == "off" or self._known(digest, recipe):
            return ""
        from xfdev import trust
        from xfdev.stores.signing import signatures

        keys, found, good = self._keys, [], ""
        for signed in signatures(store, digest, deadline=deadline):
            key = next((key for key in keys if key.made(signed)), None)
            found.append(trust.Checked(signed.digest, key.name if key else ""))
            if key is not None and signed.digest == digest:
                good = key.id
                break
        objection = trust.unsigned(self.policy, digest, found)
        if (
            not objection
            and store.artifact(digest, seconds=max(0.2, deadline - time.monotonic())).recipe.digest != recipe
        ):
            return "the list names another manifest than the one that was signed"
        if good:
            self._remember(digest, recipe, good)
        return objection

    def _memory(self, digest: str) -> Path:
        return self._local.folder / "afar" / "signed" / f"{digest.partition(':')[2]}.json"

    def _known(self, digest: str, recipe: str) -> bool:
        """Whether a key that counts now was found to have signed an artifact with that recipe."""
        value = read_json(self._memory(digest))
        if not isinstance(value, dict) or value.get("recipe") != recipe:
            return False
        return any(key.id == value.get("key") for key in self._keys)

    def _remember(self, digest: str, recipe: str, key: str) -> None:
        path = self._memory(digest)
        with suppress(OSError, XfdevError):
            path.parent.mkdir(parents=True, exist_ok=True)
            write_json(path, {"recipe": recipe, "key": key})


def key_path(options: Options, name: str) -> Path:
    """The file of a key: relative ones count from the file that names them, else from the working folder."""
    path, source = Path(name).expanduser(), Path(options.source("keys"))
    return source.parent / path if source.suffix == ".toml" else path


def refused(label: str, objection: str) -> Untrusted:
    """The error for a bundle that was asked for and may not be used."""
    return Untrusted(
        f"{label} is refused: {objection}",
        why="the options signatures and keys, or the lock file, say what is trusted",
        hint="docs/how-to/trust.md; xfdev bundle push --sign signs one, xfdev lock takes it into the lock file",
    )
