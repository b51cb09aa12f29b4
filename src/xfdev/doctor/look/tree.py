"""The checkout as git sees it, and locks that processes left."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from xfdev import run
from xfdev.checkout import git_environ
from xfdev.doctor.facts import Lock, Tree
from xfdev.doctor.look.ask import Ask
from xfdev.errors import CommandFailed

PROC = Path("/proc")


def look(ask: Ask) -> Tree:
    root = ask.root
    worktree, repository = _repository(root)
    there = not worktree or Path(repository).exists()
    file = root / ".devcontainer" / "devcontainer.json"
    configured = worktree and file.is_file()
    mounted = not configured or _common(repository) in file.read_text(errors="replace")
    facts = {
        "root": str(root), "worktree": worktree, "repository": _common(repository), "repository_there": there,
        "configured": configured, "mounted": mounted,
    }  # fmt: skip
    extensions = tuple(_locks(_extensions(ask)))
    try:
        _git(ask, "rev-parse", "--show-toplevel")
    except CommandFailed as error:
        if "dubious ownership" in error.details:
            real = os.path.realpath(root)
            return Tree(**{**facts, "root": real}, git="refused", locks=extensions)  # type: ignore[arg-type]
        absent = "not a git repository" in error.details or "must be run in a work tree" in error.details
        return Tree(**facts, git="none" if absent else "failed", said=str(error), locks=extensions)  # type: ignore[arg-type]
    return Tree(
        **facts,  # type: ignore[arg-type]
        submodules=tuple(_submodules(ask)),
        commit_age=_commit_age(ask),
        locks=(*_locks(_git_locks(ask)), *extensions),
    )


def _git(ask: Ask, *words: str, check: bool = True) -> str:
    argv = ["git", "-C", str(ask.root), *words]
    return run.capture(argv, env=git_environ(ask.environ), timeout=ask.seconds, check=check).stdout


def _repository(root: Path) -> tuple[bool, str]:
    """Whether the checkout's repository lies elsewhere, and where: that is so in worktrees and submodules."""
    file = root / ".git"
    if not file.is_file():
        return False, ""
    named = os.fsdecode(file.read_bytes()).removeprefix("gitdir: ").rstrip("\n")
    return True, os.path.normpath(root / named)


def _common(repository: str) -> str:
    """The repository that a worktree's folder in it belongs to."""
    head, found, _ = repository.partition("/worktrees/")
    return head if found else repository


def _submodules(ask: Ask) -> Iterator[tuple[str, str]]:
    """The submodules that a compile needs, each with git's mark."""
    if not (ask.root / ".gitmodules").is_file():
        return
    for line in _git(ask, "submodule", "status", check=False).splitlines():
        mark, words = line[:1], line[1:].split(" ")
        path = words[1] if len(words) > 1 else ""
        if path and (not ask.submodules or path in ask.submodules):
            yield path, mark


def _commit_age(ask: Ask) -> float | None:
    said = _git(ask, "log", "-1", "--format=%ct", check=False).strip()
    return time.time() - int(said) if said.isdigit() else None


def _git_locks(ask: Ask) -> Iterator[Path]:
    """What git holds while it changes the checkout or its submodules."""
    said = _git(ask, "rev-parse", "--git-path", "index.lock", "--git-path", "HEAD.lock", "--git-path", "modules")
    index, head, modules = (ask.root / line for line in said.splitlines())
    yield from (index, head, *modules.glob("**/index.lock"))


def _extensions(ask: Ask) -> Iterator[Path]:
    """torch's lock of each extension that it compiles when it is imported; who finds it waits for ever."""
    base = Path(ask.environ.get("XDG_CACHE_HOME") or Path(ask.environ.get("HOME") or "/") / ".cache")
    folder = Path(ask.environ.get("TORCH_EXTENSIONS_DIR") or base / "torch_extensions")
    yield from folder.glob("*/lock")
    yield from folder.glob("*/*/lock")


def _locks(paths: Iterator[Path]) -> Iterator[Lock]:
    for path in paths:
        with suppress(OSError):
            stat = path.lstat()
            yield Lock(str(path), time.time() - stat.st_mtime, _held(path), identity(path))


def identity(path: Path) -> tuple[int, ...]:
    """What tells that a file is still the one that was seen. Raises OSError."""
    stat = path.lstat()
    return (stat.st_dev, stat.st_ino, stat.st_mtime_ns, stat.st_size)


def _held(path: Path) -> bool:
    """Whether a process that we may look at has the file open."""
    real = os.path.realpath(path)
    for folder in PROC.glob("[0-9]*/fd"):
        with suppress(OSError):
            for name in os.listdir(folder):
                with suppress(OSError):
                    if os.readlink(folder / name) == real:
                        return True
    return False
