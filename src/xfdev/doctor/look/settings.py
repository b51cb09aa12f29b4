"""Settings of proxies, certificates and logins, as they stand in variables and files; no network is used.

No password leaves this module: URLs lose theirs, of credential helpers only the list of servers is asked.
"""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

from xfdev import engine_login, run
from xfdev.connections import PROXIES
from xfdev.doctor.facts import Login, Settings
from xfdev.doctor.look.ask import Ask
from xfdev.errors import CommandFailed, XfdevError

_CERTIFICATES = (
    "PIP_CERT", "SSL_CERT_FILE", "SSL_CERT_DIR", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "GIT_SSL_CAINFO",
    "NODE_EXTRA_CA_CERTS",
)  # fmt: skip
#: Helpers that answer from this machine; others may ask a server.
_NEAR = frozenset({
    "desktop", "desktop.exe", "osxkeychain", "secretservice", "pass", "wincred", "wincred.exe"
})  # fmt: skip


def masked(url: str) -> str:
    """A URL without user and password."""
    return re.sub(r"(?<=://)[^/@\s]+@", "***@", url)


def settings(ask: Ask) -> Settings:
    env = ask.environ
    found = [(name, env[name]) for lower in PROXIES for name in (lower, lower.upper()) if env.get(name)]
    if all(name.lower() == "no_proxy" for name, _ in found):
        found = []
    proxies = (engine_login.config(env).get("proxies") or {}).get("default") or {}
    return Settings(
        proxies=tuple((name, masked(value)) for name, value in found),
        engine_proxy=any(key.lower().endswith("proxy") for key in proxies),
        certificates=tuple((name, env[name], _there(env[name])) for name in _CERTIFICATES if env.get(name)),
        build_ca=bool(env.get("XFDEV_BUILD_CA")),
    )


def _there(path: str) -> bool:
    return any(Path(entry).exists() for entry in path.split(":"))


def login(ask: Ask) -> Login:
    """How the engine logs in where the checkout's image comes from."""
    image = ask.image or _image(ask)
    if not image:
        return Login()
    host = engine_login.registry_of(image)
    config, file = engine_login.config(ask.environ), engine_login.config_file(ask.environ)
    keys, helper = engine_login.keys(host), engine_login.helper(config, host)
    if not helper:
        auths = config.get("auths") or {}
        known = any(auths[key] for key in auths if key in keys)
        return Login(host, image, str(file), known=known)
    program = shutil.which(f"docker-credential-{helper}", path=ask.environ.get("PATH"))
    if program is None:
        return Login(host, image, str(file), helper, there=False)
    if helper not in _NEAR and not ask.network:
        return Login(host, image, str(file), helper, said="it may ask a server; --network does")
    try:
        done = run.capture([program, "list"], env=ask.environ, timeout=ask.seconds)
        servers = json.loads(done.stdout or "{}")
    except (CommandFailed, ValueError) as error:
        return Login(host, image, str(file), helper, said=str(error))
    return Login(host, image, str(file), helper, known=any(key in servers for key in keys))


def _image(ask: Ask) -> str:
    """The image that the checkout's dev container is, or takes layers from."""
    from xfdev import container

    file = ask.root / ".devcontainer" / "devcontainer.json"
    try:
        config = container.read(file, ask.root, file.read_text(), ask.environ)
    except (OSError, XfdevError):
        return ""
    named = [str(config.data.get("image") or ""), *container.caches(config)]
    found = next((name for name in named if name), "")
    match = re.search(r"\bref=([^,]+)", found)
    return match[1] if match else found
