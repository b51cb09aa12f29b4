"""Key pairs: public ones that signatures are compared with, private ones that sign.

The arithmetic is the package ``cryptography``'s, which comes with ``xfdev[signatures]``; it is imported where a
signature is looked at, and nowhere else.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from xfdev.errors import UsageError
from xfdev.stores.signature import Signed

#: The first line of a private key as cosign keeps it: JSON with scrypt and NaCl's secretbox, which only it reads.
_COSIGN = ("-----BEGIN ENCRYPTED SIGSTORE PRIVATE KEY-----", "-----BEGIN ENCRYPTED COSIGN PRIVATE KEY-----")
#: Where cosign takes the password of a key from, too.
PASSWORD = "COSIGN_PASSWORD"


@dataclass(frozen=True)
class Key:
    """A public key. *id* is the SHA-256 of its DER form, *name* what its file is called."""

    id: str
    name: str
    _public: Any = field(repr=False)

    def made(self, signed: Signed) -> bool:
        """Whether a signature is this key's."""
        from cryptography.exceptions import InvalidSignature

        try:
            _verify(self._public, signed)
        except (InvalidSignature, ValueError):
            return False
        return True


def _verify(public: Any, signed: Signed) -> None:
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
    from cryptography.hazmat.primitives.hashes import SHA256

    if isinstance(public, ec.EllipticCurvePublicKey):
        public.verify(signed.value, signed.data, ec.ECDSA(SHA256()))
    elif isinstance(public, rsa.RSAPublicKey):
        public.verify(signed.value, signed.data, padding.PKCS1v15(), SHA256())
    elif isinstance(public, ed25519.Ed25519PublicKey):
        public.verify(signed.value, signed.data)
    else:
        raise ValueError("a key of another kind")


def public_keys(paths: Sequence[Path]) -> list[Key]:
    """The public keys in *paths*, as ``cosign generate-key-pair`` or ``openssl ec -pubout`` write them.

    Raises UsageError for a file that is none.
    """
    _require()
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_public_key

    found = []
    for path in paths:
        try:
            public = load_pem_public_key(path.read_bytes())
        except OSError as error:
            raise UsageError(
                f"the key {path} cannot be read: {error.strerror}",
                why="the option keys names it",
                hint="paths in xfdev.toml count from the checkout, elsewhere from this folder",
            ) from error
        except ValueError as error:
            raise UsageError(
                f"{path} is no public key in PEM form", hint="cosign public-key --key cosign.key prints one"
            ) from error
        der = public.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        found.append(Key(hashlib.sha256(der).hexdigest(), path.name, public))
    return found


def only_cosign_reads(key: str) -> bool:
    """Whether a private key is one of cosign's own: encrypted in its way, or in a key service (``awskms://...``)."""
    if "://" in key:
        return True
    try:
        with Path(key).open("rb") as stream:
            return stream.read(64).decode(errors="replace").startswith(_COSIGN)
    except OSError as error:
        raise UsageError(f"the key {key} cannot be read: {error.strerror}") from error


def sign(path: Path, data: bytes, environ: Mapping[str, str]) -> bytes:
    """The signature of *data* by the private key in *path* (PEM); its password is in COSIGN_PASSWORD.

    Raises UsageError.
    """
    _require()
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    try:
        text = path.read_bytes()
        password = environ.get(PASSWORD, "").encode() if b"ENCRYPTED" in text else None
        private = load_pem_private_key(text, password)
    except OSError as error:
        raise UsageError(f"the key {path} cannot be read: {error.strerror}") from error
    except (ValueError, TypeError) as error:
        raise UsageError(
            f"{path} cannot be used as a private key",
            why=f"it is not in PEM form, or {PASSWORD} does not hold its password",
            hint="openssl ecparam -name prime256v1 -genkey -noout -out team.key makes one; so does cosign "
            "generate-key-pair",
        ) from error
    if isinstance(private, ec.EllipticCurvePrivateKey):
        return private.sign(data, ec.ECDSA(SHA256()))
    if isinstance(private, rsa.RSAPrivateKey):
        return private.sign(data, padding.PKCS1v15(), SHA256())
    if isinstance(private, ed25519.Ed25519PrivateKey):
        return private.sign(data)
    raise UsageError(f"{path} is a key that cannot sign", hint="take one of ECDSA, RSA or Ed25519")


def _require() -> None:
    try:
        import cryptography  # noqa: F401
    except ImportError as error:
        raise UsageError(
            "signatures need the package cryptography, which is not installed",
            why="it is an extra of xfdev's: only who uses signatures needs it",
            hint="pip install 'xfdev[signatures]'",
        ) from error
