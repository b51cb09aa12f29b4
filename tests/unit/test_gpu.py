"""Which GPUs are here, and which of them CUDA shows."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from xfdev import arch, gpu, nvml
from xfdev.devices import Device, visible


def device(number: int, capability: str, uuid: str, mig_of: str = "") -> Device:
    (parsed,) = arch.parse(capability)
    return Device(f"GPU {number}", parsed, uuid, 2**34, bool(mig_of), number, mig_of)


SAME = [device(0, "9.0", "GPU-aaaa-1"), device(1, "9.0", "GPU-aabb-2"), device(2, "9.0", "GPU-cccc-3")]
MIXED = [device(0, "8.0", "GPU-aaaa-1"), device(1, "9.0", "GPU-bbbb-2")]
DIVIDED = [
    device(0, "9.0", "MIG-1111", "GPU-aaaa-1"),
    device(0, "9.0", "MIG-2222", "GPU-aaaa-1"),
    device(1, "8.0", "GPU-bbbb-2"),
]


@pytest.mark.parametrize(
    ("devices", "value", "shown", "word"),
    [
        (SAME, None, "0 1 2", ""),
        (SAME, "", "", "is empty: it hides 3 GPUs"),
        (SAME, " ", "", "is empty"),
        ([], "", "", ""),
        (SAME, "-1", "", "hides 3 GPUs of 3"),
        (SAME, "0", "0", "hides 2 GPUs of 3"),
        (SAME, "2,0", "2 0", "hides 1 GPU of 3"),
        (SAME, "0,2,-1,1", "0 2", "hides 1 GPU"),
        (SAME, "0,1,2", "0 1 2", ""),
        (SAME, " 1 , 2 ", "1 2", "hides 1 GPU"),
        (SAME, "1gpu,2x", "1 2", "hides 1 GPU"),
        (SAME, "7", "", "'7'"),
        (SAME, "0,7,1", "0", "'7'"),
        (SAME, "1,1", "", "twice"),
        (SAME, "0,x", "0", "hides 2"),
        (SAME, "GPU-cccc", "2", "hides 2"),
        (SAME, "GPU-cccc-3,GPU-aaaa-1", "2 0", "hides 1"),
        (SAME, "GPU-aa", "", "several GPUs begin so"),
        (SAME, "GPU-", "", "no GPU here"),
        (SAME, "GPU-ffff", "", "no GPU here"),
        (SAME, "GPU-cccc,GPU-ffff,GPU-aaaa", "2", "no GPU here"),
        (SAME, "GPU-cccc,GPU-cccc-3", "", "twice"),
        (SAME, "NoDevFiles", "", "no GPU here"),
        (SAME, "none", "", "no GPU here"),
        (MIXED, "GPU-bbbb", "1", "hides 1"),
        (MIXED, "1,0", "0 1", ""),
        (MIXED, "1", "0 1", "CUDA_DEVICE_ORDER"),
    ],
)
def test_visible(devices: list[Device], value: str | None, shown: str, word: str) -> None:
    seen, notes = visible(devices, {} if value is None else {"CUDA_VISIBLE_DEVICES": value})
    if value == "1,0":  # all of them: the order is nobody's concern
        assert set(seen) == set(devices)
    else:
        assert " ".join(str(entry.index) for entry in seen) == shown
    assert word in " ".join(notes)
    assert bool(notes) is bool(word)


def test_numbers_are_certain_in_the_order_of_the_bus() -> None:
    seen, notes = visible(MIXED, {"CUDA_VISIBLE_DEVICES": "1", "CUDA_DEVICE_ORDER": "PCI_BUS_ID"})
    assert [str(entry.capability) for entry in seen] == ["9.0"]
    assert "hides 1" in notes[0]


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("MIG-2222", ["MIG-2222"]),
        ("MIG-1", ["MIG-1111"]),
        ("MIG-GPU-aaaa-1/0/0", ["MIG-1111"]),
        ("GPU-aaaa", ["MIG-1111"]),
        ("GPU-bbbb-2", ["GPU-bbbb-2"]),
        ("MIG-GPU-bbbb-2/0/0", []),
    ],
)
def test_instances(value: str, shown: list[str]) -> None:
    seen, _ = visible(DIVIDED, {"CUDA_VISIBLE_DEVICES": value})
    assert [entry.uuid for entry in seen] == shown


# --- NVML: a stand-in for the binding, as it answers


class NVMLError(Exception):
    def __init__(self, value: int) -> None:
        super().__init__(f"error {value}")
        self.value = value


def binding(gpus: list[dict[str, Any]], *, start: int | None = None) -> SimpleNamespace:
    """A ``pynvml`` for a machine with *gpus*; *start*: the error that the library fails with at once."""

    def init() -> None:
        if start is not None:
            raise NVMLError(start)

    def handle(index: int) -> dict[str, Any]:
        if "lost" in gpus[index]:
            raise NVMLError(15)
        return gpus[index]

    def mig_mode(gpu: dict[str, Any]) -> list[int]:
        if "parts" not in gpu:
            raise NVMLError(3)  # not supported
        return [1, 1]

    def part(gpu: dict[str, Any], index: int) -> dict[str, Any]:
        if index >= len(gpu["parts"]):
            raise NVMLError(6)
        found: dict[str, Any] = gpu["parts"][index]
        return found

    def memory(gpu: dict[str, Any]) -> SimpleNamespace:
        if "memory" not in gpu:
            raise NVMLError(3)
        return SimpleNamespace(total=gpu["memory"])

    return SimpleNamespace(
        NVMLError=NVMLError,
        NVML_ERROR_DRIVER_NOT_LOADED=9,
        NVML_ERROR_LIB_RM_VERSION_MISMATCH=18,
        NVML_ERROR_NO_PERMISSION=4,
        NVML_ERROR_GPU_IS_LOST=15,
        NVML_DEVICE_MIG_ENABLE=1,
        nvmlInit=init,
        nvmlShutdown=lambda: None,
        nvmlSystemGetDriverVersion=lambda: "580.95.05",
        nvmlSystemGetCudaDriverVersion=lambda: 13000,
        nvmlDeviceGetCount=lambda: len(gpus),
        nvmlDeviceGetHandleByIndex=handle,
        nvmlDeviceGetCudaComputeCapability=lambda gpu: gpu["capability"],
        nvmlDeviceGetUUID=lambda gpu: gpu["uuid"],
        nvmlDeviceGetName=lambda gpu: gpu["name"].encode(),
        nvmlDeviceGetMemoryInfo=memory,
        nvmlDeviceGetMigMode=mig_mode,
        nvmlDeviceGetMaxMigDeviceCount=lambda gpu: 7,
        nvmlDeviceGetMigDeviceHandleByIndex=part,
    )


H100 = {"name": "NVIDIA H100", "capability": (9, 0), "uuid": "GPU-5fb7", "memory": 80 * 2**30}
A100 = {"name": "NVIDIA A100", "capability": (8, 0), "uuid": "GPU-7e1c", "memory": 40 * 2**30}
THOR = {"name": "NVIDIA Thor", "capability": (11, 0), "uuid": "GPU-9a9a"}


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """A function that gives this machine a driver library with the given GPUs; without, it has no trace of one."""
    monkeypatch.setattr(gpu, "_MODULE", tmp_path / "version")
    monkeypatch.setattr(gpu, "_WSL", tmp_path / "dxg")
    monkeypatch.setattr(gpu, "_WSL_TOOLS", str(tmp_path))
    monkeypatch.setattr(nvml, "_loaded", lambda: False)

    def make(gpus: list[dict[str, Any]], **more: Any) -> None:
        monkeypatch.setattr(nvml, "_loaded", lambda: True)
        monkeypatch.setitem(sys.modules, "pynvml", binding(gpus, **more))

    make.folder = tmp_path  # type: ignore[attr-defined]
    return make


def test_several_gpus(machine: Any) -> None:
    machine([H100, A100, THOR])
    found = gpu.detect({"PATH": ""})
    assert (found.how, found.driver, found.cuda, found.notes) == ("nvml", "580.95.05", "13.0", ())
    assert [(d.name, str(d.capability), d.uuid, d.memory, d.mig) for d in found.devices] == [
        ("NVIDIA H100", "9.0", "GPU-5fb7", 80 * 2**30, False),
        ("NVIDIA A100", "8.0", "GPU-7e1c", 40 * 2**30, False),
        ("NVIDIA Thor", "11.0", "GPU-9a9a", 0, False),
    ]
    assert arch.canonical(gpu.visible_archs({"PATH": ""})) == "8.0;9.0;11.0"
    assert arch.canonical(gpu.visible_archs({"PATH": "", "CUDA_VISIBLE_DEVICES": "GPU-7"})) == "8.0"


def test_instances_have_the_arch_of_their_gpu(machine: Any) -> None:
    part = {"name": "NVIDIA A100 MIG 1g.5gb", "uuid": "MIG-77", "memory": 5 * 2**30}
    machine([{**A100, "parts": [part]}])
    found = gpu.detect({"PATH": ""})
    assert [(d.uuid, str(d.capability), d.mig, d.parent) for d in found.devices] == [
        ("MIG-77", "8.0", True, "GPU-7e1c")
    ]
    assert any("MIG" in note for note in found.notes)


def test_mig_without_an_instance(machine: Any) -> None:
    machine([{**A100, "parts": []}])
    found = gpu.detect({"PATH": ""})
    assert found.devices == ()
    assert "no instance" in found.notes[0]


def test_a_driver_without_a_gpu(machine: Any) -> None:
    machine([])
    found = gpu.detect({"PATH": ""})
    assert (found.devices, found.driver, found.how) == ((), "580.95.05", "nvml")
    assert found.notes == ("a driver is here and no GPU answers",)


def test_a_gpu_that_does_not_answer(machine: Any) -> None:
    machine([{"lost": True}, H100])
    found = gpu.detect({"PATH": ""})
    assert [d.index for d in found.devices] == [1]
    assert "fallen off the bus" in found.notes[0]


@pytest.mark.parametrize(
    ("error", "words"), [(18, "restart the machine"), (9, "not loaded"), (4, "may not open"), (77, "error 77")]
)
def test_a_library_that_does_not_start(machine: Any, error: int, words: str) -> None:
    machine([H100], start=error)
    found = gpu.detect({"PATH": ""})
    assert (found.devices, found.how) == ((), "none")
    assert words in found.notes[0]


def test_no_driver(machine: Any) -> None:
    assert gpu.detect({"PATH": ""}) == gpu.Found(notes=("no NVIDIA driver",))
    (machine.folder / "dxg").touch()
    assert "Windows" in gpu.detect({"PATH": ""}).notes[0]
    (machine.folder / "version").touch()
    assert "without its GPU" in gpu.detect({"PATH": ""}).notes[0]


# --- nvidia-smi, where the library cannot be had


def smi(folder: Path, text: str, status: int = 0) -> dict[str, str]:
    program = folder / "nvidia-smi"
    program.write_text(f"#!/bin/sh\ncat <<'END'\n{text}\nEND\nexit {status}\n")
    program.chmod(0o755)
    return {"PATH": f"{folder}:/usr/bin:/bin"}


ROW = "0, NVIDIA H100 80GB HBM3, 9.0, GPU-5fb7, 81559 MiB, Disabled, 575.57.08"


def test_nvidia_smi(machine: Any) -> None:
    found = gpu.detect(smi(machine.folder, ROW + "\n1, NVIDIA L4, 8.9, GPU-11, 23034 MiB, [N/A], 575.57.08"))
    assert (found.how, found.driver, found.cuda) == ("nvidia-smi", "575.57.08", "12.9")
    assert [(d.name, str(d.capability), d.memory // 2**20) for d in found.devices] == [
        ("NVIDIA H100 80GB HBM3", "9.0", 81559),
        ("NVIDIA L4", "8.9", 23034),
    ]


def test_nvidia_smi_with_mig(machine: Any) -> None:
    found = gpu.detect(smi(machine.folder, ROW.replace("Disabled", "Enabled")))
    assert found.devices[0].mig
    assert any("MIG" in note for note in found.notes)


@pytest.mark.parametrize(
    ("text", "status", "words"),
    [
        ("No devices were found", 0, "shows no GPU"),
        ('Field "compute_cap" is not a valid field to query.', 2, "does not answer"),
        ("NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver.", 9, "couldn't communicate"),
        (ROW.replace("9.0,", "[N/A],"), 0, "too old"),
    ],
)
def test_nvidia_smi_says_nothing(machine: Any, text: str, status: int, words: str) -> None:
    found = gpu.detect(smi(machine.folder, text, status))
    assert found.devices == ()
    assert any(words in note for note in found.notes)
