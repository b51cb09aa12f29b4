"""Link the outputs of a bundle, or of a build, into a checkout and its environment."""

from __future__ import annotations

import shlex
from dataclasses import replace
from typing import Any

from xfdev import editable, link, on_import, plan, settled, venv
from xfdev.bundle import Manifest
from xfdev.commands.session import Session
from xfdev.console import console
from xfdev.errors import XfdevError
from xfdev.files import explained
from xfdev.workspace import LIB


def link_plan(session: Session, decided: plan.Plan, mode: str | None = None) -> dict[str, Any]:
    """Link what a ``reuse`` plan names. Falls back to nothing: a bad bundle is an error here."""
    candidate = decided.candidate
    assert candidate is not None
    manifest = candidate.manifest
    if candidate.changes.metadata:
        manifest = _fresh_metadata(session, manifest)
    return link_outputs(session, manifest, candidate.bundle, mode)


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


def link_outputs(session: Session, manifest: Manifest, bundle: str | None, mode: str | None = None) -> dict[str, Any]:
    """Put a manifest's outputs into the checkout and make it an editable install; a no-op where both are so.

    *mode* is what an import does after an edit from now on (``on_import``); None: what it did.
    """
    root = session.root
    linked = link.read_linked(root)
    mode = mode or (linked or {}).get("on_import") or on_import.WARN
    wanted = {output.place: output.sha256 for output in manifest.outputs.values()}
    have = {place: entry["sha256"] for place, entry in (linked or {}).get("outputs", {}).items()}
    current = linked is not None and have == wanted and link.outputs_intact(root, linked)
    if not current:
        if bundle is not None:
            session.candidates.bring(bundle)
        if bundle is None:
            label, source = "the last build here", lambda name: root / LIB / name
        else:
            label, source = f"bundle {bundle[:12]}", lambda name: session.store.output(bundle, name)
        if linked is not None:
            _remove_stale(session, linked, wanted)
        on_import.forget(root)
        # First the note, then the files: a process killed in between leaves outputs that are known to be in doubt.
        link.write_linked(root, {"outputs": {}, "places": sorted(wanted), "bundle": None, "on_import": mode})
        link.exclude(session.checkout, sorted(wanted))
        placed = link.place_outputs(session.checkout, manifest, source, label)
        note = {
            "bundle": bundle,
            "places": sorted(wanted),
            "outputs": placed,
            "facts": dict(session.toolchain.facts),
            "environment": str(session.environment.prefix),
            "metadata": manifest.metadata.get("name", ""),
            "on_import": mode,
        }
        link.write_linked(root, note)
    elif (linked or {}).get("bundle") != bundle or (linked or {}).get("on_import") != mode:
        link.write_linked(root, {**(linked or {}), "bundle": bundle, "on_import": mode})
    if bundle is not None:
        session.store.use(bundle)
    modules = _import_modules(session, manifest, mode)
    installed = not editable.installed(session.environment, manifest, root, modules)
    editable.install(session.environment, manifest, root, session.environ, modules)
    if not current or not settled.unchanged(str(root)):
        on_import.write_stamps(
            root, manifest, session.places, wanted, session.environment.site_packages, session.opened
        )
    return {"linked": sorted(wanted), "changed": not current or installed, "on_import": mode}


def _import_modules(session: Session, manifest: Manifest, mode: str) -> dict[str, str]:
    """The modules that look at the checkout when the project is imported; none for one that cannot be installed."""
    if "name" not in manifest.metadata:
        return {}
    options = shlex.split(session.options.command_line("arch", "jobs", "stores"))
    cache = venv.cache_folder(session.environ)
    command = on_import.build_command(session.root, session.environment.prefix, cache, options)
    return on_import.modules(session.root, manifest, mode, command)


def _remove_stale(session: Session, linked: dict[str, Any], wanted: dict[str, str]) -> None:
    """Outputs that were linked before and are none any more; those of a link that was killed halfway, too."""
    outputs = linked.get("outputs", {})
    for place in {*outputs, *linked.get("places", [])} - wanted.keys():
        path, entry = session.root / place, outputs.get(place)
        ours = entry is None or link.identity(path) == entry["identity"]
        if ours and not session.checkout.tracked(place):
            with explained(str(path)):
                path.unlink(missing_ok=True)
