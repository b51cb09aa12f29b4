"""A file saved while it is compiled: what was compiled of it as it was must not come back for what it is now."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from test_launcher_nvcc import launcher  # noqa: F401 - the fixture

#: The header is read first, and the rest takes some tenths of a second.
UNIT = """
#include "value.h"
#include <map>
#include <string>
extern "C" int value() { return VALUE + int(std::map<std::string, int>().size()); }
"""


class Bench:
    def __init__(self, folder: Path, program: Path) -> None:
        self.folder, self.program = folder, program
        self.number = 0
        self.environ = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("CCACHE_", "XFDEV_"))},
            "HOME": str(folder),
            "CCACHE_DIR": str(folder / "cache"),
            "XFDEV_LAUNCH_LOG": str(folder / "log"),
        }
        self.words = ["g++", "-Iinclude", "-c", "unit.cpp", "-o", "unit.o"]
        (folder / "include").mkdir()
        self.source, self.header = folder / "unit.cpp", folder / "include/value.h"
        self.source.write_text(UNIT)
        self.save(self.header)

    def save(self, path: Path) -> None:
        """Give *path* contents that it never had."""
        self.number += 1
        path.write_text(f"#define VALUE {self.number}\n" if path == self.header else f"{UNIT}int n{self.number};\n")

    def replace(self, path: Path) -> None:
        """The same by another file with an old time, as some editors and git do."""
        beside = self.folder / "aside"
        shutil.copyfile(path, beside)
        self.save(path)
        beside.write_bytes(path.read_bytes())
        os.utime(beside, (1, 1))
        beside.replace(path)

    def start(self, *command: str, **environ: str) -> subprocess.Popen[bytes]:
        (self.folder / "unit.o").unlink(missing_ok=True)
        return subprocess.Popen(
            [*command, *self.words], cwd=self.folder, env={**self.environ, **environ}, stderr=subprocess.PIPE
        )

    def run(self, *command: str, **environ: str) -> bytes:
        process = self.start(*command, **environ)
        _, said = process.communicate()
        assert process.returncode == 0, said.decode()
        return (self.folder / "unit.o").read_bytes()

    def saved_meanwhile(
        self, change: Callable[[Path], None], path: Path, after: float, *command: str, **environ: str
    ) -> None:
        change(path)
        time.sleep(0.3)  # this was before the compile, for everybody
        process = self.start(*command, **environ)
        time.sleep(after)
        change(path)
        _, said = process.communicate()
        assert process.returncode == 0, said.decode()
        assert (self.folder / "unit.o").exists(), "a compile gives its object, stored or not"
        time.sleep(0.05)  # whatever comes now has another time

    def stored(self) -> bool:
        """Whether the last compile of the launcher came from the cache."""
        return (self.folder / "log").read_text().splitlines()[-1].startswith("hit")


@pytest.fixture
def bench(tmp_path: Path, launcher: Path) -> Bench:  # noqa: F811
    return Bench(tmp_path, launcher)


def test_ccache_alone_gives_the_old_object_for_the_new_header(bench: Bench) -> None:
    """Where a later ccache has mended this, this test fails, and the guard can go."""
    read, saved = bench.folder / "read", bench.folder / "saved"
    slow = bench.folder / "compiler"  # it has compiled, and does not end before the header was saved
    slow.write_text(f'#!/bin/sh\ng++ "$@" && touch {read} && until [ -e {saved} ]; do sleep 0.01; done\n')
    slow.chmod(0o755)
    bench.source.write_text('#include "value.h"\nextern "C" int value() { return VALUE; }\n')
    bench.words = [str(slow), "-MD", "-MF", "unit.d", *bench.words[1:]]
    alone: Mapping[str, str] = {"CCACHE_DEPEND": "1", "CCACHE_SLOPPINESS": ""}
    command = f"{bench.program}.real"
    for _ in range(60):
        bench.save(bench.header)
        time.sleep(0.3)
        read.unlink(missing_ok=True)
        saved.unlink(missing_ok=True)
        process = bench.start(command, **alone)
        while not read.exists() and process.poll() is None:
            time.sleep(0.001)
        bench.save(bench.header)
        saved.touch()
        process.communicate()
        if bench.run(command, **alone) != bench.run():
            return
    pytest.fail("not in 60 tries")


@pytest.mark.parametrize("how", ["save", "replace"])
@pytest.mark.parametrize("what", ["header", "source"])
def test_what_was_saved_while_it_was_compiled_is_compiled_again(bench: Bench, how: str, what: str) -> None:
    command = str(bench.program)
    change, path = getattr(bench, how), getattr(bench, what)
    moved = 0
    for step in range(16):
        bench.saved_meanwhile(change, path, 0.02 * step, command)
        assert bench.run(command) == bench.run(), f"saved {0.02 * step:.2f} s after the start"
        moved += not bench.stored()
        assert bench.run(command) == (bench.folder / "unit.o").read_bytes()
        assert bench.stored(), "it is stored when nothing is saved meanwhile"
        assert not list(bench.folder.glob("*.compiling"))
    assert moved, "no compile was met"


def test_a_compile_that_fails_fails(bench: Bench) -> None:
    bench.source.write_text(UNIT + "no c++ at all\n")
    process = bench.start(str(bench.program))
    _, said = process.communicate()
    assert process.returncode == 1
    assert b"error" in said
    assert not (bench.folder / "unit.o").exists()


def test_in_a_folder_with_a_space(tmp_path: Path, launcher: Path) -> None:  # noqa: F811
    shutil.copytree(launcher.parent, tmp_path / "with space")
    (tmp_path / "work").mkdir()
    bench = Bench(tmp_path / "work", tmp_path / "with space" / "ccache")
    command = str(bench.program)
    bench.saved_meanwhile(bench.save, bench.header, 0.06, command)
    assert bench.run(command) == bench.run()
    assert bench.run(command) == bench.run()
    assert bench.stored()
