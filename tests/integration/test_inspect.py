"""``xfdev inspect`` and ``build --dry-run``: the command as it is run, kernels of a real nvcc read by CUDA's tools."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

import support
from faultkit import Scene, edit


@pytest.fixture
def scene(tmp_path: Path, plain_prefix: Path) -> Scene:
    return Scene(tmp_path, plain_prefix)


def code(path: Path) -> bytes:
    """An object without its debug information: in that, ccache has the names of files relative."""
    target = path.with_name("stripped")
    subprocess.run(["objcopy", "--strip-debug", path, target], check=True)
    return target.read_bytes()


def test_the_command_is_the_one_that_compiles(scene: Scene) -> None:
    root = scene.checkout()
    nothing = scene.xfdev("inspect", "one.cpp", root, "--venv", scene.prefix)
    assert (nothing.status, "--only one.cpp" in nothing.stderr) == (27, True)
    scene.build(root)
    made = root / ".xfdev" / "build" / "temp" / "csrc" / "one.o"
    before = code(made)
    said = scene.good("inspect", "one.cpp", root, "--venv", scene.prefix)
    assert said["unit"] == "csrc/one.cpp"
    made.unlink()
    subprocess.run(["sh", "-c", said["command"]], check=True, env=scene.environ)
    assert code(made) == before
    assert scene.xfdev("inspect", "*.cpp", root, "--venv", scene.prefix).status == 2
    assert scene.xfdev("inspect", "nine.cpp", root, "--venv", scene.prefix).status == 27
    assert scene.xfdev("inspect", "one.cpp", root, "--venv", scene.prefix, "--sass").status == 2


def test_dry_run(scene: Scene) -> None:
    root = scene.checkout()
    assert scene.xfdev("build", root, "--venv", scene.prefix, "--dry-run").status == 27
    scene.build(root)
    assert scene.good("build", root, "--venv", scene.prefix, "--dry-run")["lines"] == ["nothing to compile"]
    edit(root / "include" / "shared.h", "SHARED 1", "SHARED 2")
    said = scene.good("build", root, "--venv", scene.prefix, "--dry-run")
    assert set(said["commands"]) == {"csrc/one.cpp", "csrc/inner/second.cpp"}
    assert said["lines"][0] == f"cd {shlex.quote(said['folder'])}"
    assert scene.good("plan", root, "--venv", scene.prefix)["verdict"] == "partial", "something was compiled"
    one = scene.good("build", root, "--venv", scene.prefix, "--dry-run", "--only", "*/two.*")
    assert list(one["commands"]) == ["csrc/two.cpp"]


def test_only_units_that_match(scene: Scene) -> None:
    root = scene.checkout()
    scene.build(root)
    edit(root / "include" / "shared.h", "SHARED 1", "SHARED 2")
    assert scene.build(root, "--only", "inner/*.cpp")["compiled"] == ["csrc/inner/second.cpp"]
    assert scene.build(root)["compiled"] == ["csrc/one.cpp"]


def test_one_unit_of_what_is_linked_from_a_bundle(scene: Scene) -> None:
    root = scene.checkout()
    scene.good("prebuild", root, "--venv", scene.prefix)
    shutil.rmtree(root / ".xfdev")
    scene.good("link", root, "--venv", scene.prefix)
    said = scene.build(root, "--only", "one.cpp")
    assert (said["restored"], said["phases"].get("asking the build script")) == (["csrc/one.cpp"], None)
    assert (root / ".xfdev" / "build" / "temp" / "csrc" / "one.o").exists()
    assert scene.good("plan", root, "--venv", scene.prefix)["verdict"] == "reuse"


@pytest.fixture
def kernels(tmp_path: Path, cuda_prefix: Path) -> tuple[Scene, Path]:
    scene = Scene(tmp_path, cuda_prefix)
    root = shutil.copytree(support.PROJECTS / "kernels", tmp_path / "kernels")
    scene.git(root, "init", "-q")
    scene.commit(root)
    return replace(scene, environ={**scene.environ, "XFDEV_ARCH": "8.0;9.0"}), root.resolve()


def test_kernels_and_what_changed_in_them(kernels: tuple[Scene, Path]) -> None:
    scene, root = kernels
    scene.build(root, "--only", "third.cu")
    words = ("inspect", "third.cu", root, "--venv", scene.prefix)
    said = scene.good(*words)
    assert [(entry["name"], entry["now"]["arch"], entry["before"]) for entry in said["kernels"]] == [
        ("third_kernel(int*)", "sm_80", None),
        ("third_kernel(int*)", "sm_90", None),
    ]
    assert not any("new" in line for line in said["lines"]), "there was no build before"
    edit(
        root / "csrc" / "third.cu",
        "{ *out = 0x5eed2000; }",
        "{ __shared__ int all[64]; all[threadIdx.x] = *out; __syncthreads(); *out = all[63 - threadIdx.x]; }\n"
        "__global__ void fourth_kernel() {}",
    )
    scene.build(root, "--only", "third.cu")
    said = scene.good(*words, "--spills")
    shared = {entry["name"]: entry for entry in said["kernels"] if entry["now"]["arch"] == "sm_90"}
    grown = [shared["third_kernel(int*)"][when]["shared"] for when in ("now", "before")]
    assert (grown[0] - grown[1]) % 1024 == 256, "a kernel with any has 1024 bytes for the system"
    assert shared["third_kernel(int*)"]["now"]["spills"] == [0, 0]
    assert shared["fourth_kernel()"]["before"] is None
    assert any("new: fourth_kernel()" in line for line in said["lines"])
    sass = scene.good(*words, "--sass", "--kernel", "third")["sass"]
    assert "Function : _Z12third_kernelPi" in sass
    assert "fourth" not in sass
    ptx = scene.good(*words, "--ptx")["ptx"]
    assert ".target sm_90" in ptx
    assert ".entry _Z12third_kernelPi" in ptx
    assert scene.good(*words, "--kernel", "nothing")["kernels"] == []
    assert "nvcc" in scene.good(*words, "--command")["command"]


def test_a_missing_tool_is_named(kernels: tuple[Scene, Path], tmp_path: Path) -> None:
    from xfdev import cuda_tools, errors, venv

    environment = venv.read(kernels[0].prefix)
    assert environment is not None
    bare = replace(environment, prefix=tmp_path, cuda_home=None)
    with pytest.raises(errors.CommandFailed) as raised:
        cuda_tools.find("cuobjdump", bare, {"PATH": os.defpath})
    assert "cuobjdump" in str(raised.value)
    assert raised.value.hint.endswith("-m pip install nvidia-cuda-cuobjdump")


@pytest.mark.parametrize("kind", ["g++", "nvcc"])
def test_errors_of_real_compilers_are_found_by_the_tasks_of_an_editor(
    tmp_path: Path, kind: str, request: pytest.FixtureRequest
) -> None:
    import re

    from xfdev import editor_tasks

    if kind == "nvcc":
        prefix = request.getfixturevalue("cuda_prefix")
        compiler = str(next(prefix.glob("lib/python*/site-packages/nvidia/cu*/bin/nvcc")))
    else:
        compiler = "c++"
    source = tmp_path / ("bad.cu" if kind == "nvcc" else "bad.cpp")
    source.write_text("int good() { return 0; }\nint bad() { return nothing; }\n")
    done = subprocess.run([compiler, "-c", source, "-o", tmp_path / "bad.o"], capture_output=True, text=True)
    assert done.returncode != 0
    matchers = editor_tasks.tasks()["tasks"][0]["problemMatcher"]
    pattern = next(matcher["pattern"] for matcher in matchers if matcher["source"] == kind)
    found = [match for line in (done.stdout + done.stderr).splitlines() if (match := re.match(pattern["regexp"], line))]
    assert [(match[pattern["file"]], match[pattern["line"]]) for match in found] == [(str(source), "2")]
    assert "nothing" in found[0][pattern["message"]]
