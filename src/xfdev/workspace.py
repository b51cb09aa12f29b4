"""Where a build's files lie in a checkout, and its last finished build."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from pathlib import Path

from xfdev.bundle import Manifest, Places, from_bytes
from xfdev.checkout import Checkout
from xfdev.errors import BadBundle
from xfdev.files import explained, sha256
from xfdev.venv import Environment

#: Commands run in TEMP, as those of torch's own build do, so that both make the same relative paths of everything in
#: the checkout and share entries of the compiler cache.
BUILD = ".xfdev/build"
TEMP = f"{BUILD}/temp"
LIB = f"{BUILD}/lib"
SCRATCH = ".xfdev/scratch"  # as deep as BUILD
MANIFEST = f"{BUILD}/manifest.json"
UNFINISHED = f"{BUILD}/unfinished.json"
RECIPE = ".xfdev/recipe.json"
#: An object of the build before, to compare its kernels with.
BEFORE = ".before"


def kept_build(root: Path) -> Manifest | None:
    """The manifest of a checkout's last finished build, None where there is none that can be used."""
    try:
        return from_bytes((root / MANIFEST).read_bytes(), root / MANIFEST)
    except (OSError, BadBundle):
        return None


def last_recipe(root: Path) -> Manifest | None:
    """What the build script told last, with the seconds and the memory of units compiled since; it tells how much
    there is to compile, and serves nothing else."""
    try:
        return from_bytes((root / RECIPE).read_bytes(), root / RECIPE)
    except (OSError, BadBundle):
        return None


def clear_build(root: Path) -> None:
    """Take a checkout's build for unfinished, before anything of it changes: what is killed in between is not taken for
    whole, and objects that are whole serve the next build."""
    with suppress(FileNotFoundError), explained(str(root / MANIFEST)):
        (root / MANIFEST).replace(root / UNFINISHED)


def forget_build(root: Path) -> None:
    """Have nothing of a checkout's build serve again."""
    for name in (MANIFEST, UNFINISHED):
        with explained(str(root / name)):
            (root / name).unlink(missing_ok=True)


def unfinished_build(root: Path) -> tuple[Manifest, frozenset[str]] | None:
    """The manifest of a build that did not come to its end, and the sources of those of its units whose objects are
    not there, or not what it says. None where there is none that can be used.

    Its libraries are not to be linked; what the build script wrote beside them is what it was.
    """
    try:
        manifest = from_bytes((root / UNFINISHED).read_bytes(), root / UNFINISHED)
    except (OSError, BadBundle):
        return None
    for name in extras(manifest):
        output = manifest.outputs.get(name)
        if output is None or not _is(root / LIB / name, output.sha256):
            return None
    lost = {
        unit.source for unit in manifest.units if not (unit.digest and _is(root / BUILD / unit.object, unit.digest))
    }
    return manifest, frozenset(lost)


def _is(path: Path, digest: str) -> bool:
    return path.is_file() and sha256(path) == digest


def extras(manifest: Manifest) -> set[str]:
    """The names of the outputs that no command of *manifest* makes: its build script wrote them."""
    made = {os.path.relpath(step.output, "lib") for step in manifest.steps if step.output.startswith("lib/")}
    return (set(json.loads(manifest.origin.get("outputs", "[]"))) or set(manifest.outputs)) - made


def set_aside(path: Path) -> None:
    """Keep the object at *path*, if there is one, beside the one that will be made: a change is seen by comparison."""
    with suppress(FileNotFoundError), explained(str(path)):
        path.replace(path.with_name(path.name + BEFORE))


def places_of(checkout: Checkout, environment: Environment, python_include: str, python_base: str) -> Places:
    """The paths of this checkout and environment that recorded commands are written with."""
    return Places(
        checkout=str(checkout.root),
        site_packages=str(environment.site_packages),
        prefix=str(environment.prefix),
        cuda_home=environment.cuda_home,
        python_include=python_include,
        python_base=python_base,
    )


def python_places(environment: Environment) -> tuple[str, str]:
    """The include folder and the base prefix of an environment's Python, without starting it."""
    base = Path(os.path.realpath(environment.interpreter)).parent.parent
    return str(base / "include" / f"python{environment.python}"), str(base)
