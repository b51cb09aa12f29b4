"""Fetching blobs: several at once, going on where an earlier fetch was interrupted, bounded in time and size."""

from __future__ import annotations

import http.client
import re
import shutil
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from xfdev.console import console, size
from xfdev.errors import BadBundle, StoreUnreachable
from xfdev.files import explained, sha256
from xfdev.stores.artifact import Blob, digest_of
from xfdev.stores.registry import Registry

_AT_ONCE = 4
_TRIES = 5
#: What a blob may take: a few seconds, and longer the larger it is. Slower than this, compiling is no slower.
_SECONDS, _BYTES_A_SECOND = 10.0, 50_000
_ABANDONED_AFTER = 7 * 24 * 3600.0

T = TypeVar("T")


def bounded(work: Callable[[], T], seconds: float, who: str) -> T:
    """The result of *work*, or StoreUnreachable after *seconds*: a name server that is silent, or a server that sends
    a byte now and then, has no time-out of its own. What is left behind ends with the process."""
    done = threading.Event()
    results: list[T] = []
    errors: list[BaseException] = []

    def call() -> None:
        try:
            results.append(work())
        except BaseException as error:
            errors.append(error)
        done.set()

    threading.Thread(target=call, daemon=True).start()
    if not done.wait(seconds + 0.5):
        raise StoreUnreachable(
            f"the store {who} fails: no answer within {seconds:.0f} s",
            why="the server or the network on the way to it",
            hint="try again later; what is in the local store works without it",
        )
    if errors:
        raise errors[0]
    return results[0]


@dataclass(frozen=True)
class Files:
    """Fetched blobs, each checked, in *folder*."""

    folder: Path
    blobs: tuple[Blob, ...]

    def path(self, blob: Blob) -> Path:
        return self.folder / blob.digest.partition(":")[2]

    def remove(self) -> None:
        for blob in self.blobs:
            with suppress(OSError):
                self.path(blob).unlink()


class Transfer:
    """Fetches from *registry* into *folder*."""

    def __init__(self, registry: Registry, folder: Path) -> None:
        self._registry = registry
        self._folder = folder
        self.fetched = 0

    def small(self, blob: Blob, deadline: float) -> bytes:
        """A blob in memory, its digest checked."""
        url = f"{self._registry.base}/blobs/{blob.digest}"
        data = self._registry.ask("GET", url, deadline=deadline, most=blob.size).body
        if len(data) != blob.size or digest_of(data) != blob.digest:
            raise self._wrong(blob)
        return data

    def fetch(self, blobs: Sequence[Blob]) -> Files:
        """Fetch all, or raise StoreUnreachable, BadBundle, DiskFull; parts of what failed are kept for next time."""
        chosen = tuple({blob.digest: blob for blob in blobs}.values())
        files = Files(self._folder, chosen)
        with explained(str(self._folder)):
            self._folder.mkdir(parents=True, exist_ok=True)
            self._sweep()
        total = sum(blob.size for blob in chosen)
        seconds = _SECONDS + total / _BYTES_A_SECOND
        deadline = time.monotonic() + seconds
        waiting, left, errors = [*chosen], len(chosen), list[BaseException]()
        changed = threading.Condition()

        def work() -> None:
            nonlocal left
            while True:
                with changed:
                    if not waiting or errors:
                        return
                    blob = waiting.pop()
                try:
                    self._one(blob, files.path(blob), deadline)
                except BaseException as error:
                    with changed:
                        errors.append(error)
                        changed.notify_all()
                    return
                with changed:
                    left -= 1
                    changed.notify_all()

        for _ in range(min(_AT_ONCE, len(chosen))):
            threading.Thread(target=work, daemon=True).start()
        with changed:
            while left and not errors and time.monotonic() < deadline + 0.5:
                changed.wait(0.2)
                console.progress(f"{size(self.fetched)} of {size(total)}")
        console.progress("")
        if errors:
            if isinstance(errors[0], OSError):
                with explained(str(self._folder)):
                    raise errors[0]
            raise errors[0]
        if left:
            raise self._slow(seconds)
        return files

    def _one(self, blob: Blob, target: Path, deadline: float) -> None:
        if target.exists() and sha256(target) == blob.digest.partition(":")[2]:
            self.fetched += blob.size
            return
        part = target.with_name(f"{target.name}.part")
        for attempt in range(_TRIES):
            try:
                self._more(blob, part, deadline)
            except http.client.IncompleteRead:
                if time.monotonic() > deadline:
                    raise self._slow(0) from None
                time.sleep(0.1 * 2**attempt)
                continue
            if sha256(part) == blob.digest.partition(":")[2]:
                part.replace(target)
                return
            # What an earlier fetch left may be what is wrong; so everything is asked for once more.
            part.unlink()
            if attempt:
                break
        raise self._wrong(blob)

    def _more(self, blob: Blob, part: Path, deadline: float) -> None:
        """Ask for what *part* lacks. Raises IncompleteRead where some still does."""
        have = part.stat().st_size if part.exists() else 0
        if have > blob.size:
            part.unlink()
            have = 0
        if have == blob.size:
            return
        headers = {"Range": f"bytes={have}-"} if have else {}

        def take(answer: http.client.HTTPResponse) -> None:
            start = 0
            if answer.status == 206:
                begins = re.match(r"bytes (\d+)-", answer.headers.get("Content-Range") or "")
                start = int(begins[1]) if begins else -1
                if start != have:
                    raise http.client.HTTPException("it sends another part than it was asked for")
            with part.open("r+b" if start else "wb") as stream:
                stream.seek(start)
                stream.truncate()
                count = start
                while count < blob.size:
                    try:
                        chunk = answer.read1(min(1 << 18, blob.size - count))
                    except (OSError, http.client.HTTPException):
                        break
                    if not chunk:
                        break
                    try:
                        stream.write(chunk)
                    except OSError as error:
                        raise _Unwritable(error) from error
                    count += len(chunk)
                    self.fetched += len(chunk)
                    if time.monotonic() > deadline:
                        raise _Late
            if count < blob.size:
                raise _Short

        try:
            self._registry.ask("GET", f"{self._registry.base}/blobs/{blob.digest}", headers, deadline=deadline,
                               take=take, good=(200, 206))  # fmt: skip
        except _Short:
            raise http.client.IncompleteRead(b"") from None
        except _Late:
            raise self._slow(0) from None
        except _Unwritable as error:
            raise error.cause from None

    def _wrong(self, blob: Blob) -> BadBundle:
        return BadBundle(
            f"the store {self._registry.place.name}/{self._registry.place.repository} sends something else than "
            f"{blob.digest[:19]}, or less of it",
            why="the store, or a proxy on the way, changed it",
            hint="push the bundle again from its maker, or leave this store out",
        )

    def _slow(self, seconds: float) -> StoreUnreachable:
        return StoreUnreachable(
            f"the store {self._registry.place.name}/{self._registry.place.repository} fails: it is too slow"
            + (f", not done within {seconds:.0f} s" if seconds else ""),
            why="the server or the network on the way to it",
            hint="run the same command again: it goes on where it was",
        )

    def _sweep(self) -> None:
        for path in self._folder.iterdir():
            with suppress(OSError):
                if time.time() - path.stat().st_mtime < _ABANDONED_AFTER:
                    continue
                if path.is_dir():
                    shutil.rmtree(path, ignore_errors=True)
                else:
                    path.unlink()


class _Short(Exception):
    """The connection ended before the blob did."""


class _Late(Exception):
    """The deadline is over."""


class _Unwritable(Exception):
    """Our own disk fails, not the store."""

    def __init__(self, cause: OSError) -> None:
        super().__init__(str(cause))
        self.cause = cause
