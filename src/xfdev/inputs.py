"""What has changed in a checkout since a bundle's units were compiled, by name and by unit."""

from __future__ import annotations

import glob
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatch
from functools import cache

from xfdev import shadows
from xfdev.bundle import Manifest, Places, Unit
from xfdev.checkout import Checkout, file_id


@dataclass(frozen=True)
class Changes:
    """Differences between a manifest and a checkout. All empty: the native inputs are those of the manifest.

    ``units`` maps the source of each affected unit to the reasons; ``sources`` are files that build scripts look for
    by pattern and that came or went, and what the linker reads; ``scripts`` what the build scripts themselves depend
    on; ``metadata`` files that concern packaging only.
    """

    units: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    sources: tuple[str, ...] = ()
    scripts: tuple[str, ...] = ()
    metadata: tuple[str, ...] = ()
    remake: bool = False
    """Whether a file that the build script makes is not there, or not what the script made."""

    @property
    def native(self) -> bool:
        return bool(self.units or self.sources or self.scripts)


def compare(manifest: Manifest, checkout: Checkout, places: Places) -> Changes:
    """Compare a checkout with what *manifest* was made from. Where it cannot be told, a unit counts as affected."""
    unmoved = {
        path
        for path, module in checkout.submodules.items()
        if module.clean and manifest.submodules.get(path) == module.commit
    }
    linked = manifest.scripts.linked
    wanted = {**linked, **manifest.files, **manifest.scripts.files, **manifest.metadata_files}
    paths = [path for path in wanted if not _below(path, unmoved)]
    now = checkout.identify(paths)
    generated = set(manifest.scripts.generated)
    changed: dict[str, str] = {}
    for path in paths:
        # Several ids: a release's sdist has that file in another form than its checkout.
        if now[path] in wanted[path].split("|") or (now[path] is None and path in generated):
            continue
        if now[path] is None and linked.get(path) == "":  # still not there
            continue
        changed[path] = _reason(path, now[path], checkout)
    if manifest.kind == "release":
        return _compare_release(manifest, checkout, changed, unmoved)
    came, went = _listing(manifest, checkout, unmoved)
    scripts = [changed[path] for path in manifest.scripts.files if path in changed]
    scripts += _listings(manifest, checkout, unmoved)
    scripts += _asked(manifest, checkout, unmoved)
    sources = _globs(manifest, checkout, unmoved) if came or went or _unlisted(manifest) else []
    sources += [changed[path] for path in linked if path in changed]
    units = {}
    outside = cache(lambda path: file_id(places.concrete(path)))  # units read the same headers
    for unit in manifest.units:
        reasons = _unit_reasons(unit, manifest, changed, came, went, places, outside)
        if reasons:
            units[unit.source] = tuple(dict.fromkeys(reasons))
    return Changes(
        units=units,
        sources=tuple(sources),
        scripts=tuple(scripts),
        metadata=tuple(changed[path] for path in manifest.metadata_files if path in changed),
        remake=any(path in changed or not (checkout.root / path).exists() for path in generated),
    )


def readers(manifest: Manifest, paths: Iterable[str]) -> set[str]:
    """The sources of the units that read one of *paths*, whose contents are not those the units were made from."""
    differ = {path for path in paths if path in manifest.files}
    return {unit.source for unit in manifest.units if differ.intersection(unit.inputs or ())}


def _reason(path: str, now: str | None, checkout: Checkout) -> str:
    if now is not None:
        return f"{path} changed"
    module = checkout.submodule_of(path)
    if module is not None and module.head is None:
        return f"submodule {module.path} is at another commit ({module.recorded[:9]}) and not checked out"
    return f"{path} is gone"


def _below(path: str, folders: Iterable[str]) -> bool:
    return any(path.startswith(folder + "/") for folder in folders)


def _listing(manifest: Manifest, checkout: Checkout, unmoved: set[str]) -> tuple[list[str], list[str]]:
    """Files below the manifest's roots that are new, and that are gone."""
    root = str(checkout.root)
    now = set(listed(root, (folder for folder in manifest.roots if folder not in unmoved)))
    then = set(manifest.listing)
    came = [path for path in now - then if not _below(path, unmoved)]
    went = [path for path in then - now if not _below(path, unmoved)]
    return sorted(came), sorted(went)


#: Links between folders can make a tree endless. What is beyond this many files is not compared.
MOST_FILES = 200_000


def listed(root: str, folders: Iterable[str]) -> list[str]:
    """Every name below *folders* at which a compiler or a pattern could find a file, links to folders followed;
    both are relative to *root*."""
    top = [os.path.normpath(os.path.join(root, folder)) for folder in folders]
    return [path[len(root) + 1 :] for path in shadows.files_below(top, follow=True, limit=MOST_FILES)]


def _unlisted(manifest: Manifest) -> bool:
    """Whether some pattern of the build scripts looks outside the folders whose files are listed anyway."""
    for entry in manifest.scripts.globs:
        fixed = os.path.dirname(entry["pattern"].partition("*")[0].partition("?")[0].partition("[")[0])
        if not any(root == "." or fixed == root or fixed.startswith(root + "/") for root in manifest.roots):
            return True
    return False


def _globs(manifest: Manifest, checkout: Checkout, unmoved: set[str]) -> list[str]:
    reasons: dict[str, None] = {}
    for entry in manifest.scripts.globs:
        then = {path for path in entry["matches"] if not _below(path, unmoved)}
        found = glob.glob(entry["pattern"], root_dir=checkout.root, recursive=entry["recursive"])
        now = {path for path in found if not _below(path, unmoved)}
        generated = set(manifest.scripts.generated)
        reasons.update(dict.fromkeys(f"{path} is new" for path in sorted(now - then - generated)))
        reasons.update(dict.fromkeys(f"{path} is gone" for path in sorted(then - now - generated)))
    return list(reasons)


def _listings(manifest: Manifest, checkout: Checkout, unmoved: set[str]) -> list[str]:
    reasons = []
    for folder, names in manifest.scripts.listings.items():
        if _below(folder + "/", unmoved):
            continue
        try:
            now = set(os.listdir(checkout.root / folder))
        except OSError:
            now = set()
        generated = {os.path.basename(path) for path in manifest.scripts.generated}
        differ = {
            name
            for name in now ^ set(names)
            if name not in shadows.NOT_SOURCES and not name.endswith((".egg-info", ".so", ".pyc")) and name != "build"
        } - generated
        reasons += [f"{os.path.join(folder, name)} came or went" for name in sorted(differ)]
    return reasons


def _asked(manifest: Manifest, checkout: Checkout, unmoved: set[str]) -> list[str]:
    return [
        f"{path} came or went"
        for path, there in manifest.scripts.asked.items()
        if not _below(path, unmoved)
        and path not in unmoved
        and path not in manifest.scripts.generated
        and (checkout.root / path).exists() != there
    ]


def _unit_reasons(
    unit: Unit,
    manifest: Manifest,
    changed: Mapping[str, str],
    came: list[str],
    went: list[str],
    places: Places,
    outside: Callable[[str], str | None],
) -> list[str]:
    if unit.inputs is None:
        return ["not compiled yet"]
    reasons = [changed[path] for path in unit.inputs if path in changed]
    if unit.opaque and (changed or came):
        reasons.append("it reads files that no dependency file lists (.incbin, or a computed __has_include)")
    for path, content in unit.external.items():
        if outside(path) != content:
            reasons.append(f"{places.concrete(path)} changed")
    # Not read, but what __has_include asked for may have been found there.
    reasons += [f"{path} is gone, and may have been asked for" for path in sorted({*went}.intersection(unit.beside))]
    new = [path for path in came if path not in unit.beside]
    if new:
        root = places.checkout
        scanned = shadows.Scan(
            frozenset({*unit.probes, *manifest.names}),
            frozenset(os.path.join(root, path) for path in unit.exact),
            unit.opaque,
        )
        read = [os.path.join(root, path) for path in unit.inputs]
        folders = [places.concrete(folder) for folder in unit.search]
        full = [os.path.join(root, path) for path in new]
        linked = [path for path in full if os.path.islink(path) and os.path.isdir(path)]
        taken = {*shadows.find(read, folders, full, scanned), *linked}
        reasons += [f"{os.path.relpath(path, root)} is new and may be taken for a header" for path in sorted(taken)]
    return reasons


def _compare_release(manifest: Manifest, checkout: Checkout, changed: Mapping[str, str], unmoved: set[str]) -> Changes:
    """A release's inputs are known by pattern only: every file that matches one counts."""
    recorded = {**manifest.files, **manifest.scripts.files}
    root = str(checkout.root)
    places = {os.path.join(root, pattern.partition("*")[0].rstrip("/")) for pattern in manifest.patterns}
    found = [path[len(root) + 1 :] for path in shadows.files_below(p for p in places if os.path.isdir(p))]
    new = [
        path
        for path in found
        if path not in recorded
        and path not in manifest.outputs
        and not _below(path, unmoved)
        and any(fnmatch(path, pattern) for pattern in manifest.patterns)
    ]
    native = [reason for path, reason in changed.items() if path in recorded]
    native += [f"{path} is new" for path in sorted(new)]
    return Changes(
        scripts=tuple(native),
        metadata=tuple(reason for path, reason in changed.items() if path in manifest.metadata_files),
    )
