"""A source release: unpacked without leaving its folder, and made a git repository with one commit."""

from __future__ import annotations

import gzip
import os
import tarfile
import zlib
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from xfdev import clones, files
from xfdev.errors import XfdevError


@dataclass(frozen=True)
class Unpacked:
    """The release's top folder, and when its newest file was changed (seconds since 1970)."""

    root: Path
    newest: int


def unpack(archive: Path, folder: Path) -> Unpacked:
    """Unpack *archive* (.tar.gz) into the empty *folder*. Raises XfdevError when damaged or not safe."""
    with files.explained(str(folder)):
        folder.mkdir(parents=True, exist_ok=True)
        try:
            newest = _extract(archive, folder)
        except (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile) as error:
            raise XfdevError(
                f"{archive.name} was not unpacked: {error}",
                why="it is damaged, not a .tar.gz (some old releases are .zip), or leads out of its folder",
                hint="python -m pip cache purge and the same command again, or give a git URL instead",
            ) from error
        tops = list(folder.iterdir())
    if len(tops) != 1 or not tops[0].is_dir():
        raise XfdevError(
            f"{archive.name} is not a source release",
            why=f"such an archive has one folder at its top, this one has {len(tops)} entries",
            hint="give a git URL or a folder with the sources instead",
        )
    return Unpacked(tops[0], newest)


def _extract(archive: Path, folder: Path) -> int:
    newest = 0
    with tarfile.open(archive) as tar:
        members: list[tarfile.TarInfo] = []
        for member in tar:
            # A .git (left there by a submodule) would make git take the folder for a repository.
            if any(part.lower() == ".git" for part in PurePosixPath(member.name).parts):
                continue
            members.append(member)
            newest = max(newest, int(member.mtime))
        if hasattr(tarfile, "data_filter"):
            tar.extractall(folder, members, filter="data")
        else:  # Python before 3.10.12 and 3.11.4
            for member in members:
                _refuse_unsafe(member)
            tar.extractall(folder, members)
    return newest


def _refuse_unsafe(member: tarfile.TarInfo) -> None:
    """Raise tarfile.TarError unless *member* is a plain file or folder below the folder it is unpacked in."""
    path = PurePosixPath(member.name)
    if path.is_absolute() or ".." in path.parts:
        raise tarfile.ExtractError(f"{member.name!r} would be written outside the folder")
    if not (member.isreg() or member.isdir()):
        raise tarfile.ExtractError(f"{member.name!r} is a link or a device, which needs Python 3.10.12 or newer")
    # Root would give the files to the numbers of whoever packed them, and git then refuses the tree.
    member.uid, member.gid, member.uname, member.gname = os.geteuid(), os.getegid(), "", ""
    member.mode = (member.mode & 0o755) | (0o700 if member.isdir() else 0o600)


def commit(root: Path, message: str, when: int) -> None:
    """Make *root* a git repository with one commit (branch main) of all its files, ignored ones as well.

    The same release gives the same commit for the same author, as the dates are *when*.
    """
    stamp = f"{when} +0000"
    dates = {"GIT_AUTHOR_DATE": stamp, "GIT_COMMITTER_DATE": stamp}
    # gc would start in the background with thousands of loose objects; bytes are to stay as released.
    options = ["-c", "gc.auto=0", "-c", "maintenance.auto=false", "-c", "commit.gpgSign=false"]
    options += ["-c", "core.autocrlf=false", "-c", "core.safecrlf=false", *_identity(root)]
    with files.explained(str(root)):
        for words in (
            ["init", "--quiet", "--initial-branch", "main"],
            ["add", "--all", "--force"],
            ["commit", "--quiet", "--no-verify", "--message", message],
        ):
            clones.git([*options, *words], cwd=root, extra=dates)


def _identity(root: Path) -> list[str]:
    """git's options for an author where the user has not named one."""
    options: list[str] = []
    for key, value, variables in (
        ("user.name", "xfdev", ("GIT_AUTHOR_NAME", "GIT_COMMITTER_NAME")),
        ("user.email", "xfdev@localhost", ("GIT_AUTHOR_EMAIL", "GIT_COMMITTER_EMAIL")),
    ):
        known = clones.git(["config", "--get", key], cwd=root, check=False).stdout.strip()
        if not known and not all(os.environ.get(variable) for variable in variables):
            options += ["-c", f"{key}={value}"]
    return options
