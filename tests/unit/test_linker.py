"""xfdev.linker with programs that are empty files on a PATH of their own."""

from __future__ import annotations

from pathlib import Path

import pytest

from xfdev import linker

LINK = ("g++", "-shared", "a.o", "-o", "a.so")


@pytest.fixture
def with_linkers(tmp_path: Path) -> dict[str, str]:
    for name in ("ld.mold", "ld.lld"):
        (tmp_path / name).touch(mode=0o755)
    return {"PATH": str(tmp_path)}


def test_the_fastest_there_is(with_linkers: dict[str, str]) -> None:
    assert linker.faster(LINK, with_linkers) == [*LINK, "-fuse-ld=mold"]
    Path(with_linkers["PATH"], "ld.mold").unlink()
    assert linker.faster(LINK, with_linkers) == [*LINK, "-fuse-ld=lld"]
    Path(with_linkers["PATH"], "ld.lld").unlink()
    assert linker.faster(LINK, with_linkers) is None


@pytest.mark.parametrize(
    "driver", ["g++", "/usr/bin/gcc-12", "c++", "cc", "clang++-18", "x86_64-linux-gnu-g++", "aarch64-linux-gnu-gcc-12"]
)
def test_drivers_that_take_the_option(with_linkers: dict[str, str], driver: str) -> None:
    assert linker.faster([driver, *LINK[1:]], with_linkers) is not None


@pytest.mark.parametrize("driver", ["nvcc", "ld", "/usr/bin/ld.bfd", "ar", "icpx"])
def test_drivers_that_do_not(with_linkers: dict[str, str], driver: str) -> None:
    assert linker.faster([driver, *LINK[1:]], with_linkers) is None


@pytest.mark.parametrize("word", ["-fuse-ld=gold", "--ld-path=/x/ld", "-B/opt/binutils", "@flags.rsp"])
def test_a_project_that_chose_its_linker_keeps_it(with_linkers: dict[str, str], word: str) -> None:
    assert linker.faster([*LINK, word], with_linkers) is None
