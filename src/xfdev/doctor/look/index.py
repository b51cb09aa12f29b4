"""The package index, asked for one page: who signed its certificate, whether it answers, what time it has."""

from __future__ import annotations

import http.client
import re
import ssl
import sys
import time
from contextlib import suppress
from email.utils import parsedate_to_datetime
from urllib.parse import urlsplit

from xfdev import run
from xfdev.doctor.facts import Index, Unseen
from xfdev.doctor.look.ask import Ask
from xfdev.doctor.look.certificate import issuer
from xfdev.doctor.look.connect import (
    WAIT,
    certificate,
    connect,
    handshake,
    own_trust,
    proxy_for,
    public_authorities,
    reason,
)
from xfdev.doctor.look.settings import masked
from xfdev.errors import CommandFailed


def look(ask: Ask) -> Index:
    """The package index that pip is set up for, asked for one page."""
    pip = _pip_settings(ask)
    url = pip.get("index-url", "https://pypi.org/simple/")
    parts = urlsplit(url)
    host, secure = parts.hostname or "", parts.scheme == "https"
    port = parts.port or (443 if secure else 80)
    shown = masked(url)
    proxy = pip.get("proxy") or proxy_for(ask, parts.scheme, host)
    path = f"{parts.path.rstrip('/')}/pip/"
    started = time.monotonic()
    public = trusted = None
    who = ""
    context: ssl.SSLContext | None = None
    if secure:
        mozilla = public_authorities()
        own = own_trust(ask, pip.get("cert", ""))
        try:
            public = None if mozilla is None else handshake(host, port, proxy, mozilla)
            trusted = handshake(host, port, proxy, own)
            who = issuer(certificate(host, port, proxy))
        except (OSError, http.client.HTTPException) as error:
            return Index(shown, said=reason(error), proxy=masked(proxy))
        if not trusted:
            return Index(shown, said=f"its certificate is by {who}", issuer=who, public=public, trusted=trusted)
        context = own
    try:
        connection = connect(host, port, proxy, context)
        try:
            connection.request("HEAD", path, headers={"User-Agent": "xfdev-doctor"})
            asked = time.time()
            answer = connection.getresponse()
            status, date = answer.status, answer.headers.get("Date")
        finally:
            connection.close()
    except (OSError, http.client.HTTPException) as error:
        return Index(
            shown, said=reason(error), issuer=who, public=public, trusted=trusted, proxy=masked(proxy)
        )  # fmt: skip
    skew = None
    if date:
        with suppress(ValueError, TypeError):
            # It says whole seconds, of when it began to answer.
            skew = parsedate_to_datetime(date).timestamp() + 0.5 - asked
    seconds = time.monotonic() - started
    return Index(
        shown, status, issuer=who, public=public, trusted=trusted, skew=skew, seconds=seconds, proxy=masked(proxy)
    )


def _pip_settings(ask: Ask) -> dict[str, str]:
    """What pip's files and variables say of the index, the certificates and the proxy, as it prefers them."""
    argv = [sys.executable, "-m", "pip", "config", "list"]
    try:
        said = run.capture(argv, env=ask.environ, timeout=WAIT, check=False).stdout
    except CommandFailed as error:
        raise Unseen(f"pip does not tell its configuration: {error}") from error
    found = {}
    for section in ("global", "download", "install", ":env:"):
        pattern = rf"^{section}\.(index-url|cert|proxy)=(['\"])(.+)\2$"
        found.update({match[1]: match[3].strip() for match in re.finditer(pattern, said, re.MULTILINE)})
    return found
