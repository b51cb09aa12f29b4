"""Connections as pip makes them: through the proxies that are set, with the certificates that are trusted.

Known to the doctor, which says what is wrong with them, and to the stores, which use them.
"""

from __future__ import annotations

import http.client
import socket
import ssl
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import unquote, urlsplit

PROXIES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")
#: Variables that name the certificates to trust instead of the system's, the first that is set (pip, requests, curl).
TRUSTED = ("PIP_CERT", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
_NEAR = ("localhost", "127.0.0.1", "::1")


def near(host: str) -> bool:
    """Whether *host* is this machine: engines and we ask such registries without TLS, and past all proxies."""
    return host in _NEAR


def proxy_for(environ: Mapping[str, str], scheme: str, host: str) -> str:
    """The proxy that requests to *host* take, "" for none."""
    from urllib.request import proxy_bypass_environment  # type: ignore[attr-defined]

    env = {name.lower(): value for name, value in environ.items() if name.lower() in PROXIES and value}
    if proxy_bypass_environment(host, {"no": env.get("no_proxy", "")}):
        return ""
    return env.get(f"{scheme}_proxy") or env.get("all_proxy") or ""


def connect(
    host: str, port: int, proxy: str, context: ssl.SSLContext | None, wait: float
) -> http.client.HTTPConnection:
    """A connection that is made when it is used; *wait* is what each of its steps may take, in seconds."""
    if not proxy:
        if context is None:
            return http.client.HTTPConnection(host, port, timeout=wait)
        return http.client.HTTPSConnection(host, port, timeout=wait, context=context)
    parts = urlsplit(proxy if "://" in proxy else f"http://{proxy}")
    first, door = parts.hostname or "", parts.port or 8080
    connection = (
        http.client.HTTPConnection(first, door, timeout=wait)
        if context is None
        else http.client.HTTPSConnection(first, door, timeout=wait, context=context)
    )
    headers = {}
    if parts.username:
        import base64

        pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}".encode()
        headers["Proxy-Authorization"] = "Basic " + base64.b64encode(pair).decode()
    connection.set_tunnel(host, port, headers=headers)
    return connection


def trust(environ: Mapping[str, str], certificates: str = "") -> ssl.SSLContext:
    """What pip trusts here: the certificates that it is told, else the system's (pip 24.2 and newer).

    Raises ValueError, saying which file cannot be read.
    """
    context = ssl.create_default_context()
    named = certificates or next((environ[name] for name in TRUSTED if environ.get(name)), None)
    try:
        if named:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
            if Path(named).is_dir():
                context.load_verify_locations(capath=named)
            else:
                context.load_verify_locations(cafile=named)
        elif environ.get("SSL_CERT_FILE"):
            context.load_verify_locations(cafile=environ["SSL_CERT_FILE"])
    except (OSError, ssl.SSLError) as error:
        file = named or environ.get("SSL_CERT_FILE")
        raise ValueError(f"the certificates in {file} cannot be read: {error}") from error
    return context


def reason(error: BaseException, wait: float) -> str:
    """Why a connection failed, in a few words."""
    if isinstance(error, socket.gaierror):
        return f"its name is not known ({error.strerror})"
    if isinstance(error, TimeoutError):
        return f"no answer within {wait:g} s"
    return getattr(error, "strerror", None) or str(error) or type(error).__name__
