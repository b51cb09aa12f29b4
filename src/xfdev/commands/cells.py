"""Building the cells of a night: an image that was proved before it is pushed, and bundles compiled in it."""

from __future__ import annotations

import argparse
import json
import os
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from xfdev import run as running
from xfdev.commands.inside import Inside, container
from xfdev.console import console, duration
from xfdev.errors import CheckFailed, CommandFailed, XfdevError
from xfdev.files import explained, write_atomic
from xfdev.nightly import ask, publish
from xfdev.nightly.decide import Cell, VariantFacts, filled
from xfdev.nightly.settings import Settings, Variant
from xfdev.nightly.shelf import Shelf
from xfdev.stores.artifact import digest_of

#: An edit that every compiler takes, and that nothing else in the unit can clash with; another one each time, as the
#: compiler's cache knows those of earlier nights.
_EDIT = '\nextern "C" int xfdev_nightly_{}() {{ return 1; }}\n'


@dataclass
class Work:
    """What building a night's cells takes. *folder* is scratch, and keeps compilers' caches for the next night."""

    settings: Settings
    shelf: Shelf
    night: str
    facts: Mapping[str, VariantFacts]
    locks: Mapping[str, str]
    commits: tuple[str, ...]
    folder: Path
    environ: Mapping[str, str]
    before: Mapping[str, Any] | None
    """The record of the published night."""
    images: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    """The outcomes of images, by variant."""

    def tag(self, variant: str) -> str:
        return f"{self.night}-{variant}"


def build(cell: Cell, work: Work) -> dict[str, Any]:
    """Do one cell; what came of it, good or bad. Only what is no fault of the cell's is raised."""
    started = time.monotonic()
    outcome: dict[str, Any] = {
        "cell": cell.name, "key": cell.key, "variant": cell.variant, "arch": cell.arch, "commit": cell.commit,
        "started": time.time(), "night": work.night, "steps": [],
    }  # fmt: skip
    try:
        with console.step(f"{work.night}: {cell.name}"):
            outcome.update(
                _bundle(cell, work, outcome["steps"]) if cell.commit else _image(cell, work, outcome["steps"])
            )
        outcome["ok"] = True
    except (CommandFailed, CheckFailed) as error:
        outcome.update(ok=False, error=str(error), why=error.why, details=error.details[-4000:])
        console.warning(f"{cell.name}: {error}")
    outcome["seconds"] = round(time.monotonic() - started, 1)
    return outcome


def _image(cell: Cell, work: Work, steps: list[dict[str, Any]]) -> dict[str, Any]:
    """Build, prove, push: in that order, so that what was not proved never gets a name."""
    variant = work.settings.variant(cell.variant)
    tag = work.tag(cell.variant)
    found = work.shelf.document(tag)
    if found is None:
        local = f"xfdev-nightly:{cell.key[:16]}"
        folder = _context(variant, work)
        with _timed("build the image", steps):
            _buildx(folder, local, variant, work, push=False)
        try:
            _prove(local, cell, variant, work, steps)
            with _timed("push the image", steps):
                _buildx(folder, f"{work.shelf}:{tag}", variant, work, push=True)
                found = work.shelf.document(tag)
                _require_same(local, found, work)
        finally:
            running.capture(["docker", "image", "rm", "-f", local], env=work.environ, check=False)
    assert found is not None
    return {"image": _described(found, work, variant)}


def _context(variant: Variant, work: Work) -> Path:
    """A copy of the folder that images are made of, with tonight's lock in it."""
    source = (work.settings.place / work.settings.folder).resolve()
    target = work.folder / "contexts" / variant.name
    shutil.rmtree(target, ignore_errors=True)
    with explained(str(target)):
        for name in dict.fromkeys([".devcontainer", ".dockerignore", *work.settings.watch]):
            place = source / name
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            if place.is_dir():
                skip = shutil.ignore_patterns("__pycache__", "*.egg-info")
                shutil.copytree(place, target / name, symlinks=True, ignore=skip)
            elif place.exists():
                shutil.copy2(place, target / name)
        if variant.lock:
            write_atomic(target / variant.lock, work.locks[variant.name])
    return target


def _buildx(folder: Path, name: str, variant: Variant, work: Work, *, push: bool) -> None:
    from xfdev.commands import image

    args = dict(filled(variant, work.settings, work.commits[0]))
    if work.facts[variant.name].base:
        args.setdefault("BASE_IMAGE", work.facts[variant.name].base)
    known = (work.before or {}).get("images", {}).get(variant.name, {})
    dated = running.capture(
        ["git", "-C", work.settings.place, "log", "-1", "--format=%ct"], env=work.environ, check=False
    ).stdout.strip()
    image.run(
        argparse.Namespace(
            action="build", path=str(folder), tag=[name], push=push, cache_to=None, sbom=None, no_provenance=not push,
            build_arg=[f"{key}={value}" for key, value in args.items()], build_context=[*variant.contexts],
            cache_from=[f"{work.shelf}@{known['digest']}"] if known else [],
        ),
        {"SOURCE_DATE_EPOCH": dated or "0", **work.environ},
    )  # fmt: skip


def _require_same(local: str, pushed: tuple[bytes, str] | None, work: Work) -> None:
    """Raise CheckFailed where what was pushed has other layers than what was proved."""
    said = running.capture(["docker", "image", "inspect", local, "-f", "{{json .RootFS.Layers}}"], env=work.environ)
    if pushed is None:
        raise CheckFailed("the image was pushed, and the registry does not have it")
    config = json.loads(work.shelf.blob(_manifest(pushed, work)["config"]["digest"]))
    if config["rootfs"]["diff_ids"] != json.loads(said.stdout):
        raise CheckFailed(
            "what was pushed has other layers than what was proved", why="a build step gives something else each time"
        )


def _manifest(found: tuple[bytes, str], work: Work) -> dict[str, Any]:
    """The manifest of the image itself, where *found* is an index with attestations."""
    document: dict[str, Any] = json.loads(found[0])
    for entry in document.get("manifests", ()):
        if entry.get("platform", {}).get("os") != "unknown":
            inner = work.shelf.document(entry["digest"])
            if inner is not None:
                return dict(json.loads(inner[0]))
    return document


def _described(found: tuple[bytes, str], work: Work, variant: Variant) -> dict[str, Any]:
    layers = _manifest(found, work)["layers"]
    before = (work.before or {}).get("images", {}).get(variant.name, {})
    total, new = publish.sizes(layers, before.get("layers", ()))
    digest = digest_of(found[0])
    return {
        "digest": digest,
        "reference": f"{work.shelf}@{digest}",
        "bytes": total,
        "new_bytes": new,
        "layers": [layer["digest"] for layer in layers],
    }


def _prove(image: str, cell: Cell, variant: Variant, work: Work, steps: list[dict[str, Any]]) -> None:
    """The smoke test: a compile, a link, the import and its operators, an edit that compiles one unit, the doctor."""
    arch = variant.archs[0] if variant.archs else ""
    with _container(image, cell, variant, work) as inside:
        bundle = _compiled(inside, arch, work.commits[0], steps)
        checkout = inside.checkout(work.commits[0], "second")
        with _timed("link", steps):
            linked = inside.xfdev("link", checkout, *_arch(arch))
            if linked.get("verdict") != "reuse":
                raise CheckFailed(f"a fresh checkout of what was compiled is not linked but {linked.get('verdict')}")
        _checked(inside, checkout, arch, "import and operators", steps)
        manifest = inside.store.manifest(bundle)
        unit = min(manifest.units, key=lambda unit: (unit.seconds or 0.0, unit.source)).source
        with _timed(f"edit {unit} and build", steps):
            path = inside.host(checkout) / unit
            path.write_text(path.read_text() + _EDIT.format(time.time_ns()))
            built = inside.xfdev("build", checkout, *_arch(arch))
            # A unit that asks __has_include is compiled in each new folder, as a cached object cannot be trusted there.
            doubtful = {entry.source for entry in manifest.units if entry.probes or entry.opaque}
            if unit not in built.get("compiled", ()) or {*built["compiled"]} - doubtful - {unit}:
                raise CheckFailed(f"after an edit of {unit}, {built.get('compiled')} was compiled")
        _checked(inside, checkout, arch, "import after the edit", steps)
        with _timed("doctor", steps):
            inside.xfdev("doctor", checkout)


def _bundle(cell: Cell, work: Work, steps: list[dict[str, Any]]) -> dict[str, Any]:
    """Compile one arch of one commit in the published image, prove it there, push it."""
    from xfdev.stores import afar, oci

    variant = work.settings.variant(cell.variant)
    image = str(work.images[cell.variant]["reference"])
    with _container(image, cell, variant, work) as inside:
        bundle = _compiled(inside, cell.arch, cell.commit, steps)
        checkout = inside.checkout(cell.commit, "second")
        with _timed("link", steps):
            inside.xfdev("link", checkout, *_arch(cell.arch))
        _checked(inside, checkout, cell.arch, "import and operators", steps)
        (place,) = afar.repositories([work.settings.bundles])
        with _timed("push the bundle", steps):
            store = oci.OciStore(place, work.environ, work.folder / "blobs", push=True)
            digest = store.push(inside.store, bundle)
        manifest = inside.store.manifest(bundle)
    return {
        "bundle": {
            "id": bundle,
            "digest": digest,
            "reference": f"{place}@{digest}",
            "bytes": sum(output.size for output in manifest.outputs.values()),
            "units": len(manifest.units),
        }
    }


def _arch(arch: str) -> list[str]:
    return ["--arch", arch] if arch else []


def _compiled(inside: Inside, arch: str, commit: str, steps: list[dict[str, Any]]) -> str:
    checkout = inside.checkout(commit, "first")
    with _timed("compile", steps) as step:
        said = inside.xfdev("prebuild", checkout, *_arch(arch))
        step.update(compiled=len(said["compiled"]), restored=len(said["restored"]))
    return str(said["bundle"])


def _checked(inside: Inside, checkout: str, arch: str, what: str, steps: list[dict[str, Any]]) -> None:
    with _timed(what, steps) as step:
        said = inside.xfdev("check", checkout, *_arch(arch))
        if not said.get("imported"):
            raise CheckFailed("nothing was imported")
        step.update(imported=len(said["imported"]), operators=len(said["operators"]))


@contextmanager
def _timed(name: str, steps: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """A step, and how it went, in *steps*."""
    started = time.monotonic()
    step: dict[str, Any] = {"name": name, "ok": False}
    steps.append(step)
    try:
        yield step
        step["ok"] = True
    finally:
        step["seconds"] = round(time.monotonic() - started, 1)
        console.info(f"  {name}: {duration(step['seconds'])}{'' if step['ok'] else ', failed'}")


def _container(image: str, cell: Cell, variant: Variant, work: Work) -> AbstractContextManager[Inside]:
    name, folder = f"xfdev-nightly-{cell.key[:16]}", work.folder / "workspaces" / variant.name
    return container(image, name, folder, work.settings.repository, work.environ, variant.run)


def statistics(work: Work, bundle: Mapping[str, Any]) -> dict[str, Any] | None:
    """What upstream's last commits would have cost, as a published *bundle* tells; None where that cannot be told."""
    from xfdev.bundle import from_bytes
    from xfdev.commands import history
    from xfdev.stores import afar, oci

    try:
        mirror = ask.mirrored(work.settings, work.folder / "upstream.git", work.commits[0], work.environ)
        (place,) = afar.repositories([work.settings.bundles])
        store = oci.OciStore(place, work.environ, work.folder / "blobs", patient=True)
        found = store.artifact(bundle["digest"], seconds=60.0)
        manifest = from_bytes(store.recipe(found.recipe, bundle["id"], seconds=60.0), str(place))
        count = work.settings.history
        return history.told(mirror, manifest, count, revision=work.commits[0], cpus=os.cpu_count() or 1)
    except XfdevError as error:
        console.warning(f"no statistics of upstream: {error}")
        return None
