"""Changes of files in a checkout that are shown before they are made, and made all or none."""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from xfdev.console import size
from xfdev.errors import FilesInTheWay
from xfdev.files import explained, temporary


@dataclass(frozen=True)
class Change:
    """What becomes of one file, its path from the checkout's root; *was* where its contents stood before."""

    path: str
    before: bytes | None
    after: bytes | None
    was: str = ""

    @property
    def what(self) -> str:
        if self.before == self.after and not self.was:
            return "unchanged"
        if self.before is None:
            return "new"
        return "removed" if self.after is None else "moved" if self.was else "changed"


def existing(root: Path, name: str) -> bytes | None:
    """The contents of a file of the checkout, None where there is none.

    Raises FilesInTheWay for what is no file, and for a link that leads out of the checkout or nowhere.
    """
    path = root / name
    try:
        with explained(str(path)):
            if not path.resolve().is_relative_to(root.resolve()) or (path.is_symlink() and not path.exists()):
                raise FilesInTheWay(
                    f"{path} leads out of the checkout, or nowhere", hint="remove the link, and run it again"
                )
            return path.read_bytes()
    except FileNotFoundError:
        return None
    except (IsADirectoryError, NotADirectoryError) as error:
        raise FilesInTheWay(
            f"{path} cannot be a file: {error.strerror}", hint="move what is there out of the way, and run it again"
        ) from error


def diff(change: Change) -> str:
    import difflib

    old, new = change.before or b"", change.after or b""
    if b"\0" in old + new:
        return f"{change.path}: {change.what}, {size(len(old))} before, {size(len(new))} now"
    lines = difflib.unified_diff(
        old.decode(errors="replace").splitlines(),
        new.decode(errors="replace").splitlines(),
        f"{change.was or change.path} (there)",
        f"{change.path} (new)",
        lineterm="",
    )
    return "\n".join(lines) or f"{change.path}: only its line ends change"


def write(root: Path, changes: Sequence[Change]) -> None:
    """Make all changes: every new content is on the disk before the first one gets its place."""
    made: list[Path] = []
    staged: list[tuple[str, Path]] = []
    try:
        for change in changes:
            if change.after is not None:
                target = (root / change.path).resolve()
                with explained(str(target)):
                    made += _make_folder(target.parent)
                    staged.append((_stage(target, change.after), target))
        for name, target in staged:
            with explained(str(target)):
                os.replace(name, target)
    except BaseException:
        for name, _ in staged:
            Path(name).unlink(missing_ok=True)
        for folder in reversed(made):
            with suppress(OSError):
                folder.rmdir()
        raise
    for change in changes:
        gone = change.was or (change.path if change.after is None else "")
        if gone:
            with explained(str(root / gone)):
                (root / gone).unlink(missing_ok=True)


def _make_folder(folder: Path) -> list[Path]:
    missing = [place for place in (folder, *folder.parents) if not place.exists()]
    for place in reversed(missing):
        place.mkdir()
    return list(reversed(missing))


def _stage(target: Path, content: bytes) -> str:
    """A temporary file beside *target* with its new content and its mode."""
    mode = 0o755 if content.startswith(b"#!") else 0o644
    with suppress(FileNotFoundError):
        mode = stat.S_IMODE(target.stat().st_mode)
    handle, name = temporary(target)
    try:
        with os.fdopen(handle, "wb") as stream:
            stream.write(content)
        os.chmod(name, mode)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    return name
