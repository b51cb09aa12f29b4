"""What a commit costs after the one before, from trees alone; an integration test compares it with plans."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest

from xfdev import history
from xfdev.bundle import Manifest, Scripts, Unit
from xfdev.trees import Tree

FILES = {name: f"id of {name}" for name in (
    "setup.py", "README.md", "csrc/a.cu", "csrc/b.cpp", "csrc/deep/c.cu", "csrc/hip/h.cu", "csrc/common.h",
    "csrc/deep/own.h", "python/x.py",
)}  # fmt: skip
BEFORE = Tree(FILES, {"third_party/lib": "1" * 40})
SEARCH = ("%{checkout}/csrc", "%{checkout}/third_party/lib/include")
MANIFEST = Manifest(
    project="p", version="1", kind="build",
    units=(
        Unit(
            "csrc/a.cu", "a.o", (), SEARCH, ("csrc/a.cu", "csrc/common.h", "third_party/lib/include/l.h"), seconds=40.0
        ),
        Unit("csrc/b.cpp", "b.o", (), SEARCH, ("csrc/b.cpp", "csrc/common.h"), probes=("optional.h",), seconds=2.0),
        Unit("csrc/deep/c.cu", "c.o", (), SEARCH, ("csrc/deep/c.cu", "csrc/deep/own.h"), seconds=10.0),
    ),
    scripts=Scripts(
        files={"setup.py": "x"},
        globs=(
            {"pattern": "csrc/**/*.cu", "recursive": True, "matches": ["csrc/a.cu", "csrc/deep/c.cu", "csrc/hip/h.cu"]},
            {"pattern": "csrc/*.cpp", "recursive": True, "matches": ["csrc/b.cpp"]},
            {"pattern": "csrc/hip/*.cu", "recursive": True, "matches": ["csrc/hip/h.cu"]},
        ),
        asked={"vendor": False},
    ),
    roots=("csrc",), link_seconds=1.0,
)  # fmt: skip
ALL = {"csrc/a.cu", "csrc/b.cpp", "csrc/deep/c.cu"}


def cost(
    changes: Mapping[str, str | None], *, before: Tree = BEFORE, lib: str | None = None, manifest: Manifest = MANIFEST,
    includes: Mapping[str, Sequence[str]] | None = None,
) -> history.Step:  # fmt: skip
    """What a commit costs that gives files another id (None: removes them)."""
    files = {**before.files, **{name: value for name, value in changes.items() if value is not None}}
    after = Tree(
        {name: value for name, value in files.items() if changes.get(name, "") is not None},
        {"third_party/lib": lib} if lib else before.submodules,
    )

    def asked() -> Mapping[str, Sequence[str]]:
        assert includes is not None, "nobody has to read the includes of units that are known"
        return includes

    return history.step(manifest, before, after, asked, 2)


@pytest.mark.parametrize(
    ("changes", "verdict", "units"),
    [
        ({"README.md": "2", "python/x.py": "2", "python/new.py": "1"}, "reuse", set()),
        ({"csrc/a.cu": "2"}, "partial", {"csrc/a.cu"}),
        ({"csrc/common.h": "2"}, "partial", {"csrc/a.cu", "csrc/b.cpp"}),
        ({"csrc/deep/own.h": "2"}, "partial", {"csrc/deep/c.cu"}),
        ({"csrc/hip/h.cu": "2"}, "reuse", set()),
        ({"csrc/optional.h": "1"}, "partial", {"csrc/b.cpp"}),
        ({"csrc/unrelated.h": "1"}, "reuse", set()),
        ({"csrc/deep/new.cu": "1"}, "partial", {"csrc/deep/new.cu"}),
        ({"csrc/deep/c.cu": None}, "partial", set()),
        ({"setup.py": "2"}, "full", ALL),
        ({"vendor/x": "1"}, "full", ALL),
    ],
)
def test_what_is_compiled(changes: dict[str, str | None], verdict: str, units: set[str]) -> None:
    found = cost(changes)
    assert found.verdict == verdict
    if verdict != "full":
        assert {*found.units} == units
    assert (found.seconds > 0) == (verdict != "reuse")
    assert bool(found.reasons) == (verdict != "reuse")


def test_seconds_are_those_of_the_bundle() -> None:
    assert cost({"csrc/b.cpp": "2"}).seconds == 3.0  # and the link
    assert cost({"csrc/common.h": "2"}).seconds == 41.0  # two at a time, as long as the longest
    assert cost({"setup.py": "2"}).seconds == 41.0


def test_a_submodule_that_moves_takes_its_readers_along() -> None:
    found = cost({}, lib="2" * 40)
    assert dict(found.units) == {"csrc/a.cu": ("submodule third_party/lib moved",)}


OLD = Tree({**FILES, "csrc/deep/old.cu": "id", "csrc/deep/old.h": "id", "csrc/other.h": "id"}, BEFORE.submodules)
INCLUDES: dict[str, Sequence[str]] = {
    "csrc/deep/old.cu": ("old.h", "torch/all.h"), "csrc/deep/old.h": ("../common.h",),
}  # fmt: skip


@pytest.mark.parametrize(
    ("changes", "units"),
    [
        ({"csrc/deep/old.h": "2"}, {"csrc/deep/old.cu"}),
        ({"csrc/common.h": "2"}, {"csrc/a.cu", "csrc/b.cpp", "csrc/deep/old.cu"}),
        ({"csrc/other.h": "2"}, set()),
        ({"README.md": "2"}, set()),
    ],
)
def test_units_that_the_bundle_does_not_know_are_judged_by_their_includes(
    changes: dict[str, str | None], units: set[str]
) -> None:
    found = cost(changes, before=OLD, includes=INCLUDES)
    assert {*found.units} == units
    assert not found.known
    assert found.total == 4


def test_what_was_found_by_a_pattern_and_was_no_unit_is_none_in_other_commits() -> None:
    before = Tree({**FILES, "csrc/hip/old.cu": "id"}, BEFORE.submodules)
    found = cost({"csrc/hip/old.cu": "2"}, before=before)
    assert found.verdict == "reuse"
    assert found.known


def test_what_no_dependency_file_lists_is_doubted() -> None:
    units = (MANIFEST.units[0], replace(MANIFEST.units[1], opaque=True), replace(MANIFEST.units[2], inputs=None))
    doubted = replace(MANIFEST, units=units)
    assert {*cost({"python/x.py": "2"}, manifest=doubted).units} == {"csrc/b.cpp", "csrc/deep/c.cu"}


@pytest.mark.parametrize(
    ("pattern", "path", "found"),
    [
        ("csrc/**/*.cu", "csrc/a.cu", True),
        ("csrc/**/*.cu", "csrc/x/y/a.cu", True),
        ("csrc/**/*.cu", "csrc/a.cpp", False),
        ("csrc/hip_*/*.cpp", "csrc/hip_fmha/a.cpp", True),
        ("csrc/hip_*/*.cpp", "csrc/hip_fmha/x/a.cpp", False),
        ("csrc/[ab].c?", "csrc/b.cu", True),
        ("csrc/[ab].c?", "csrc/c.cu", False),
        ("a+b.cu", "a+b.cu", True),
    ],
)
def test_patterns_are_those_of_glob(pattern: str, path: str, found: bool, tmp_path: Any) -> None:
    import glob

    (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / path).write_text("")
    assert (path in glob.glob(pattern, root_dir=tmp_path, recursive=True)) == found
    assert bool(history._pattern(pattern).fullmatch(path)) == found
