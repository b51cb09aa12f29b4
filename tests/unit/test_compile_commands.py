"""What clangd is told of recorded commands."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from xfdev import compile_commands
from xfdev.bundle import Manifest, Places, Unit
from xfdev.commands import apply
from xfdev.compile_commands import Cuda, device_arch, for_clangd
from xfdev.errors import DiskFull

CUDA = Cuda("/cuda", ("/cuda/include/cccl",), "13.0.88 (c2188ad8ed7f)")
SOURCE = "/tree/csrc/a.cu"


def told(*options: str) -> list[str]:
    """What becomes of *options* between nvcc and the source: what stands in every command is left out."""
    words = for_clangd(["/cuda/bin/nvcc", *options, "-c", SOURCE, "-o", "/tmp/a.o"], SOURCE, CUDA)
    always = for_clangd(["/cuda/bin/nvcc", "-c", SOURCE, "-o", "/tmp/a.o"], SOURCE, CUDA)
    start, end = always.index("-D__CUDACC_VER_BUILD__=88") + 1, always.index("-isystem")
    assert words[-len(always[end:]) :] == always[end:]
    return words[start : len(words) - len(always[end:])]


def test_a_command_as_torch_writes_it() -> None:
    argv = [
        *(
            "/cuda/bin/nvcc",
            "-MD",
            "-MF",
            "/tree/.xfdev/build/temp/csrc/a.o.d",
            "-I/tree/csrc",
            "-I/site/torch/include",
        ),
        *("-c", "-c", SOURCE, "-o", "/tree/.xfdev/build/temp/csrc/a.o", "-D__CUDA_NO_HALF_OPERATORS__"),
        *("--expt-relaxed-constexpr", "--compiler-options", "'-fPIC'", "--use_fast_math", "--extended-lambda"),
        *("-U__CUDA_NO_HALF_OPERATORS__", "-std=c++17", "--generate-line-info", "--threads", "4"),
        *("--ptxas-options=-v", "-O3", "-DTORCH_EXTENSION_NAME=_C", "-gencode=arch=compute_90,code=sm_90"),
    ]
    assert for_clangd(argv, SOURCE, CUDA) == [
        *("clang++", "-x", "cuda", "--cuda-path=/cuda", "--cuda-gpu-arch=sm_90"),
        *("--cuda-device-only", "--no-cuda-version-check", "-Wno-unknown-cuda-version"),
        *("-D__CUDACC_VER_MAJOR__=13", "-D__CUDACC_VER_MINOR__=0", "-D__CUDACC_VER_BUILD__=88"),
        *("-I", "/tree/csrc", "-I", "/site/torch/include", "-D", "__CUDA_NO_HALF_OPERATORS__"),
        *("-D__CUDACC_RELAXED_CONSTEXPR__", "-D__CUDACC_EXTENDED_LAMBDA__", "-U", "__CUDA_NO_HALF_OPERATORS__"),
        *("-std=c++17", "-D", "TORCH_EXTENSION_NAME=_C", "-fPIC", "-isystem", "/cuda/include/cccl", "-c", SOURCE),
    ]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["-Xcompiler", "-Wall,-fopenmp"], ["-Wall", "-fopenmp"]),
        (['-Xcompiler=-DNAME="a,b",-fPIC'], ["-DNAME=a,b", "-fPIC"]),
        (["--compiler-options", "-fno-gnu-unique -O2"], ["-O2"]),
        (["-Xcompiler", '"unfinished'], []),
        (["-Xptxas", "-v,-O2", "-Xfatbin", "-compress-all", "-Xcudafe=--diag_suppress=20012", "-t4"], []),
        (["-ccbin", "/usr/bin/g++-13", "--generate-dependencies-with-compile", "-DA"], ["-D", "A"]),
        (["-D", "A=1,B=2", "-DC=1\\,2"], ["-D", "A=1", "-D", "B=2", "-D", "C=1,2"]),
        (["-isystem=/one,/two", "--include-path", "/three"], ["-isystem", "/one", "-isystem", "/two", "-I", "/three"]),
        (["-include", "/tree/config.h", "--std", "c++20"], ["-include", "/tree/config.h", "-std=c++20"]),
        (["-dc"], ["-fgpu-rdc"]),
        (["--relocatable-device-code=true"], ["-fgpu-rdc"]),
        (["-rdc=false"], []),
        (["-Wnonsense", "--of-tomorrow", "value", "-"], []),
        (["-Wextra", "-forward-unknown-to-host-compiler", "-fopenmp", "-lineinfo"], ["-Wextra", "-fopenmp"]),
    ],
)
def test_options(options: list[str], expected: list[str]) -> None:
    assert told(*options) == expected


@pytest.mark.parametrize(
    ("given", "arch"),
    [
        (["arch=compute_80,code=sm_80", "arch=compute_100,code=sm_100"], "sm_100"),
        (["arch=compute_90a,code=sm_90a", "arch=compute_90,code=[sm_90,compute_90]"], "sm_90a"),
        (["arch=compute_75,code=compute_75"], "sm_75"),
        (["sm_86"], "sm_86"),
        (["all-major"], "sm_90"),
        ([], "sm_90"),
    ],
)
def test_device_code_is_read_for_the_newest_arch(given: list[str], arch: str) -> None:
    assert device_arch(given) == arch


def test_a_command_of_gcc_keeps_all_but_what_clang_refuses() -> None:
    argv = [
        *("c++", "-MMD", "-MF", "/t/a.o.d", "-Wall", "-fPIC", "-fabi-version=11", "-Werror", "-I/tree", "-c", "-c"),
        *("/tree/a.cpp", "-o", "/t/a.o", "-O3", "-std=c++17", "-fopenmp"),
    ]
    assert for_clangd(argv, "/tree/a.cpp", CUDA) == [
        *("c++", "-Wall", "-fPIC", "-I/tree", "-O3", "-std=c++17", "-fopenmp", "-c", "/tree/a.cpp"),
    ]


def places(checkout: Path, cuda: str | None) -> Places:
    return Places(str(checkout), "/env/site", "/env", cuda, "/usr/include/python3", "/usr")


def test_the_database_of_a_manifest(tmp_path: Path) -> None:
    units = (
        Unit("csrc/a.cu", "temp/a.o", ("%{cuda}/bin/nvcc", "-I%{site}/torch", "-c", "%{checkout}/csrc/a.cu")),
        Unit("b.cpp", "temp/b.o", ("c++", "-I%{prefix}/include", "-c", "%{checkout}/b.cpp", "-o", "b.o")),
    )
    variables = {"NVCC_APPEND_FLAGS": "-DLAST -Xcompiler -Wa,-Wb", "NVCC_PREPEND_FLAGS": "-I%{site}/first"}
    manifest = Manifest("p", "1", "build", facts={"nvcc": "12.8.61 (x)"}, variables=variables, units=units)
    (tmp_path / "cuda/include/cccl").mkdir(parents=True)
    database = tmp_path / "compile_commands.json"
    compile_commands.write(database, manifest, places(tmp_path, str(tmp_path / "cuda")))
    first, second = json.loads(database.read_text())
    assert {first["directory"], second["directory"]} == {str(tmp_path)}
    assert (first["file"], second["file"]) == (f"{tmp_path}/csrc/a.cu", f"{tmp_path}/b.cpp")
    words = " ".join(first["arguments"])
    assert f"--cuda-path={tmp_path}/cuda" in words
    assert "-D__CUDACC_VER_MAJOR__=12 -D__CUDACC_VER_MINOR__=8 -D__CUDACC_VER_BUILD__=61" in words
    assert "-I /env/site/first -I /env/site/torch -D LAST -Wa -Wb" in words
    assert f"-isystem {tmp_path}/cuda/include/cccl" in words
    assert second["arguments"] == ["c++", "-I/env/include", "-c", f"{tmp_path}/b.cpp"]


def test_a_database_that_says_the_same_is_not_written_again(tmp_path: Path) -> None:
    manifest = Manifest("p", "1", "build", units=(Unit("b.cpp", "b.o", ("c++", "-c", "%{checkout}/b.cpp")),))
    database = tmp_path / "compile_commands.json"
    compile_commands.write(database, manifest, places(tmp_path, None))
    first = database.stat()
    compile_commands.write(database, manifest, places(tmp_path, None))
    assert (database.stat().st_ino, database.stat().st_mtime_ns) == (first.st_ino, first.st_mtime_ns)
    compile_commands.write(database, manifest, places(tmp_path / "moved", None))
    assert database.stat().st_ino != first.st_ino


# -- when it is written ------------------------------------------------------------------------------------------

COMPILED = Manifest("p", "1", "build", units=(Unit("b.cpp", "b.o", ("c++", "-c", "%{checkout}/b.cpp")),))
RELEASE = Manifest("p", "1", "release")


def tell(root: Path, manifest: Manifest, *, changed: bool = True) -> str | None:
    """The database after *manifest* was linked in *root*, None if there is none."""
    (root / ".xfdev").mkdir(exist_ok=True)
    session: Any = SimpleNamespace(root=root, places=places(root, None))
    decided: Any = SimpleNamespace(candidate=SimpleNamespace(manifest=manifest))
    apply._tell_editors(session, decided, None, changed=changed)
    database = root / apply.DATABASE
    return database.read_text() if database.exists() else None


def test_an_official_wheel_tells_nothing_of_how_it_was_compiled(tmp_path: Path) -> None:
    assert tell(tmp_path, RELEASE) is None
    (tmp_path / ".xfdev" / "recipe.json").write_bytes(COMPILED.to_bytes())  # it was compiled here, too
    assert "b.cpp" in (tell(tmp_path, RELEASE) or "")


def test_where_nothing_changed_only_a_missing_database_is_written(tmp_path: Path) -> None:
    assert "b.cpp" in (tell(tmp_path, COMPILED, changed=False) or "")
    (tmp_path / apply.DATABASE).write_text("[]")
    assert tell(tmp_path, COMPILED, changed=False) == "[]"
    assert "b.cpp" in (tell(tmp_path, COMPILED) or "")


def test_a_database_that_cannot_be_written_fails_no_link(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: object) -> None:
        raise DiskFull("no space left")

    monkeypatch.setattr(compile_commands, "write_atomic", full)
    assert tell(tmp_path, COMPILED) is None
    assert "no space left" in capsys.readouterr().err
