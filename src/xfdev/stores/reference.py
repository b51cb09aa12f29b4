"""The name of a repository in a registry, as people write it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import urlsplit

from xfdev.connections import near
from xfdev.engine_login import registry_of, split
from xfdev.errors import UsageError


@dataclass(frozen=True)
class Reference:
    """A repository of a registry, and perhaps a tag or digest in it. *name* is the registry as people call it."""

    name: str
    host: str
    port: int
    secure: bool
    repository: str
    version: str = ""

    def __str__(self) -> str:
        mark = "" if not self.version else "@" if self.version.startswith("sha256:") else ":"
        return f"{self.name}/{self.repository}{mark}{self.version}"


_REPOSITORY = re.compile(r"[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*(?:/[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*)*")
_VERSION = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}|sha256:[0-9a-f]{64}")


def reference(text: str) -> Reference:
    """*text* as ``ghcr.io/team/bundles``, perhaps with ``:tag`` or ``@sha256:...``. Raises UsageError."""
    scheme, mark, rest = text.partition("://")
    name = rest if mark else text
    registry = registry_of(name)
    repository, version = split(name)
    wrong = UsageError(
        f"{text!r} names no repository of a registry", hint="for example ghcr.io/team/bundles, without capitals"
    )
    if not _REPOSITORY.fullmatch(repository) or (version and not _VERSION.fullmatch(version)):
        raise wrong
    try:
        parts = urlsplit(f"//{'registry-1.docker.io' if registry == 'docker.io' else registry}")
        host, port = parts.hostname or "", parts.port
    except ValueError as error:
        raise wrong from error
    if not host or parts.username or (mark and scheme not in ("https", "http", "oci")):
        raise wrong
    if scheme == "http" and mark and not near(host):
        raise UsageError(f"{text}: bundles are fetched without TLS from this machine only", hint="leave http:// out")
    secure = (mark != "" and scheme == "https") or not near(host)
    return Reference(registry, host, port or (443 if secure else 80), secure, repository, version)
