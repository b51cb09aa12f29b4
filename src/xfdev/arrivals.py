"""Where a new checkout is made, and whether it is there already.

All work happens in a hidden folder beside the destination; one rename makes it the checkout. A run that was
killed leaves that hidden folder, and the next run for the same destination removes it.
"""

from __future__ import annotations

import errno
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from xfdev import files, neighbours
from xfdev.clones import git
from xfdev.console import console
from xfdev.errors import UsageError

RECORD = Path(".xfdev") / "source.json"


@dataclass(frozen=True)
class Origin:
    """What a checkout was made from: a git URL or a requirement, and the reference asked for."""

    source: str
    ref: str | None = None


def recorded(checkout: Path) -> Origin | None:
    """What xfdev made *checkout* from; None when it did not, or the record is damaged."""
    value = files.read_json(checkout / RECORD)
    if not isinstance(value, dict) or not isinstance(value.get("source"), str):
        return None
    ref = value.get("ref")
    return Origin(value["source"], ref if isinstance(ref, str) else None)


def is_there(target: Path, wanted: Origin) -> bool:
    """Whether *target* is a complete checkout of *wanted*, which is then used as it is, edits included.

    False when there is nothing or an empty folder. Raises UsageError when something else is in the way.
    """
    if not target.exists() and not target.is_symlink():
        return False
    if target.is_dir() and not any(target.iterdir()):
        return False
    known = recorded(target)
    same = known is not None and _key(known.source) == _key(wanted.source)
    same = same or any(_key(remote) == _key(wanted.source) for remote in neighbours.remotes(target))
    if not same:
        what = f"holds {known.source}" if known else "is not a checkout of it"
        raise UsageError(
            f"{target} exists already and {what}, so {wanted.source} cannot go there",
            why="xfdev never replaces a folder that it did not make from the same source",
            hint=f"name another destination, or move {target} away",
        )
    at = known.ref if known else None
    if wanted.ref is not None and at != wanted.ref and not _is_at(target, wanted.ref):
        raise UsageError(
            f"{target} is a clone of {wanted.source} already, but not at {wanted.ref}",
            why=f"it was made at {at}" if at else "another branch or commit is checked out there",
            hint=f"git -C {target} fetch origin {wanted.ref} && git -C {target} checkout {wanted.ref}, "
            "or name another destination",
        )
    console.info(f"{target} is there already{f', made at {at}' if at else ''}: used as it is, with your edits")
    return True


def _key(source: str) -> str:
    return neighbours.repository_key(source)


def _is_at(checkout: Path, ref: str) -> bool:
    """Whether the branch *ref*, or the commit that it names there, is what *checkout* has checked out."""
    head = git(["rev-parse", "HEAD"], cwd=checkout, check=False).stdout.strip()
    branch = git(["symbolic-ref", "--quiet", "--short", "HEAD"], cwd=checkout, check=False).stdout.strip()
    commit = git(["rev-parse", "--verify", "--quiet", f"{ref}^{{commit}}"], cwd=checkout, check=False)
    return branch == ref or bool(head and commit.stdout.strip() == head)


@contextmanager
def workspace(target: Path) -> Iterator[Path]:
    """An empty folder beside *target*, gone afterwards. Raises Busy while another run has it."""
    container = target.parent / f".{target.name}.xfdev-partial"
    with files.explained(str(target.parent)):
        container.mkdir(parents=True, exist_ok=True)
    with files.locked(container / "lock", str(target), wait=0):
        try:
            with files.explained(str(container)):
                _clear(container, keep="lock")
                # A name of its own: git processes of a killed run may still write into the old one.
                work = Path(tempfile.mkdtemp(prefix="run-", dir=container))
            with files.explained(str(work)):
                yield work
        finally:
            _clear(container)


def _clear(container: Path, keep: str | None = None) -> None:
    """Remove what is in *container*, and itself unless something in it is to be kept."""
    for attempt in range(5):
        for path in [path for path in container.iterdir() if path.name != keep]:
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)
        left = [path for path in container.iterdir() if path.name != keep]
        if not left:
            break
        time.sleep(0.05 * (attempt + 1))  # a git process of a killed run is still writing
    else:
        console.debug(f"{container} was not removed completely; the next run does it")
        return
    if keep is None:
        container.rmdir()


def settle(made: Path, target: Path, origin: Origin) -> Path:
    """Note in *made* where it is from, and make it *target* in one step; return that, resolved."""
    folder = made / RECORD.parent
    with files.explained(str(folder)):
        folder.mkdir(exist_ok=True)
    files.write_atomic(folder / ".gitignore", "*\n")  # so that git never shows the folder
    files.write_json(made / RECORD, asdict(origin))
    with files.explained(str(target)):
        try:
            made.rename(target)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                raise
            raise UsageError(
                f"{target} has appeared in the meantime",
                why="another program made it while this one was working",
                hint="run the same command again, or name another destination",
            ) from error
    return target.resolve()
