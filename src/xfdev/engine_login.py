"""How the container engine logs in to registries: Docker's config.json and its credential helpers.

What ``docker login`` wrote is what a store of bundles is asked with, too. No secret is logged, or put on a command
line: helpers read the server's name from stdin and answer on stdout.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from xfdev import run
from xfdev.errors import CommandFailed

_HUB = "https://index.docker.io/v1/"
#: The user's name that helpers give with an identity token instead of a password (docker/cli, credentials).
_TOKEN = "<token>"


@dataclass(frozen=True)
class Credentials:
    """A user with a password, or (*user* empty) an identity token to be exchanged for a session's."""

    user: str
    secret: str = field(repr=False)


def config_file(environ: Mapping[str, str]) -> Path:
    home = Path(environ.get("HOME") or "/")
    return Path(environ.get("DOCKER_CONFIG") or home / ".docker") / "config.json"


def config(environ: Mapping[str, str]) -> dict[str, Any]:
    try:
        found = json.loads(config_file(environ).read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def keys(registry: str) -> set[str]:
    """The names under which a login to *registry* may be kept."""
    hub = {_HUB, "index.docker.io"} if registry == "docker.io" else set()
    return {registry, f"https://{registry}", f"https://{registry}/v1/"} | hub


def helper(settings: Mapping[str, Any], registry: str) -> str:
    """The name of the credential helper for *registry*, "" for none."""
    own = settings.get("credHelpers") or {}
    return str(next((own[key] for key in own if key in keys(registry)), settings.get("credsStore") or ""))


def registry_of(image: str) -> str:
    """The server that an image's name leads to (distribution/reference: a first part with a dot, a port, or
    localhost)."""
    first, slash, _ = image.partition("/")
    return first if slash and ("." in first or ":" in first or first == "localhost") else "docker.io"


def split(image: str) -> tuple[str, str]:
    """An image's repository as its registry calls it, and the tag or digest, "" where it has none."""
    name, _, digest = image.partition("@")
    if name.startswith("docker.io/") or registry_of(name) != "docker.io":
        name = name.partition("/")[2]
    elif "/" not in name:
        name = f"library/{name}"
    path, slash, last = name.rpartition("/")
    last, _, tag = last.partition(":")
    return f"{path}{slash}{last}", digest or tag


def credentials(environ: Mapping[str, str], registry: str, *, seconds: float) -> Credentials | None:
    """What the engine would log in to *registry* with, None for nobody; *seconds* is what a helper may take."""
    settings = config(environ)
    name = helper(settings, registry)
    if name and "/" not in name:
        return _from_helper(name, registry, environ, seconds)
    auths = settings.get("auths")
    for key in sorted(keys(registry)):
        entry = auths.get(key) if isinstance(auths, dict) else None
        if isinstance(entry, dict) and (found := _from_entry(entry)):
            return found
    return None


def _from_entry(entry: Mapping[str, Any]) -> Credentials | None:
    import base64

    if entry.get("identitytoken"):
        return Credentials("", str(entry["identitytoken"]))
    try:
        pair = base64.b64decode(str(entry.get("auth") or ""), validate=True).decode()
    except ValueError:
        return None
    user, _, secret = pair.rstrip("\0").partition(":")
    if user and secret:
        return Credentials(user, secret)
    if entry.get("username") and entry.get("password"):
        return Credentials(str(entry["username"]), str(entry["password"]))
    return None


def _from_helper(name: str, registry: str, environ: Mapping[str, str], seconds: float) -> Credentials | None:
    program = shutil.which(f"docker-credential-{name}", path=environ.get("PATH"))
    if program is None:
        return None
    server = _HUB if registry == "docker.io" else registry
    try:
        done = run.capture([program, "get"], env=environ, timeout=seconds, input_text=server, check=False)
        said = json.loads(done.stdout) if done.ok else None
    except (CommandFailed, ValueError):
        return None
    if not isinstance(said, dict) or not said.get("Secret"):
        return None
    user = str(said.get("Username") or "")
    return Credentials("" if user == _TOKEN else user, str(said["Secret"]))
