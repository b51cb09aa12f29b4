"""What of old nights goes. Pure: what the registry has in, digests out."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping

from xfdev.nightly.decide import NIGHT


def nights(tags: Iterable[str]) -> list[str]:
    """The nights that have a tag, the newest first."""
    found = {match[0] for tag in tags if (match := NIGHT.match(tag))}
    return sorted(found, key=lambda name: (NIGHT.fullmatch(name)[1], _number(name), name), reverse=True)  # type: ignore[index]


def _number(night: str) -> int:
    return int(night.rpartition(".")[2]) if "." in night else 1


def old(tags: Collection[str], keep: int, current: str) -> list[str]:
    """The nights that the policy gives up: all but the newest *keep*, and never *current*."""
    return [night for night in nights(tags)[keep:] if night != current]


def named(texts: Iterable[str]) -> set[str]:
    """Every digest that a lock file names, whatever else is in it."""
    return {found for text in texts for found in re.findall(r"sha256:[0-9a-f]{64}", text)}


def closure(roots: Iterable[str], children: Mapping[str, Collection[str]]) -> set[str]:
    """*roots* and all that they lead to."""
    found: set[str] = set()
    stack = [*roots]
    while stack:
        digest = stack.pop()
        if digest not in found:
            found.add(digest)
            stack += children.get(digest, ())
    return found


def doomed(
    tags: Mapping[str, str], gone: Collection[str], children: Mapping[str, Collection[str]], protected: Collection[str]
) -> list[str]:
    """The digests to delete: what tags of the nights *gone* lead to, and nothing that anything else leads to.

    *tags* maps to digests, *children* an index to what it lists; *protected* are digests that lock files name. The
    inner ones come first: a deletion that is cut short leaves the names by which the next one finds the rest.
    """
    lost = {tag for tag in tags if (match := NIGHT.match(tag)) and match[0] in gone}
    kept = closure([*(digest for tag, digest in tags.items() if tag not in lost), *protected], children)
    roots = {tags[tag] for tag in lost} - kept
    inner = closure(roots, children) - roots - kept
    return [*sorted(inner), *sorted(roots)]
