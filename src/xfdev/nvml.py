"""GPUs as NVIDIA's management library names them. It does not initialise CUDA, and needs no free GPU memory."""

from __future__ import annotations

import ctypes
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from xfdev.arch import Arch
from xfdev.devices import Device

LIBRARY = "libnvidia-ml.so.1"

#: Where the driver's libraries are besides the loader's own folders: WSL (CUDA on WSL User Guide), and where
#: container platforms mount them that do not call NVIDIA's toolkit (GKE; Kubernetes device plugins).
FOLDERS = ("/usr/lib/wsl/lib", "/usr/local/nvidia/lib64", "/run/opengl-driver/lib")


@dataclass(frozen=True)
class Answer:
    """What the library said. *problem*: why it said nothing, "" where it did; *present*: whether it is installed."""

    devices: tuple[Device, ...] = ()
    driver: str | None = None
    cuda: str | None = None
    problem: str = ""
    present: bool = False
    notes: tuple[str, ...] = ()


def ask() -> Answer:
    """All GPUs that this process may see, whatever CUDA_VISIBLE_DEVICES says."""
    # The binding takes 50 ms to import, the library 1 ms to be missed.
    if not _loaded():
        return Answer(problem=f"{LIBRARY} is not installed")
    try:
        import pynvml
    except ImportError:
        return Answer(problem="the package nvidia-ml-py is not installed", present=True)
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        return Answer(problem=_problem(pynvml, error), present=True)
    try:
        return _answer(pynvml)
    finally:
        with suppress(pynvml.NVMLError):
            pynvml.nvmlShutdown()


def _loaded() -> bool:
    for place in (LIBRARY, *(f"{folder}/{LIBRARY}" for folder in FOLDERS if Path(folder, LIBRARY).exists())):
        with suppress(OSError):
            # Once it is loaded, the binding finds it by its name, wherever it came from.
            ctypes.CDLL(place)
            return True
    return False


def _problem(nvml: Any, error: Any) -> str:
    """Why the library does not start, as a person would say it."""
    known = {
        nvml.NVML_ERROR_DRIVER_NOT_LOADED: "the driver's kernel module is not loaded, or has no GPU",
        nvml.NVML_ERROR_LIB_RM_VERSION_MISMATCH: (
            "the driver was updated and its kernel module is still the old one: restart the machine"
        ),
        nvml.NVML_ERROR_NO_PERMISSION: "this user may not open the GPU's device files",
        nvml.NVML_ERROR_GPU_IS_LOST: "a GPU has fallen off the bus: restart the machine",
    }
    return known.get(error.value, f"the driver says: {error}")


def _answer(nvml: Any) -> Answer:
    driver = cuda = None
    notes: list[str] = []
    with suppress(nvml.NVMLError):
        driver = _text(nvml.nvmlSystemGetDriverVersion())
    with suppress(nvml.NVMLError):
        number = nvml.nvmlSystemGetCudaDriverVersion()
        cuda = f"{number // 1000}.{number % 1000 // 10}"
    devices: list[Device] = []
    try:
        count = nvml.nvmlDeviceGetCount()
    except nvml.NVMLError as error:
        return Answer(driver=driver, cuda=cuda, problem=_problem(nvml, error), present=True)
    for index in range(count):
        try:
            devices += _device(nvml, index, notes)
        except nvml.NVMLError as error:
            notes.append(f"GPU {index} does not answer: {_problem(nvml, error)}")
    return Answer(tuple(devices), driver, cuda, "", True, tuple(notes))


def _device(nvml: Any, index: int, notes: list[str]) -> list[Device]:
    handle = nvml.nvmlDeviceGetHandleByIndex(index)
    capability = Arch(*nvml.nvmlDeviceGetCudaComputeCapability(handle))
    uuid = _text(nvml.nvmlDeviceGetUUID(handle))
    whole = Device(_text(nvml.nvmlDeviceGetName(handle)), capability, uuid, _memory(nvml, handle), index=index)
    divided = False
    with suppress(nvml.NVMLError):  # most GPUs cannot be divided, which is an error to the library
        divided = nvml.nvmlDeviceGetMigMode(handle)[0] == nvml.NVML_DEVICE_MIG_ENABLE
    if not divided:
        return [whole]
    parts = []
    for number in range(nvml.nvmlDeviceGetMaxMigDeviceCount(handle)):
        with suppress(nvml.NVMLError):  # there are fewer
            part = nvml.nvmlDeviceGetMigDeviceHandleByIndex(handle, number)
            name = _text(nvml.nvmlDeviceGetName(part))
            parts.append(
                Device(name, capability, _text(nvml.nvmlDeviceGetUUID(part)), _memory(nvml, part), True, index, uuid)
            )
    if not parts:
        notes.append(f"GPU {index} is in MIG mode and has no instance: nothing runs on it (nvidia-smi mig -cgi ... -C)")
    return parts


def _memory(nvml: Any, handle: Any) -> int:
    with suppress(nvml.NVMLError):  # GPUs that share the machine's memory have none to tell
        return int(nvml.nvmlDeviceGetMemoryInfo(handle).total)
    return 0


def _text(value: str | bytes) -> str:
    return value.decode() if isinstance(value, bytes) else value
