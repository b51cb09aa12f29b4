"""What the terminals of a container say about a checkout: that it is ready, or what is still to be done.

Files in the folder that ``XFDEV_STATUS`` names, which the image sets and its shell reads: ``ready`` is shown once in
each new terminal, ``todo-*`` before every prompt. Elsewhere nothing is written.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from xfdev.errors import XfdevError
from xfdev.files import write_atomic


def ready(environ: Mapping[str, str], about: Path, lines: Sequence[str]) -> None:
    """The checkout *about* is in order; *lines* say in which."""
    folder = _folder(environ)
    if folder is not None:
        with suppress(OSError, XfdevError):
            write_atomic(folder / "ready", "\n".join(lines) + "\n", 0o666)
            (folder / _name(about)).unlink(missing_ok=True)


def todo_file(environ: Mapping[str, str], about: Path) -> Path | None:
    """What is there as long as something of the checkout *about* waits; None where nothing is shown."""
    folder = _folder(environ)
    return folder / _name(about) if folder is not None else None


def todo(environ: Mapping[str, str], about: Path, lines: Sequence[str]) -> None:
    """Something of the checkout *about* waits for its developer: shown until ``ready`` is said of it."""
    folder = _folder(environ)
    if folder is not None:
        with suppress(OSError, XfdevError):
            (folder / "ready").unlink(missing_ok=True)
            write_atomic(folder / _name(about), "\n".join(lines) + "\n", 0o666)


def _folder(environ: Mapping[str, str]) -> Path | None:
    folder = Path(environ.get("XFDEV_STATUS") or "/nonexistent")
    return folder if folder.is_dir() else None


def _name(about: Path) -> str:
    return f"todo-{hashlib.sha256(str(about).encode()).hexdigest()[:16]}"
