"""Clones near a new one, which have most of its objects already."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

from xfdev.clones import git


def repository_key(url: str) -> str:
    """What all URLs of one repository have in common: ``host/path``, or the path of a local one."""
    url = url.strip().removeprefix("git+")
    if found := re.match(r"(?i)(?:https?|ssh|git)://(?:[^/@]*@)?([^/:]+)(?::\d+)?/+(.*)", url):
        host, path = found.groups()
    elif url.startswith("file://"):
        host, path = "", url.removeprefix("file://")
    elif "/" not in url.split(":", 1)[0] and (found := re.match(r"(?:[^@]*@)?([^:]+):/*(.*)", url)):
        host, path = found.groups()
    else:
        host, path = "", url
    path = path.rstrip("/").removesuffix(".git").rstrip("/")
    return f"{host.lower()}/{path}" if host else path


def remotes(checkout: Path) -> list[str]:
    """The URLs of the remotes of the clone in *checkout*; none where there is no clone."""
    config = checkout / ".git" / "config"
    if not config.is_file():
        return []
    # The file is read by itself: no error where git would refuse the repository for its owner.
    done = git(["config", "--file", config, "--get-regexp", r"^remote\..*\.url$"], cwd=checkout, check=False)
    return [line.split(" ", 1)[1] for line in done.stdout.splitlines() if " " in line]


def nearby(url: str, folders: Iterable[Path]) -> Path | None:
    """A clone of the repository *url* right below one of *folders*, or None."""
    key = repository_key(url)
    for folder in dict.fromkeys(folders):
        try:
            candidates = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
        except OSError:
            continue
        for path in candidates:
            if any(repository_key(remote) == key for remote in remotes(path)):
                return path
    return None
