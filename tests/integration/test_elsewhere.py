"""A bundle whose environment lay at another path than this one's: its objects do not come back from the cache."""

from __future__ import annotations

import shutil
from pathlib import Path

import support


def checkout(counter_template: Path, folder: Path) -> Path:
    """A fresh checkout in which one unit was edited."""
    root = support.copy_tree(counter_template, folder / "counter")
    unit = root / "csrc" / "one.cpp"
    unit.write_text(unit.read_text() + "int more;\n")
    return root


def test_the_plan_says_what_really_compiles(counter_template: Path, plain_prefix: Path, tmp_path: Path) -> None:
    first = support.copy_tree(counter_template, tmp_path / "first")
    made = support.Xfdev({"XFDEV_CACHE": str(tmp_path / "made")}, ("--venv", str(plain_prefix)))
    made("prebuild", first).ok()
    # Of that machine only the bundle is here, with its objects.
    shutil.copytree(tmp_path / "made" / "store", tmp_path / "cache" / "store")
    variables = {"XFDEV_CACHE": str(tmp_path / "cache")}

    same = support.Xfdev(variables, ("--venv", str(plain_prefix)))
    root = checkout(counter_template, tmp_path / "same")
    plan = same("plan", root).ok()
    assert (plan["verdict"], list(plan["affected"])) == ("partial", ["csrc/one.cpp"])
    built = same("build", root).ok()
    # The third asks __has_include for what is not there, of which no entry of the cache can tell.
    assert sorted(built["compiled"]) == ["csrc/one.cpp", "csrc/two.cpp"]
    assert sorted(built["restored"]) == ["csrc/inner/second.cpp", "csrc/three.cpp"]

    prefix = tmp_path / "elsewhere" / ".venv"
    prefix.parent.mkdir()
    other = support.Xfdev({"XFDEV_CACHE": str(tmp_path / "other")}, ("--venv", str(prefix)))
    other("up", support.copy_tree(counter_template, tmp_path / "up"), "--toolchain", "plain").ok()
    shutil.rmtree(tmp_path / "other")
    shutil.copytree(tmp_path / "made" / "store", tmp_path / "other" / "store")
    root = checkout(counter_template, tmp_path / "moved")
    plan = other("plan", root).ok()
    assert plan["verdict"] == "partial"
    assert len(plan["affected"]) == 4
    assert "the environment had another path when bundle" in plan["affected"]["csrc/two.cpp"][0]
    assert "csrc/one.cpp changed" in plan["affected"]["csrc/one.cpp"][0]
    built = other("build", root).ok()
    assert (sorted(built["compiled"]), built["restored"]) == (sorted(plan["affected"]), [])
    # What was built here stays, whatever the bundle's paths were.
    (root / "csrc" / "two.cpp").write_text((root / "csrc" / "two.cpp").read_text() + "int less;\n")
    assert list(other("plan", root).ok()["affected"]) == ["csrc/two.cpp"]


def test_an_unchanged_checkout_is_linked_from_wherever(
    counter_template: Path, plain_prefix: Path, tmp_path: Path
) -> None:
    made = support.Xfdev({"XFDEV_CACHE": str(tmp_path / "made")}, ("--venv", str(plain_prefix)))
    made("prebuild", support.copy_tree(counter_template, tmp_path / "first")).ok()
    root = support.copy_tree(counter_template, tmp_path / "inside")
    inside = support.Xfdev({"XFDEV_CACHE": str(tmp_path / "made")})
    up = inside("up", root, "--toolchain", "plain").ok()
    assert (up["verdict"], up["compiled"]) == ("reuse", [])
