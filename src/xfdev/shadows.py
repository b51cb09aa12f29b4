# Standard library only: the compiler launcher of the environment runs this file too, without xfdev.
"""Which files of a checkout would be taken instead of a header that a compile read.

A dependency file tells which headers were read, not which were looked for in vain. A new file can therefore change
what a unit compiles to although nothing the unit read has changed: it lies in a folder that is searched earlier, or
beside a file that includes it, or it is what ``__has_include`` asked for. Dependency files do not list those, and
neither does the direct mode of ccache notice them (ccache manual, "Caveats").

Everything here errs on the side of naming a file that changes nothing.
"""

from __future__ import annotations

import os
from collections import namedtuple

TYPE_CHECKING = False
if TYPE_CHECKING:  # importing these takes longer than all that the launcher does
    from collections.abc import Iterable, Sequence
    from typing import NamedTuple

#: Folders of a checkout in which no compiler looks for a header of the project.
NOT_SOURCES = frozenset({".git", ".venv", ".xfdev", "__pycache__", ".hypothesis", "node_modules"})

_INCLUDE_FLAGS = (
    "-I",
    "-isystem",
    "-iquote",
    "-idirafter",
    "--include-path",
    "-include",
    "-imacros",
    "--system-include",
)
_SEARCHED = {"-iquote": 0, "-isystem": 2, "--system-include": 2, "-idirafter": 3}  # the others: 1
_PROBE = rb'__has_include(?:_next)?\s*\(\s*(?:["<]([^">\n]+)[">])?'
_COMPUTED = rb"#[ \t]*(?:include(?:_next)?|import)[ \t]+[A-Za-z_]"
_QUOTED = rb'"([^"\n]+)"'
_PARENT = rb'(?m)^[ \t]*#[ \t]*(?:include(?:_next)?|import|define[^"<\n]*)[ \t]*["<]([^">\n]*\.\.[^">\n]*)[">]'

if TYPE_CHECKING:

    class Scan(NamedTuple):
        """What the text of a unit's files says beyond its dependency file."""

        probes: frozenset[str]
        """Names that ``__has_include`` asks for."""
        exact: frozenset[str]
        """Paths at which an ``#include "../x.h"`` would have found a file."""
        opaque: bool
        """Whether something is read that no dependency file lists (``.incbin``), or cannot be told from the text."""

else:
    Scan = namedtuple("Scan", "probes exact opaque")


def search_path(argv: Sequence[str], cwd: str) -> list[str]:
    """The include folders of a compiler command in the order they are searched, absolute.

    One that is given twice stands there twice: which of the two counts depends on the compiler.
    """
    found: list[list[str]] = [[], [], [], []]
    words = iter(argv)
    for word in words:
        for flag in _INCLUDE_FLAGS:
            if word == flag:
                value = next(words, "")
            elif word.startswith(flag) and (len(flag) == 2 or word[len(flag)] in "=/."):
                value = word[len(flag) :].lstrip("=")
            else:
                continue
            if flag not in ("-include", "-imacros"):
                found[_SEARCHED.get(flag, 1)].append(os.path.normpath(os.path.join(cwd, value)))
            break
    return [folder for group in found for folder in dict.fromkeys(group)]


def parse_depfile(text: str, cwd: str) -> list[str]:
    """The prerequisites in a makefile rule that a compiler wrote, absolute, normalised, without doubles."""
    _, _, rest = text.replace("\\\r\n", " ").replace("\\\n", " ").partition(": ")
    rule = rest.lstrip().partition("\n")[0]  # -MP adds an empty rule per header below the first
    if "\\" not in rule and "$" not in rule:  # nearly always, and then this is ten times as fast
        return list(dict.fromkeys(_absolute(word, cwd) for word in rule.split()))
    found: dict[str, None] = {}
    word = ""
    escaped = False
    for char in rest + " ":
        if escaped:
            word += char if char in " #\\:" else "\\" + char
            escaped = False
        elif char == "\\":
            escaped = True
        elif char in " \t\r\n":
            if word:
                found[_absolute(word.replace("$$", "$"), cwd)] = None
            word = ""
            if char == "\n" and found:
                break
        else:
            word += char
    return list(found)


def _absolute(path: str, cwd: str) -> str:
    if path.startswith("/") and "/." not in path and "//" not in path:
        return path
    return os.path.normpath(os.path.join(cwd, path))


def in_folder(path: str, folder: str) -> bool:
    return path.startswith(folder + os.sep)


def is_source_path(path: str, checkout: str) -> bool:
    """Whether *path* (absolute) is the project's own, and not of an environment or build inside its checkout."""
    if not in_folder(path, checkout):
        return False
    first = path[len(checkout) + 1 :].split(os.sep, 1)[0]
    return first not in NOT_SOURCES


def scan(paths: Iterable[str], folders: Sequence[str]) -> Scan:
    """Read the project's own files of one unit. *folders* is its search path."""
    probes: set[str] = set()
    exact: set[str] = set()
    opaque = False
    for path in paths:
        try:
            with open(path, "rb") as stream:
                text = stream.read()
        except OSError:
            continue
        if b"__has_include" in text:
            for literal in _findall(_PROBE, text):
                probes.add(os.fsdecode(literal))
                opaque = opaque or not literal
        if b".incbin" in text or b"#embed" in text:
            opaque = True
        if b".." in text:
            for literal in _findall(_PARENT, text):
                name = os.fsdecode(literal)
                exact.update(
                    os.path.normpath(os.path.join(folder, name)) for folder in (os.path.dirname(path), *folders)
                )
    return Scan(frozenset(probes - {""}), frozenset(exact), opaque)


def quoted(paths: Iterable[str]) -> frozenset[str] | None:
    """The last parts of all that the project's own files of a unit have in quotes, names of headers among them.

    A header is looked for beside the file that includes it only if its name is quoted there. None where a name is put
    together by macros, or written in a way that is not looked for here.
    """
    found: set[str] = set()
    for path in paths:
        try:
            with open(path, "rb") as stream:
                text = stream.read()
        except OSError:
            return None
        if b"%:" in text or b"??=" in text or b"#\\\n" in text or _findall(_COMPUTED, text):
            return None
        found.update(os.fsdecode(literal).rpartition("/")[2] for literal in _findall(_QUOTED, text))
    return frozenset(found)


def _findall(pattern: bytes, text: bytes) -> list[bytes]:
    import re

    return re.findall(pattern, text)


def roots(dependencies: Iterable[str], folders: Sequence[str], checkout: str) -> list[str]:
    """The folders of the checkout below which a file could shadow one of *dependencies*: as few as cover all."""
    places = {os.path.dirname(path) for path in dependencies if is_source_path(path, checkout)}
    places.update(folder for folder in folders if folder == checkout or is_source_path(folder, checkout))
    return topmost(places)


def topmost(places: Iterable[str]) -> list[str]:
    """Those of *places* that lie below no other."""
    found: list[str] = []
    for place in sorted(places):
        if not any(place == root or in_folder(place, root) for root in found):
            found.append(place)
    return found


def files_below(folders: Iterable[str], *, follow: bool = False, limit: int | None = None) -> list[str]:
    """Every file and every symbolic link below *folders*, absolute; links to folders are named.

    A link that leads nowhere (yet) has a separator at its end, so that it counts as another name than the file that
    it may become. With *follow*, what lies behind links to folders is named too. The walk ends when *limit* files are
    found (links that lead to each other have no other end).
    """
    found: list[str] = []
    stack = list(folders)
    while stack and (limit is None or len(found) < limit):
        try:
            entries = list(os.scandir(stack.pop()))
        except OSError:
            continue
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                if entry.name not in NOT_SOURCES:
                    stack.append(entry.path)
            else:
                leads = not entry.is_symlink() or os.path.exists(entry.path)
                found.append(entry.path if leads else entry.path + os.sep)
                if follow and entry.is_symlink() and entry.is_dir() and not _leads_up(entry.path):
                    stack.append(entry.path)
    return found


def _leads_up(link: str) -> bool:
    """Whether *link* leads to a folder that it lies in itself."""
    target, place = os.path.realpath(link), os.path.realpath(os.path.dirname(link))
    return place == target or in_folder(place, target)


def names_of_system(path: str) -> list[str]:
    """How a header in one of the compiler's own folders, whose list is not at hand, may be spelled."""
    parts = path.split(os.sep)
    found = []
    if path.startswith(("/usr/", "/opt/")) or "site-packages" in parts:
        found = [
            os.sep.join(parts[index + 1 :])
            for index, part in enumerate(parts[:-1])
            # The folders that gcc, clang and nvcc search by themselves: `g++ -E -v`, nvcc.profile.
            if part in ("include", "include-fixed", "backward", "cccl")
            or "-linux-gnu" in part
            or parts[index - 1] == "c++"
        ]
    return found or [os.sep.join(parts[-count:]) for count in (1, 2, 3)]


def find(
    dependencies: Sequence[str],
    folders: Sequence[str],
    candidates: Iterable[str],
    scanned: Scan,
    quotes: frozenset[str] | None = None,
) -> list[str]:
    """Those of *candidates* (absolute files of the checkout) that could be taken instead of a dependency.

    *quotes* are the names that can be found beside the including file (see ``quoted``), None for every name.
    """
    read = set(dependencies)
    including = {os.path.dirname(path) for path in dependencies}
    order = {folder: index for index, folder in reversed(list(enumerate(folders)))}
    last = len(folders)
    names: dict[str, int] = {os.path.normpath(name): last for name in scanned.probes}
    starts = [folder + os.sep for folder in folders]
    for path in dependencies:
        spelled = False
        for index, start in enumerate(starts):
            if path.startswith(start):
                name = path[len(start) :]
                names[name] = max(names.get(name, 0), index)
                spelled = True
        if not spelled:  # one of the compiler's own folders, whose list is not at hand
            names.update(dict.fromkeys(names_of_system(path), last))
    found = []
    last_parts = {name.rpartition(os.sep)[2] for name in names}
    for path in candidates:
        if path in read:
            continue
        if path in scanned.exact:
            found.append(path)
            continue
        folder, name = os.path.split(path)
        if name not in last_parts:
            continue
        while True:
            index_found = names.get(name)
            beside = folder in including and (quotes is None or os.path.basename(path) in quotes)
            if index_found is not None and (beside or order.get(folder, last) < index_found):
                found.append(path)
                break
            folder, part = os.path.split(folder)
            if not part or len(folder) < 2:
                break
            name = part + os.sep + name
    return sorted(found)
