"""nvcc's commands side by side: the object, the dependency file and the messages are those of the real nvcc."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest

import xfdev
from test_launcher_nvcc import cuda, launcher  # noqa: F401 - fixtures
from xfdev import diagnostics

SOURCES = Path(xfdev.__file__).parent / "resources" / "launcher"
LEFT_TO_NVCC = 99
#: Runs the phases as the launcher does; with an identifier, that in place of the one they would make.
DRIVER = f"""
import os, sys
sys.path.insert(0, {str(SOURCES)!r})
import phases
if sys.argv[1]:
    phases.identifier, phases.UNUSUAL = lambda argv: sys.argv[1], ("-rdc",)
status = phases.side_by_side(sys.argv[2:], dict(os.environ))
if status is not None and status < 0:
    os.kill(os.getpid(), -status)
sys.exit({LEFT_TO_NVCC} if status is None else status)
"""
UNIT = """
#include "a value.h"
#include <utility>
namespace { __device__ int hidden; struct Local { int v; }; }
template <class F> __global__ void apply(F f, int *p) { *p = f(hidden) + VALUE; }
static __global__ void kernel(int *p, Local l) { *p = hidden + l.v; }
static __device__ int table[4] = {1, 2, 3, 4};
__constant__ int fixed = 3;
__global__ void last(int *p) { int unused; *p = table[*p & 3] + fixed; }
#ifdef __CUDA_ARCH__
#include "device.h"
#else
#include "host.h"
#endif
void run(int *p) {
    kernel<<<1, 1>>>(p, Local{4});
    apply<<<1, 1>>>([] __device__(int x) { return x + 5; }, p);
    last<<<1, 1>>>(p);
}
"""
ONE = ("-gencode", "arch=compute_90,code=sm_90")
TWO = ("-gencode", "arch=compute_80,code=sm_80", *ONE)
SLOW = "#include <map>\n#include <regex>\n#include <string>\nstd::map<std::string, std::regex> many;\n" + UNIT


class Bench:
    def __init__(self, folder: Path, nvcc: Path) -> None:
        self.nvcc, self.temporary, self.folder = str(nvcc), folder / "temporary", folder / "checkout"
        for made in (self.temporary, self.folder):
            made.mkdir()
        dropped = ("CCACHE_", "NVCC_", "XFDEV_", "CPATH")
        self.environ = {name: value for name, value in os.environ.items() if not name.startswith(dropped)}
        self.environ |= {"TMPDIR": str(self.temporary), "LC_ALL": "C"}
        for name, text in (("unit.cu", UNIT), ("a value.h", "#define VALUE 7\n"), ("device.h", ""), ("host.h", "")):
            (self.folder / name).write_text(text)

    def write(self, text: str) -> None:
        (self.folder / "unit.cu").write_text(text)

    def words(self, *more: str) -> list[str]:
        archs = () if "-gencode" in more else ONE
        return [self.nvcc, "--extended-lambda", *archs, *more, "-MD", "-MF", "unit.d", "-c", "unit.cu", "-o", "unit.o"]

    def start(self, *words: str, **environ: str) -> subprocess.Popen[str]:
        for name in ("unit.o", "unit.d"):
            (self.folder / name).unlink(missing_ok=True)
        return subprocess.Popen(
            words, cwd=self.folder, env={**self.environ, **environ}, text=True, start_new_session=True,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip

    def result(self, *words: str, **environ: str) -> tuple[int, str, str, bytes, list[str]]:
        """Exit status, what was said on both streams, the object and the dependency file."""
        process = self.start(*words, **environ)
        out, err = process.communicate()
        made, rule = (self.folder / name for name in ("unit.o", "unit.d"))
        content = re.sub(rb"tmpxft_[0-9a-f]{8}_", b"tmpxft_00000000_", made.read_bytes()) if made.exists() else b""
        for told in (r"/\S*/tmpxft_[0-9a-f]{8}_", r"Compile time = [0-9.]+"):
            out, err = (re.sub(told, "", text) for text in (out, err))
        # With --threads the order is another at each run.
        told = sorted(rule.read_text().replace("\\\n", "").split()) if rule.exists() else []
        return process.returncode, out, err, content, told

    def phases(self, *more: str, identifier: str = "") -> list[str]:
        return [sys.executable, "-IS", "-c", DRIVER, identifier, *self.words(*more)]

    def begun(self) -> subprocess.Popen[str]:
        """Phases that both halves of run."""
        process = self.start(*self.phases())
        until = time.monotonic() + 60
        while not {"2.err", "3.err"} <= {path.name for path in self.temporary.glob("xfdev-nvcc-*/*")}:
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < until
            time.sleep(0.005)
        return process


def alive(group: int) -> bool:
    """Whether a process of the group runs."""
    for place in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, _, its_group = place.read_text(errors="replace").rpartition(") ")[2].split()[:3]
            if int(its_group) == group and state not in "ZX":
                return True
    return False


@pytest.fixture
def bench(tmp_path: Path, cuda: Path) -> Iterator[Bench]:  # noqa: F811
    bench = Bench(tmp_path, cuda / "bin" / "nvcc")
    yield bench
    assert list(bench.temporary.iterdir()) == []


@pytest.mark.parametrize(
    "more",
    [
        (),
        ("-lineinfo", "--threads", "4", "-Xcompiler", "-fPIC", "--use_fast_math", "-std=c++17"),
        ("-g", "-G"),
        ("-Xptxas", "-v", "-Xcompiler", "'-fPIC'"),
        ("-gencode", "arch=compute_90,code=compute_90"),
        ("-gencode", "arch=compute_90,code=[sm_90,compute_90]"),
        ("-gencode", "arch=compute_90a,code=sm_90a", "-Wno-deprecated-gpu-targets", '-DTEXT="a b"', "-I", "sub folder"),
    ],
    ids=lambda more: more[0] + more[1] if more else "plain",
)
def test_the_very_same_bytes(bench: Bench, more: tuple[str, ...]) -> None:
    """With nvcc's own identifier, which it says where temporary files are kept."""
    seed = ("-frandom-seed=7", "-no-compress", *more)
    kept = bench.folder / "kept"
    kept.mkdir()
    bench.result(*bench.words(*seed), "--keep", "--keep-dir", str(kept))
    (named,) = kept.glob("*.module_id")
    # What is compiled for a debugger holds the names of temporary files.
    folder = bench.temporary / f"xfdev-nvcc-{os.getuid()}-{zlib.crc32(bytes(bench.folder / 'unit.o')):08x}"
    folder.mkdir()
    true = bench.result(*bench.words(*seed), TMPDIR=str(folder))
    folder.rmdir()
    assert true[0] == 0, true
    assert "unused" in true[2], "nothing is said: nothing is compared"
    # The assembler puts names of files into an order that depends on the number in those of temporary ones: with -g one
    # object of ten has another, nvcc's too.
    tries = 5 if "-g" in more else 1
    given = (bench.result(*bench.phases(*seed, identifier=named.read_text())) for _ in range(tries))
    assert any(one == true for one in given)


def test_an_identifier_of_its_own(bench: Bench) -> None:
    status, _, _, first, _ = bench.result(*bench.phases())
    assert status == 0
    found = re.search(rb"_[0-9a-f]{8}_7_unit_cu_[0-9a-f]{8}_\d{5}", first)
    assert found
    assert found[0] in bench.result(*bench.phases())[3], "the same command, the same name"
    assert found[0] not in bench.result(*bench.phases("-DOTHER"))[3]


@pytest.mark.parametrize(
    ("text", "how"),
    [
        ('#include "nowhere.h"\n', "nowhere.h"),
        ("int host() { return undeclared; }\n", "undeclared"),
        ("__global__ void k() { undeclared(); }\nint host() { return 1 }\n", "undeclared"),
        ("#ifdef __CUDA_ARCH__\n__device__ int d() { return undeclared; }\n#endif\n", "undeclared"),
        ("#ifndef __CUDA_ARCH__\nint h() { return undeclared; }\n#endif\n", "undeclared"),
        (
            "__global__ void k(int *p) { __shared__ int a[99999]; a[*p] = p[1]; __syncthreads(); *p = a[p[2]]; }\n",
            "shared",
        ),
        ('__global__ void k() { asm("nonsense;"); }\n', "nonsense"),
        ('#ifndef __CUDA_ARCH__\nint h() { asm("nonsense"); return 0; }\n#endif\n', "nonsense"),
    ],
    ids=["preprocessor", "host", "both", "device", "host only", "ptxas", "PTX", "assembler"],
)
def test_the_very_same_complaints(bench: Bench, text: str, how: str) -> None:
    bench.write(UNIT + text)
    true, given = bench.result(*bench.words()), bench.result(*bench.phases())
    assert true[0] != 0
    assert how in true[1] + true[2]
    assert given[:4] == true[:4]


@pytest.mark.parametrize(
    "more",
    [TWO, ("-rdc=true",), ("-frandom-seed=7",), ("-MT", "unit"), ("--keep",), ("-v",), ("-no-such-option",)],
    ids=str,
)
def test_what_is_left_to_nvcc(bench: Bench, more: tuple[str, ...]) -> None:
    assert bench.result(*bench.phases(*more)) == (LEFT_TO_NVCC, "", "", b"", [])


def test_a_folder_that_a_shell_would_not_understand(bench: Bench) -> None:
    odd = bench.folder / "a folder"
    odd.mkdir()
    assert bench.result(*bench.phases(), TMPDIR=str(odd))[0] == LEFT_TO_NVCC


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
@pytest.mark.parametrize("group", [False, True], ids=["alone", "group"])
def test_a_signal_ends_all_of_it(bench: Bench, number: signal.Signals, group: bool) -> None:
    bench.write(SLOW)
    process = bench.begun()
    (os.killpg if group else os.kill)(process.pid, number)
    process.communicate(timeout=20)
    # Where all of them get it, one may have ended with a status of its own before.
    assert process.returncode in ((-number, 1) if group else (-number,))
    assert not (bench.folder / "unit.o").exists()
    until = time.monotonic() + 10
    while alive(process.pid):
        assert time.monotonic() < until
        time.sleep(0.05)


def test_what_a_kill_leaves_is_removed_by_the_next(bench: Bench) -> None:
    bench.write(SLOW)
    process = bench.begun()
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
    assert list(bench.temporary.iterdir()) != []
    bench.write(UNIT)
    assert bench.result(*bench.phases())[0] == 0


def test_a_folder_of_somebody_else_is_not_touched(bench: Bench) -> None:
    bench.begun().communicate()
    # The next one would have the same name.
    process = bench.begun()
    (folder,) = bench.temporary.iterdir()
    process.communicate()
    folder.symlink_to(bench.folder)
    assert bench.result(*bench.phases())[0] == LEFT_TO_NVCC
    assert (bench.folder / "unit.cu").exists()
    folder.unlink()


def test_a_compiler_killed_for_memory_is_seen_as_that(bench: Bench) -> None:
    bench.write(SLOW)
    process = bench.begun()
    (place,) = bench.temporary.iterdir()
    killed = False
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if path.read_bytes().startswith(b"cudafe++") and str(place).encode() in path.read_bytes():
                os.kill(int(path.parent.name), signal.SIGKILL)
                killed = True
        except OSError:
            continue
    _, said = process.communicate()
    assert killed
    assert process.returncode != 0
    assert diagnostics.killed_for_memory(process.returncode, said), said


def test_behind_the_launcher(bench: Bench, launcher: Path, tmp_path: Path) -> None:  # noqa: F811
    bench.environ["CCACHE_DIR"] = str(tmp_path / "cache")
    log = tmp_path / "log"
    bench.environ["XFDEV_LAUNCH_LOG"] = str(log)
    bench.write(SLOW)

    def compiled(*more: str, **environ: str) -> tuple[bytes, str, bool]:
        """The object, whether it came from the cache, and whether phases ran."""
        log.write_text("")
        process = bench.start(str(launcher), *bench.words(*more), **environ)
        seen = False
        while process.poll() is None:
            seen = seen or any(bench.temporary.glob("xfdev-nvcc-*/2.err"))
            time.sleep(0.005)
        said = process.communicate()
        assert process.returncode == 0, said
        return (bench.folder / "unit.o").read_bytes(), log.read_text().partition(" ")[0], seen

    asked = {"XFDEV_NVCC_PHASES": "1"}
    content, how, ran = compiled(**asked)
    assert (how, ran) == ("miss", True)
    assert compiled() == (content, "hit", False), "the same entry, however it was made"
    assert compiled(*TWO, **asked)[1:] == ("miss", False)
    assert compiled("-DOTHER")[1:] == ("miss", False)
    # What is not cached is divided, too.
    assert compiled("-DOTHER", CCACHE_DISABLE="1", **asked)[1:] == ("", True)
