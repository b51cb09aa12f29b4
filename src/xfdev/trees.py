"""What commits of a git repository hold, read from its objects: nothing is checked out."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from xfdev import run
from xfdev.checkout import git_environ
from xfdev.errors import CommandFailed, NoSuchPath, NotAGitTree, RequirementNotFound


@dataclass(frozen=True)
class Commit:
    """*when* is the committer's date as ``YYYY-MM-DD``."""

    id: str
    when: str
    subject: str


@dataclass(frozen=True)
class Tree:
    """The files of one commit (path -> blob id, links among them) and its submodules (path -> commit)."""

    files: Mapping[str, str]
    submodules: Mapping[str, str] = field(default_factory=dict)


#: What may stand in an ``#include``; a name that is a macro is left out, and so is one without quotes.
_INCLUDE = r"^[ \t]*#[ \t]*(include|import|include_next)[ \t]*[\"<][^\">]+[\">]"


class Repository:
    """The repository at *place*: a clone, a bare one, or a working tree."""

    def __init__(self, place: Path, environ: Mapping[str, str]) -> None:
        if not place.exists():
            raise NoSuchPath(f"{place} does not exist", hint="give a clone of the project")
        self.place = place
        self._environ = git_environ(environ)
        if not run.capture(["git", "-C", place, "rev-parse", "--git-dir"], env=self._environ, check=False).ok:
            raise NotAGitTree(f"{place} is not a git repository", hint="git clone URL makes one; a bare one will do")

    def _git(self, *words: str, check: bool = True) -> str:
        return run.capture(["git", "-C", self.place, *words], env=self._environ, check=check).stdout

    def commits(self, revision: str, count: int) -> list[Commit]:
        """The newest *count* commits of a branch, each the first parent of the one before; the newest first.

        Raises RequirementNotFound for a revision that is not there.
        """
        words = ("log", "--first-parent", f"--max-count={count}", "-z", "--format=%H%x1f%cs%x1f%s", revision, "--")
        try:
            said = self._git(*words)
        except CommandFailed as error:
            raise RequirementNotFound(
                f"{self.place} has no commit {revision}", hint="git log shows those it has", details=error.details
            ) from error
        return [Commit(*line.split("\x1f", 2)) for line in said.split("\0") if line.strip()]

    def tree(self, commit: str) -> Tree:
        """The files and submodules of *commit*."""
        files: dict[str, str] = {}
        submodules: dict[str, str] = {}
        for line in self._git("ls-tree", "-r", "-z", commit).split("\0"):
            if line:
                about, _, path = line.partition("\t")
                _, kind, name = about.split(" ")
                (submodules if kind == "commit" else files)[path] = name
        return Tree(files, submodules)

    def includes(self, commit: str) -> dict[str, tuple[str, ...]]:
        """The names that each file of *commit* includes, as they are spelled. Conditions are not looked at."""
        said = self._git("grep", "-I", "-z", "--full-name", "-E", _INCLUDE, commit, check=False)
        found: dict[str, list[str]] = {}
        for line in said.splitlines():
            where, _, text = line.partition("\0")
            if match := re.search(r"[\"<]([^\">]+)[\">]", text):
                found.setdefault(where.partition(":")[2], []).append(match[1])
        return {name: tuple(names) for name, names in found.items()}

    def holds(self, commit: str, path: str) -> bool:
        return run.capture(
            ["git", "-C", self.place, "cat-file", "-e", f"{commit}:{path}"], env=self._environ, check=False
        ).ok
