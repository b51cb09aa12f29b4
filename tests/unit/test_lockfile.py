"""The lock file: what is written is read again, what is damaged is not believed, a change is told by name."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from xfdev import lockfile
from xfdev.errors import StaleLock, UsageError
from xfdev.lockfile import Bundle, Image, Lock, Wheels

A, B = "a" * 64, "b" * 64
BUNDLE = Bundle(f"sha256:{A}", B, "ghcr.io/team/bundles", f"sha256:{B}", 100, {"arch": "9.0", "torch": "2.14.1"})
LOCK = Lock(
    (BUNDLE,),
    (Image("ghcr.io/team/dev:cu130", f"sha256:{A}"),),
    {"cu130 x86_64 3.11": Wheels(("torch==2.14.1",), {"torch==2.14.1": A, "numpy==2.0": B})},
)


def test_round(tmp_path: Path) -> None:
    path = tmp_path / lockfile.NAME
    assert lockfile.read(path) is None
    path.write_text(LOCK.to_text())
    assert lockfile.read(path) == LOCK
    assert LOCK.digests == {BUNDLE.digest}
    assert LOCK.image("ghcr.io/team/dev:cu130") == f"sha256:{A}"
    assert Lock().digests is None, "without bundles nothing is said of them"
    assert Lock(bundles=()).digests == frozenset(), "and none is not the same"


def change(value: dict[str, object], place: str, new: object) -> str:
    *folders, last = place.split("/")
    found: dict[str, object] = value
    for name in folders:
        found = found[int(name) if name.isdecimal() else name]  # type: ignore[assignment, index]
    found[last] = new
    return json.dumps(value)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{}",
        "[]",
        "<<<<<<< HEAD",
        LOCK.to_text()[:-30],
        change(json.loads(LOCK.to_text()), "schema", 2),
        change(json.loads(LOCK.to_text()), "bundles/0/digest", "sha256:x"),
        change(json.loads(LOCK.to_text()), "bundles/0/recipe_size", "1"),
        change(json.loads(LOCK.to_text()), "bundles/0/more", "x"),
        change(json.loads(LOCK.to_text()), "bundles", "x"),
        change(json.loads(LOCK.to_text()), "images/0/digest", 1),
        change(json.loads(LOCK.to_text()), "wheels/cu130 x86_64 3.11/files", {"torch==1 --index-url=x": A}),
        change(json.loads(LOCK.to_text()), "wheels/cu130 x86_64 3.11/files", {"torch==1": "x"}),
    ],
)
def test_what_is_damaged_is_an_error(tmp_path: Path, text: str) -> None:
    """Not a lock that is not there: that would allow what it forbids."""
    path = tmp_path / lockfile.NAME
    path.write_text(text)
    with pytest.raises(StaleLock) as caught:
        lockfile.read(path)
    assert str(path) in str(caught.value)
    assert caught.value.hint


def test_changes_by_name() -> None:
    assert list(lockfile.difference(LOCK, LOCK)) == []
    other = replace(BUNDLE, digest=f"sha256:{B}")
    wheels = {"cu130 x86_64 3.11": Wheels((), {"torch==2.15.0": A, "numpy==2.0": A, "sympy==1": A})}
    new = Lock((other,), (Image("ghcr.io/team/dev:cu130", f"sha256:{B}"),), wheels)
    said = list(lockfile.difference(LOCK, new))
    assert any(line.startswith("- bundle") and "9.0" in line for line in said)
    assert any(line.startswith("+ bundle") for line in said)
    assert any("image ghcr.io/team/dev:cu130" in line and "->" in line for line in said)
    assert "~ cu130 x86_64 3.11: torch 2.14.1 -> 2.15.0" in said
    assert "~ cu130 x86_64 3.11: numpy 2.0 is another file" in said
    assert "+ cu130 x86_64 3.11: sympy 1" in said
    assert list(lockfile.difference(Lock(), Lock(bundles=()))) == ["+ no bundle of any store"]


def test_parts_that_are_not_locked_anew_stay() -> None:
    merged = lockfile.merged(LOCK, Lock(wheels={"cpu x86_64 3.12": Wheels((), {})}))
    assert merged.bundles == LOCK.bundles
    assert merged.images == LOCK.images
    assert set(merged.wheels) == {"cu130 x86_64 3.11", "cpu x86_64 3.12"}


def test_a_folder_is_no_lock_file(tmp_path: Path) -> None:
    (tmp_path / lockfile.NAME).mkdir()
    with pytest.raises(UsageError):
        lockfile.place(tmp_path, None)
