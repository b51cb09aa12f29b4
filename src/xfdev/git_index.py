"""git's index as ``git ls-files`` prints it: what git knows of each file, read entry by entry when it is asked for."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

#: The words for git whose answer ``Index`` reads.
QUESTION = ("ls-files", "-s", "-v", "-z", "--debug")

#: What ``--debug`` says of an entry. git itself compares whole seconds only (it is built so everywhere): an edit within
#: the second of a ``git add`` that keeps size and mtime would go unnoticed.
_STAT = re.compile(r"ctime: (\d+):(\d+)\s+mtime: (\d+):(\d+)\s+dev: \d+\s+ino: (\d+)\s.*?size: (\d+)", re.DOTALL)
_DEBUG = "  ctime: "


@dataclass(frozen=True)
class Entry:
    """One file of the index. Only of one that is *trusted* git says whether it changed."""

    mode: str
    blob: str
    trusted: bool
    stat: tuple[int, ...] | None = None
    """Times in nanoseconds, inode and size of the file when git last looked; None where it does not say."""

    def same_file(self, path: str) -> bool:
        """Whether the file has the very times, to the nanosecond, that it had when git last looked at it."""
        try:
            now = os.lstat(path)
        except OSError:
            return False
        # The index keeps 32 bits of each.
        ino, size = now.st_ino & 0xFFFFFFFF, now.st_size & 0xFFFFFFFF
        return self.stat == (now.st_ctime_ns, now.st_mtime_ns, ino, size)


class Index(Mapping[str, Entry]):
    """What git answered to ``QUESTION``, by path."""

    def __init__(self, said: str) -> None:
        # Thousands of entries, of which few may be wanted: until then they stay text.
        self._texts: dict[str, tuple[str, str]] = {}
        head, path = "", ""
        for chunk in said.split("\0"):
            # After the NUL of one entry comes what --debug says of it, then the next entry.
            if chunk.startswith(_DEBUG):
                end = chunk.index("\n", chunk.index("flags: ")) + 1
                self._texts[path] = head, chunk[:end]
                chunk = chunk[end:]
            if chunk:
                head, _, path = chunk.partition("\t")
                self._texts[path] = head, ""

    def __getitem__(self, path: str) -> Entry:
        head, debug = self._texts[path]
        tag, mode, blob, stage = head.split(" ")
        # Lower case: "assume unchanged"; S: "skip worktree"; a stage: a merge conflict. git does not look then.
        return Entry(mode, blob, tag == "H" and stage == "0" and mode.startswith("100"), _stat(debug))

    def __iter__(self) -> Iterator[str]:
        return iter(self._texts)

    def __len__(self) -> int:
        return len(self._texts)

    def __contains__(self, path: object) -> bool:
        return path in self._texts

    def submodules(self) -> list[str]:
        """The paths at which the index has a commit of another repository."""
        return [path for path, (head, _) in self._texts.items() if " 160000 " in head]


def _stat(text: str) -> tuple[int, ...] | None:
    found = _STAT.search(text)
    if found is None:
        return None
    csec, cnsec, msec, mnsec, ino, size = map(int, found.groups())
    return csec * 10**9 + cnsec, msec * 10**9 + mnsec, ino, size
