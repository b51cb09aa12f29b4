"""The team's compiler cache in a build: what ccache is told, and what a person is told when it fails."""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from xfdev import compile_cache, launchers
from xfdev.commands.session import Session
from xfdev.compile_cache import CompileCache
from xfdev.console import console, duration
from xfdev.errors import XfdevError
from xfdev.files import write_atomic
from xfdev.venv import Environment


@dataclass(frozen=True)
class TeamCache:
    """*storage* in ccache's words, "" where there is no cache, or none that can be used now."""

    storage: str = ""
    cache: CompileCache | None = None
    report: Path | None = None
    since: float = 0.0

    def conclude(self) -> None:
        """After the compiles: say in one line why the cache's server did not serve, where it did not."""
        if self.cache is None or self.report is None or not self.storage:
            return
        why = compile_cache.complaint(self.report, self.since)
        if why:
            _left_out(self.cache, why, f"; it is left out for {duration(compile_cache.REST)}")


def prepare(session: Session) -> TeamCache:
    """The cache that the options of *session* name, looked at. Raises UsageError for one that cannot be one."""
    chosen = session.options
    if chosen.compile_cache is None:
        publish(session.environment, "")
        return TeamCache()
    cache = compile_cache.parse(chosen.compile_cache, written=bool(chosen.compile_cache_write))
    report = Path(session.environ["CCACHE_DIR"]) / compile_cache.REPORT
    why = compile_cache.absent(cache)
    if why:
        publish(session.environment, "")
        _left_out(cache, why)
        return TeamCache()
    helper = launchers.storage_helper(session.environment) if cache.served else Path()
    # What is typed by hand may be an experiment: it takes objects, and gives none.
    publish(session.environment, compile_cache.storage(cache, helper, report, write=False))
    if cache.served:
        with suppress(OSError):
            report.parent.mkdir(parents=True, exist_ok=True)
        if compile_cache.rests(report):
            console.debug(f"the compile cache {cache.place} failed a short while ago and is left out")
            return TeamCache()
    # The file systems' clocks are coarser than ours.
    words = compile_cache.storage(cache, helper, report, write=True)
    return TeamCache(words, cache, report, time.time() - 0.05)


def publish(environment: Environment, storage: str) -> None:
    """Tell the launcher of *environment* what builds typed by hand may read."""
    path = environment.tools / compile_cache.FILE
    with suppress(OSError, XfdevError):  # somebody else's environment: they do without
        if storage and (not path.exists() or path.read_text() != storage):
            write_atomic(path, storage)
        elif not storage:
            path.unlink(missing_ok=True)


def _left_out(cache: CompileCache, why: str, until: str = "") -> None:
    console.warning(f"the compile cache {cache.place} {why}; units compile without it{until}")
