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

from xfdev import git_index, run
from xfdev.errors import CommandFailed, DubiousOwnership, NoSuchPath, NotAGitTree
from xfdev.files import explained
from xfdev.git_index import Entry, Index

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


class Checkout:
    """One git working tree. What it says is a snapshot, taken at the first question."""

    def __init__(self, root: Path, environ: Mapping[str, str], *, sha1: bool = True) -> None:
        self.root = root
        self._environ = git_environ(environ)
        self._sha1 = sha1
        self._attributes: dict[str, bool] = {}

    def anew(self) -> Checkout:
        """The same working tree, asked again."""
        return Checkout(self.root, self._environ, sha1=self._sha1)

    def git(self, *words: str, check: bool = True) -> str:
        return run.capture(["git", *_CAREFUL, "-C", str(self.root), *words], env=self._environ, check=check).stdout

    @cached_property
    def commit(self) -> str | None:
        """The commit that is checked out; None before the first one."""
        return self.git("rev-parse", "--verify", "-q", "HEAD", check=False).strip() or None

    @cached_property
    def _index(self) -> Index:
        _ = self._index_written  # asked first: an index written meanwhile then only makes more files too young
        return Index(self.git(*git_index.QUESTION))

    @cached_property
    def _git_paths(self) -> Mapping[str, Path]:
        """Files of git's own by name; worktrees share some of them with their repository."""
        names = ("index", "info/attributes", "info/exclude")
        said = self.git("rev-parse", *(word for name in names for word in ("--git-path", name)))
        return {name: self.root / line for name, line in zip(names, said.splitlines(), strict=True)}

    def git_path(self, name: str) -> Path:
        """A file of git's own: ``index``."""
        return self._git_paths[name]

    @cached_property
    def _index_written(self) -> int:
        """When git last wrote the index, in nanoseconds."""
        try:
            return self._git_paths["index"].stat().st_mtime_ns
        except OSError:
            return 0

    def _unmodified(self, entry: Entry, path: str) -> bool:
        """Whether git's index answers for the file: it has not changed since git looked, nor in the very moment.

        A file that is as young as the index may have been written again after git read it, with the same times. git
        reads such files; whoever asks here has to read them, too.
        """
        return entry.stat is not None and max(entry.stat[:2]) < self._index_written and entry.same_file(path)

    @cached_property
    def _converts(self) -> bool:
        """Whether git may store other bytes than those on disk (line endings, filters)."""
        config = self.git("config", "--get-regexp", r"^core\.(autocrlf|eol|attributesfile)$", check=False)
        if any(not line.endswith((" false", " native")) for line in config.splitlines()):
            return True
        if any(path.rpartition("/")[2] == ".gitattributes" for path in self._index):
            return True
        base = self._environ.get("XDG_CONFIG_HOME") or os.path.join(self._environ.get("HOME", "/"), ".config")
        local = self._git_paths["info/attributes"]
        return any(os.path.exists(path) for path in (local, f"{base}/git/attributes", "/etc/gitattributes"))

    def _has_attributes(self, path: str) -> bool:
        """Whether a file of attributes that git does not know yet lies beside *path* or above it."""
        folder = path.rpartition("/")[0]
        found = self._attributes.get(folder)
        if found is None:
            found = os.path.exists(os.path.join(self.root, folder, ".gitattributes"))
            self._attributes[folder] = found = found or (folder != "" and self._has_attributes(folder))
        return found

    @cached_property
    def submodules(self) -> Mapping[str, Submodule]:
        """By path from the root."""
        return {path: self._submodule(path, self._index[path].blob) for path in self._index.submodules()}

    def _submodule(self, path: str, recorded: str) -> Submodule:
        folder, inner = self.root / path, self.inner(path)
        if inner is None:
            # Not checked out: the recorded commit stands for it, unless somebody put files there.
            return Submodule(path, recorded, None, not folder.is_dir() or not any(folder.iterdir()))
        # Ignored files count: a compiler does not ask git which headers to take.
        said = inner.git("status", "--porcelain", "-unormal", "--ignored=traditional", "--ignore-submodules=none", "-z")
        doubt = any(
            not entry.trusted or not entry.same_file(f"{folder}/{name}")
            for name, entry in inner._index.items()
            if entry.mode.startswith("100")
        )
        return Submodule(path, recorded, inner.commit, not said and not doubt and not inner._converts)

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
        wanted = list(paths)
        self._ids.update(self._identified([path for path in wanted if path not in self._ids]))
        return {path: self._ids[path] for path in wanted}

    @cached_property
    def _ids(self) -> dict[str, str | None]:
        """What ``identify`` has said: several bundles are compared with the same files."""
        return {}

    def _identified(self, paths: Iterable[str]) -> dict[str, str | None]:
        found: dict[str, str | None] = {}
        inner: dict[str, list[str]] = {}
        modules, index, answers, root = self.submodules, self._index, self._answers, f"{self.root}/"
        for path in paths:
            module = self.submodule_of(path) if modules else None
            if module is not None and module.head is not None:
                inner.setdefault(module.path, []).append(path)
                continue
            entry = index.get(path) if answers else None
            known = entry is not None and entry.trusted and self._unmodified(entry, root + path)
            found[path] = entry.blob if entry and known and not self._has_attributes(path) else file_id(root + path)
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
        return self._git_paths["info/exclude"].resolve()

    def tracked(self, path: str) -> bool:
        return path in self._index


def open_checkout(path: Path, environ: Mapping[str, str]) -> Checkout:
    """The working tree that *path* lies in.

    Raises NoSuchPath, NotAGitTree, or DubiousOwnership where git refuses a tree of another user.
    """
    with explained(str(path)):  # a folder on the way may be closed to this user
        exists = path.exists()
    if not exists:
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
