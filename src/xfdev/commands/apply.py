"""Carry out a plan: link what can be linked, compile what must be. Shared by the verbs that change a checkout."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xfdev import inputs, link, plan
from xfdev.arch import check_known
from xfdev.bundle import Manifest
from xfdev.checkout import file_id
from xfdev.commands import report
from xfdev.commands.session import Session
from xfdev.console import console
from xfdev.errors import (
    BadBundle,
    MissingSubmodule,
    NoCompiler,
    NoNvcc,
    NothingFits,
    SourceUnreachable,
    UnknownArch,
    XfdevError,
)
from xfdev.files import explained, write_atomic
from xfdev.profile import toolchains
from xfdev.toolchain import nvcc_archs, torch_archs
from xfdev.venv import tools_memory
from xfdev.workspace import BUILD, LIB, RECIPE, clear_build, kept_build, last_recipe

if TYPE_CHECKING:  # a link needs none of what a compile needs, and starts the sooner
    from xfdev.compile import Built


def link_plan(session: Session, decided: plan.Plan) -> dict[str, Any]:
    """Link what a ``reuse`` plan names. Falls back to nothing: a bad bundle is an error here."""
    candidate = decided.candidate
    assert candidate is not None
    manifest = candidate.manifest
    if candidate.changes.metadata:
        manifest = _fresh_metadata(session, manifest)
    return link_outputs(session, manifest, candidate.bundle)


def _fresh_metadata(session: Session, manifest: Manifest) -> Manifest:
    """*manifest* with the packaging metadata of the checkout as it is now, which its build script tells."""
    if session.toolchain.torch is None:
        return manifest
    from xfdev.configure import configure

    try:
        now = configure(session.checkout, session.environment, session.toolchain, session.profile, session.environ)
    except XfdevError as error:
        console.warning(f"packaging metadata stays that of the bundle: {error}")
        return manifest
    return replace(manifest, metadata=now.metadata or manifest.metadata, metadata_files=now.metadata_files)


def link_outputs(session: Session, manifest: Manifest, bundle: str | None) -> dict[str, Any]:
    """Put a manifest's outputs into the checkout and make it an editable install; a no-op where both are so."""
    root = session.root
    linked = link.read_linked(root)
    wanted = {output.place: output.sha256 for output in manifest.outputs.values()}
    have = {place: entry["sha256"] for place, entry in (linked or {}).get("outputs", {}).items()}
    current = linked is not None and have == wanted and link.outputs_intact(root, linked)
    if not current:
        if bundle is None:
            label, source = "the last build here", lambda name: root / LIB / name
        else:
            label, source = f"bundle {bundle[:12]}", lambda name: session.store.output(bundle, name)
        if linked is not None:
            _remove_stale(session, linked, wanted)
        # First the note, then the files: a process killed in between leaves outputs that are known to be in doubt.
        link.write_linked(root, {"outputs": {}, "places": sorted(wanted), "bundle": None})
        link.exclude(session.checkout, sorted(wanted))
        placed = link.place_outputs(session.checkout, manifest, source, label)
        note = {
            "bundle": bundle,
            "places": sorted(wanted),
            "outputs": placed,
            "facts": dict(session.toolchain.facts),
            "environment": str(session.environment.prefix),
            "metadata": manifest.metadata.get("name", ""),
        }
        link.write_linked(root, note)
    elif (linked or {}).get("bundle") != bundle:
        link.write_linked(root, {**(linked or {}), "bundle": bundle})
    if bundle is not None:
        session.store.use(bundle)
    installed = not link.installed(session.environment, manifest, root)
    link.install(session.environment, manifest, root, session.environ)
    return {"linked": sorted(wanted), "changed": not current or installed}


def _remove_stale(session: Session, linked: dict[str, Any], wanted: dict[str, str]) -> None:
    """Outputs that were linked before and are none any more; those of a link that was killed halfway, too."""
    outputs = linked.get("outputs", {})
    for place in {*outputs, *linked.get("places", [])} - wanted.keys():
        path, entry = session.root / place, outputs.get(place)
        ours = entry is None or link.identity(path) == entry["identity"]
        if ours and not session.checkout.tracked(place):
            with explained(str(path)):
                path.unlink(missing_ok=True)


def build_plan(
    session: Session,
    decided: plan.Plan,
    *,
    only: Iterable[str] | None = None,
    objects_to: Path | None = None,
) -> Built:
    """Compile what a ``partial`` or ``full`` plan names, or only some units."""
    from xfdev import compile as compiling
    from xfdev.configure import configure

    require_compilers(session)
    candidate = decided.candidate if decided.verdict == "partial" else None
    known = candidate.manifest if candidate else None
    sources = list(only) if only is not None else None
    if known is None or decided.reconfigure:
        fetch_submodules(session)
        with console.step("asking the build script what it would compile"):
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
        fetch_submodules(session, recipe.files)
    if sources is not None:
        sources = _resolve_units(sources, [unit.source for unit in recipe.units])
    if decided.verdict == "full":
        report.announce(
            [unit for unit in recipe.units if sources is None or unit.source in sources], known, session.cpus
        )
    bundle = candidate.bundle if candidate else None
    extras = None
    if known is recipe and bundle is not None:
        extras = lambda name: session.store.output(bundle, name)  # noqa: E731
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
        objects_from=session.store.objects(bundle, recipe) if bundle is not None else None,
        objects_to=objects_to,
        only=sources,
        max_jobs=session.options.jobs,
        options=session.options.command_line("arch", "venv", "cache", "jobs"),
    )
    write_atomic(session.root / RECIPE, built.manifest.to_bytes())
    return built


def _any_recipe(session: Session) -> Manifest | None:
    """A manifest of this project whose units' times tell how long theirs may take."""
    for candidate in session.candidates():
        if candidate.manifest.units:
            return candidate.manifest
    return None


def require_compilers(session: Session) -> None:
    """Raise NoCompiler, NoNvcc or UnknownArch before anything long starts."""
    chain, environment = session.toolchain, session.environment
    if chain.cxx is None:
        named = session.environ.get("CXX")
        raise NoCompiler(
            "there is no C++ compiler",
            why=f"CXX is {named!r}, which is no program" if named else "CXX is not set, and PATH has no c++",
            hint="set CXX to one that there is, or unset it" if named else "apt-get install g++, or set CXX to one",
        )
    if not chain.has_cuda:
        return
    if chain.nvcc is None:
        other = session.profile.toolchain_for("compile", session.release_version)
        able = other if toolchains()[other].nvcc else "cu130"
        raise NoNvcc(
            f"toolchain {environment.toolchain} cannot compile CUDA code: it has no nvcc",
            why=f"PyPI has no nvcc for CUDA {chain.facts.get('cuda')}, and none was found on this machine",
            hint=f"xfdev up {session.root} --toolchain {able} --arch 9.0 moves this checkout to one that can",
        )
    if not session.arch:
        raise UnknownArch(
            "there is no GPU here, and no arch was named to compile for",
            why="the arch comes from the GPU where there is one",
            hint="add --arch: 9.0 for an H100, 8.6 for an RTX 30xx, 12.0 for an RTX 50xx",
        )
    check_known(
        session.arch,
        nvcc=nvcc_archs(chain.nvcc, tools_memory(session.environ)),
        torch=torch_archs(environment.site_packages),
    )


def fetch_submodules(session: Session, read: Iterable[str] | None = None) -> None:
    """Check out the submodules that this project's build needs, and no others. *read* are the files that its units
    are known to read."""
    missing = _missing_submodules(session, read)
    if not missing:
        return
    from xfdev import submodules

    try:
        submodules.obtain(session.root, missing)
    except SourceUnreachable as error:
        raise MissingSubmodule(
            f"the compile needs the submodule {missing[0]}, which cannot be fetched: {error}",
            why=error.why,
            hint=f"git -C {session.root} submodule update --init --depth 1 {' '.join(missing)}",
            details=error.details,
        ) from error
    for name in ("submodules", "_index", "_index_written"):
        session.checkout.__dict__.pop(name, None)  # what it said before is no longer so


def _missing_submodules(session: Session, read: Iterable[str] | None) -> list[str]:
    """Those that the build needs and that are not checked out; where somebody put files instead, those are it."""
    absent = [path for path, module in session.checkout.submodules.items() if module.head is None and module.clean]
    if session.profile.submodules:
        return [path for path in absent if path in session.profile.submodules]
    known = None if read is None else list(read)
    return [path for path in absent if known is None or any(name.startswith(f"{path}/") for name in known)]


def _resolve_units(wanted: list[str], sources: list[str]) -> list[str]:
    """The units whose source ends with each of *wanted*."""
    found = []
    for name in wanted:
        matches = [source for source in sources if source == name or source.endswith("/" + name)]
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


def bring_up_to_date(session: Session, *, compile_allowed: bool) -> tuple[plan.Plan, Built | None, dict[str, Any]]:
    """Plan, then link or build: what ``up``, ``link`` and ``build`` have in common. The caller holds the lock."""
    for _ in range(_BAD_BUNDLES):
        decided = session.plan()
        try:
            if decided.verdict == "reuse":
                built, state = None, link_plan(session, decided)
            else:
                built, state = _build(session, decided, compile_allowed=compile_allowed)
            _tell_editors(session, decided, built, changed=state["changed"])
            return decided, built, state
        except BadBundle as error:
            bundle = decided.candidate.bundle if decided.candidate else None
            if bundle is not None:
                console.warning(f"{error}; it is thrown away")
                session.store.remove(bundle)
            elif decided.verdict != "full":
                clear_build(session.root)
            else:
                raise
    raise NothingFits("bundles were damaged again and again", hint="xfdev bundle verify --remove")


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


def _build(session: Session, decided: plan.Plan, *, compile_allowed: bool) -> tuple[Built, dict[str, Any]]:
    if not compile_allowed:
        raise NothingFits(
            f"nothing can be linked: {decided.verdict}, "
            + (f"{len(decided.affected)} of {decided.total} units" if decided.verdict == "partial" else "all units")
            + " would have to be compiled",
            why="; ".join(decided.reasons[:3]),
            hint=f"xfdev build {session.root} compiles them" + report.estimate(decided),
        )
    objects = session.root / BUILD / "objects" if decided.verdict == "full" else None
    if objects is not None:
        import shutil

        shutil.rmtree(objects, ignore_errors=True)
    built = build_plan(session, decided, objects_to=objects)
    if objects is not None and all(unit.inputs is not None for unit in built.manifest.units):
        # A full compile is worth keeping for every checkout of this machine.
        store_bundle(session, built.manifest, objects)
    return built, link_outputs(session, built.manifest, None)
