"""Talking to one repository of a registry: logins, redirections, time-outs, and trying again.

Whatever the other side does, a call ends by its deadline, with what was asked for or an error with a name. What it
says is believed only as far as a digest or a size confirms it.
"""

from __future__ import annotations

import http.client
import json
import random
import re
import ssl
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from typing import IO, Any
from urllib.parse import urlencode, urljoin, urlsplit

from xfdev import connections
from xfdev.engine_login import credentials
from xfdev.errors import StoreUnreachable
from xfdev.stores.answers import Answer, basic, origin, read, refusal, seconds
from xfdev.stores.reference import Reference

WAIT = 3.0  # seconds for each step of a connection, where nobody asked for it by hand
PATIENT = 30.0
_TRIES = 4
_REDIRECTIONS = 5
_ENOUGH = 1 << 20
_PAUSE = 0.15  # seconds before the second try; doubled for each further one


@dataclass(frozen=True)
class _Request:
    """What is asked, wherever redirections lead."""

    method: str
    headers: Mapping[str, str]
    body: bytes | Callable[[], IO[bytes]] | None
    deadline: float
    most: int = _ENOUGH
    take: Callable[[http.client.HTTPResponse], None] | None = None
    good: tuple[int, ...] = (200,)


class Registry:
    """The repository of *place*; *push* asks for leave to write; *wait* is what each step of a
    connection may take. Connections are kept and used again."""

    def __init__(self, place: Reference, environ: Mapping[str, str], *, push: bool = False, wait: float = WAIT) -> None:
        self.place = place
        self._wait = wait
        self._environ = environ
        self._push = push
        self._token = ""
        self._asking = threading.Lock()
        self._idle: dict[tuple[str, str, int | None], list[http.client.HTTPConnection]] = {}
        self.base = f"{'https' if place.secure else 'http'}://{place.host}:{place.port}/v2/{place.repository}"

    @cached_property
    def _context(self) -> Any:
        try:
            return connections.trust(self._environ)
        except ValueError as error:
            raise StoreUnreachable(str(error), why="a variable names them", hint="xfdev doctor --network") from error

    def ask(
        self,
        method: str,
        url: str,
        headers: Mapping[str, str] | None = None,
        body: bytes | Callable[[], IO[bytes]] | None = None,
        *,
        deadline: float,
        most: int = _ENOUGH,
        take: Callable[[http.client.HTTPResponse], None] | None = None,
        good: tuple[int, ...] = (200,),
        tries: int = _TRIES,
    ) -> Answer:
        """The answer, once its status is one of *good*; its body is read up to *most* bytes, or given to *take*.

        Raises StoreUnreachable by *deadline* (of ``time.monotonic``).
        """
        request = _Request(method, headers or {}, body, deadline, most, take, good)
        said, logged_in = "", False
        tried = 0
        while True:
            pause = _PAUSE * 2**tried * random.uniform(0.5, 1.5)
            try:
                answer = self._follow(url, request)
                if answer.status == 401 and not logged_in:
                    logged_in = True
                    self._log_in(answer.headers.get("www-authenticate", ""), deadline)
                    continue
            except (OSError, http.client.HTTPException, ValueError) as error:
                self._forget()
                said = connections.reason(error, self._wait)
                if isinstance(error, ssl.SSLCertVerificationError):
                    said = f"its certificate is not trusted ({error.verify_message})"
                    raise self._failed(said, hint="set SSL_CERT_FILE or REQUESTS_CA_BUNDLE to its authority") from error
            else:
                if answer.status in good:
                    return answer
                said = refusal(answer)
                if answer.status in (401, 403):
                    raise self._denied(said)
                if answer.status != 429 and answer.status < 500:
                    raise self._failed(said)
                after = seconds(answer.headers.get("retry-after", ""))
                if after > 0:
                    pause = after
                    if time.monotonic() + pause > deadline:
                        raise self._failed(said, after)
            tried += 1
            if tried >= tries or time.monotonic() + pause > deadline:
                raise self._failed(said)
            time.sleep(pause)

    def _follow(self, url: str, request: _Request) -> Answer:
        for _ in range(_REDIRECTIONS):
            # A redirection to a storage server carries its own signature; our token is none of its business.
            own = origin(url) == origin(self.base)
            said = self._once(url, request, own=own)
            moved = said.status in (301, 302, 303, 307, 308) and "location" in said.headers
            if not moved or said.status in request.good:
                return said
            url = self.safe(urljoin(url, said.headers["location"]))
        raise self._failed("it redirects in circles")

    def join(self, location: str) -> str:
        """Where a header of an answer leads to."""
        return self.safe(urljoin(f"{self.base}/", location))

    def safe(self, url: str) -> str:
        """*url*, if it may be asked: by TLS, or on this machine where the store is here, too."""
        parts = urlsplit(url)
        host = parts.hostname or ""
        here = connections.near(self.place.host) and connections.near(host)
        if not host or not (parts.scheme == "https" or (parts.scheme == "http" and here)):
            raise self._failed(f"it leads to {parts.scheme}://{host}, without TLS")
        return url

    def _once(self, url: str, request: _Request, *, own: bool) -> Answer:
        left = request.deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError
        parts = urlsplit(url)
        connection = self._connection(parts.scheme, parts.hostname or "", parts.port, min(left, self._wait))
        sent = {"User-Agent": "xfdev", **request.headers}
        if own and self._token:
            sent["Authorization"] = self._token
        stream = request.body() if callable(request.body) else request.body
        try:
            target = parts.path + (f"?{parts.query}" if parts.query else "")
            connection.request(request.method, target or "/", body=stream, headers=sent)
            answer = connection.getresponse()
            kept = {name.lower(): value for name, value in answer.getheaders()}
            if request.take is not None and answer.status in request.good:
                request.take(answer)
                data = b""
            else:
                data = read(answer, request.most, request.deadline)
            if answer.length == 0:
                answer.read()  # there is no more: without this the connection counts as in use
            if answer.will_close or not answer.isclosed():
                connection.close()
            else:
                self._idle.setdefault((parts.scheme, parts.hostname or "", parts.port), []).append(connection)
            return Answer(answer.status, kept, data)
        except BaseException:
            connection.close()
            raise
        finally:
            if stream is not None and not isinstance(stream, bytes):
                stream.close()

    def _connection(self, scheme: str, host: str, port: int | None, wait: float) -> http.client.HTTPConnection:
        secure = scheme == "https"
        try:
            found = self._idle[scheme, host, port].pop()
        except (KeyError, IndexError):
            proxy = "" if connections.near(host) else connections.proxy_for(self._environ, scheme, host)
            context = self._context if secure else None
            found = connections.connect(host, port or (443 if secure else 80), proxy, context, wait)
        found.timeout = wait
        if found.sock is not None:
            found.sock.settimeout(wait)
        return found

    def __del__(self) -> None:
        if "_idle" in self.__dict__:  # not where its making failed
            self._forget()

    def _forget(self) -> None:
        """Close what is idle: the other side may have done so long ago."""
        for connections_of in list(self._idle.values()):
            while connections_of:
                with suppress(OSError, IndexError):
                    connections_of.pop().close()

    def _log_in(self, challenge: str, deadline: float) -> None:
        """Answer a challenge: Basic, or a token from the server that it names (distribution-spec, token
        authentication), as the user whom the engine knows, else as nobody."""
        with self._asking:
            known = credentials(self._environ, self.place.name, seconds=max(0.5, min(3.0, deadline - time.monotonic())))
            fields = dict(re.findall(r'(\w+)="([^"]*)"', challenge))
            kind = challenge.partition(" ")[0].lower()
            if kind == "basic" and known is not None and known.user:
                self._token = basic(known)
                return
            if kind != "bearer" or "realm" not in fields:
                raise self._denied("it wants a login")
            self._token = ""
            actions = "pull,push" if self._push else "pull"
            query = {"service": fields.get("service", ""), "scope": f"repository:{self.place.repository}:{actions}"}
            realm = self.safe(fields["realm"])
            headers, method, body = {}, "GET", None
            if known is not None and not known.user:
                form = {"grant_type": "refresh_token", "client_id": "xfdev", "refresh_token": known.secret, **query}
                method, body = "POST", urlencode(form).encode()
                headers["Content-Type"] = "application/x-www-form-urlencoded"
            else:
                realm += ("&" if "?" in realm else "?") + urlencode(query)
                if known is not None:
                    headers["Authorization"] = basic(known)
            said = self._once(realm, _Request(method, headers, body, deadline), own=False)
            if said.status != 200:
                raise self._denied(refusal(said)) if said.status in (400, 401, 403) else self._failed(refusal(said))
            try:
                value = json.loads(said.body)
                token = value.get("token") or value["access_token"]
            except (ValueError, KeyError, AttributeError, RecursionError) as error:
                raise self._failed("its login server gave no token") from error
            if not isinstance(token, str) or not re.fullmatch(r"[\x21-\x7e]+", token):
                raise self._failed("its login server gave no token")
            self._token = f"Bearer {token}"

    def _failed(self, said: str, after: float = 0.0, hint: str = "") -> StoreUnreachable:
        return StoreUnreachable(
            f"the store {self.place.name}/{self.place.repository} fails: {said}",
            why="the server or the network on the way to it",
            hint=hint or "try again later; what is in the local store works without it",
            after=after,
        )

    def _denied(self, said: str) -> StoreUnreachable:
        return StoreUnreachable(
            f"the store {self.place.name}/{self.place.repository} denies access: {said}",
            why="it wants a login, or yours may not "
            + ("write there" if self._push else "read there; some registries say so where there is no repository, too"),
            hint=f"docker login {self.place.name}",
        )
