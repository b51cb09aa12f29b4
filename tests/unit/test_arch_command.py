"""xfdev arch, and how archs are chosen, on machines with GPUs and without."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from test_fatbin import CUBIN, PTX, container, elf, entry

from support import Xfdev
from xfdev import arch, gpu, nvml, options, targets
from xfdev.devices import Device
from xfdev.nvml import Answer
from xfdev.profile import toolchain_entry
from xfdev.venv import Environment

H100 = Device("NVIDIA H100 80GB HBM3", arch.Arch(9, 0), "GPU-5fb7", 85520809984)
RTX5060 = Device("NVIDIA GeForce RTX 5060", arch.Arch(12, 0), "GPU-0505", 8 * 10**9, index=1)
Machine = Callable[..., None]


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Machine:
    """Gives this machine the given GPUs, and no other trace of any."""
    for name in ("_MODULE", "_WSL"):
        monkeypatch.setattr(gpu, name, tmp_path / name)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setenv("PATH", f"{tmp_path}")

    def make(*devices: Device, driver: str | None = "580.95.05", cuda: str | None = "13.0") -> None:
        answer = Answer(devices, driver, cuda, present=True) if devices else Answer(problem="no library")
        monkeypatch.setattr(nvml, "ask", lambda: answer)

    make()
    return make


def library(folder: Path, *entries: bytes) -> Path:
    path = folder / "kernels.o"
    path.write_bytes(elf([(".nv_fatbin", container(*entries))], kind=1))
    return path


def test_gpus_and_what_they_need(machine: Machine) -> None:
    machine(H100, RTX5060)
    said = Xfdev()("arch").ok()
    assert (said["driver"], said["cuda"], said["how"], said["archs"]) == ("580.95.05", "13.0", "nvml", "9.0;12.0")
    first, second = said["devices"]
    assert (first["capability"], first["first_cuda"], second["first_cuda"]) == ("9.0", "11.8", "12.8")
    assert {"cu128", "cu130"} <= set(first["toolchains"])
    assert "driver 580.95.05, CUDA up to 13.0" in said["lines"]
    assert "NVIDIA H100 80GB HBM3, 85.5 GB: arch 9.0 (Hopper: H100, H200, GH200)" in said["lines"]


def test_a_gpu_that_no_cuda_of_the_table_knows(machine: Machine) -> None:
    machine(replace(H100, capability=arch.Arch(19, 0)))
    said = Xfdev()("arch").ok()
    assert said["devices"][0]["first_cuda"] is None
    assert any("no CUDA release" in line for line in said["lines"])


def test_without_a_gpu_the_table_is_shown(machine: Machine) -> None:
    said = Xfdev()("arch").ok()
    assert said["devices"] == []
    assert said["notes"] == ["no NVIDIA driver"]
    table = Xfdev()("arch", "--list").ok()
    assert said["lines"][-len(table["lines"]) :] == table["lines"]
    by_arch = {row["arch"]: row for row in table["gpus"]}
    assert len(by_arch) == len(table["lines"]) - 1
    assert (by_arch["5.2"]["first_cuda"], by_arch["5.2"]["last_cuda"]) == ("11.8", "12.9")
    assert (by_arch["12.0"]["first_cuda"], by_arch["12.0"]["last_cuda"]) == ("12.8", None)


@pytest.mark.parametrize(
    ("entries", "how"),
    [
        ([entry(CUBIN, 90)], ["native", "no"]),
        ([entry(CUBIN, 80), entry(PTX, 80)], ["jit", "jit"]),
        ([entry(CUBIN, 90, 0x100000)], ["native", "no"]),
        ([entry(CUBIN, 120)], ["no", "native"]),
    ],
)
def test_a_library(machine: Machine, tmp_path: Path, entries: list[bytes], how: list[str]) -> None:
    machine(H100, RTX5060)
    (found,) = Xfdev()("arch", "--file", library(tmp_path, *entries)).ok()["libraries"]
    assert [run["how"] for run in found["runs"]] == how
    assert found["ptx_isa"] == ("9.0" if found["ptx"] else None)


def test_a_driver_that_does_not_know_the_ptx(machine: Machine, tmp_path: Path) -> None:
    machine(H100, driver="575.57.08", cuda="12.9")
    (found,) = Xfdev()("arch", "--file", library(tmp_path, entry(CUBIN, 80), entry(PTX, 80))).ok()["libraries"]
    assert found["runs"][0]["how"] == "no"
    assert "580.65.06" in found["runs"][0]["why"]


def test_what_cannot_be_read(machine: Machine, tmp_path: Path) -> None:
    assert Xfdev()("arch", "--file", tmp_path / "none.so").code == 22
    assert Xfdev()("arch", tmp_path / "nowhere").code == 10
    assert Xfdev()("arch", tmp_path, "--file", "x.so").code == 2
    assert any("nothing is linked" in line for line in Xfdev()("arch", tmp_path).ok()["lines"])


# --- which archs a command compiles for

KNOWN = arch.parse("8.0 8.6 9.0 12.0")


def resolved(
    option: str | None = None, variable: str | None = None, made_for: str = "", devices: str = ""
) -> tuple[str, str]:
    environ = {} if variable is None else {"TORCH_CUDA_ARCH_LIST": variable}
    given: dict[str, Any] = {"arch": option} if option else {}
    environment = Environment(Path("/e"), "cu130", "2.14.1", "3.11", arch=made_for)
    chosen = options.resolve(given, {}, [])
    found, who = targets.resolve_arch(environment, chosen, environ, arch.parse(devices), KNOWN)
    return arch.canonical(found), who


@pytest.mark.parametrize(
    ("option", "variable", "made_for", "devices", "expected"),
    [
        (None, None, "", "", ("", "")),
        (None, None, "", "9.0", ("9.0", "")),
        (None, None, "", "8.9 9.0", ("8.6;9.0", "")),  # what this nvcc has for 8.9
        (None, None, "", "12.1", ("12.0", "")),
        (None, None, "", "10.0", ("9.0+PTX", "")),
        (None, None, "", "7.0", ("7.0", "")),  # nothing: the compiler will say so
        ("8.0", "9.0", "12.0", "9.0", ("8.0", "--arch")),
        (None, "8.0", "12.0", "9.0", ("8.0", "TORCH_CUDA_ARCH_LIST")),
        (None, None, "12.0", "9.0", ("12.0", "the environment")),
        ("auto", "8.0", "12.0", "9.0", ("9.0", "")),
        (None, "auto", "12.0", "9.0", ("9.0", "")),
        ("auto", None, "", "", ("", "")),
        ("native", None, "", "8.0 9.0", ("8.0;9.0+PTX", "--arch")),
        ("all-major", None, "", "", ("8.0;9.0;12.0+PTX", "--arch")),
        ("auto;8.0", None, "", "9.0", ("8.0;9.0", "--arch")),
    ],
)
def test_which_archs(
    option: str | None, variable: str | None, made_for: str, devices: str, expected: tuple[str, str]
) -> None:
    assert resolved(option, variable, made_for, devices) == expected


@pytest.mark.parametrize(
    ("devices", "archs", "left"),
    [
        ("9.0", "8.0", "9.0"),
        ("9.0", "8.0+PTX", ""),
        ("8.9", "8.0", ""),
        ("9.0 12.0", "9.0", "12.0"),
        ("9.0", "", ""),
        ("9.0", "9.0a", ""),
    ],
)
def test_gpus_that_a_list_leaves_out(devices: str, archs: str, left: str) -> None:
    assert arch.canonical(targets.unserved(arch.parse(devices), arch.parse(archs))) == left


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", ""),
        ("auto", ""),
        ("9.0 8.0", "8.0;9.0"),
        ("Hopper", "9.0+PTX"),
        ("native", "9.0+PTX"),
        ("all-major", "7.5;8.0;9.0;10.0;11.0;12.0+PTX"),
    ],
)
def test_a_list_for_an_environment(machine: Machine, text: str, expected: str) -> None:
    machine(H100)
    assert targets.asked_archs(text, toolchain_entry("cu130"), dict(os.environ)) == expected


def test_compilable() -> None:
    assert "8.8" in arch.canonical(targets.compilable("13.0")).split(";")
    assert targets.compilable("99.0") == targets.compilable(None) == ()
