"""Files written whole or not at all, digests, and locks."""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from xfdev.errors import Busy, DiskFull, ReadOnlyCheckout, XfdevError


@contextmanager
def explained(what: str) -> Iterator[None]:
    """Turn the operating system's refusals to write *what* into errors with a name."""
    try:
        yield
    except OSError as error:
        named = _explain(what, error)
        if named is None:
            raise
        raise named from error


def _explain(what: str, error: OSError) -> XfdevError | None:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return DiskFull(
            f"no space left while writing {what}",
            why="environments with CUDA take 5 to 8 GB, and every store and cache shares the disk",
            hint="free some space (xfdev bundle prune, ccache --cleanup) and run the same command again",
        )
    if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
        return ReadOnlyCheckout(
            f"{what} cannot be written: {error.strerror or error}",
            why="the file system is read-only, or the files belong to another user",
            hint=f"ls -ld {error.filename or what}; make it writable, or work in a clone of your own",
        )
    return None


def write_atomic(path: Path, content: bytes | str, mode: int = 0o644) -> None:
    """Replace *path* by *content* in one step; a reader sees the old or the new file, never half of one."""
    data = content.encode() if isinstance(content, str) else content
    with explained(str(path)):
        handle, name = temporary(path)
        try:
            with os.fdopen(handle, "wb") as stream:
                stream.write(data)
                stream.flush()
                os.fsync(stream.fileno())
            os.chmod(name, mode)
            os.replace(name, path)
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise


def temporary(target: Path) -> tuple[int, str]:
    """A new empty file beside *target*, open for writing, and its name. (``tempfile`` takes long to import.)"""
    while True:
        name = f"{target.parent}/.{target.name}.{os.getpid()}-{time.monotonic_ns():x}"
        try:
            return os.open(name, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), name
        except FileExistsError:
            continue


def write_json(path: Path, value: Any) -> None:
    write_atomic(path, json.dumps(value, indent=1, sort_keys=True) + "\n")


def read_json(path: Path) -> Any:
    """The JSON in *path*, or None where there is none or it is damaged: such a file is as good as absent."""
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError):
        return None


def sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def sha256_of(value: Any) -> str:
    """The digest of a JSON value in canonical form (sorted keys, no spaces)."""
    return hashlib.sha256(json.dumps(value, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


@contextmanager
def locked(path: Path, what: str, *, wait: float) -> Iterator[None]:
    """Hold an exclusive lock on *path*; the kernel frees it when the process ends, however it ends.

    Raises Busy after *wait* seconds.
    """
    with explained(str(path)):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        deadline = time.monotonic() + wait
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    raise Busy(
                        f"another xfdev is working on {what}",
                        why=f"it holds the lock {path}",
                        hint="wait for it to finish, or stop it, and run the same command again",
                    ) from None
                time.sleep(0.05)
        yield
    finally:
        os.close(handle)
