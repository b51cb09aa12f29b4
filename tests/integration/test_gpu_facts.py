"""The tables of CUDA releases and GPUs, against the nvcc and the torch that are installed here; and the detection of
GPUs by NVIDIA's own binding, against a driver library that is none."""

from __future__ import annotations

import ast
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import support
from xfdev import arch, cuda_releases, fatbin, gpu_families, toolchain
from xfdev.arch import Arch


@pytest.fixture
def torch(cuda_prefix: Path) -> Path:
    """The folder of site-packages that has torch in it."""
    (found,) = cuda_prefix.glob("lib/python3*/site-packages")
    return found


@pytest.fixture
def cuda(torch: Path) -> Path:
    """The CUDA tree of that environment's nvcc."""
    return torch / "nvidia" / "cu13"


def said(*words: str | Path, cwd: Path | None = None) -> str:
    return subprocess.run([*map(str, words)], capture_output=True, text=True, check=True, cwd=cwd).stdout


def release_of(home: Path) -> cuda_releases.Release:
    match = re.search(r"\bV(\d+\.\d+)", said(home / "bin" / "nvcc", "--version"))
    assert match is not None
    found = cuda_releases.release(match[1])
    if found is None:
        pytest.skip(f"CUDA {match[1]} is newer or older than the table")
    return found


# --- CUDA releases


def test_archs_of_nvcc(cuda: Path) -> None:
    known = release_of(cuda)
    listed = {*said(cuda / "bin" / "nvcc", "--list-gpu-code").split()}
    # Some releases list those with features, some do not.
    assert listed - {*known.features} == {*known.archs}


def test_nvcc_takes_the_features_and_no_others(cuda: Path, tmp_path: Path) -> None:
    known = release_of(cuda)
    (tmp_path / "k.cu").write_text("")

    def takes(name: str) -> bool:
        words = [cuda / "bin" / "nvcc", "--dryrun", f"-arch={name}", "-cubin", "k.cu"]
        return subprocess.run([*map(str, words)], capture_output=True, cwd=tmp_path).returncode == 0

    every = [name + letter for name in known.archs for letter in "af"]
    assert {name for name in every if takes(name)} == {*known.features}


def test_host_compilers(cuda: Path) -> None:
    known = release_of(cuda)
    text = (cuda / "include" / "crt" / "host_config.h").read_text()
    gcc = re.search(r"gcc versions later than (\d+) are not supported", text)
    clang = re.search(r"clang version must be less than (\d+)", text)
    assert gcc is not None
    assert clang is not None
    assert (int(gcc[1]), int(clang[1]) - 1) == (known.gcc, known.clang)


def test_ptx(cuda: Path, tmp_path: Path) -> None:
    """Its ptxas takes PTX of the version in the table and none of the next, and that is what nvcc writes."""
    known = release_of(cuda)
    following = [entry.ptx for entry in cuda_releases.releases().values() if entry.ptx > known.ptx][:1]
    for version in (known.ptx, *following):
        text = f".version {version}\n.target sm_80\n.address_size 64\n.visible .entry k() {{ ret; }}\n"
        (tmp_path / "k.ptx").write_text(text)
        words = [str(cuda / "bin" / "ptxas"), "-arch=sm_80", "k.ptx", "-o", "k.cubin"]
        done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True)
        assert (done.returncode == 0) is (version == known.ptx), done.stderr
    if shutil.which("g++") is None:
        support.missing("no g++, which nvcc needs")
    (tmp_path / "k.cu").write_text("__global__ void k(float *x) { *x = 1; }\n")
    both = "arch=compute_80,code=[sm_80,compute_80]"
    for mode in ("none", "default"):
        compress = ["--no-compress"] if mode == "none" else []
        said(cuda / "bin" / "nvcc", "-c", "-gencode", both, *compress, "k.cu", "-o", "k.o", cwd=tmp_path)
        found = fatbin.read(tmp_path / "k.o")
        assert (found.isa, found.ptx) == (known.ptx, {"8.0"})


# --- torch


def table(path: Path, name: str) -> Any:
    """The value that a module gives to a name, without importing it; a set stands for an interval of torch's."""
    for node in ast.walk(ast.parse(path.read_text())):
        targets = [node.target] if isinstance(node, ast.AnnAssign) else getattr(node, "targets", [])
        if any(isinstance(target, ast.Name) and target.id == name for target in targets):
            return node.value  # type: ignore[attr-defined]
    pytest.skip(f"this torch has no {name}")


def test_names_of_archs(torch: Path) -> None:
    node = table(torch / "torch" / "utils" / "cpp_extension.py", "named_arches")
    names = dict(ast.literal_eval(node.args[0]))
    assert names == {**gpu_families.names()}


def test_every_arch_of_torch_is_in_the_table(torch: Path) -> None:
    accepted = toolchain.torch_archs(torch)
    assert accepted
    assert {name.rstrip("af") for name in accepted} <= set(gpu_families.rows())


def test_what_torch_says_of_its_wheels(torch: Path) -> None:
    node = table(torch / "torch" / "cuda" / "__init__.py", "PYTORCH_RELEASES_CODE_CC")
    for cuda, machines in ast.literal_eval(node).items():
        for machine, archs in machines.items():
            known = gpu_families.torch_wheel(cuda, machine)
            assert [f"{number // 10}.{number % 10}" for number in sorted(archs)] == [*known], (cuda, machine)


def test_what_torch_says_runs_where(torch: Path) -> None:
    """Its table of machine code and devices is ours, where ours has both."""
    node = table(torch / "torch" / "cuda" / "__init__.py", "DEVICE_REQUIREMENT")
    compared = 0
    for key, value in zip(node.keys, node.values, strict=True):
        number, kind = ast.literal_eval(key), value.func.id
        for capability in gpu_families.rows():
            (device,) = arch.parse(capability)
            there = device.major * 10 + device.minor
            if kind == "_CompatSet":
                runs = there in ast.literal_eval(value.args[0])
            else:
                words = {word.arg: ast.literal_eval(word.value) for word in value.keywords}
                runs = words["start"] <= there < (number // 10 + 1) * 10 and there not in words.get("exclude", ())
            if capability == "8.8":  # which torch does not know
                continue
            assert gpu_families.serves(Arch(number // 10, number % 10), device) is runs, (number, capability)
            compared += 1
    assert compared > 100


def test_what_torch_was_compiled_for(torch: Path, cuda_prefix: Path) -> None:
    """The archs that the installed torch names, those that its library really has code for, and the table's."""
    known = toolchain.torch_in(torch)
    assert known is not None
    if known.cuda is None:
        pytest.skip("this torch is without CUDA")
    interpreter = cuda_prefix / "bin" / "python"
    flags = said(interpreter, "-Ic", "import torch; print(torch._C._cuda_getArchFlags())").split()
    named = arch.from_sm(name for name in flags if name.startswith("sm_"))
    wheel = gpu_families.torch_wheel(known.cuda, os.uname().machine)
    assert [str(entry) for entry in named] == [*wheel]
    found = fatbin.read(torch / "torch" / "lib" / "libtorch_cuda.so")
    # A few of its kernels are compiled for more.
    assert {name.rstrip("af") for name in found.sass} >= {*wheel}


# --- NVML: the real binding on a library that answers as a driver does

DRIVER = r"""
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
typedef struct { unsigned long long total, free, used; } memory_t;
static int gpus() { const char *text = getenv("FAKE_GPUS"); return text ? (int)strlen(text) : 0; }
extern "C" {
int nvmlInitWithFlags(unsigned) { return getenv("FAKE_INIT") ? atoi(getenv("FAKE_INIT")) : 0; }
int nvmlInit_v2() { return nvmlInitWithFlags(0); }
int nvmlShutdown() { return 0; }
const char *nvmlErrorString(int) { return "an error"; }
int nvmlSystemGetDriverVersion(char *to, unsigned) { strcpy(to, "580.95.05"); return 0; }
int nvmlSystemGetCudaDriverVersion(int *to) { *to = 13000; return 0; }
int nvmlDeviceGetCount_v2(unsigned *to) { *to = gpus(); return 0; }
int nvmlDeviceGetHandleByIndex_v2(unsigned at, void **to) { *to = (void *)(size_t)(at + 1); return 0; }
static char kind(void *gpu) { size_t at = (size_t)gpu; return at < 100 ? getenv("FAKE_GPUS")[at - 1] : 'p'; }
int nvmlDeviceGetCudaComputeCapability(void *gpu, int *major, int *minor) {
  char k = kind(gpu); *major = k == 'h' ? 9 : k == 'b' ? 12 : 8; *minor = 0; return 0; }
int nvmlDeviceGetUUID(void *gpu, char *to, unsigned) {
  sprintf(to, "%s-%04zu", (size_t)gpu < 100 ? "GPU" : "MIG", (size_t)gpu); return 0; }
int nvmlDeviceGetName(void *gpu, char *to, unsigned) { sprintf(to, "NVIDIA %c", kind(gpu)); return 0; }
int nvmlDeviceGetMemoryInfo(void *, memory_t *to) { to->total = 1ull << 34; return 0; }
int nvmlDeviceGetMigMode(void *gpu, unsigned *now, unsigned *next) {
  if (kind(gpu) == 'b') return 3;
  *now = *next = kind(gpu) == 'm'; return 0; }
int nvmlDeviceGetMaxMigDeviceCount(void *, unsigned *to) { *to = 7; return 0; }
int nvmlDeviceGetMigDeviceHandleByIndex(void *gpu, unsigned at, void **to) {
  if (at > 1) return 6;
  *to = (void *)((size_t)gpu * 100 + at); return 0; }
}
"""
LOOK = """
import json, os, sys, time
from xfdev import gpu
started = time.perf_counter()
found = gpu.detect(os.environ)
print(json.dumps({"how": found.how, "driver": found.driver, "cuda": found.cuda, "notes": found.notes,
    "devices": [[d.name, str(d.capability), d.uuid, d.memory, d.mig, d.parent] for d in found.devices],
    "seconds": time.perf_counter() - started,
    "loaded": [name for name in ("torch", "ctypes", "pynvml") if name in sys.modules]}))
"""


@pytest.fixture(scope="module")
def driver(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("driver")
    if shutil.which("g++") is None:
        support.missing("no g++")
    (folder / "nvml.cpp").write_text(DRIVER)
    words = ["g++", "-shared", "-fPIC", "-Wl,-soname,libnvidia-ml.so.1", "nvml.cpp", "-o", "libnvidia-ml.so.1"]
    said(*words, cwd=folder)
    return folder


def look(driver: Path | None, **variables: str) -> dict[str, Any]:
    """What a fresh process finds; the library, if any, as a driver installs it: in the loader's path."""
    environ = {key: value for key, value in os.environ.items() if not key.startswith("CUDA_")}
    environ |= {"PATH": "/nonexistent", **variables}
    if driver is not None:
        environ["LD_LIBRARY_PATH"] = str(driver)
    done = subprocess.run([sys.executable, "-c", LOOK], env=environ, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_the_binding_asks_the_driver(driver: Path) -> None:
    found = look(driver, FAKE_GPUS="hb")
    assert (found["how"], found["driver"], found["cuda"], found["notes"]) == ("nvml", "580.95.05", "13.0", [])
    assert found["devices"] == [
        ["NVIDIA h", "9.0", "GPU-0001", 2**34, False, ""],
        ["NVIDIA b", "12.0", "GPU-0002", 2**34, False, ""],
    ]
    assert "torch" not in found["loaded"]
    assert found["seconds"] < 0.2 * (4 if os.environ.get("CI") else 1)


def test_the_binding_and_mig(driver: Path) -> None:
    found = look(driver, FAKE_GPUS="m")
    assert [entry[1:3] + entry[4:] for entry in found["devices"]] == [
        ["8.0", "MIG-0100", True, "GPU-0001"],
        ["8.0", "MIG-0101", True, "GPU-0001"],
    ]
    assert [entry[2] for entry in look(driver, FAKE_GPUS="m", CUDA_VISIBLE_DEVICES="MIG-0101")["devices"]] == [
        "MIG-0101"
    ]


def test_the_binding_and_what_is_visible(driver: Path) -> None:
    found = look(driver, FAKE_GPUS="hb", CUDA_VISIBLE_DEVICES="GPU-0002")
    assert [entry[1] for entry in found["devices"]] == ["12.0"]
    assert "hides 1 GPU of 2" in found["notes"][0]


@pytest.mark.parametrize(
    ("error", "words"), [("18", "restart the machine"), ("9", "not loaded"), ("999", "driver says")]
)
def test_the_binding_and_a_driver_that_fails(driver: Path, error: str, words: str) -> None:
    found = look(driver, FAKE_GPUS="h", FAKE_INIT=error)
    assert (found["how"], found["devices"]) == ("none", [])
    assert words in found["notes"][0]


def test_the_binding_and_a_driver_without_gpus(driver: Path) -> None:
    found = look(driver)
    assert (found["how"], found["driver"]) == ("nvml", "580.95.05")
    assert found["notes"] == ["a driver is here and no GPU answers"]


def test_without_a_driver_the_binding_is_not_even_loaded() -> None:
    if Path("/proc/driver/nvidia/version").exists():
        pytest.skip("this machine has a driver")
    found = look(None)
    assert found["devices"] == []
    assert "pynvml" not in found["loaded"]
    assert found["seconds"] < 0.2
