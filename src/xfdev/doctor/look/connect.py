"""Connections as pip makes them, looked at: who answers, with which certificate, and who trusts that."""

from __future__ import annotations

import http.client
import ssl
from pathlib import Path

from xfdev import connections
from xfdev.doctor.facts import Unseen
from xfdev.doctor.look.ask import Ask

WAIT = 6.0  # seconds for each step


def proxy_for(ask: Ask, scheme: str, host: str) -> str:
    """The proxy that requests to *host* take, "" for none."""
    return connections.proxy_for(ask.environ, scheme, host)


def connect(host: str, port: int, proxy: str, context: ssl.SSLContext | None) -> http.client.HTTPConnection:
    return connections.connect(host, port, proxy, context, WAIT)


def handshake(host: str, port: int, proxy: str, context: ssl.SSLContext) -> bool:
    """Whether *context* accepts the server's certificate. Raises OSError where nobody answers."""
    connection = connect(host, port, proxy, context)
    try:
        connection.connect()
    except ssl.SSLCertVerificationError:
        return False
    finally:
        connection.close()
    return True


def certificate(host: str, port: int, proxy: str) -> bytes:
    """The server's certificate, accepted or not; nothing is asked of that server here."""
    context = ssl.create_default_context()
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    connection = connect(host, port, proxy, context)
    try:
        connection.connect()
        sock = connection.sock
        return sock.getpeercert(binary_form=True) or b"" if isinstance(sock, ssl.SSLSocket) else b""
    finally:
        connection.close()


def public_authorities() -> ssl.SSLContext | None:
    """Mozilla's authorities as pip ships them; None where a distribution made them the system's."""
    try:
        from pip._vendor import certifi
    except ImportError:
        return None
    place = Path(certifi.where())
    if "certifi" not in place.parts:
        return None
    return ssl.create_default_context(cafile=str(place))


def own_trust(ask: Ask, certificates: str = "") -> ssl.SSLContext:
    """What pip trusts here. Raises Unseen where it cannot be read."""
    try:
        return connections.trust(ask.environ, certificates)
    except ValueError as error:
        raise Unseen(str(error)) from error


def reason(error: BaseException) -> str:
    return connections.reason(error, WAIT)
