"""Signing what is pushed: by ourselves with a key in PEM form, by cosign with keys that only it reads."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

from xfdev import run
from xfdev.console import console
from xfdev.errors import CommandFailed, UsageError
from xfdev.stores import keys, signing
from xfdev.stores.oci import OciStore

_SECONDS = 120.0


def signer(store: OciStore, key: str, environ: Mapping[str, str]) -> Callable[[str], None]:
    """What signs a digest in *store* with *key*. Raises UsageError before anything is sent."""
    if keys.only_cosign_reads(key):
        return _by_cosign(store, key, environ)
    path = Path(key)
    keys.sign(path, b"", environ)  # whether it can

    def sign(digest: str) -> None:
        with console.step(f"signing {digest[:19]}"):
            signing.sign(store, digest, lambda data: keys.sign(path, data, environ))

    return sign


def _by_cosign(store: OciStore, key: str, environ: Mapping[str, str]) -> Callable[[str], None]:
    program = shutil.which("cosign", path=environ.get("PATH"))
    if program is None:
        raise UsageError(
            f"only cosign can sign with {key}, and it is not installed",
            why="the key is encrypted in cosign's own way, or lies in a key service",
            hint="install cosign, or sign with a key in PEM form (openssl ecparam -name prime256v1 -genkey)",
        )
    offered = run.capture([program, "sign", "--help"], env=environ, timeout=_SECONDS).stdout
    # A key pair needs no public log; who wants an entry there calls cosign. Version 3 asks a server for its services.
    words = ["--tlog-upload=false", "--yes"]
    if "--use-signing-config" in offered:
        words.append("--use-signing-config=false")

    def sign(digest: str) -> None:
        reference = f"{store}@{digest}"
        with console.step(f"signing {digest[:19]} with cosign"):
            # The key's password is in COSIGN_PASSWORD, the login is Docker's: neither is on the command line.
            done = run.capture(
                [program, "sign", "--key", key, *words, reference], env=environ, timeout=_SECONDS, check=False
            )
        if not done.ok:
            said = (done.stderr or done.stdout).strip().splitlines()
            raise CommandFailed(
                f"cosign cannot sign {reference[:80]}: {said[-1] if said else 'it said nothing'}",
                why=f"{keys.PASSWORD} may not hold the key's password; or the registry refuses",
                hint="the bundle was sent and is not listed: run the same command again",
                details=done.stderr,
            )

    return sign
