"""A real environment with torch and nvcc: after every edit, what xfdev builds and what is built by hand in it are what
the sources say, on the host and for each arch. The project is tests/projects/kernels, its device code is read as bytes:
no GPU is needed."""

from __future__ import annotations

import ctypes
import os
import re
import shutil
import struct
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

import support

#: An environment to use instead of making one (5.4 GB, two minutes); it must have archs 8.0 and 9.0.
GIVEN = os.environ.get("XFDEV_TEST_CUDA_VENV")
NEEDED = 12_000_000_000
EXPECTED = {
    "first": 1001,
    "second": 1002,
    "third": 3,
    "module": 4,
    "8.0": {0x5EED0080, 0x5EED1080, 0x5EED2000},
    "9.0": {0x5EED0090, 0x5EED1090, 0x5EED2000},
}
ALL_HIT = dict.fromkeys(("first", "second", "third", "module"), "hit")


class World:
    """The environment and two checkouts: *hand* is its own, where builds are typed, *other* is xfdev's to build."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.hand, self.other = folder / "kernels", folder / "other"
        self.log = folder / "launches"
        home = folder / "home"
        home.mkdir()
        self.environ = {
            **{key: value for key, value in os.environ.items() if key not in support.foreign_variables(os.environ)},
            **support.own_variables(folder / "own"),
            "HOME": str(home),
            "XFDEV_CACHE": str(folder / "cache"),
            "CCACHE_DIR": str(folder / "cache" / "ccache"),  # as the environment has it, if it was made here
            "MAX_JOBS": "2",
        }
        for checkout in (self.hand, self.other):
            shutil.copytree(support.PROJECTS / "kernels", checkout)
            for words in (["init", "-q"], ["add", "-A"], ["commit", "-q", "-m", "all"]):
                self.run("git", "-C", checkout, *words)
        self.prefix = Path(GIVEN) if GIVEN else self.hand / ".venv"

    def run(self, *words: object, cwd: Path | None = None, fails: bool = False, **environ: str) -> str:
        """What a command prints; its status has to be 0, or not to be with *fails*."""
        done = subprocess.run(
            [str(word) for word in words],
            cwd=cwd or self.hand,
            env={**self.environ, **environ},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert (done.returncode != 0) == fails, f"{words}\n{done.stdout}"
        return done.stdout

    def xfdev(self, *words: object) -> str:
        return self.run(sys.executable, "-m", "xfdev", *words)

    def python(self) -> Path:
        return self.prefix / "bin" / "python"

    def by_hand(self, *words: object, **environ: str) -> tuple[dict[str, object], dict[str, str]]:
        """A build typed in the checkout *hand*: what it made, and what the launcher did: "hit" or "miss" by unit.

        Without a package index, so that a build which pip isolates fails.
        """
        self.log.write_text("")
        for path in (self.hand / "kernels").glob("*.so"):
            path.unlink()
        self.run(*words, XFDEV_LAUNCH_LOG=str(self.log), PIP_NO_INDEX="1", **environ)
        lines = [line.partition(" ") for line in self.log.read_text().splitlines()]
        return facts(self.hand), {Path(path).stem: how for how, _, path in lines}

    def build(self) -> dict[str, object]:
        self.xfdev("build", self.other, "--venv", self.prefix)
        return facts(self.other)

    def edit(self, name: str, old: str, new: str) -> None:
        for checkout in (self.hand, self.other):
            path = checkout / name
            text = path.read_text()
            assert old in text
            path.write_text(text.replace(old, new))

    def write(self, name: str, text: str | None) -> None:
        for checkout in (self.hand, self.other):
            path = checkout / name
            if text is None:
                path.unlink()
            else:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text)


def facts(checkout: Path) -> dict[str, object]:
    """What the library of a checkout returns, and the marked constants in its device code, by arch."""
    (path,) = (checkout / "kernels").glob("_C*.so")
    copy = path.with_name(f"copy-{path.stat().st_mtime_ns}-{path.stat().st_ino}")  # a path is loaded once a process
    shutil.copyfile(path, copy)
    try:
        library = ctypes.CDLL(str(copy))
    finally:
        copy.unlink()
    found: dict[str, object] = {name: getattr(library, name)() for name in ("first", "second", "third", "module")}
    for arch, code in cubins(path.read_bytes()):
        constants = found.setdefault(arch, set())
        assert isinstance(constants, set)
        constants.update(int.from_bytes(match, "little") for match in re.findall(rb"..\xed\x5e", code, re.DOTALL))
    return found


def cubins(library: bytes) -> Iterator[tuple[str, bytes]]:
    """The device code of each unit and arch (the layout is described in xfdev.fatbin)."""
    at = library.find(struct.pack("<I", 0xBA55ED50))
    while at >= 0:
        _, _, header, size = struct.unpack_from("<IHHQ", library, at)
        entry, end = at + header, at + header + size
        while entry < end:
            kind, _, header, size, packed = struct.unpack_from("<HHIQI", library, entry)
            (arch,) = struct.unpack_from("<I", library, entry + 28)
            if kind == 2:
                assert packed == 0
                yield f"{arch // 10}.{arch % 10}", library[entry + header : entry + header + size]
            entry += header + size
        at = library.find(struct.pack("<I", 0xBA55ED50), end)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("cuda")
    if not GIVEN and shutil.disk_usage(folder).free < NEEDED:
        support.missing(f"less than {NEEDED // 10**9} GB free for an environment with torch and CUDA")
    for tool in ("git", "g++"):
        if shutil.which(tool) is None:
            support.missing(f"no {tool}")
    world = World(folder)
    try:
        if GIVEN:
            world.xfdev("build", world.hand, "--venv", GIVEN)
        else:
            done = subprocess.run(
                [sys.executable, "-m", "xfdev", "up", world.hand, "--toolchain", "cu130", "--arch", "8.0;9.0"],
                env=world.environ,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            if done.returncode in (13, 14):
                support.missing(f"torch cannot be fetched: {done.stdout[-500:]}")
            assert done.returncode == 0, done.stdout
        assert facts(world.hand) == EXPECTED
        assert world.build() == EXPECTED
        yield world
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def test_builds_by_hand_reuse_what_xfdev_compiled(world: World) -> None:
    """All the usual ways to type it, with the environment active or not; none is isolated, none compiles."""
    activate = world.prefix / "bin" / "activate"
    ways: list[list[object]] = [
        [world.prefix / "bin" / "pip", "install", "-q", "-e", "."],
        [world.python(), "setup.py", "build_ext", "--inplace"],
        ["bash", "-c", f". {activate} && pip install -q -e ."],
        ["bash", "-c", f". {activate} && python setup.py build_ext --inplace"],
    ]
    for way in ways:
        shutil.rmtree(world.hand / ".xfdev" / "by-hand", ignore_errors=True)
        made, launches = world.by_hand(*way)
        assert made == EXPECTED, way
        assert launches == ALL_HIT, way
        # Not in a temporary folder, nor in ./build: where the launchers know that ninja must not decide by times.
        assert (world.hand / ".xfdev" / "by-hand" / "temp" / "build.ninja").is_file(), way
    assert not (world.hand / "build" / "temp").exists()


EDITS = {
    "host code of a header": ("include/host_only.h", "HOST_ONLY 1", "HOST_ONLY 5", {"first": 1005}),
    "device code of a header, first arch": (
        *("include/tuned_80.h", "0x5eed0080", "0x5eed0081"),
        {"8.0": {0x5EED0081, 0x5EED1080, 0x5EED2000}},
    ),
    "device code of the unit, last arch": (
        *("csrc/second.cu", "0x5eed1090", "0x5eed1091"),
        {"9.0": {0x5EED0090, 0x5EED1091, 0x5EED2000}},
    ),
    "host code of the unit": ("csrc/second.cu", "SHARED + 2", "SHARED + 7", {"second": 1007}),
    "a unit without kernels": ("csrc/module.cpp", "return 4", "return 6", {"module": 6}),
}


@pytest.mark.parametrize("kind", EDITS)
def test_an_edit(world: World, kind: str) -> None:
    """xfdev and a build by hand give what the sources say, and again what they said before when it is undone."""
    name, old, new, changed = EDITS[kind]
    world.edit(name, old, new)
    try:
        expected = {**EXPECTED, **changed}
        assert world.build() == expected
        made, launches = world.by_hand(world.python(), "setup.py", "build_ext", "--inplace")
        assert made == expected
        # The edited unit may miss: its object is of a checkout that lies elsewhere, seen from the environment.
        edited = "first" if name.startswith("include/") else Path(name).stem
        assert {unit for unit, how in launches.items() if how != "hit"} <= {edited}
        assert launches.keys() == ALL_HIT.keys()
    finally:
        world.edit(name, new, old)
    made, launches = world.by_hand(world.python(), "setup.py", "build_ext", "--inplace")
    assert (made, launches) == (EXPECTED, ALL_HIT)
    assert world.build() == EXPECTED


def test_an_edit_that_a_build_by_hand_sees_first(world: World) -> None:
    world.edit("include/shared.h", "1000", "3000")
    try:
        made, launches = world.by_hand(world.prefix / "bin" / "pip", "install", "-q", "-e", ".")
        assert made == {**EXPECTED, "first": 3001, "second": 3002}
        assert launches == {**ALL_HIT, "first": "miss", "second": "miss"}
        assert world.build() == made
    finally:
        world.edit("include/shared.h", "3000", "1000")
    assert world.build() == EXPECTED


def test_a_header_that_shadows_another_comes_and_goes(world: World) -> None:
    world.write("include/early/shared.h", "#define SHARED 2000\n")
    try:
        expected = {**EXPECTED, "first": 2001, "second": 2002}
        assert world.by_hand(world.python(), "setup.py", "build_ext", "--inplace")[0] == expected
        assert world.build() == expected
    finally:
        world.write("include/early/shared.h", None)
    assert world.by_hand(world.python(), "setup.py", "build_ext", "--inplace")[0] == EXPECTED
    assert world.build() == EXPECTED


def test_a_header_that_is_only_asked_for_comes_and_goes(world: World) -> None:
    """No dependency file names it, there or not. (Such a unit is compiled at each build by hand.)"""
    command = (world.python(), "setup.py", "build_ext", "--inplace")
    probe = '#if __has_include("feature.h")\n#undef THIRD\n#define THIRD 33\n#endif\n__global__'
    world.edit("csrc/third.cu", "__global__", probe)
    try:
        world.write("include/feature.h", "")
        expected = {**EXPECTED, "third": 33}
        assert world.build() == expected
        assert world.by_hand(*command)[0] == expected
        world.write("include/feature.h", None)
        assert world.by_hand(*command)[0] == EXPECTED
        assert world.build() == EXPECTED
    finally:
        world.edit("csrc/third.cu", probe, "__global__")


def test_builds_without_dependency_files_and_with_flags_in_variables(world: World) -> None:
    """What torch and nvcc are told by variables counts for builds by hand as it does without a cache."""
    command = (world.python(), "setup.py", "build_ext", "--inplace")
    without = {"TORCH_EXTENSION_SKIP_NVCC_GEN_DEPENDENCIES": "1"}
    world.edit("include/host_only.h", "HOST_ONLY 1", "HOST_ONLY 8")
    try:
        made, _ = world.by_hand(*command, **without)
        assert made == {**EXPECTED, "first": 1008}
    finally:
        world.edit("include/host_only.h", "HOST_ONLY 8", "HOST_ONLY 1")
    assert world.by_hand(*command, **without)[0] == EXPECTED
    assert world.by_hand(*command, NVCC_APPEND_FLAGS="-DTHIRD=77")[0] == {**EXPECTED, "third": 77}
    assert world.by_hand(*command)[0] == EXPECTED


def test_a_library_is_that_of_a_build_without_a_cache(world: World, tmp_path: Path) -> None:
    words = ("setup.py", "build_ext", "--build-temp", tmp_path / "temp", "--build-lib", tmp_path / "lib")
    world.run(world.python(), *words, CCACHE_DISABLE="1")
    (clean,) = (tmp_path / "lib" / "kernels").glob("_C*.so")
    (built,) = (world.other / "kernels").glob("_C*.so")
    assert list(cubins(built.read_bytes())) == list(cubins(clean.read_bytes()))


# -- the environment itself --------------------------------------------------------------------------------------


def test_who_activates_has_the_environments_cuda(world: World) -> None:
    script = f". {world.prefix}/bin/activate && echo $CUDA_HOME && command -v ccache ninja && python -c 'import torch'"
    home, ccache, ninja = world.run("bash", "-c", script).split()
    assert os.access(f"{home}/bin/nvcc", os.X_OK)
    assert Path(home).is_relative_to(world.prefix)
    assert {Path(ccache).parent, Path(ninja).parent} == {world.prefix / "xfdev" / "bin"}


def test_a_cuda_of_the_machine_is_not_mixed_in(world: World) -> None:
    """Not activated, with variables that a container, or another environment that is active, has set."""
    program = "import os, torch.utils.cpp_extension as e; print(e.CUDA_HOME, os.environ['PYTORCH_NVCC'])"
    script = [world.python(), "-c", program]
    usual = world.run(*script).splitlines()[-1]  # below a warning of torch that there is no GPU
    assert usual.startswith(str(world.prefix))
    assert world.run(*script, CUDA_HOME="/usr/local/cuda", PYTORCH_NVCC="nvcc").splitlines()[-1] == usual
    foreign = {"XFDEV_ENVIRONMENT": "/elsewhere/.venv", "TORCH_CUDA_ARCH_LIST": "7.5"}
    show = [world.python(), "-c", "import os; print(os.environ['TORCH_CUDA_ARCH_LIST'])"]
    assert world.run(*show, **foreign).strip() == "8.0;9.0"
    assert world.run(*show, TORCH_CUDA_ARCH_LIST="7.5").strip() == "7.5"


@pytest.fixture(scope="module")
def wheels(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An index with another torch, with one of the same version and another build, and with what needs torch."""
    folder = tmp_path_factory.mktemp("wheels")
    for name, version, needs in (
        ("torch", "2.13.0", ""),
        ("torch", "2.14.1+cu999", ""),
        ("needs_torch", "1.0", "Requires-Dist: torch>=2\n"),
    ):
        info = f"{name}-{version}.dist-info"
        with zipfile.ZipFile(folder / f"{name}-{version}-py3-none-any.whl", "w") as archive:
            head = f"Metadata-Version: 2.1\nName: {name.replace('_', '-')}\nVersion: {version}\n{needs}"
            archive.writestr(f"{info}/METADATA", head)
            archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
            archive.writestr(f"{info}/RECORD", "")
    return folder


@pytest.fixture(scope="module")
def uv(tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("uv")
    done = subprocess.run(
        [sys.executable, "-m", "pip", "install", "-q", "--target", target, "uv"], stderr=subprocess.PIPE, text=True
    )
    if done.returncode:
        support.missing(f"uv cannot be fetched: {done.stderr[-300:]}")
    return target / "bin" / "uv"


def commands(world: World, uv: Path, wheels: Path) -> dict[str, list[object]]:
    options = f"install --dry-run --no-index --find-links {wheels}"
    active = f". {world.prefix}/bin/activate &&"
    return {
        "pip": [world.prefix / "bin" / "pip", *options.split()],
        "pip, active": ["bash", "-c", f'{active} pip {options} "$@"', "-"],
        "uv": [uv, "pip", *options.split()],
        "uv, active": ["bash", "-c", f'cd / && {active} {uv} pip {options} "$@"', "-"],
    }


@pytest.mark.parametrize("tool", ["pip", "pip, active", "uv", "uv, active"])
def test_torch_is_not_swapped(world: World, uv: Path, wheels: Path, tool: str) -> None:
    if GIVEN and tool == "uv":
        pytest.skip("uv finds an environment in the folder it is started in")
    command = commands(world, uv, wheels)[tool]
    said = world.run(*command, "torch==2.13.0", fails=True)
    assert re.search("ResolutionImpossible|unsatisfiable", said), said
    for harmless in (["needs-torch"], ["--upgrade", "torch"]):
        assert not re.search(r"(Would install|\+) .*torch[-=]+2\.", world.run(*command, *harmless))


def test_without_the_constraint_torch_would_be_swapped(world: World, uv: Path, wheels: Path) -> None:
    """What the test above would not see if the other torch were no candidate at all."""
    command = commands(world, uv, wheels)
    assert "2.13.0" in world.run(*command["pip"], "torch==2.13.0", PIP_CONFIG_FILE=os.devnull)
    said = world.run(*command["uv"], "--no-config", "--python", world.python(), "torch==2.13.0")
    assert "+ torch==2.13.0" in said
