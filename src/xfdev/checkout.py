"""A developer's working tree: which files are what they were, asked of git where git knows.

A file's *id* is git's blob id of its bytes as they lie on disk (SHA-1 over ``blob <size>\\0`` and the contents), so
that the index answers for files that are not modified, without a read.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from xfdev import run
from xfdev.errors import CommandFailed, DubiousOwnership, NoSuchPath, NotAGitTree

# What a user, a hook or a daemon may have configured must not make git look less closely, or write.
_CAREFUL = (
    *("-c", "core.fsmonitor=false"),
    *("-c", "core.trustctime=true"),
    *("-c", "core.checkStat=default"),
    *("-c", "core.untrackedCache=false"),
    *("-c", "core.quotePath=false"),
)


def git_environ(environ: Mapping[str, str]) -> dict[str, str]:
    """*environ* without the variables that point git at another repository (set inside hooks), read-only."""
    kept = {key: value for key, value in environ.items() if key not in _REPOSITORY_VARIABLES}
    return {**kept, "GIT_OPTIONAL_LOCKS": "0", "GIT_TERMINAL_PROMPT": "0", "LC_ALL": "C"}


_REPOSITORY_VARIABLES = frozenset({
    "GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_OBJECT_DIRECTORY", "GIT_COMMON_DIR", "GIT_PREFIX",
    "GIT_ALTERNATE_OBJECT_DIRECTORIES", "GIT_NAMESPACE",
})  # fmt: skip


def blob_id(data: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()


def file_id(path: Path | str) -> str | None:
    """The id of the file that *path* leads to (links followed), or None where there is none that can be read."""
    try:
        with open(path, "rb") as stream:
            return blob_id(stream.read())
    except OSError:
        return None


@dataclass(frozen=True)
class Submodule:
    """*recorded* is the commit in the parent's index, *head* the one checked out (None: not checked out); *clean*
    says that nothing in it was edited, added or deleted since."""

    path: str
    recorded: str
    head: str | None
    clean: bool

    @property
    def commit(self) -> str:
        return self.head or self.recorded


@dataclass(frozen=True)
class _Entry:
    mode: str
    blob: str
    trusted: bool


class Checkout:
    """One git working tree. What it says is a snapshot, taken at the first question."""

    def __init__(self, root: Path, environ: Mapping[str, str], *, sha1: bool = True) -> None:
        self.root = root
        self._environ = git_environ(environ)
        self._sha1 = sha1

    def git(self, *words: str, check: bool = True) -> str:
        return run.capture(["git", *_CAREFUL, "-C", str(self.root), *words], env=self._environ, check=check).stdout

    @cached_property
    def commit(self) -> str | None:
        """The commit that is checked out; None before the first one."""
        return self.git("rev-parse", "--verify", "-q", "HEAD", check=False).strip() or None

    @cached_property
    def _index(self) -> Mapping[str, _Entry]:
        entries = {}
        for line in self.git("ls-files", "-s", "-v", "-z").split("\0"):
            if not line:
                continue
            flags, _, path = line.partition("\t")
            tag, mode, blob, stage = flags.split(" ")
            # Lower case: "assume unchanged"; S: "skip worktree"; a stage: a merge conflict. git does not look then.
            entries[path] = _Entry(mode, blob, tag == "H" and stage == "0" and mode.startswith("100"))
        return entries

    @cached_property
    def _modified(self) -> frozenset[str]:
        listed = self.git("diff-files", "--name-only", "--ignore-submodules=all", "-z")
        return frozenset(filter(None, listed.split("\0")))

    @cached_property
    def _converts(self) -> bool:
        """Whether git may store other bytes than those on disk (line endings, filters)."""
        config = self.git("config", "--get-regexp", r"^core\.(autocrlf|eol|attributesfile)$", check=False)
        if any(not line.endswith((" false", " native")) for line in config.splitlines()):
            return True
        if any(path.rpartition("/")[2] == ".gitattributes" for path in self._index):
            return True
        return (self.root / self.git("rev-parse", "--git-path", "info/attributes").strip()).exists()

    @cached_property
    def submodules(self) -> Mapping[str, Submodule]:
        """By path from the root."""
        return {
            path: self._submodule(path, entry.blob) for path, entry in self._index.items() if entry.mode == "160000"
        }

    def _submodule(self, path: str, recorded: str) -> Submodule:
        inner = self.inner(path)
        if inner is None:
            return Submodule(path, recorded, None, True)
        # Ignored files count: a compiler does not ask git which headers to take.
        said = inner.git("status", "--porcelain", "-unormal", "--ignored=traditional", "-z")
        flagged = any(not entry.trusted and entry.mode.startswith("100") for entry in inner._index.values())
        return Submodule(path, recorded, inner.commit, not said and not flagged and not inner._converts)

    def inner(self, path: str) -> Checkout | None:
        """The working tree of a submodule, or None where it is not checked out."""
        folder = self.root / path
        return Checkout(folder, self._environ, sha1=self._sha1) if (folder / ".git").exists() else None

    def submodule_of(self, path: str) -> Submodule | None:
        return next((module for place, module in self.submodules.items() if path.startswith(place + "/")), None)

    def identify(self, paths: Iterable[str]) -> dict[str, str | None]:
        """The id of each of *paths* (from the root, ``/``): None where there is no such file.

        Files that git holds for unmodified are not read. Files of submodules that are not checked out are None.
        """
        found: dict[str, str | None] = {}
        inner: dict[str, list[str]] = {}
        for path in paths:
            module = self.submodule_of(path)
            if module is not None and module.head is not None:
                inner.setdefault(module.path, []).append(path)
                continue
            entry = self._index.get(path)
            if entry is not None and entry.trusted and self._answers and path not in self._modified:
                found[path] = entry.blob
            else:
                found[path] = file_id(self.root / path)
        for place, names in inner.items():
            checkout = self.inner(place)
            if checkout is not None:
                ids = checkout.identify(name[len(place) + 1 :] for name in names)
                found.update((f"{place}/{name}", value) for name, value in ids.items())
        return found

    @cached_property
    def _answers(self) -> bool:
        return self._sha1 and not self._converts

    @cached_property
    def git_path_exclude(self) -> Path:
        """The file of ignore rules that git keeps for itself; worktrees share their repository's."""
        return (self.root / self.git("rev-parse", "--git-path", "info/exclude").strip()).resolve()

    def tracked(self, path: str) -> bool:
        return path in self._index


def open_checkout(path: Path, environ: Mapping[str, str]) -> Checkout:
    """The working tree that *path* lies in.

    Raises NoSuchPath, NotAGitTree, or DubiousOwnership where git refuses a tree of another user.
    """
    if not path.exists():
        raise NoSuchPath(f"{path} does not exist", hint="give the folder of a checkout, or run xfdev up to get one")
    folder = path if path.is_dir() else path.parent
    try:
        said = run.capture(
            ["git", "-C", str(folder), "rev-parse", "--show-toplevel", "--show-object-format"],
            env=git_environ(environ),
        ).stdout.splitlines()
    except CommandFailed as error:
        if "dubious ownership" in error.details:
            root = os.path.realpath(folder)
            raise DubiousOwnership(
                f"git refuses {root}: it belongs to another user",
                why="common for folders mounted into a container, and after sudo",
                hint=f"if you trust it: git config --global --add safe.directory {root}",
                details=error.details,
            ) from error
        if "not a git repository" in error.details or "must be run in a work tree" in error.details:
            raise NotAGitTree(
                f"{folder} is not in a git working tree",
                why="xfdev asks git which files changed",
                hint=f"git -C {folder} init && git -C {folder} add -A && git -C {folder} commit -m start",
                details=error.details,
            ) from error
        raise
    return Checkout(Path(said[0]), environ, sha1=said[1:] == ["sha1"])
