"""What importing a linked project does when its sources were edited since: warn, or build first.

The environment gets small modules that look at the checkout when the project is imported (``modules``); it compares
with the stamps that every link and build leaves in the checkout (``write_stamps``).
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from xfdev import settled, shadows, stamps
from xfdev.bundle import Manifest, Places
from xfdev.files import explained, write_atomic
from xfdev.profile import RESOURCES

OPENED = ".xfdev/opened"
WARN, REBUILD = "warn", "rebuild"
#: A file that was written so short a time ago may be written again with the same times (kernels count in 4 to 10 ms).
_RACY = 50_000_000


def moment(root: Path) -> int:
    """Now, by the clock of the checkout's file system, in nanoseconds; 0 where nothing can be written."""
    path = root / OPENED
    try:
        path.unlink(missing_ok=True)
        path.touch()
        return path.stat().st_ctime_ns
    except OSError:
        return 0


def forget(root: Path) -> None:
    """Remove the stamps, before anything of what is linked changes."""
    with explained(str(root / settled.STAMPS)):
        (root / settled.STAMPS).unlink(missing_ok=True)


def write_stamps(
    root: Path, manifest: Manifest, places: Places, outputs: Iterable[str], site: Path, opened: int
) -> None:
    """Note what *manifest*, which was found to be what the checkout says, was made from, and what is linked.

    *opened* is the ``moment`` before the checkout was compared: what is younger is looked at again here. Nothing is
    written where a name would break a line, or where units were not compiled from what is there now.
    """
    if any(unit.inputs is None for unit in manifest.units):
        forget(root)
        return
    now = moment(root)
    lines = [stamps.HEADER]
    for path, ids in sorted(_files(manifest, places, site).items()):
        lines.append(f"file\t{_stamp_of(os.path.join(root, path), ids, opened, now)}\t{ids}\t{path}")
    compared = _compared(manifest)
    for path in sorted(_folders(root, manifest)):
        full = os.path.join(root, path)
        inside = stamps.names(full) or []
        lines.append(_folder_line(full, path, inside, opened, now, compared))
        # Where a link leads may come without anything changing where it lies.
        for name in (name[:-1] for name in inside if name.endswith("@")):
            lines.append(f"there\t-\t{int(os.path.exists(os.path.join(full, name)))}\t{os.path.join(path, name)}")
    for path, there in sorted(manifest.scripts.asked.items()):
        if path not in manifest.scripts.generated:
            lines.append(f"there\t-\t{int(there)}\t{path}")
    lines += [f"output\t{stamps.stamp(os.path.join(root, path))}\t-\t{path}" for path in sorted(outputs)]
    if any(line.count("\t") != 3 or "\n" in line for line in lines[1:]):
        forget(root)
        return
    with suppress(UnicodeEncodeError):
        write_atomic(root / settled.STAMPS, ("\n".join(lines) + "\n").encode(errors="surrogateescape"))


def _files(manifest: Manifest, places: Places, site: Path) -> dict[str, str]:
    """Every file that was read, with the ids that it may have; ``-`` where it need not be there."""
    scripts = manifest.scripts
    found = {**scripts.linked, **manifest.files, **scripts.files}
    found = {path: ids or "-" for path, ids in found.items()}
    for path in scripts.generated:
        if path in found:
            found[path] += "|-"
    # A submodule that is not checked out stands for its commit.
    absent = tuple(f"{path}/" for path in manifest.submodules)
    found.update((path, f"{ids}|-") for path, ids in found.items() if absent and path.startswith(absent))
    for unit in manifest.units:
        found.update((places.concrete(path), content or "-") for path, content in unit.external.items())
    torch = str(site / "torch" / "version.py")
    found[torch] = stamps.blob(torch) or "-"
    return found


def _stamp_of(path: str, ids: str, opened: int, now: int) -> str:
    """The stamp of a file whose contents are known to be those of *ids*, else one that nothing equals."""
    before = stamps.stamp(path)
    changed = int(before.rpartition(".")[2]) if before != "-" else 0
    if changed < opened or before == "-":
        return before
    if now - changed < _RACY or (stamps.blob(path) or "-") not in ids.split("|"):
        return "?"
    return before if stamps.stamp(path) == before else "?"


def _folders(root: Path, manifest: Manifest) -> set[str]:
    """The folders in which a new file would matter."""
    found = {os.path.dirname(path.rstrip("/")) for path in manifest.listing} | set(manifest.roots)
    found |= set(manifest.scripts.listings)
    # A star in the patterns of a release stands for folders, too; in those of a build script where it says so.
    patterns = [(pattern, True) for pattern in manifest.patterns]
    patterns += [(entry["pattern"], entry["recursive"]) for entry in manifest.scripts.globs]
    for pattern, deep in patterns:
        fixed = os.path.dirname(re.split(r"[*?\[]", pattern, maxsplit=1)[0])
        if any(fixed == folder or fixed.startswith(folder + "/") for folder in manifest.roots):
            continue
        found.add(fixed)
        if deep or any(sign in os.path.dirname(pattern) for sign in "*?["):
            found |= _below(root, fixed)
    return {folder or "." for folder in found}


def _below(root: Path, folder: str) -> set[str]:
    found = set()
    for place, inner, _ in os.walk(root / folder):
        inner[:] = [name for name in inner if name not in shadows.NOT_SOURCES and not name.startswith(".")]
        found.add(os.path.relpath(place, root))
    return found


def _folder_line(
    full: str, path: str, there: Sequence[str], opened: int, now: int, compared: Mapping[str, set[str]]
) -> str:
    before = stamps.stamp(full)
    changed = int(before.rpartition(".")[2]) if before != "-" else 0
    if changed >= opened and before != "-":
        if compared.get(path) != {name.rstrip("@") for name in there}:
            return f"folder\t?\t?\t{path}"  # whether what is in it now was there when it was compared, nobody knows
        if now - changed < _RACY:
            before = "?"
    if stamps.stamp(full) != before:
        before = "?"
    return f"folder\t{before}\t{'/'.join(there)}\t{path}"


def _compared(manifest: Manifest) -> dict[str, set[str]]:
    """The names in each folder when the units were compiled."""
    found: dict[str, set[str]] = {}
    for path in manifest.listing:
        folder, _, name = path.rstrip("/").rpartition("/")
        while name and name not in found.setdefault(folder or ".", set()):
            found[folder or "."].add(name)
            folder, _, name = folder.rpartition("/")
    return found


def names_of(manifest: Manifest) -> list[str]:
    """The names by which the project is imported."""
    told = manifest.metadata.get("top_level.txt", "").split()
    start = f"{manifest.source_root}/" if manifest.source_root else ""
    places = [output.place.removeprefix(start) for output in manifest.outputs.values()]
    libraries = [place.partition("/")[0].partition(".")[0] for place in places if place.endswith(".so")]
    return sorted({*told, *libraries})


def module_name(manifest: Manifest) -> str:
    """The module of a project in an environment that every Python there imports."""
    name = manifest.metadata["name"].removesuffix(".dist-info").rpartition("-")[0]
    return "_xfdev_import_" + re.sub(r"\W", "_", name).lower()


def module_names(manifest: Manifest) -> tuple[str, str]:
    """The modules of a project in an environment: the one that every Python there imports, and what it looks with."""
    name = module_name(manifest)
    return name, f"{name}_look"


def modules(root: Path, manifest: Manifest, mode: str, command: Sequence[str]) -> dict[str, str]:
    """The texts of the modules of a project in an environment, by name; the first is what every Python there imports.

    *mode* is what happens on import, *command* what builds, for ``rebuild``.
    """
    name, look = module_names(manifest)
    start = (RESOURCES / "import_start.py").read_text()
    facts = {"root": str(root), "mode": mode, "command": list(command) if mode == REBUILD else []}
    values = ", ".join(f"{key}={value!r}" for key, value in facts.items())
    hook = Path(stamps.__file__).read_text() + "\n\n" + (RESOURCES / "import_hook.py").read_text()
    return {
        name: f"import sys\n\n{start}\n\nsys.meta_path.insert(0, OnImport({look!r}, {names_of(manifest)!r}))\n",
        look: f"{hook}\n\nHOOK = Hook(changed, stamp, {values})\n",
    }


def build_command(root: Path, prefix: Path, cache: Path, options: Sequence[str]) -> list[str]:
    """What brings the checkout up to date, whatever folder and variables it is started with."""
    # -I: variables of the Python that imports are not for the one of xfdev.
    start = [sys.executable, "-I", "-m", "xfdev", "build", str(root)]
    return [*start, "--venv", str(prefix), "--cache", str(cache), *options]
