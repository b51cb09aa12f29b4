"""The faster linkers, real ones: what they make is what the default linker makes."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

import support
from faultkit import BEHAVIOUR, Scene
from xfdev import elf

SIGNATURES = {"mold": b"mold ", "lld": b"Linker: "}


@pytest.fixture
def scene(tmp_path: Path, plain_prefix: Path) -> Scene:
    return Scene(tmp_path, plain_prefix)


def only_linker(folder: Path, program: str, script: str | None = None) -> str:
    """A PATH with all that is on it now, less the linkers, and with one that is called *program*."""
    folder.mkdir()
    for place in reversed(os.environ["PATH"].split(os.pathsep)):
        for path in Path(place).glob("*"):
            (folder / path.name).unlink(missing_ok=True)
            (folder / path.name).symlink_to(path)
    real = shutil.which(program)
    for name in ("ld.mold", "ld.lld", "mold"):
        (folder / name).unlink(missing_ok=True)
    if script is not None:
        (folder / program).write_text(script)
        (folder / program).chmod(0o755)
    elif real is None:
        support.missing(f"there is no {program}")
    else:
        (folder / program).symlink_to(real)
    return str(folder)


def libraries(root: Path) -> list[Path]:
    found = sorted((root / "counter").glob("*.so"))
    assert len(found) == 2
    return found


def edited_build(scene: Scene, name: str, **variables: str) -> Path:
    """A checkout with one unit edited and built."""
    root = scene.checkout(name)
    scene.good("build", root, "--venv", scene.prefix, **variables)
    source = root / "csrc" / "inner" / "second.cpp"
    source.write_text(source.read_text() + '\nextern "C" int more() { return 1; }\n')
    scene.good("build", root, "--venv", scene.prefix, **variables)
    return root


@pytest.mark.parametrize("name", SIGNATURES)
def test_same_library(scene: Scene, tmp_path: Path, name: str) -> None:
    path = only_linker(tmp_path / "path", f"ld.{name}")
    quick = edited_build(scene, "quick", PATH=path)
    assert scene.behaviour(quick) == BEHAVIOUR
    Path(path, f"ld.{name}").unlink()
    usual = edited_build(scene, "usual", PATH=path)
    for one, other in zip(libraries(usual), libraries(quick), strict=True):
        assert SIGNATURES[name] in other.read_bytes()
        assert elf.read(one) == elf.read(other)
        assert elf.exports(one) == elf.exports(other)


def test_a_linker_that_fails_is_done_without(scene: Scene, tmp_path: Path) -> None:
    called = tmp_path / "called"
    path = only_linker(tmp_path / "path", "ld.mold", f"#!/bin/sh\necho >>{called}\nexit 1\n")
    root = edited_build(scene, "counter", PATH=path)
    assert len(called.read_text()) == 2  # libraries
    assert scene.behaviour(root) == BEHAVIOUR


def test_a_bundle_is_linked_as_the_project_does_it(scene: Scene, tmp_path: Path) -> None:
    called = tmp_path / "called"
    path = only_linker(tmp_path / "path", "ld.mold", f"#!/bin/sh\necho >>{called}\nexit 1\n")
    scene.good("prebuild", scene.checkout(), "--venv", scene.prefix, PATH=path)
    assert not called.exists()
