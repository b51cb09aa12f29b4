"""Carry out a plan: link what can be linked, compile what must be. Shared by the verbs that change a checkout."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xfdev import inputs, plan
from xfdev.bundle import Manifest
from xfdev.checkout import file_id
from xfdev.commands import demands, linking, report
from xfdev.commands.session import Session
from xfdev.console import console
from xfdev.errors import (
    BadBundle,
    MissingSubmodule,
    NothingFits,
    StoreUnreachable,
    XfdevError,
)
from xfdev.files import explained, write_atomic
from xfdev.options import SHARED
from xfdev.timeline import timeline
from xfdev.workspace import BUILD, LIB, RECIPE, clear_build, forget_build, kept_build, last_recipe

if TYPE_CHECKING:  # a link needs none of what a compile needs, and starts the sooner
    from xfdev.compile import Built


def build_plan(
    session: Session,
    decided: plan.Plan,
    *,
    only: Iterable[str] | None = None,
    objects_to: Path | None = None,
    everything: bool = True,
) -> Built:
    """Compile what a ``partial`` or ``full`` plan names, or only some units. *objects_to* gets the compiler-cache
    entries of the units that are compiled, or of *everything*."""
    from xfdev import compile as compiling
    from xfdev.commands import team_cache
    from xfdev.configure import configure
    from xfdev.doctor import early

    demands.require_compilers(session)
    early.before_compile(
        session.toolchain, session.environ, (session.root, session.store.folder), full=decided.verdict == "full"
    )
    candidate = decided.candidate if decided.verdict == "partial" or _tells_units(decided, only) else None
    known = candidate.manifest if candidate else None
    sources = list(only) if only is not None else None
    if known is None or decided.reconfigure:
        demands.fetch_submodules(session)
        with (
            console.step("asking the build script what it would compile"),
            timeline.phase("asking the build script"),
        ):
            clear_build(session.root)
            recipe = configure(
                session.checkout, session.environment, session.toolchain, session.profile, session.environ
            )
        if known is None:
            known = kept_build(session.root) or _any_recipe(session) or last_recipe(session.root)
            affected: set[str] = {unit.source for unit in recipe.units}
        else:
            made = {path: file_id(session.root / path) for path in recipe.scripts.generated}
            remade = [path for path, now in made.items() if now != known.files.get(path)]
            affected = {*decided.affected, *inputs.readers(known, remade)}
    else:
        recipe, affected = known, set(decided.affected)
        demands.fetch_submodules(session, recipe.files)
    if sources is not None:
        sources = resolve_units(sources, [unit.source for unit in recipe.units])
    if decided.verdict == "full":
        report.announce(
            [unit for unit in recipe.units if sources is None or unit.source in sources],
            known,
            session.cpus,
            session.guess,
        )
    bundle = candidate.bundle if candidate else None
    objects_from = None
    if candidate is not None and bundle is not None:
        session.candidates.bring(bundle, objects=True)
        objects_from = session.store.objects(bundle, candidate.manifest)
    extras = None
    if known is recipe and bundle is not None:
        extras = lambda name: session.store.output(bundle, name)  # noqa: E731
    team = team_cache.prepare(session)
    built = compiling.build(
        recipe,
        known,
        affected,
        checkout=session.checkout,
        environment=session.environment,
        toolchain=session.toolchain,
        places=session.places,
        environ=session.environ,
        extras=extras,
        objects_from=objects_from,
        objects_to=objects_to,
        everything=everything and objects_to is not None,
        only=sources,
        peak=session.profile.guess.get("peak"),
        max_jobs=session.options.jobs,
        options=session.options.command_line("arch", "venv", "cache", "jobs", *SHARED),
        shared=team.storage,
        fills=bool(team.cache and team.cache.written),
    )
    team.conclude()
    write_atomic(session.root / RECIPE, built.manifest.to_bytes())
    return built


def _tells_units(decided: plan.Plan, only: Iterable[str] | None) -> bool:
    """Whether what could be linked as it is also tells how to make some of its objects again."""
    found = decided.candidate if only is not None and decided.verdict == "reuse" else None
    return found is not None and bool(found.manifest.units) and not found.mismatches


def _any_recipe(session: Session) -> Manifest | None:
    """A manifest of this project whose units' times tell how long theirs may take."""
    for candidate in session.candidates.all():
        if candidate.manifest.units:
            return candidate.manifest
    return None


def resolve_units(wanted: list[str], sources: list[str]) -> list[str]:
    """The units whose source ends with each of *wanted*, or matches it, or has it in its path. Raises NothingFits."""
    found = []
    for name in wanted:
        matches = [source for source in sources if source == name or source.endswith("/" + name)]
        if not matches:
            matches = [source for source in sources if fnmatchcase(source, name) or fnmatchcase(source, f"*/{name}")]
        if not matches:
            matches = [source for source in sources if name in source]
        if not matches:
            raise NothingFits(
                f"no unit is called {name}",
                hint="units are: " + ", ".join(sources[:12]) + (", ..." if len(sources) > 12 else ""),
            )
        found += matches
    return list(dict.fromkeys(found))


def store_bundle(session: Session, manifest: Manifest, objects: Path | None) -> str:
    """Write the checkout's finished build as a bundle into the local store; returns its id."""
    from xfdev.compile import export_objects

    entries = export_objects(objects) if objects is not None else {}
    manifest = replace(manifest, objects=entries)
    same = next((entry.id for entry in session.store.summaries() if entry.content == manifest.content), None)
    if same is not None:
        if objects is not None and session.store.lacks_objects(same):
            return session.store.put(manifest, {name: session.root / LIB / name for name in manifest.outputs}, objects)
        try:
            session.store.verify(same)  # a damaged one must not keep a whole one out
            session.store.use(same)
            return same
        except BadBundle as error:
            console.warning(f"{error}; it is thrown away")
            session.store.remove(same)
    return session.store.put(manifest, {name: session.root / LIB / name for name in manifest.outputs}, objects)


#: What clangd reads.
DATABASE = ".xfdev/compile_commands.json"
_BAD_BUNDLES = 6  # as many as are compared: a store that lost all of them still ends in a compile


def bring_up_to_date(
    session: Session, *, compile_allowed: bool, mode: str | None = None
) -> tuple[plan.Plan, Built | None, dict[str, Any]]:
    """Plan, then link or build: what ``up``, ``link`` and ``build`` have in common. The caller holds the lock.

    *mode*: see ``link_outputs``.
    """
    for _ in range(_BAD_BUNDLES):
        with timeline.phase("comparing"):
            decided = session.plan()
        if decided.verdict == "full" and _look_into_submodules(session, decided):
            decided = session.plan()
        try:
            if decided.verdict == "reuse":
                built, state = None, linking.link_plan(session, decided, mode)
            else:
                built, state = _build(session, decided, compile_allowed, mode)
            _tell_editors(session, decided, built, changed=state["changed"])
            return decided, built, state
        except StoreUnreachable:  # it was said, and that store is left out from now on
            continue
        except BadBundle as error:
            bundle = decided.candidate.bundle if decided.candidate else None
            if bundle is not None and bundle not in session.store.ids() and session.candidates.from_afar(bundle):
                continue  # likewise
            if bundle is not None:
                console.warning(f"{error}; it is thrown away")
                session.store.remove(bundle)
            elif decided.verdict != "full":
                forget_build(session.root)
            else:
                raise
    raise NothingFits("bundles were damaged again and again", hint="xfdev bundle verify --remove")


def _look_into_submodules(session: Session, decided: plan.Plan) -> bool:
    """Check out the submodules for whose absence a bundle was refused: they may be what it was made from, or nearly."""
    reasons = [reason for refusal in decided.refused for reason in refusal.reasons]
    absent = [
        path for path in demands.missing_submodules(session, None) if any(text.startswith(path) for text in reasons)
    ]
    if not absent:
        return False
    try:
        demands.fetch_submodules(session)
    except MissingSubmodule as error:
        console.info(f"{error}; bundles are not compared with it")
        return False
    return True


def _tell_editors(session: Session, decided: plan.Plan, built: Built | None, *, changed: bool) -> None:
    """Write what clangd reads, unless nothing can have changed in it."""
    if built is None and not changed and (session.root / DATABASE).exists():
        return
    manifest = built.manifest if built else decided.candidate.manifest if decided.candidate else None
    if manifest is None or not manifest.units:  # an official wheel: as it was compiled here last
        manifest = last_recipe(session.root)
    if manifest is None:
        return
    from xfdev import compile_commands

    try:
        compile_commands.write(session.root / DATABASE, manifest, session.places)
    except (XfdevError, OSError) as error:  # what was asked for is done
        console.warning(f"editors will not know how sources are compiled: {error}")


def _build(
    session: Session, decided: plan.Plan, compile_allowed: bool, mode: str | None
) -> tuple[Built, dict[str, Any]]:
    if not compile_allowed:
        if session.candidates.refused and not decided.candidate:
            from xfdev.commands.trusting import refused

            first = session.candidates.refused[0]
            raise refused(first.label, first.reasons[0])
        raise NothingFits(
            f"nothing can be linked: {decided.verdict}, "
            + (f"{len(decided.affected)} of {decided.total} units" if decided.verdict == "partial" else "all units")
            + " would have to be compiled",
            why="; ".join(decided.reasons[:3]),
            hint=f"xfdev build {session.root} compiles them" + report.estimate(decided),
        )
    import shutil

    # A full compile is worth keeping for every checkout of this machine, also one that goes on here.
    objects = session.root / BUILD / "objects"
    full = decided.verdict == "full"
    goes_on = decided.candidate is not None and not decided.candidate.finished and objects.is_dir()
    if full:
        shutil.rmtree(objects, ignore_errors=True)
        with explained(str(objects)):
            objects.mkdir(parents=True)
    built = build_plan(session, decided, objects_to=objects if full or goes_on else None, everything=full)
    if full or goes_on:
        if all(unit.inputs is not None for unit in built.manifest.units):
            store_bundle(session, built.manifest, objects)
        shutil.rmtree(objects, ignore_errors=True)
    with timeline.phase("putting it in place"):
        return built, linking.link_outputs(session, built.manifest, None, mode)
