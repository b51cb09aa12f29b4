"""Submodules: only those that are named, only the commit that is needed."""

from __future__ import annotations

import shutil
from collections.abc import Iterable
from pathlib import Path
from urllib.parse import quote

from xfdev import files
from xfdev.clones import git, is_network, ssh_settings, unreachable
from xfdev.console import console


def obtain(checkout: Path, wanted: Iterable[str], near: Path | None = None) -> list[str]:
    """Check out those of the submodules *wanted* (paths or names) that *checkout* has, and none inside them.

    Only the commit that is needed is fetched, from the clone *near* where that has it. Returns the paths that
    were checked out; a submodule that is there already is left as it is. Raises SourceUnreachable.
    """
    known = declared(checkout)
    names = [name for name, path in known.items() if {name, path} & set(wanted)]
    made: list[str] = []
    for name in names:
        path = known[name]
        if (checkout / path / ".git").exists():
            continue
        with files.explained(str(checkout / path)), console.step(f"checking out the submodule {path}"):
            if near is None or not _from_near(checkout, name, path, near):
                _from_server(checkout, name, path)
        made.append(path)
    return made


def declared(checkout: Path) -> dict[str, str]:
    """The paths of the submodules that *checkout* declares, by name."""
    if not (checkout / ".gitmodules").is_file():
        return {}
    words = ["config", "--null", "--file", ".gitmodules", "--get-regexp", r"^submodule\..*\.path$"]
    entries = git(words, cwd=checkout, check=False).stdout.split("\0")
    pairs = (entry.split("\n", 1) for entry in entries if "\n" in entry)
    return {key.removeprefix("submodule.").removesuffix(".path"): path for key, path in pairs}


def _from_near(checkout: Path, name: str, path: str, near: Path) -> bool:
    """Fetch the submodule's commit from the one of the clone *near*, then point it to its real server."""
    store = near / ".git" / "modules" / name
    if not (store / "HEAD").is_file():
        return False
    local = ["-c", "protocol.file.allow=always", "-c", f"submodule.{name}.url=file://{quote(str(store))}"]
    done = git([*local, *_update(path, "--depth", "1")], cwd=checkout, check=False)
    # sync sets the address of .gitmodules again, in the checkout's and in the submodule's configuration.
    for words in (["submodule", "init"], ["submodule", "sync", "--quiet"]):
        done = done if not done.ok else git([*words, "--", path], cwd=checkout, check=False)
    if not done.ok:
        _forget(checkout, name, path)
    return done.ok


def _from_server(checkout: Path, name: str, path: str) -> None:
    done = git(_update(path, "--depth", "1"), cwd=checkout, extra=ssh_settings(checkout), check=False)
    if not done.ok and not is_network(done.stderr):
        # The server gives only the tips of branches: then the whole history it is.
        _forget(checkout, name, path)
        done = git(_update(path), cwd=checkout, extra=ssh_settings(checkout), check=False)
    if not done.ok:
        raise unreachable(f"the submodule {path}", done.stderr)


def _update(path: str, *options: str) -> list[str]:
    return ["submodule", "--quiet", "update", "--init", "--checkout", *options, "--", path]


def _forget(checkout: Path, name: str, path: str) -> None:
    git(["submodule", "--quiet", "deinit", "--force", "--", path], cwd=checkout, check=False)
    shutil.rmtree(checkout / ".git" / "modules" / name, ignore_errors=True)
