"""Compile exactly what changed, link, and record what each unit was made from.

Which units to compile is decided by contents, never by file times: see ``inputs`` and ``plan``. Every compile goes
through the environment's launcher and ccache, so objects that exist somewhere come back in a fraction of a second.
"""

from __future__ import annotations

import os
import shlex
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from xfdev import libraries, limits, live_view, orphans, record
from xfdev.bundle import Manifest, Places, Unit
from xfdev.checkout import Checkout
from xfdev.compile_cache import folder_storage
from xfdev.console import console
from xfdev.execute import CPP_PEAK, NVCC_PEAK, Busy, Job, Outcome, run_jobs
from xfdev.files import explained, sha256, write_atomic
from xfdev.libraries import meanwhile
from xfdev.timeline import timeline
from xfdev.toolchain import Toolchain, absolute_folders
from xfdev.unfinished import Unfinished
from xfdev.venv import Environment
from xfdev.workspace import BUILD, MANIFEST, TEMP, UNFINISHED, clear_build, set_aside

#: What it takes to get an object from the cache (measured: 0.05 to 0.5 s).
_RESTORE_SECONDS = 0.3


@dataclass(frozen=True)
class Built:
    """A finished build: its manifest, and the sources that were compiled, that came from the cache, and kept."""

    manifest: Manifest
    compiled: tuple[str, ...]
    restored: tuple[str, ...]
    kept: tuple[str, ...]


def build(
    recipe: Manifest,
    known: Manifest | None,
    affected: Iterable[str],
    *,
    checkout: Checkout,
    environment: Environment,
    toolchain: Toolchain,
    places: Places,
    environ: Mapping[str, str],
    extras: Callable[[str], Path] | None,
    objects_from: Path | None = None,
    objects_to: Path | None = None,
    everything: bool = False,
    only: Iterable[str] | None = None,
    peak: int | None = None,
    max_jobs: int | None = None,
    options: str = "",
    shared: str = "",
    fills: bool = False,
) -> Built:
    """Bring the build folder of a checkout up to date with *recipe*.

    *known* is an earlier manifest whose units need no compile unless their source is in *affected*; *extras* gives
    the files of that manifest's outputs which no command makes. *objects_from* is a folder of compiler-cache entries
    to read, *objects_to* one to write those of all units to; *everything*: those of units that need no compile, too.
    With *only*, just these sources are compiled, and nothing is linked. *peak* is the memory to expect of a CUDA unit
    that was never compiled. *options* are those of this command line, for the one that an error tells to run. *shared*
    is a team's compiler cache in ccache's words; *fills*: what the local cache has goes there, too.

    Raises CompileFailed, OutOfMemory, DiskFull.
    """
    root = checkout.root
    with explained(str(root / TEMP)):
        (root / TEMP).mkdir(parents=True, exist_ok=True)
    if only is None:
        clear_build(root)
    orphans.end("XFDEV_LAUNCH_LOG", str(root / BUILD / "launches"))
    started = _now(root)
    units = _merge(recipe, known, set(affected))
    recipe = recipe.with_units(units)
    chosen = [unit for unit in units if only is None or unit.source in set(only)]
    todo, kept = _split(chosen, root, everything=everything)
    env = _compile_environ(environ, checkout, units, recipe.origin)
    env.update(_storages(objects_from, objects_to, shared, fills))
    recorder = record.Recorder(recipe, places, started)
    before = known.files if known else {}
    unfinished = None
    if only is None:
        if extras is not None:
            libraries.fetch_extras(recipe, root, extras)
        names = frozenset(unit.object for unit in todo)
        unfinished = Unfinished(recorder, names, checkout, before, toolchain.facts)
    try:
        outcomes, restored = _compile(
            todo, root, environment, places, env, peak, max_jobs, options, recorder, unfinished
        )
        if objects_to is not None and shared:
            # ccache writes what it found in one storage to no other, but what it found in its own folder.
            again = [unit for unit in todo if (root / BUILD / unit.object).as_posix() in restored]
            local = {**env, **_storages(None, objects_to, "", False)}
            _compile(again, root, environment, places, local, peak, max_jobs, options)
        taken = {
            outcome.job.output.as_posix(): (None, None)
            if outcome.job.output.as_posix() in restored
            else (outcome.seconds, outcome.peak)
            for outcome in outcomes
        }
        compiled = {_relative(path, root): value for path, value in taken.items()}
        # What others get is linked as the project does it.
        link = partial(libraries.link, recipe, root, places, env, quickly=objects_to is None)
        with meanwhile(link if only is None else lambda: None) as linked:
            with timeline.phase("recording what was read"):
                manifest = record.complete(recorder, compiled, checkout, before)
            with timeline.phase("linking"):
                seconds = linked()
    except BaseException:
        if unfinished is not None:
            unfinished.write()
        raise
    result = Built(
        manifest,
        compiled=tuple(unit.source for unit in todo if compiled[unit.object][0] is not None),
        restored=tuple(unit.source for unit in todo if compiled[unit.object][0] is None),
        kept=tuple(unit.source for unit in kept),
    )
    if only is not None:
        return result
    manifest = replace(manifest, link_seconds=seconds)
    manifest = libraries.describe(manifest, root, environment, toolchain, places, started)
    write_atomic(root / MANIFEST, manifest.to_bytes())
    (root / UNFINISHED).unlink(missing_ok=True)
    return replace(result, manifest=manifest)


def _merge(recipe: Manifest, known: Manifest | None, affected: set[str]) -> tuple[Unit, ...]:
    """The recipe's units with what is known of them from *known*; those to compile have no digest."""
    # Two libraries may have a source in common, compiled differently.
    earlier = {(unit.source, unit.object): unit for unit in known.units} if known else {}
    merged = []
    for unit in recipe.units:
        old = earlier.get((unit.source, unit.object))
        if old is None:
            merged.append(replace(unit, digest=None))
        elif old.argv != unit.argv or unit.source in affected:
            # What lay beside the files it read then and was not taken may be taken now: `beside` is not kept.
            merged.append(replace(unit, seconds=old.seconds, peak=old.peak, digest=None, beside=()))
        else:
            merged.append(old)
    return tuple(merged)


def _split(units: Iterable[Unit], root: Path, *, everything: bool) -> tuple[list[Unit], list[Unit]]:
    """Units to run through the compiler or its cache, and units whose object lies there, whole."""
    todo: list[Unit] = []
    kept: list[Unit] = []
    for unit in units:
        path = root / BUILD / unit.object
        whole = not everything and unit.digest is not None and path.is_file() and sha256(path) == unit.digest
        (kept if whole else todo).append(unit)
    return todo, kept


def _compile_environ(
    environ: Mapping[str, str], checkout: Checkout, units: Iterable[Unit], origin: Mapping[str, str]
) -> dict[str, str]:
    folder = checkout.root / BUILD
    units = list(units)
    counts = Counter(unit.source for unit in units)
    baseline = "".join(f"{u.source}\t{path}\n" for u in units if counts[u.source] == 1 for path in u.beside)
    write_atomic(folder / "baseline", baseline)
    write_atomic(folder / "launches", b"")
    env = dict(environ)
    env.update({
        "XFDEV_BASELINE": str(folder / "baseline"),
        "XFDEV_LAUNCH_LOG": str(folder / "launches"),
        "CCACHE_BASEDIR": str(checkout.root),
    })  # fmt: skip
    if origin.get("cwd") == ".":
        env.update(absolute_folders(env, str(checkout.root)))
    return env


def _storages(objects_from: Path | None, objects_to: Path | None, shared: str, fills: bool) -> dict[str, str]:
    """What ccache is told of the places beside its own folder; they are asked in this order."""
    words = [shared] if shared else []
    if objects_to is not None:
        words.insert(0, folder_storage(objects_to, read_only=False))
    elif objects_from is not None:
        words.insert(0, folder_storage(objects_from, read_only=True))
    found = {"CCACHE_REMOTE_STORAGE": " ".join(words)} if words else {}
    if objects_to is not None or fills:
        found["CCACHE_RESHARE"] = "1"
    return found


def _compile(
    units: list[Unit],
    root: Path,
    environment: Environment,
    places: Places,
    env: Mapping[str, str],
    peak: int | None,
    max_jobs: int | None,
    options: str,
    recorder: record.Recorder | None = None,
    unfinished: Unfinished | None = None,
) -> tuple[list[Outcome], set[str]]:
    """The outcomes, and the objects that came from the cache. Without a *recorder* nothing is said or learnt."""
    launcher = str(environment.tools / "bin" / "ccache")
    jobs = []
    for unit in units:
        output = root / BUILD / unit.object
        with explained(str(output)):
            output.parent.mkdir(parents=True, exist_ok=True)
        if unit.source.endswith(".cu"):
            set_aside(output)
        jobs.append(
            Job(
                name=unit.source,
                argv=(launcher, *(places.concrete(word) for word in unit.argv)),
                output=output,
                # One that nothing changed for comes from the cache: what has to compile starts first.
                seconds=unit.seconds if unit.digest is None else _RESTORE_SECONDS,
                peak=unit.peak or ((peak or NVCC_PEAK) if unit.source.endswith(".cu") else CPP_PEAK),
                divides=unit.source.endswith(".cu"),
            )
        )
    cpus = limits.cpus(env)
    if max_jobs is not None:
        cpus = min(cpus, max_jobs)
    memory = limits.memory()
    log = root / BUILD / "launches"
    with timeline.phase("compiling"), live_view.parts_noted() as more, live_view.shown(len(jobs), cpus, memory) as view:

        def done(outcome: Outcome, finished: int, total: int) -> None:
            if recorder is None:
                return
            name = _relative(outcome.job.output.as_posix(), root)
            if finished < total:
                recorder.learn(name)  # meanwhile others compile, on other CPUs than this one
            hit = f"hit {outcome.job.output}\n" in log.read_text(errors="surrogateescape")
            view.done(outcome, finished, hit=hit)
            if unfinished is not None:
                unfinished.done(name, *((None, None) if hit else (outcome.seconds, outcome.peak)))

        def tick(running: Sequence[Busy], waiting: Sequence[Job]) -> None:
            if console.live or timeline.wanted:
                view.tick(running, waiting)
            if unfinished is not None:
                unfinished.tick()

        outcomes = run_jobs(
            jobs,
            cwd=root / TEMP,
            env={**env, **more},
            memory=memory,
            cpus=cpus,
            # nvcc notes its own phases only when it runs them.
            divided=None if more or env.get("XFDEV_NVCC_PHASES") == "0" else {"XFDEV_NVCC_PHASES": "1"},
            on_done=done,
            on_tick=tick,
            on_abandon=unfinished.write if unfinished is not None else None,
            on_retry=lambda job: console.warning(f"{job.name} was killed for memory; it runs again, alone"),
            hint=lambda job: f"xfdev build {shlex.quote(str(root))}{options} --only {job.name} compiles this one again",
        )
    hits = {line[4:] for line in log.read_text(errors="surrogateescape").splitlines() if line.startswith("hit ")}
    return outcomes, hits


def _relative(path: str, root: Path) -> str:
    return os.path.relpath(path, root / BUILD)


def _now(root: Path) -> int:
    """A time stamp of the checkout's own file system, in nanoseconds."""
    path = root / BUILD / "started"
    with explained(str(path)):
        path.unlink(missing_ok=True)
        path.touch()
    return path.stat().st_ctime_ns


def export_objects(folder: Path) -> dict[str, str]:
    """The compiler-cache entries in *folder*, by relative path, with their SHA-256."""
    return {
        path.relative_to(folder).as_posix(): sha256(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name != "CACHEDIR.TAG"
    }
