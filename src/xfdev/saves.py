"""Which files of a checkout were saved since the last look, by asking for the times of each.

Looking is all there is: it takes a few milliseconds for a thousand files, and works on network mounts and in WSL, where
no kernel tells of changes. What is looked at: files that git tracks, new ones that are sources, and those that the last
build read. Files that editors write beside them are none of these.
"""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

from xfdev import stamps
from xfdev.checkout import Checkout
from xfdev.errors import CommandFailed
from xfdev.settled import STAMPS
from xfdev.workspace import kept_build, last_recipe

#: What a new file is called that may matter before git knows it.
SOURCES = (*stamps.SOURCES, ".py", ".pyi", ".toml", ".cfg")
#: Files that no compiler reads: a save of one does not end a compile.
_NOT_COMPILED = (".py", ".pyi", ".md", ".rst", ".txt", ".ipynb", ".json", ".yml", ".yaml")


def meant(name: str) -> bool:
    """Whether a file that git does not know may be one to look at: a source, and no editor's own."""
    return name.endswith(SOURCES) and not name.startswith((".", "#"))


#: What changes when a file does, or the names in a folder (which has one number only); None where nothing is.
_State = tuple[int, ...] | None


class Saves:
    """The files to look at, and what was seen of them last. *beside* are more of them, by absolute path."""

    def __init__(self, checkout: Checkout, beside: Iterable[Path] = ()) -> None:
        self.cost = 0.0
        """Seconds that the last look took."""
        self._checkout = checkout
        self._root = str(checkout.root)
        self._seen = {str(path): _state(str(path)) for path in beside}
        self._contents: dict[str, str | None] = {}  # of those that changed once
        self._native: frozenset[str] = frozenset()
        self._made: frozenset[str] = frozenset()
        self._list()
        self.learn()

    def _list(self) -> set[str]:
        """Look at what git knows and new sources, too; returns those that were not looked at before."""
        inner = {*self._git("-c"), *(path for path in self._git("-o") if meant(os.path.basename(path)))}
        return self._add(inner)

    def _git(self, which: str) -> list[str]:
        try:
            said = self._checkout.anew().git("ls-files", "-z", which, "--exclude-standard")
        except CommandFailed:  # a repository in the middle of something
            return []
        return [path for path in said.split("\0") if path]

    def _add(self, paths: Iterable[str]) -> set[str]:
        paths = {*paths}
        places = {os.path.join(self._root, path) for path in paths | {os.path.dirname(path) for path in paths}}
        new = places - self._seen.keys()
        self._seen.update((place, _state(place)) for place in new)
        return new

    def learn(self) -> None:
        """Look at what the last build read, too."""
        manifest = kept_build(self._checkout.root) or last_recipe(self._checkout.root)
        read = {*manifest.files, *manifest.scripts.files, *manifest.scripts.linked} if manifest is not None else set()
        with suppress(OSError):  # of a bundle that was linked
            text = (self._checkout.root / STAMPS).read_text(errors="surrogateescape")
            lines = (line.split("\t") for line in text.splitlines()[1:])
            read |= {line[3] for line in lines if len(line) == 4 and line[0] in ("file", "folder")}
        self._made = frozenset(manifest.scripts.generated if manifest is not None else ())
        self._native = frozenset(read)
        self._add(read)

    @property
    def count(self) -> int:
        """Files that are looked at."""
        return sum(state is not None and not _is_folder(state) for state in self._seen.values())

    def take(self) -> list[str]:
        """The files saved, made or removed since the last call, relative to the checkout where they are in it."""
        started = time.monotonic()
        changed: dict[str, _State] = {}
        for place, seen in self._seen.items():
            now = _state(place)
            if now != seen:
                changed[place] = now
        self.cost = time.monotonic() - started
        self._seen.update(changed)
        found = {place for place, now in changed.items() if not _is_folder(now)}
        if len(found) < len(changed):
            found |= {place for place in self._list() if not _is_folder(self._seen[place])}
        start = self._root + os.sep
        # What a build script writes is no save, nor is what was written again as it was.
        return sorted(
            name for place in found if (name := place.removeprefix(start)) not in self._made and self._differs(place)
        )

    def _differs(self, place: str) -> bool:
        known, now = self._contents.get(place, ""), stamps.blob(place)
        self._contents[place] = now
        return known != now

    def native(self, paths: Iterable[str]) -> bool:
        """Whether a save of one of *paths* can change what is compiled."""
        return any(path in self._native or not path.endswith(_NOT_COMPILED) for path in paths)

    def take_all(self, quiet: float, longest: float, wait: Callable[[float], bool]) -> list[str]:
        """What is saved from now on until nothing was for *quiet* seconds: an editor that renames, a formatter that
        follows, git that changes branches (which is waited for while it holds its index). At most *longest* seconds.

        *wait* sleeps, and tells whether to stop at once.
        """
        found: dict[str, None] = {}
        lock = self._checkout.git_path("index").with_name("index.lock")
        end = time.monotonic() + longest
        calm = time.monotonic() + quiet
        while (now := time.monotonic()) < end and (now < calm or lock.exists()):
            if wait(quiet / 4):
                break
            more = self.take()
            if more:
                found.update(dict.fromkeys(more))
                calm = time.monotonic() + quiet
        return list(found)


def _state(path: str) -> _State:
    try:
        found = os.stat(path)
    except OSError:
        return None
    if stat.S_ISDIR(found.st_mode):
        return (found.st_mtime_ns,)
    return found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def _is_folder(state: _State) -> bool:
    return state is not None and len(state) == 1
