"""``xfdev attach``: what a container does once it was created."""

from __future__ import annotations

import argparse
import os
import shlex
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from xfdev import arch as archs
from xfdev import gpu, status, venv
from xfdev import run as running
from xfdev.commands import apply, report, up
from xfdev.commands.session import Session
from xfdev.console import console
from xfdev.errors import BadEnvironment, CommandFailed, NotAGitTree, NothingFits, ReadOnlyCheckout, XfdevError
from xfdev.stores.local import LocalStore

EXAMPLE = "xfdev attach https://github.com/you/project.git"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "source", nargs="?", default=".", help="a path, a git URL or name==version (default: this folder)"
    )
    up.add_environment_arguments(parser)


def run(args: argparse.Namespace, environ: Mapping[str, str]) -> Mapping[str, Any]:
    """Compiles nothing: a container that compiles for minutes before it opens is what nobody wants. What would have
    to be compiled is said, at every prompt until it was."""
    started = time.monotonic()
    folder = Path.cwd()
    retry = f"cd {shlex.quote(str(folder))} && xfdev attach" + (
        f" {shlex.quote(args.source)}" if args.source != "." else ""
    )
    try:
        require_writable(folder)
        require_cache(venv.cache_folder(environ))
        require_repository(folder)
        trust(folder, environ)
        adopt_bundles(environ)
        args.cpu = False
        session = up.prepare(args, environ)
        trust(session.root, environ)
        install_hooks(session.root, environ)
        status.ready(environ, folder, [])  # what an earlier try could not do is done
        return link(session, started, environ)
    except XfdevError as error:
        lines = [f"xfdev: {error}", *(f"  {text}" for text in (error.why, error.hint) if text), f"  again: {retry}"]
        status.todo(environ, folder, lines)
        raise


def link(session: Session, started: float, environ: Mapping[str, str]) -> Mapping[str, Any]:
    """Link what can be linked, or say what has to be compiled, and leave either where terminals show it."""
    with session.locked():
        try:
            decided, _, state = apply.bring_up_to_date(session, compile_allowed=False)
        except NothingFits as error:
            lines = [f"xfdev: {error}", *(f"  {text}" for text in (error.why, error.hint) if text)]
            status.todo(environ, session.root, lines)
            return {"checkout": str(session.root), "linked": [], "waiting": str(error), "lines": lines}
    seconds = time.monotonic() - started
    here = gpu.visible_archs(session.environ)
    lines = [
        *up.summary(session, decided, [], [], seconds),
        f"GPU {archs.canonical(here)}" if here else "no GPU here: what needs one does not run",
    ]
    status.ready(environ, session.root, lines)
    return {**report.as_json(session, decided), **state, "elapsed": seconds, "lines": lines}


def require_writable(folder: Path) -> None:
    """Raise ReadOnlyCheckout for a workspace that this user cannot write."""
    if os.access(folder, os.W_OK):
        return
    owner, me = folder.stat().st_uid, os.geteuid()
    if os.statvfs(folder).f_flag & os.ST_RDONLY:
        raise ReadOnlyCheckout(
            f"{folder} is mounted read-only",
            why="a link puts the compiled parts into the checkout",
            hint="mount it writable, or work on a clone: xfdev attach URL in a folder that you can write",
        )
    raise ReadOnlyCheckout(
        f"{folder} belongs to user {owner}, and the container runs as {me}",
        why="the container's user gets the number of the host's user, except when that one is root",
        hint="start it with XFDEV_USER=root in the environment, or on the host: chown -R "
        + (str(me) if owner == 0 else "$(id -u)")
        + " the folder",
    )


def require_cache(folder: Path) -> None:
    """Raise BadEnvironment where the cache's volume was first used by another user."""
    if folder.exists() and not os.access(folder, os.W_OK):
        raise BadEnvironment(
            f"{folder} cannot be written: it belongs to user {folder.stat().st_uid}",
            why="its volume was first used by a container with another user",
            hint=f"sudo chown -R {os.geteuid()} {folder}",
        )


def require_repository(folder: Path) -> None:
    """Raise NotAGitTree for a worktree whose repository is not mounted."""
    link = folder / ".git"
    if not link.is_file():
        return
    target = link.read_text(errors="replace").strip().removeprefix("gitdir: ")
    if not (folder / target).exists():
        raise NotAGitTree(
            f"{folder} is a git worktree, and its repository {target} is not in the container",
            why="only the folder itself is mounted",
            hint="xfdev init in the worktree, on the host, adds the mount; or open the main clone instead",
        )


def trust(path: Path, environ: Mapping[str, str]) -> None:
    """Have git accept this very tree and its submodules, though another user's number owns them."""
    path = path.resolve()
    if not (path / ".git").exists() or path.stat().st_uid == os.geteuid():
        return
    said = running.capture(["git", "config", "--global", "--get-all", "safe.directory"], env=environ, check=False)
    known = said.stdout.splitlines()
    modules = running.capture(
        ["git", "config", "-f", path / ".gitmodules", "--get-regexp", r"\.path$"], env=environ, check=False
    )
    paths = [path, *(path / line.split(" ", 1)[1] for line in modules.stdout.splitlines())]
    for wanted in map(str, paths):
        if wanted not in known:
            running.capture(["git", "config", "--global", "--add", "safe.directory", wanted], env=environ)


def adopt_bundles(environ: Mapping[str, str]) -> None:
    """Take the bundles that came with the image into the store."""
    folder = Path(environ.get("XFDEV_BUNDLES") or "/nonexistent")
    if folder.is_dir():
        LocalStore(venv.cache_folder(environ) / "store").adopt(LocalStore(folder))


def install_hooks(root: Path, environ: Mapping[str, str]) -> None:
    """Install the hooks that the project's own configuration names, unless somebody has a hook already."""
    if not (root / ".pre-commit-config.yaml").exists():
        return
    place = running.capture(["git", "-C", root, "rev-parse", "--git-path", "hooks/pre-commit"], env=environ).stdout
    if (root / place.strip()).exists():
        return
    try:
        running.capture(["pre-commit", "install"], cwd=root, env=environ)
    except CommandFailed as error:
        console.info(f"no pre-commit hooks: {error}")
