"""The promise, with the real thing: real xFormers, its official wheel, torch and CUDA from the package index.

Two environments, each made once: with CUDA 12.8, where everything is reused from the official wheel; and with CUDA 13.0
and nvcc, where kernels compile. Together they take about 15 GB of disk and five minutes.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import support

XFDEV = Path(sys.executable).parent / "xfdev"
SMALL = "xformers/csrc/sparse24/meta_utils.cu"


def run(*words: object, cwd: Path, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(word) for word in words], cwd=cwd, env=env, capture_output=True, text=True)


def xfdev(*words: object, cwd: Path, code: int = 0) -> dict[str, object]:
    done = run(XFDEV, *words, "--json", cwd=cwd)
    assert done.returncode == code, f"{words}: {done.returncode}\n{done.stdout[-2000:]}\n{done.stderr[-3000:]}"
    assert "Traceback" not in done.stderr
    result: dict[str, object] = json.loads(done.stdout)
    return result


@pytest.fixture(autouse=True)
def _same_cache(_protected: None, monkeypatch: pytest.MonkeyPatch, cache_folder: Path) -> None:
    monkeypatch.setenv("XFDEV_CACHE", str(cache_folder))


@pytest.fixture(scope="module")
def cache_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("xformers")
    if shutil.disk_usage(folder).free < 16e9:
        support.missing(f"{folder} has less than 16 GB free")
    if run(sys.executable, "-m", "pip", "index", "versions", "xformers", cwd=folder).returncode:
        support.missing("pip reaches no package index that has xformers")
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def reused(place: Path, cache_folder: Path) -> tuple[Path, dict[str, object]]:
    """What ``make up`` makes, in an empty folder with an empty cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XFDEV_CACHE", str(cache_folder))
        result = xfdev("up", "xformers==0.0.35", cwd=place)
    return place / "xformers-0.0.35", result


def test_up_reuses_the_official_wheel_and_compiles_nothing(reused: tuple[Path, dict[str, object]]) -> None:
    root, result = reused
    assert result["verdict"] == "reuse"
    assert result["compiled"] == []
    assert result["toolchain"]["cuda"] == "12.8"  # type: ignore[index]
    assert run("git", "status", "--porcelain", cwd=root).stdout == ""
    assert not list(root.rglob("*.o")), "an object means that something was compiled"


def test_no_gpu_is_said_in_one_line_with_the_two_ways_on(reused: tuple[Path, dict[str, object]]) -> None:
    said = [line for line in reused[1]["lines"] if "no GPU here" in line]  # type: ignore[attr-defined]
    if shutil.which("nvidia-smi"):
        pytest.skip("this machine has a GPU")
    assert len(said) == 1
    assert "--cpu" in said[0]
    assert "--arch 9.0" in said[0]


def test_every_tool_sees_a_normal_editable_install(reused: tuple[Path, dict[str, object]]) -> None:
    root, _ = reused
    python = root / ".venv/bin/python"
    editable = json.loads(run(python, "-m", "pip", "list", "--editable", "--format=json", cwd=root).stdout)
    assert [entry["name"] for entry in editable] == ["xformers"]
    assert editable[0]["editable_project_location"] == str(root)
    shown = run(python, "-m", "pip", "show", "-f", "xformers", cwd=root).stdout
    assert f"Editable project location: {root}" in shown
    assert run(python, "-m", "pip", "check", cwd=root).returncode == 0


def test_check_says_what_xformers_info_says(reused: tuple[Path, dict[str, object]]) -> None:
    root, _ = reused
    result = xfdev("check", root, cwd=root)
    assert result["problems"] == []
    # Outside the checkout, as check does it, with the environment's own Python.
    told = run(root / ".venv/bin/python", "-m", "xformers.info", cwd=root / ".venv").stdout
    lines = (line.partition(":") for line in told.splitlines() if ":" in line)
    assert result["features"] == {name.strip(): value.strip() for name, _, value in lines}
    assert result["features"]["sp24.sparse24_sparsify_both_ways"] == "available"  # type: ignore[index]
    assert any(name.startswith("xformers::") for name in result["operators"])  # type: ignore[attr-defined]


def test_an_edit_of_python_takes_effect_at_once(reused: tuple[Path, dict[str, object]]) -> None:
    root, _ = reused
    edited = root / "xformers/test.py"
    before = edited.read_text()
    try:
        edited.write_text(before + "\nEDITED = 41 + 1\n")
        said = run(root / ".venv/bin/python", "-c", "import xformers.test as t; print(t.EDITED)", cwd=root / ".venv")
        assert said.stdout.strip().endswith("42"), said.stderr
        assert xfdev("plan", root, cwd=root)["verdict"] == "reuse"
    finally:
        edited.write_text(before)


def test_an_edited_kernel_is_refused_by_name_with_the_command_that_moves_on(
    reused: tuple[Path, dict[str, object]],
) -> None:
    root, _ = reused
    edited = root / SMALL
    before = edited.read_text()
    try:
        edited.write_text(before + "\n// edited\n")
        plan = xfdev("plan", root, cwd=root)
        assert plan["verdict"] == "full"
        assert any(f"{SMALL} changed" in reason for entry in plan["refused"] for reason in entry["reasons"])  # type: ignore[attr-defined, index]
        assert xfdev("link", root, cwd=root, code=27)["error"] == "NothingFits"
        if shutil.which("nvcc") is None or "release 12" not in run("nvcc", "--version", cwd=root).stdout:
            refused = xfdev("build", root, cwd=root, code=16)
            assert "xfdev up" in str(refused["hint"])
            assert "--toolchain cu130" in str(refused["hint"])
        check = xfdev("check", root, cwd=root, code=29)
        assert any("do not belong to these sources" in problem for problem in check["problems"])  # type: ignore[attr-defined]
    finally:
        edited.write_text(before)
    assert xfdev("plan", root, cwd=root)["verdict"] == "reuse"


def test_a_second_clone_links_in_a_moment(reused: tuple[Path, dict[str, object]], place: Path) -> None:
    root, _ = reused
    clone = place / "second"
    run("git", "clone", "-q", root, clone, cwd=place)
    result = xfdev("link", clone, "--venv", root / ".venv", cwd=place)
    assert (result["verdict"], result["compiled"]) == ("reuse", [])
    assert run("git", "status", "--porcelain", cwd=clone).stdout == ""
    told = run(root / ".venv/bin/python", "-c", "import xformers; print(xformers.__file__)", cwd=place)
    assert told.stdout.strip() == str(clone / "xformers/__init__.py")
    assert xfdev("unlink", clone, "--venv", root / ".venv", cwd=place)["kept"] == []
    left = run("git", "status", "--porcelain", "--ignored", cwd=clone).stdout.splitlines()
    assert [line for line in left if "__pycache__" not in line] == []
    assert xfdev("link", root, cwd=place)["verdict"] == "reuse"


def test_a_release_for_another_torch_is_refused_by_name(place: Path, tmp_path: Path) -> None:
    """0.0.32.post2 needs torch 2.8 exactly: reused under that, refused under 2.10. The environments are stand-ins (a
    torch/version.py): a plan reads no more of torch, and two more real ones would be 12 GB."""
    from packaging.version import Version

    from xfdev import sources

    root = sources.obtain(sources.parse("xformers==0.0.32.post2", tmp_path), None, cwd=tmp_path)
    for torch, verdict in (("2.8.0+cu128", "reuse"), ("2.10.0+cu128", "full"), ("2.8.0+cu130", "full")):
        venv = tmp_path / f"venv-{torch}"
        version = f"{sys.version_info[0]}.{sys.version_info[1]}"
        site = venv / "lib" / f"python{version}" / "site-packages/torch"
        site.mkdir(parents=True)
        cuda = f"{torch[-3:-1]}.{torch[-1]}"
        (site / "version.py").write_text(f"__version__ = '{torch}'\ncuda: str = '{cuda}'\ngit_version = 'x'\n")
        (venv / "bin").mkdir()
        (venv / "bin/python").symlink_to(sys.executable)
        (venv / "xfdev").mkdir()
        note = {"toolchain": "cu128-torch28", "torch": torch, "python": version}
        (venv / "xfdev/environment.json").write_text(json.dumps(note))
        plan = xfdev("plan", root, "--venv", venv, cwd=tmp_path)
        assert plan["verdict"] == verdict, plan
        if verdict == "full":
            said = [reason for entry in plan["refused"] for reason in entry["reasons"]]  # type: ignore[attr-defined, index]
            wanted = "torch is 2.10.0+cu128, bundle needs 2.8.0" if Version(torch) >= Version("2.10") else "CUDA is 13"
            assert any(reason.startswith(wanted) for reason in said), said


# --- CUDA 13.0: kernels compile ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def compiled(place: Path, reused: tuple[Path, dict[str, object]], cache_folder: Path) -> tuple[Path, dict[str, object]]:
    """A clone moved to the toolchain that compiles, and compiled once, whole."""
    root = place / "kernels"
    run("git", "clone", "-q", reused[0], root, cwd=place)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XFDEV_CACHE", str(cache_folder))
        result = xfdev("up", root, "--arch", "9.0", cwd=place)
    return root, result


@pytest.fixture
def fresh(compiled: tuple[Path, dict[str, object]], place: Path) -> Iterator[Path]:
    """A fresh clone whose environment is that of ``compiled``, at the same place in the clone."""
    clone = place / "fresh"
    run("git", "clone", "-q", compiled[0], clone, cwd=place)
    (clone / ".venv").symlink_to(compiled[0] / ".venv")
    yield clone
    shutil.rmtree(clone)


def test_a_full_compile_says_what_it_was_and_makes_a_bundle(compiled: tuple[Path, dict[str, object]]) -> None:
    root, result = compiled
    assert result["verdict"] == "full"
    assert len(result["compiled"]) + len(result["restored"]) == 13  # type: ignore[arg-type]
    listed = xfdev("bundle", "list", cwd=root)
    mine = [entry for entry in listed["bundles"] if entry["kind"] == "build"]  # type: ignore[attr-defined, index]
    assert [entry["arch"] for entry in mine] == ["9.0"]
    shown = xfdev("bundle", "show", mine[0]["id"][:8], cwd=root)["manifest"]
    assert shown["needs"]["sass"] == ["9.0"]  # type: ignore[index]
    assert shown["needs"]["cuda"] == "13"  # type: ignore[index]
    assert shown["needs"]["torch"] == ">=2.10", "read from its symbols: it keeps to the stable ABI"  # type: ignore[index]
    assert all(unit["seconds"] and unit["peak"] > 50e6 for unit in shown["units"])  # type: ignore[index]
    assert xfdev("check", root, cwd=root)["problems"] == []


def test_a_fresh_clone_reuses_the_bundle(fresh: Path) -> None:
    result = xfdev("link", fresh, cwd=fresh)
    assert (result["verdict"], result["compiled"]) == ("reuse", [])


def test_one_edited_kernel_compiles_one_unit(fresh: Path) -> None:
    source = fresh / SMALL
    source.write_text(source.read_text() + '\nextern "C" int xfdev_probe() { return 42; }\n')
    plan = xfdev("plan", fresh, cwd=fresh)
    assert plan["verdict"] == "partial"
    assert list(plan["affected"]) == [SMALL]  # type: ignore[call-overload]
    assert plan["seconds"] > 1  # type: ignore[operator]
    assert plan["peak_bytes"] > 50e6  # type: ignore[operator]
    result = xfdev("build", fresh, cwd=fresh)
    assert result["compiled"] == [SMALL]
    assert len(result["restored"]) == 12  # type: ignore[arg-type]
    code = "import torch, ctypes, xformers as x; print(ctypes.CDLL(x.__path__[0] + '/_C.so').xfdev_probe())"
    told = run(fresh / ".venv/bin/python", "-c", code, cwd=fresh)
    assert told.stdout.strip().endswith("42"), told.stderr
    again = xfdev("build", fresh, cwd=fresh)
    assert (again["verdict"], again["compiled"]) == ("reuse", [])


def test_a_header_of_cutlass_affects_exactly_the_units_that_read_it(fresh: Path) -> None:
    header = fresh / "third_party/cutlass/include/cutlass/numeric_types.h"
    header.write_text(header.read_text() + "\n// edited\n")
    plan = xfdev("plan", fresh, cwd=fresh)
    assert plan["verdict"] == "partial"
    affected = set(plan["affected"])  # type: ignore[call-overload]
    assert "xformers/csrc/sparse24/gemm.cu" in affected
    assert "xformers/csrc/nvcc_info.cu" not in affected
    unread = fresh / "third_party/cutlass/include/cutlass/epilogue/dispatch_policy.hpp"
    header.write_text(header.read_text().removesuffix("\n// edited\n"))
    assert xfdev("plan", fresh, cwd=fresh)["verdict"] == "reuse"
    assert unread.exists()


def test_pip_install_typed_by_hand_takes_objects_from_the_same_cache(
    compiled: tuple[Path, dict[str, object]], tmp_path: Path
) -> None:
    root, _ = compiled
    log = tmp_path / "launches"
    pip = [root / ".venv/bin/python", "-m", "pip", "install", "--no-deps", "-e", "."]
    done = run(*pip, cwd=root, env={**os.environ, "XFDEV_LAUNCH_LOG": str(log)})
    assert done.returncode == 0, done.stderr
    launches = log.read_text().splitlines()
    assert len(launches) == 13
    assert [line for line in launches if not line.startswith("hit ")] == []
    assert xfdev("link", root, cwd=root)["changed"] is True, "its own build is put back"
    assert xfdev("check", root, cwd=root)["problems"] == []
