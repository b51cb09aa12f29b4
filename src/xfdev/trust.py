"""Whether a bundle from afar may be used. Pure: what is known of it in, the objection to it out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

#: Values of the option ``signatures``.
POLICIES = ("off", "optional", "required")


@dataclass(frozen=True)
class Checked:
    """A signature that was compared with all keys: what it was given for, and the key's name, "" for a foreign one."""

    digest: str
    key: str


def policy_of(asked: str | None, keys: Sequence[str]) -> str:
    """The policy in force: who names keys and nothing else wants them to count."""
    return asked or ("required" if keys else "off")


def unsigned(policy: str, digest: str, signatures: Iterable[Checked]) -> str:
    """What *policy* has against a bundle with *digest* and these signatures; "" for nothing.

    One good signature suffices, whatever else is there: anybody who may push can add one.
    """
    if policy == "off":
        return ""
    foreign, moved = 0, ""
    for signature in signatures:
        if signature.key and signature.digest == digest:
            return ""
        if signature.key:
            moved = f"its signature by {signature.key} is for {signature.digest[:19] or 'something else'}"
        else:
            foreign += 1
    if moved:
        return moved
    if foreign:
        return "it is signed by another key than those that are trusted"
    return "it is not signed" if policy == "required" else ""


def unlocked(digest: str, locked: Iterable[str] | None, name: str) -> str:
    """What a lock file has against it; *locked* are the digests in it, None where there is no lock."""
    if locked is None or digest in {*locked}:
        return ""
    return f"it is not in {name}"
