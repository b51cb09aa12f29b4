"""A compiler cache that a team shares, as ccache is told of it.

The launcher's keys are what makes an object safe to share: they hold the contents of the compilers and of all files
that were read, so that it does not matter who compiled it. Whom one trusts does matter: whoever may write to the cache
can put any object there. It is read, therefore, and written only where that was asked for.
"""

from __future__ import annotations

import os
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote, urlsplit

from xfdev.errors import UsageError

#: Where the launcher finds what a build typed by hand may read; below an environment's tools.
FILE = "compile-cache"
#: Where the helper says what is wrong with the server; beside the local cache.
REPORT = "compile-cache-report"
#: How long a server that failed is left out, as stores are.
REST = 300.0
_LOOK = 2.0  # seconds until a folder counts as not there: one on a network may never answer


@dataclass(frozen=True)
class CompileCache:
    """*place* as it was given, *url* as ccache understands it, and whether it is *written*."""

    place: str
    url: str
    written: bool = False

    @property
    def folder(self) -> Path | None:
        return Path(self.place.removeprefix("file://").removeprefix("file:")) if self.url.startswith("file:") else None

    @property
    def served(self) -> bool:
        """Whether it is behind a server, which is reached through the helper."""
        return self.url.startswith("http")


def parse(place: str, *, written: bool = False) -> CompileCache:
    """The compile cache at *place*: an absolute folder, ``https://HOST/PATH``, ``http://`` on this machine, or
    ``crsh:SOCKET`` of a helper that runs already. Raises UsageError."""
    from xfdev.connections import near  # which takes as long to import as a build that has nothing to do

    example = "for example /mnt/team/ccache, or https://cache.example.com/project"
    path = place.removeprefix("file://").removeprefix("file:")
    if path.startswith("~/"):
        path = str(Path(path).expanduser())
    if path.startswith("/"):
        return CompileCache(path, f"file:{quote(path)}", written)
    if place.startswith("crsh:/"):
        return CompileCache(place, f"crsh:{quote(place[5:])}", written)
    try:
        parts = urlsplit(place)
        host, port = parts.hostname or "", parts.port
    except ValueError as error:
        raise UsageError(f"the compile cache {place!r} is no address", hint=example) from error
    if parts.username or parts.password:
        raise UsageError(
            "the address of the compile cache has a password in it",
            why="addresses are written to logs and configuration files",
            hint=f"put it into ~/.netrc (machine {host} login NAME password SECRET), or a token into the variable "
            "XFDEV_COMPILE_CACHE_TOKEN",
        )
    if parts.scheme == "http" and host and not near(host):
        raise UsageError(
            f"the compile cache {place} is not asked without TLS",
            why="whoever is on the way could put another object in",
            hint="https://; http:// is for this machine only",
        )
    if parts.scheme not in ("http", "https") or not host or parts.query or parts.fragment:
        raise UsageError(f"the compile cache {place!r} is no folder and no server's address", hint=example)
    at = f"[{host}]" if ":" in host else host
    return CompileCache(
        place, f"{parts.scheme}://{at}{f':{port}' if port else ''}{quote(parts.path, safe='/%')}", written
    )


def storage(cache: CompileCache, helper: Path, report: Path, *, write: bool) -> str:
    """The cache in the words of ccache's ``remote_storage``; *helper* reaches servers, and tells in *report* why one
    fails."""
    words = [cache.url]
    if not (write and cache.written):
        words.append("read-only=true")
    if cache.served:
        words += [
            f"helper={quote(str(helper))}", "idle-timeout=60s", "data-timeout=30s", "request-timeout=60s",
            f"@report={quote(str(report))}",
        ]  # fmt: skip
    return " ".join(words)


def folder_storage(folder: Path, *, read_only: bool) -> str:
    """A folder in the words of ccache's ``remote_storage``."""
    return f"file:{quote(str(folder))}" + (" read-only=true" if read_only else "")


def absent(cache: CompileCache) -> str:
    """Why a folder cannot be used, "" where it can, or where the cache is none."""
    folder = cache.folder
    if folder is None:
        return ""
    found: list[str] = []

    def look() -> None:
        if not folder.is_dir():
            found.append("is not there")
        elif not os.access(folder, os.R_OK | os.X_OK | (os.W_OK if cache.written else 0)):
            found.append(f"may not be {'written' if cache.written else 'read'}")
        else:
            found.append("")

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    thread.join(_LOOK)
    return found[0] if found else f"does not answer within {_LOOK:g} s"


def complaint(report: Path, since: float) -> str:
    """What the helper found wrong with a server after *since* (of ``time.time``), "" for nothing."""
    with suppress(OSError, UnicodeDecodeError):
        if report.stat().st_mtime >= since:
            return report.read_text()[:200].strip()
    return ""


def rests(report: Path) -> bool:
    """Whether a server failed a short while ago."""
    with suppress(OSError):
        return 0 <= time.time() - report.stat().st_mtime < REST
    return False
