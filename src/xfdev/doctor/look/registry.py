"""The registry that the image comes from: whether it answers, and gives the image without a login."""

from __future__ import annotations

import http.client
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlencode, urlsplit

from xfdev.connections import near
from xfdev.doctor.facts import Login, Registry, Unseen
from xfdev.doctor.look.ask import Ask
from xfdev.doctor.look.connect import connect, own_trust, proxy_for, reason
from xfdev.engine_login import split

_ENOUGH = 100_000
_MANIFESTS = ", ".join((
    "application/vnd.oci.image.index.v1+json", "application/vnd.docker.distribution.manifest.list.v2+json",
    "application/vnd.oci.image.manifest.v1+json", "application/vnd.docker.distribution.manifest.v2+json",
))  # fmt: skip


@dataclass(frozen=True)
class Server:
    """A server to ask; *secure* by TLS."""

    ask: Ask
    host: str
    port: int
    secure: bool

    def get(self, path: str, headers: Mapping[str, str]) -> tuple[int, str, bytes]:
        """Status, challenge and the beginning of the answer. Raises OSError or HTTPException."""
        proxy = "" if near(self.host) else proxy_for(self.ask, "https" if self.secure else "http", self.host)
        connection = connect(self.host, self.port, proxy, own_trust(self.ask) if self.secure else None)
        try:
            connection.request("GET", path, headers={"User-Agent": "xfdev-doctor", **headers})
            answer = connection.getresponse()
            return answer.status, answer.headers.get("WWW-Authenticate") or "", answer.read(_ENOUGH)
        finally:
            connection.close()


def look(ask: Ask, named: Login) -> Registry:
    if not named.registry:
        raise Unseen("no image of a registry is named here")
    host = "registry-1.docker.io" if named.registry == "docker.io" else named.registry
    said = ""
    for server in _servers(ask, host):
        try:
            status, challenge, _ = server.get("/v2/", {})
            return Registry(host, status, _pull(named.image, challenge, server))
        except (OSError, http.client.HTTPException) as error:
            said = reason(error)
    return Registry(host, said=said)


def _servers(ask: Ask, host: str) -> list[Server]:
    parts = urlsplit(f"//{host}")
    name = parts.hostname or host
    secure = Server(ask, name, parts.port or 443, True)
    # Engines take those of this machine without TLS.
    return [Server(ask, name, parts.port or 80, False), secure] if near(name) else [secure]


def _pull(image: str, challenge: str, server: Server) -> int | None:
    """What the registry answers to who wants *image* without a login (distribution-spec, token authentication)."""
    repository, reference = split(image)
    headers = {"Accept": _MANIFESTS}
    fields = dict(re.findall(r'(\w+)="([^"]*)"', challenge))
    if challenge.lower().startswith("bearer") and "realm" in fields:
        realm = urlsplit(fields["realm"])
        issuer = Server(server.ask, realm.hostname or "", realm.port or 443, True)
        if realm.scheme != "https" or not issuer.host:
            return None
        query = urlencode({"service": fields.get("service", ""), "scope": f"repository:{repository}:pull"})
        status, _, body = issuer.get(f"{realm.path}?{query}", {})
        if status != 200:
            return status
        try:
            answer = json.loads(body)
            headers["Authorization"] = f"Bearer {answer.get('token') or answer['access_token']}"
        except (ValueError, KeyError, AttributeError):
            return None
    return server.get(f"/v2/{repository}/manifests/{reference or 'latest'}", headers)[0]
