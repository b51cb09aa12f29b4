"""xfdev.elf on what the real compiler and linker write."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from xfdev import elf
from xfdev.errors import BadBundle

SOURCE = """
#include <stdexcept>
#include <string>
namespace c10 { struct Half { float value; }; float twice(const Half &); }
extern "C" void *PyLong_FromLong(long);
extern "C" int aoti_torch_abi_version();
extern "C" void *offered(float x) {
    if (x < 0) throw std::runtime_error(std::to_string(x));
    return PyLong_FromLong(static_cast<long>(c10::twice(c10::Half{x})) + aoti_torch_abi_version());
}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    if shutil.which("g++") is None:
        reason = "no g++"
        if os.environ.get("XFDEV_REQUIRE"):
            pytest.fail(reason)
        pytest.skip(reason)
    (tmp_path / "lib.cpp").write_text(SOURCE)
    return tmp_path


def compile_it(folder: Path, *words: str) -> None:
    subprocess.run(["g++", "-fPIC", "lib.cpp", *words], cwd=folder, check=True)


def test_a_linked_library(folder: Path) -> None:
    compile_it(folder, "-shared", "-Wl,-soname,lib.so.1", "-Wl,-rpath,$ORIGIN:/opt/lib", "-o", "lib.so")
    found = elf.read(folder / "lib.so")
    assert found.machine == os.uname().machine
    assert (found.soname, found.rpath) == ("lib.so.1", ("$ORIGIN", "/opt/lib"))
    assert {"libstdc++.so.6", "libc.so.6"} <= set(found.needed)
    assert found.glibc is not None
    assert (2, 2) <= found.glibc < (3,)
    assert found.glibcxx is not None
    assert found.glibcxx >= (3, 4)
    assert found.cxxabi is not None
    assert found.cxxabi >= (1, 3)
    assert found.python_symbols == {"PyLong_FromLong"}
    assert found.torch_symbols_outside_stable_abi == {"_ZN3c105twiceERKNS_4HalfE"}
    assert "aoti_torch_abi_version" in found.undefined
    assert "offered" not in found.undefined
    assert "offered" in elf.exports(folder / "lib.so")


def test_an_object_file_is_no_library(folder: Path) -> None:
    compile_it(folder, "-c", "-o", "lib.o")
    with pytest.raises(BadBundle):
        elf.read(folder / "lib.o")
