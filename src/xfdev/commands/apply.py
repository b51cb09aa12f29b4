"""Carry out a plan: link what can be linked, compile what must be. Shared by the verbs that change a checkout."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from xfdev import link, plan
from xfdev.arch import check_known
from xfdev.bundle import Manifest
from xfdev.commands.session import Session
from xfdev.console import console, duration, size
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
from xfdev.profile import toolchains
from xfdev.toolchain import nvcc_archs, torch_archs
from xfdev.workspace import BUILD, LIB, clear_build, kept_build

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
            _remove_stale(root, linked, wanted)
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


def _remove_stale(root: Path, linked: dict[str, Any], wanted: dict[str, str]) -> None:
    """Outputs that were linked before and are none any more."""
    for place, entry in linked.get("outputs", {}).items():
        if place not in wanted and link.identity(root / place) == entry["identity"]:
            (root / place).unlink()


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
            known = kept_build(session.root) or _any_recipe(session)
            affected: set[str] = {unit.source for unit in recipe.units}
        else:
            affected = set(decided.affected)
    else:
        recipe, affected = known, set(decided.affected)
        _require_inputs(session, [unit.source for unit in recipe.units])
    if sources is not None:
        sources = _resolve_units(sources, [unit.source for unit in recipe.units])
    count = len(sources) if sources is not None else None
    if decided.verdict == "full":
        announce(recipe, known, session.cpus, count)
    bundle = candidate.bundle if candidate else None
    extras = None
    if known is recipe and bundle is not None:
        extras = lambda name: session.store.output(bundle, name)  # noqa: E731
    return compiling.build(
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
    )


def _any_recipe(session: Session) -> Manifest | None:
    """A manifest of this project whose units' times tell how long theirs may take."""
    for candidate in session.candidates():
        if candidate.manifest.units:
            return candidate.manifest
    return None


def announce(recipe: Manifest, known: Manifest | None, cpus: int, count: int | None) -> None:
    """Say how long a full compile takes, and how much memory, before it starts."""
    times = {unit.source: (unit.seconds, unit.peak) for unit in known.units} if known else {}
    units = [
        replace(unit, seconds=times.get(unit.source, (None, None))[0], peak=times.get(unit.source, (None, None))[1])
        for unit in recipe.units
    ]
    seconds, peak = plan.predict(units, cpus)
    guess = "" if any(times.values()) else " (a guess: nobody has compiled them here)"
    number = count if count is not None else len(units)
    console.info(
        f"compiling {number} unit{'s' * (number != 1)} on {cpus} CPUs: about {duration(seconds)}, "
        f"{size(peak)} of memory{guess}"
    )


def require_compilers(session: Session) -> None:
    """Raise NoCompiler, NoNvcc or UnknownArch before anything long starts."""
    chain, environment = session.toolchain, session.environment
    if chain.cxx is None:
        raise NoCompiler(
            "there is no C++ compiler",
            why="neither CXX nor c++ on PATH leads to one",
            hint="apt-get install g++",
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
        nvcc=nvcc_archs(chain.nvcc, session.root / ".xfdev" / "memory"),
        torch=torch_archs(environment.site_packages),
    )


def fetch_submodules(session: Session) -> None:
    """Check out the submodules that this project's build needs, and no others."""
    missing = [
        path
        for path, module in session.checkout.submodules.items()
        if module.head is None and (path in session.profile.submodules or not session.profile.submodules)
    ]
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
    for name in ("submodules", "_index", "_modified"):
        session.checkout.__dict__.pop(name, None)  # what it said before is no longer so


def _require_inputs(session: Session, sources: list[str]) -> None:
    absent = [
        module.path
        for module in session.checkout.submodules.values()
        if module.head is None and module.path in session.profile.submodules
    ]
    if absent:
        fetch_submodules(session)


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
    return session.store.put(manifest, {name: session.root / LIB / name for name in manifest.outputs}, objects)


def bring_up_to_date(session: Session, *, compile_allowed: bool) -> tuple[plan.Plan, Built | None, dict[str, Any]]:
    """Plan, then link or build: what ``up``, ``link`` and ``build`` have in common. The caller holds the lock."""
    for _ in range(3):
        decided = session.plan()
        if decided.verdict == "reuse":
            try:
                return decided, None, link_plan(session, decided)
            except BadBundle as error:
                bundle = decided.candidate.bundle if decided.candidate else None
                if bundle is None:
                    clear_build(session.root)
                else:
                    console.warning(f"{error}; it is thrown away")
                    session.store.remove(bundle)
                continue
        break
    else:
        raise NothingFits("bundles were damaged again and again", hint="xfdev bundle verify")
    if not compile_allowed:
        raise NothingFits(
            f"nothing can be linked: {decided.verdict}, "
            + (f"{len(decided.affected)} of {decided.total} units" if decided.verdict == "partial" else "all units")
            + " would have to be compiled",
            why="; ".join(decided.reasons[:3]),
            hint=f"xfdev build {session.root} compiles them" + _estimate(decided),
        )
    objects = session.root / BUILD / "objects" if decided.verdict == "full" else None
    if objects is not None:
        import shutil

        shutil.rmtree(objects, ignore_errors=True)
    built = build_plan(session, decided, objects_to=objects)
    if objects is not None and all(unit.inputs is not None for unit in built.manifest.units):
        # A full compile is worth keeping for every checkout of this machine.
        store_bundle(session, built.manifest, objects)
    state = link_outputs(session, built.manifest, None)
    return decided, built, state


def _estimate(decided: plan.Plan) -> str:
    return f" (about {duration(decided.seconds)})" if decided.seconds else ""


def describe(decided: plan.Plan) -> list[str]:
    """A plan in the lines a person reads."""
    lines = []
    if decided.verdict == "reuse":
        assert decided.candidate is not None
        lines.append(f"reuse: {decided.candidate.label}; nothing to compile")
    elif decided.verdict == "partial":
        assert decided.candidate is not None
        lines.append(
            f"partial: {len(decided.affected)} of {decided.total} units to compile{_estimate(decided)}, "
            f"{size(decided.peak or 0)} of memory; the rest from {decided.candidate.label}"
        )
        for source, reasons in decided.affected.items():
            lines.append(f"  {source}: {reasons[0]}" + (f" (and {len(reasons) - 1} more)" if len(reasons) > 1 else ""))
        lines += [
            f"  {reason}" for reason in decided.reasons if not any(reason in r for r in decided.affected.values())
        ]
    else:
        count = f"all {decided.total} units" if decided.total else "everything"
        lines.append(f"full: {count} to compile{_estimate(decided)}")
        if not decided.refused:
            lines += [f"  {reason}" for reason in decided.reasons[:8]]
    for refusal in decided.refused:
        shown = "; ".join(refusal.reasons[:3]) + (f"; and {len(refusal.reasons) - 3} more" * (len(refusal.reasons) > 3))
        lines.append(f"  not {refusal.label}: {shown}")
    return lines


def as_json(session: Session, decided: plan.Plan) -> dict[str, Any]:
    """A plan for machines."""
    return {
        "verdict": decided.verdict,
        "checkout": str(session.root),
        "project": session.profile.name,
        "environment": str(session.environment.prefix),
        "bundle": decided.candidate.bundle if decided.candidate else None,
        "from": decided.candidate.label if decided.candidate else None,
        "affected": {source: list(reasons) for source, reasons in decided.affected.items()},
        "units": decided.total,
        "reasons": list(decided.reasons),
        "refused": [{"label": entry.label, "reasons": list(entry.reasons)} for entry in decided.refused],
        "seconds": decided.seconds,
        "peak_bytes": decided.peak,
        "toolchain": dict(session.toolchain.facts),
    }
