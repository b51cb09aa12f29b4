"""Whether a build was made that has nothing to do, so that the next one says so before anything else is imported.

``commands.settling`` leaves a note in the checkout (``NOTE``): the words and the variables of a build, and stamps of
everything it looked at besides what ``stamps`` notes for imports. ``answer`` compares; where anything differs, or
nothing can be told, the build goes its whole way. Standard library only, and as little of it as possible.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Mapping, Sequence

from xfdev import stamps

NOTE = ".xfdev/settled"
STAMPS = ".xfdev/stamps"
#: The first lines of a note: what it is, who asked what, and when. Stamps follow, as ``stamps`` has them.
HEAD = ("xfdev settled 1", "words", "folder", "variables", "gpus", "when", "source", "facts")
#: In words of the command line that are not told apart here.
_LOUDER = ("--json", "--verbose", "-v")
_QUIET = ("--quiet", "-q")
#: Not everything that a build looks at leaves a trace in files.
_A_DAY = 86_400.0

#: Variables of a terminal: another one is no reason to look again.
PASSING = frozenset(
    {"_", "SHLVL", "PWD", "OLDPWD", "COLUMNS", "LINES", "TERM", "WINDOWID", "TMUX_PANE", "TERM_SESSION_ID"}
)


def answer(words: Sequence[str], environ: Mapping[str, str], folder: str) -> str | None:
    """What ``xfdev`` with *words* in *folder* would say, "" where it would be silent, where nothing has changed since
    it had nothing to do; else None."""
    if not words or words[0] != "build" or any(word in _LOUDER for word in words):
        return None
    asked = plain(words)
    for root in _places(asked, folder):
        try:
            with open(os.path.join(root, NOTE), "rb") as stream:
                text = stream.read().decode(errors="surrogateescape")
                if os.fstat(stream.fileno()).st_uid != os.geteuid():
                    return None
        except OSError:
            continue
        source = _compare(root, text, asked, environ, folder)
        if source is not None:
            return "" if len(asked) < len(words) else f"nothing to compile: {source}"
    return None


def unchanged(root: str) -> bool:
    """Whether the checkout has stamps that say, by stat alone, that nothing changed since it was linked."""
    try:
        with open(os.path.join(root, STAMPS), "rb") as stream:
            text = stream.read().decode(errors="surrogateescape")
    except OSError:
        return False
    return "\t?\t" not in text and stamps.changed(root, text) == ({}, {})


def plain(words: Iterable[str]) -> list[str]:
    """*words* without those that only say how loud it is."""
    return [word for word in words if word not in (*_LOUDER, *_QUIET)]


def digest(environ: Mapping[str, str]) -> str:
    """What all variables are that may matter; of their values, which may be secrets, nothing can be read from it."""
    import hashlib

    found = hashlib.sha256(os.fsencode(f"{os.uname().machine} {_libc()} {os.geteuid()}"))
    for name in sorted(environ):
        if name not in PASSING:
            found.update(os.fsencode(f"\0{name}={environ[name]}"))
    return found.hexdigest()


def gpus() -> str:
    """The traces of a driver and of GPUs; what the driver says of them costs more than all else here."""
    found = [name for name in _names("/dev") if name.startswith(("nvidia", "dxg"))]
    found += _names("/proc/driver/nvidia/gpus")
    # Another one in the same slot leaves the same traces, but comes with another start of the machine.
    for path in ("/proc/driver/nvidia/version", "/proc/sys/kernel/random/boot_id") if found else ():
        try:
            with open(path, encoding="utf-8", errors="replace") as stream:
                found += stream.read().split()
        except OSError:
            pass
    return " ".join(found)


def text_of(head: Mapping[str, str], lines: Iterable[str]) -> str | None:
    """The text of a note; None where something in it would break a line."""
    rest = [stamps.HEADER, *lines]
    whole = {**head, "facts": str(len(rest))}
    first = [HEAD[0], *(f"{name}\t{whole[name]}" for name in HEAD[1:])]
    broken = any("\n" in line for line in first) or any(line.count("\t") != 3 or "\n" in line for line in rest[1:])
    return None if broken else "\n".join([*first, *rest]) + "\n"


def _compare(root: str, text: str, words: list[str], environ: Mapping[str, str], folder: str) -> str | None:
    """The source that a note names, if it still holds."""
    lines = text.split("\n", len(HEAD))
    if len(lines) != len(HEAD) + 1 or lines[0] != HEAD[0]:
        return None
    head = dict(line.split("\t", 1) for line in lines[1:-1] if "\t" in line)
    if tuple(head) != HEAD[1:] or head["words"] != repr(words) or head["folder"] != folder:
        return None
    try:
        age = time.time() - float(head["when"])
    except ValueError:
        return None
    if not 0 <= age < _A_DAY or head["variables"] != digest(environ) or head["gpus"] != gpus():
        return None
    if head["facts"] != str(lines[-1].count("\n")) or stamps.changed(root, lines[-1]) != ({}, {}):
        return None
    return head["source"] if unchanged(root) else None


def _places(words: Sequence[str], folder: str) -> list[str]:
    """The folders in which the note may be: those that the words name, this one, and what it lies in."""
    found = [*(os.path.join(folder, word) for word in words[1:] if not word.startswith("-")), folder]
    while (above := os.path.dirname(found[-1])) != found[-1]:
        found.append(above)
    return found


def _names(folder: str) -> list[str]:
    try:
        return sorted(os.listdir(folder))
    except OSError:
        return []


def _libc() -> str:
    try:
        return os.confstr("CS_GNU_LIBC_VERSION") or ""
    except (ValueError, OSError):
        return ""
