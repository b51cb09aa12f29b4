"""Carry out fixes that are safe: each changes one named thing, and can be undone or made again."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from xfdev import run
from xfdev.doctor.finding import Repair
from xfdev.doctor.look.tree import identity
from xfdev.errors import CommandFailed


def make(repair: Repair, environ: Mapping[str, str]) -> str:
    """Make one repair; returns why it failed, "" where it did not."""
    if repair.remove:
        return _remove(Path(repair.remove), repair.identity)
    try:
        run.capture(repair.words, env=environ)
    except CommandFailed as error:
        return str(error)
    return ""


def _remove(path: Path, seen: tuple[int, ...]) -> str:
    """Remove a file, unless it is another one by now."""
    try:
        if identity(path) != seen:
            return f"{path} changed meanwhile; it is in use"
        path.unlink()
    except FileNotFoundError:
        return ""
    except OSError as error:
        return f"{path}: {error.strerror or error}"
    return ""
