"""Which GPUs are here. Never initialises CUDA, never imports torch."""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from xfdev import arch, run
from xfdev.devices import Device, visible

__all__ = ["Device", "Found", "detect", "visible_archs"]

#: What a driver's kernel module leaves in a machine, whether or not a container has its libraries.
_MODULE = Path("/proc/driver/nvidia/version")
#: What Windows gives a WSL machine that has a GPU.
_WSL = Path("/dev/dxg")
_WSL_TOOLS = "/usr/lib/wsl/lib"
_SMI_FIELDS = "index,name,compute_cap,uuid,memory.total,mig.mode.current,driver_version"
_SMI_WAIT = 10.0  # without a persistence daemon nvidia-smi first wakes the GPU, which takes seconds


@dataclass(frozen=True)
class Found:
    """The GPUs that a program started here would see.

    *driver* is its version (``580.95.05``), *cuda* the newest CUDA release that it supports (``13.0``); *notes* say
    what a person should know: why there is none, what hides some.
    """

    devices: tuple[Device, ...] = ()
    driver: str | None = None
    cuda: str | None = None
    how: Literal["nvml", "nvidia-smi", "none"] = "none"
    notes: tuple[str, ...] = ()

    @property
    def archs(self) -> tuple[arch.Arch, ...]:
        """The capabilities of the GPUs, each once."""
        return tuple(sorted({device.capability for device in self.devices}))


def detect(environ: Mapping[str, str]) -> Found:
    """Ask NVML, else nvidia-smi, else nobody."""
    from xfdev import nvml

    answer = nvml.ask()
    if not answer.problem:
        found = Found(answer.devices, answer.driver, answer.cuda, "nvml", answer.notes)
    else:
        said = _smi(environ)
        why = answer.problem if answer.present else _absent() if said is None else "nvidia-smi shows no GPU"
        found = said if said and said.devices else Found(notes=(why, *(said.notes if said else ())))
    if not found.devices and found.how == "nvml" and not found.notes:
        found = _with(found, (), "a driver is here and no GPU answers")
    shown, notes = visible(found.devices, environ)
    if any(device.mig for device in shown):
        notes = (*notes, "MIG: CUDA gives a program one instance, and that has its GPU's arch")
    if found.devices and _WSL.exists():
        notes = (*notes, "WSL: the driver is that of Windows")
    return _with(found, shown, *notes)


def visible_archs(environ: Mapping[str, str]) -> tuple[arch.Arch, ...]:
    """The capabilities of this machine's GPUs; empty where there is none."""
    return detect(environ).archs


def _with(found: Found, devices: tuple[Device, ...], *notes: str) -> Found:
    return Found(devices, found.driver, found.cuda, found.how, (*found.notes, *notes))


def _absent() -> str:
    """Why there is neither library nor program of a driver, from the traces that one leaves."""
    if _MODULE.exists():
        return "the kernel has an NVIDIA driver, but its libraries are not here: a container started without its GPU"
    if _WSL.exists():
        return f"WSL with a GPU, but no driver library in {_WSL_TOOLS}: install NVIDIA's driver in Windows"
    return "no NVIDIA driver"


def _smi(environ: Mapping[str, str]) -> Found | None:
    """What nvidia-smi says; None where it is not here, or says nothing."""
    from xfdev import cuda_releases
    from xfdev.errors import CommandFailed

    path = shutil.which("nvidia-smi", path=environ.get("PATH")) or shutil.which("nvidia-smi", path=_WSL_TOOLS)
    if path is None:
        return None
    try:
        said = run.capture([path, f"--query-gpu={_SMI_FIELDS}", "--format=csv,noheader"], timeout=_SMI_WAIT)
    except CommandFailed as error:
        return Found(how="none", notes=(f"nvidia-smi does not answer: {error}",))
    devices: list[Device] = []
    driver, notes = None, []
    for line in said.stdout.splitlines():
        fields = [field.strip() for field in line.split(",")]
        if len(fields) != 7:
            continue
        index, name, capability, uuid, memory, mig, driver = fields
        if not re.fullmatch(r"\d+\.\d", capability):
            notes.append(f"{name}: its driver is too old to tell the GPU's compute capability")
            continue
        (device,) = arch.parse(capability)
        mebibytes = re.match(r"(\d+) MiB", memory)
        size = int(mebibytes[1]) * 2**20 if mebibytes else 0
        number = int(index) if index.isdigit() else len(devices)
        devices.append(Device(name, device, uuid, size, mig == "Enabled", number, uuid if mig == "Enabled" else ""))
    entry = cuda_releases.newest_for_driver(driver) if driver else None
    return Found(tuple(devices), driver, entry.version if entry else None, "nvidia-smi", tuple(notes))
