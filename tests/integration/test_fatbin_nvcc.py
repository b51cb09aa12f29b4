"""xfdev.fatbin on what the real nvcc writes: the archs asked for on its command line are the truth."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from xfdev import elf, fatbin

KERNEL = """
static __global__ void scale(float *x, int n) { int i = blockIdx.x * blockDim.x + threadIdx.x; if (i < n) x[i] *= 2.f; }
extern "C" void NAME(float *x, int n) { scale<<<1, n>>>(x, n); }
"""
HOST_ONLY = 'extern "C" int NAME(int x) { return x + 1; }'


def missing(reason: str) -> None:
    """Skip for *reason*, or fail where XFDEV_REQUIRE says that everything is there."""
    if os.environ.get("XFDEV_REQUIRE"):
        pytest.fail(reason)
    pytest.skip(reason)


class Nvcc:
    def __init__(self, program: str, folder: Path) -> None:
        self.program, self.folder = program, folder
        match = re.search(r"release (\d+)\.(\d+)", self("--version"))
        self.release = (int(match[1]), int(match[2])) if match else (0, 0)

    def __call__(self, *words: str) -> str:
        done = subprocess.run(
            [self.program, *words], cwd=self.folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        assert done.returncode == 0, done.stdout
        return done.stdout

    def unit(self, name: str, source: str, codes: str, *options: str) -> str:
        """Compile *source* for *codes* ("90a 80+PTX"); the object file's name."""
        (self.folder / f"{name}.cu").write_text(source.replace("NAME", name))
        archs = []
        for code in codes.split():
            number = code.removesuffix("+PTX")
            real = f"[sm_{number},compute_{number}]" if code.endswith("+PTX") else f"sm_{number}"
            archs += ["-gencode", f"arch=compute_{number},code={real}"]
        self("-c", "-Xcompiler", "-fPIC", *archs, *options, f"{name}.cu", "-o", f"{name}.o")
        return f"{name}.o"

    def shared(self, *words: str) -> fatbin.FatBinary:
        self("-shared", *words, "-o", "lib.so")
        return fatbin.read(self.folder / "lib.so")


@pytest.fixture
def nvcc(tmp_path: Path) -> Nvcc:
    home = os.environ.get("CUDA_HOME", "/usr/local/cuda")
    program = shutil.which("nvcc", path=os.pathsep.join((os.environ.get("PATH", ""), f"{home}/bin")))
    if program is None:
        missing(f"no nvcc on PATH or in {home}/bin")
    if shutil.which("g++") is None:
        missing("no g++, which nvcc needs")
    return Nvcc(str(program), tmp_path)


@pytest.mark.parametrize(
    "options",
    [
        (),
        ("--no-compress",),
        ("-Xfatbin", "-compress-all"),
        ("--compress-mode=none",),
        ("--compress-mode=size",),
        ("--compress-mode=speed",),
        ("--compress-mode=balance",),
        ("--compress-mode=speed", "-Xfatbin", "-compress-all"),
    ],
    ids=" ".join,
)
def test_archs_whatever_the_compression(nvcc: Nvcc, options: tuple[str, ...]) -> None:
    help_text = nvcc("--help")
    for option in options:
        name = option.split("=")[0]
        if name.startswith("--") and name not in help_text:
            pytest.skip(f"nvcc {nvcc.release} has no option {name}")
    new = nvcc.release >= (12, 9)  # the first with archs of a family
    unit = nvcc.unit("one", KERNEL, "75 80+PTX 90a+PTX" + (" 100f+PTX 120a" if new else ""), *options)
    found = fatbin.read(nvcc.folder / unit)
    assert found.sass == {"7.5", "8.0", "9.0a", *(("10.0f", "12.0a") if new else ())}
    assert found.ptx == {"8.0", "9.0a", *(("10.0f",) if new else ())}
    subprocess.run(["g++", "-shared", unit, "-o", "lib.so"], cwd=nvcc.folder, check=True)
    assert fatbin.read(nvcc.folder / "lib.so") == found
    assert elf.read(nvcc.folder / "lib.so").undefined >= {"__cudaRegisterFatBinary"}


def test_plain_and_specific_archs_side_by_side(nvcc: Nvcc) -> None:
    found = nvcc.shared(nvcc.unit("one", KERNEL, "90+PTX 90a"))
    assert (found.sass, found.ptx) == (frozenset(("9.0", "9.0a")), frozenset(("9.0",)))


def test_units_of_different_archs(nvcc: Nvcc) -> None:
    objects = (
        nvcc.unit("both", KERNEL, "80+PTX 90a"),
        nvcc.unit("one", KERNEL, "80"),
        nvcc.unit("host", HOST_ONLY, "75"),
    )
    # Linked without any arch, so for the compiler's default one: nothing runs on that.
    found = nvcc.shared(*objects)
    assert [unit.sass for unit in found.units] == [{"8.0", "9.0a"}, {"8.0"}, {"7.5"}]
    assert [unit.code for unit in found.units] == [True, True, False]
    assert found.common_sass == {"8.0"}
    assert (found.ptx, found.common_ptx) == (frozenset(("8.0",)), frozenset())


def test_the_linker_s_own_archs_are_not_the_library_s(nvcc: Nvcc) -> None:
    assert nvcc.shared("-arch=sm_90", nvcc.unit("one", KERNEL, "80")).sass == {"8.0"}


def test_relocatable_device_code(nvcc: Nvcc) -> None:
    unit = nvcc.unit("one", KERNEL, "80+PTX 90a", "-rdc=true")
    found = fatbin.read(nvcc.folder / unit)
    assert (found.sass, found.ptx) == (frozenset(("8.0", "9.0a")), frozenset(("8.0",)))
    archs = ("-gencode", "arch=compute_80,code=sm_80", "-gencode", "arch=compute_90a,code=sm_90a")
    found = nvcc.shared("-Xcompiler", "-fPIC", "-rdc=true", *archs, unit)
    assert (found.sass, found.ptx) == (frozenset(("8.0", "9.0a")), frozenset(("8.0",)))


def test_no_device_code(nvcc: Nvcc) -> None:
    (nvcc.folder / "plain.cpp").write_text(HOST_ONLY.replace("NAME", "plain"))
    subprocess.run(["g++", "-shared", "-fPIC", "plain.cpp", "-o", "lib.so"], cwd=nvcc.folder, check=True)
    assert fatbin.read(nvcc.folder / "lib.so") == fatbin.FatBinary(frozenset(), frozenset())
