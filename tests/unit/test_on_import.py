"""Stamps, and the module that compares them when a project is imported."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from xfdev import on_import, settled, stamps
from xfdev.bundle import Manifest, Output, Places, Scripts, Unit
from xfdev.checkout import blob_id


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for name, text in {"csrc/a.cu": "a", "csrc/b.h": "b", "setup.py": "s", "pkg/_C.so": "binary"}.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    (tmp_path / ".xfdev").mkdir()
    return tmp_path


def manifest_of(root: Path) -> Manifest:
    ids = {name: blob_id((root / name).read_bytes()) for name in ("csrc/a.cu", "csrc/b.h", "setup.py")}
    return Manifest(
        "project",
        "1.0",
        "build",
        files={name: ids[name] for name in ("csrc/a.cu", "csrc/b.h")},
        scripts=Scripts(files={"setup.py": ids["setup.py"]}, asked={"csrc/fast": False}, linked={"lib/libx.a": ""}),
        roots=("csrc",),
        listing=("csrc/a.cu", "csrc/b.h"),
        units=(Unit("csrc/a.cu", "a.o", (), (), inputs=("csrc/a.cu", "csrc/b.h")),),
        outputs={"pkg/_C.so": Output("pkg/_C.so", "", 6, 0o755)},
        metadata={"name": "the_project-1.0.dist-info", "top_level.txt": "pkg\n"},
    )


def write(root: Path, manifest: Manifest, opened: int = 2**62) -> None:
    """As if all files were older than *opened*."""
    places = Places(str(root), str(root / "site"), str(root), None, "", "")
    on_import.write_stamps(root, manifest, places, ["pkg/_C.so"], root / "site", opened)


def changes(root: Path) -> tuple[dict[str, str], dict[str, str]]:
    found = stamps.changed(str(root), (root / settled.STAMPS).read_text())
    assert found is not None
    return found


def test_nothing_changed(root: Path) -> None:
    write(root, manifest_of(root))
    assert changes(root) == ({}, {})
    assert settled.unchanged(str(root))
    os.utime(root / "csrc/a.cu")
    (root / "csrc/x").touch()
    (root / "csrc/x").unlink()
    (root / "csrc/__pycache__").mkdir()
    assert changes(root) == ({}, {})


@pytest.mark.parametrize(
    ("what", "certain", "perhaps"),
    [
        (lambda root: (root / "csrc/b.h").write_text("B"), "csrc/b.h changed", ""),
        (lambda root: (root / "csrc/b.h").unlink(), "csrc/b.h is gone", "csrc/b.h is gone"),
        (lambda root: (root / "setup.py").write_text("S"), "setup.py changed", ""),
        (lambda root: (root / "csrc/new.cuh").touch(), "csrc/new.cuh is new", ""),
        (lambda root: (root / "csrc/new.txt").touch(), "", "csrc/new.txt is new"),
        (lambda root: (root / "csrc/fast").mkdir(), "csrc/fast came or went", "csrc/fast is new"),
        (lambda root: (root / "pkg/_C.so").unlink(), "pkg/_C.so is gone", ""),
        (lambda root: (root / "pkg/_C.so").write_text("other!"), "pkg/_C.so was replaced by another build", ""),
        (lambda root: [(root / "lib").mkdir(), (root / "lib/libx.a").touch()], "lib/libx.a changed", ""),
    ],
)
def test_what_changed(root: Path, what: object, certain: str, perhaps: str) -> None:
    write(root, manifest_of(root))
    assert callable(what)
    what(root)
    assert tuple(", ".join(found.values()) for found in changes(root)) == (certain, perhaps)
    assert not settled.unchanged(str(root))


def test_an_edit_between_the_look_and_the_stamp_is_seen(root: Path) -> None:
    manifest = manifest_of(root)
    opened = on_import.moment(root)
    (root / "csrc/b.h").write_text("B")
    (root / "csrc/a.cu").write_text("a")  # written again, as it was
    (root / "csrc/late.h").write_text("")
    write(root, manifest, opened)
    certain, perhaps = changes(root)
    assert set(certain) == {"csrc/b.h"}
    assert set(perhaps) == {"csrc"}, "whether the new file was there when it was compared is not known"
    assert not settled.unchanged(str(root))


def test_units_that_were_not_compiled_from_what_is_there(root: Path) -> None:
    manifest = manifest_of(root)
    write(root, manifest)
    write(root, manifest.with_units((Unit("csrc/a.cu", "a.o", (), (), inputs=None),)))
    assert not (root / settled.STAMPS).exists()


@pytest.mark.parametrize(
    "text", ["", "xfdev stamps 2\n", f"{stamps.HEADER}\nfile\t1\n", f"{stamps.HEADER}\nfile\t-\t-\ta"]
)
def test_damaged_stamps(root: Path, text: str) -> None:
    assert stamps.changed(str(root), text) is None


def test_names_that_break_a_line(root: Path) -> None:
    (root / "csrc/a\tb.h").touch()
    write(root, manifest_of(root))
    assert not (root / settled.STAMPS).exists()


def test_folders_of_a_release_and_of_a_pattern(root: Path) -> None:
    (root / "csrc/inner/deep").mkdir(parents=True)
    (root / "other/sub").mkdir(parents=True)
    (root / "other/sub/x.cu").touch()
    release = Manifest("p", "1", "release", patterns=("csrc/*.cu", "setup.py"))
    write(root, release)
    (root / "csrc/inner/deep/new.cu").touch()
    assert list(changes(root)[0].values()) == ["csrc/inner/deep/new.cu is new"]
    globs = ({"pattern": "other/*.cu", "recursive": False, "matches": []},)
    write(root, Manifest("p", "1", "build", scripts=Scripts(globs=globs)))
    (root / "other/sub/y.cu").touch()
    assert changes(root) == ({}, {}), "the pattern does not look there"
    (root / "other/z.cu").touch()
    assert list(changes(root)[0].values()) == ["other/z.cu is new"]


# --- the module


def module(root: Path, mode: str, command: list[str]) -> str:
    (root / "site").mkdir(exist_ok=True)
    texts = on_import.modules(root, manifest_of(root), mode, command)
    for name, text in texts.items():
        (root / "site" / f"{name}.py").write_text(text)
    (root / "pkg" / "__init__.py").touch()
    return next(iter(texts))


def python(root: Path, code: str, **environ: str) -> subprocess.CompletedProcess[str]:
    path = f"{root / 'site'}{os.pathsep}{root}"
    return subprocess.run(
        [sys.executable, "-S", "-c", code],
        env={**os.environ, "PYTHONPATH": path, **environ},
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_every_python_starts_without_a_cost(root: Path) -> None:
    name = module(root, "rebuild", ["x"])
    assert name == "_xfdev_import_the_project"
    code = f"import os, sys; before = {{*sys.modules}}; import {name}; print(sorted({{*sys.modules}} - before))"
    assert python(root, code).stdout == f"['{name}']\n"


def test_names_of_a_project_without_a_list_of_them(root: Path) -> None:
    manifest = manifest_of(root)
    assert on_import.names_of(manifest) == ["pkg"]
    outputs = {name: Output(name, "", 1, 0o755) for name in ("src/one/_C.abi3.so", "src/two_C.so", "src/one/v.py")}
    assert on_import.names_of(Manifest("p", "1", "release", outputs=outputs, source_root="src")) == ["one", "two_C"]


def fake_build(root: Path, *results: tuple[int, str]) -> list[str]:
    """A command that ends with one of *results* after the other, and notes that it ran."""
    code = (
        "import sys, pathlib\n"
        f"log = pathlib.Path({str(root / 'log')!r})\n"
        "n = len(log.read_text()) if log.exists() else 0\n"
        "log.write_text('x' * (n + 1))\n"
        f"status, said = {list(results)!r}[n]\n"
        "print(said)\nsys.exit(status)\n"
    )
    return [sys.executable, "-c", code]


def test_another_xfdev_is_waited_for(root: Path) -> None:
    write(root, manifest_of(root))
    (root / "csrc/b.h").write_text("B")
    module(root, "rebuild", fake_build(root, (23, ""), (23, ""), (25, json.dumps({"message": "b.h is bad"}))))
    done = python(root, "import _xfdev_import_the_project, pkg")
    assert (root / "log").read_text() == "xxx"
    assert "ImportError" in done.stderr
    assert "b.h is bad" in done.stderr
    assert done.stderr.count("waiting for another xfdev") == 2


@pytest.mark.parametrize(("said", "shown"), [("no json", "exit status 70"), ("", "exit status 70")])
def test_a_build_that_says_nothing_of_use(root: Path, said: str, shown: str) -> None:
    write(root, manifest_of(root))
    (root / "csrc/b.h").write_text("B")
    module(root, "rebuild", fake_build(root, (70, said)))
    done = python(root, "import _xfdev_import_the_project, pkg")
    assert done.returncode == 1
    assert shown in done.stderr


def test_xfdev_that_is_not_there_any_more(root: Path) -> None:
    write(root, manifest_of(root))
    (root / "csrc/b.h").write_text("B")
    module(root, "rebuild", ["/nowhere/python"])
    done = python(root, "import _xfdev_import_the_project, pkg")
    assert "/nowhere/python cannot be run" in done.stderr
    assert python(root, "import _xfdev_import_the_project, pkg", XFDEV_IMPORT="off").returncode == 0


def test_stamps_that_are_missing_are_no_permission(root: Path) -> None:
    module(root, "rebuild", fake_build(root, (25, json.dumps({"message": "it was built"}))))
    assert "it was built" in python(root, "import _xfdev_import_the_project, pkg").stderr
