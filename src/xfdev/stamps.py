"""Whether files are still those that were linked from, in a few milliseconds: by stat where that is enough, else by
contents. A copy of this file goes into environments: standard library only, and as little of it as possible.

One line a fact, its fields separated by tabs: what it is, a stamp, what is wanted, the path (from the checkout, or
absolute). A stamp is all of a file's stat that changes with its contents; ``?`` is one that nothing equals.

- ``file``: its contents have one of these ids (git's, separated by ``|``; ``-``: it need not be there)
- ``folder``: it has these names in it (separated by ``/``, links with an ``@``); ``?``: those that it had are not known
- ``there``: whether there is anything at the path, ``1`` or ``0``
- ``output``: a library that was linked; nothing but its stamp is known
"""

from __future__ import annotations

import os

HEADER = "xfdev stamps 1"
#: Names that come and go without any meaning for a compile.
_NEVER = ("__pycache__", ".xfdev", ".git")
#: Files that a compiler or a build script may take as soon as they are there.
SOURCES = (".cu", ".cuh", ".h", ".hpp", ".hh", ".hxx", ".inl", ".inc", ".ipp", ".c", ".cc", ".cpp", ".cxx", ".c++")


def stamp(path: str) -> str:
    """The stamp of what is at *path*, ``-`` where nothing is."""
    try:
        found = os.stat(path)
    except OSError:
        return "-"
    return f"{found.st_ino}.{found.st_size}.{found.st_mtime_ns}.{found.st_ctime_ns}"


def names(folder: str) -> list[str] | None:
    """The names in *folder* that may mean something, links with an ``@``; None where there is no such folder."""
    try:
        with os.scandir(folder) as entries:
            return sorted(entry.name + "@" * entry.is_symlink() for entry in entries if entry.name not in _NEVER)
    except OSError:
        return None


def blob(path: str) -> str | None:
    """git's id of the file's contents, None where there is none that can be read."""
    import hashlib

    try:
        with open(path, "rb") as stream:
            data = stream.read()
    except OSError:
        return None
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()


def changed(root: str, text: str) -> tuple[dict[str, str], dict[str, str]] | None:
    """What differs from *text* in the checkout *root*, as reasons by path: what is so, and what may be so. None for a
    text that is damaged or of another version."""
    lines = text.split("\n")
    if lines[0] != HEADER or lines[-1] != "":
        return None
    certain: dict[str, str] = {}
    perhaps: dict[str, str] = {}
    for line in lines[1:-1]:
        fields = line.split("\t")
        if len(fields) != 4:
            return None
        what, then, wanted, path = fields
        full = os.path.join(root, path)
        if what == "there":
            if os.path.exists(full) != (wanted == "1"):
                certain[path] = f"{path} came or went"
            continue
        now = stamp(full)
        if now == then:
            continue
        if what == "file":
            content = blob(full)
            if (content or "-") not in wanted.split("|"):
                certain[path] = f"{path} " + ("changed" if content else "is gone")
        elif what == "folder":
            _compare_names(path, wanted, names(full), certain, perhaps)
        else:
            certain[path] = f"{path} " + ("is gone" if now == "-" else "was replaced by another build")
    return certain, perhaps


def _compare_names(
    path: str, wanted: str, now: list[str] | None, certain: dict[str, str], perhaps: dict[str, str]
) -> None:
    if wanted == "?":
        perhaps[path] = f"files may have come or gone in {path}"
        return
    then = set(wanted.split("/")) - {""}
    for name in sorted(then.symmetric_difference(now or ())):
        place = os.path.join(path, name.rstrip("@"))
        # What is gone and was read has a line of its own.
        where = certain if name not in then and place.endswith(SOURCES) else perhaps
        where[place] = f"{place} " + ("is gone" if name in then else "is new")
