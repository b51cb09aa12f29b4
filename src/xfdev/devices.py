"""GPUs, and which of them a program sees. Pure: no driver is asked here."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from xfdev.arch import Arch


@dataclass(frozen=True)
class Device:
    """A GPU, or an instance of one that is divided (*mig*).

    *uuid* begins with ``GPU-`` or ``MIG-``; *memory* is in bytes; *index* is the number of the GPU that ``nvidia-smi``
    shows, *parent* the UUID of the GPU that an instance is part of. An instance has its GPU's capability.
    """

    name: str
    capability: Arch
    uuid: str
    memory: int
    mig: bool = False
    index: int = 0
    parent: str = ""


def visible(devices: Sequence[Device], environ: Mapping[str, str]) -> tuple[tuple[Device, ...], tuple[str, ...]]:
    """Those of *devices* that CUDA shows to a program, in its order, and what is to be said about it.

    Source: CUDA Programming Guide, "CUDA Environment Variables"; what is not written there (a number with letters
    behind it, one named twice) as torch.cuda._parse_visible_devices has it.
    """
    wanted = environ.get("CUDA_VISIBLE_DEVICES")
    if wanted is None:
        return tuple(devices), ()
    if not wanted.strip():
        return (), (f"CUDA_VISIBLE_DEVICES is empty: it hides {_count(len(devices))}",) if devices else ()
    if re.match(r"\s*[+-]?\d", wanted):
        shown, notes = _by_number(devices, wanted, environ)
    else:
        shown, notes = _by_name(devices, wanted)
    hidden = len(devices) - len(shown)
    if hidden:
        notes = (f"CUDA_VISIBLE_DEVICES={wanted} hides {_count(hidden)} of {len(devices)}", *notes)
    return shown, notes


def _by_number(
    devices: Sequence[Device], wanted: str, environ: Mapping[str, str]
) -> tuple[tuple[Device, ...], tuple[str, ...]]:
    known = sorted({device.index for device in devices})
    chosen: list[int] = []
    notes: tuple[str, ...] = ()
    for entry in wanted.split(","):
        match = re.match(r"\s*([+-]?\d+)", entry)
        number = int(match[1]) if match else -1
        if number in chosen:
            return (), (f"CUDA_VISIBLE_DEVICES names GPU {number} twice, which hides all",)
        if not 0 <= number < len(known):
            if number != -1:  # -1 is how people end the list
                notes = (
                    f"CUDA_VISIBLE_DEVICES names {entry.strip()!r}, and there is no such GPU: the list ends there",
                )
            break
        chosen.append(number)
    kinds = {device.capability for device in devices}
    if len(kinds) > 1 and len(chosen) < len(known) and chosen and environ.get("CUDA_DEVICE_ORDER") != "PCI_BUS_ID":
        # CUDA counts the fastest GPU as 0, the driver the first on the bus; which is the fastest only CUDA knows.
        # All stay in, as leaving out the wrong one would let code through that this GPU cannot run.
        why = "which GPU a number means depends on CUDA_DEVICE_ORDER: all are counted; set it to PCI_BUS_ID"
        return tuple(devices), (*notes, why)
    order = {known[number]: place for place, number in enumerate(chosen)}
    shown = [device for device in devices if device.index in order]
    return tuple(sorted(shown, key=lambda device: order[device.index])), notes


def _by_name(devices: Sequence[Device], wanted: str) -> tuple[tuple[Device, ...], tuple[str, ...]]:
    shown: list[Device] = []
    for entry in (part.strip() for part in wanted.split(",")):
        found = [device for device in devices if entry and _means(entry, device)]
        if len({device.parent or device.uuid for device in found}) != 1:
            what = "no GPU here has that name" if not found else "several GPUs begin so"
            return tuple(shown), (f"CUDA_VISIBLE_DEVICES names {entry!r}, and {what}: the list ends there",)
        if found[0] in shown:
            return (), (f"CUDA_VISIBLE_DEVICES names {entry} twice, which hides all",)
        shown.append(found[0])  # of the instances of one GPU CUDA takes the first
    return tuple(shown), ()


def _means(entry: str, device: Device) -> bool:
    """Whether a name, or its beginning, is that of *device*. Of an instance there are three forms: its own UUID,
    ``MIG-GPU-<UUID of the GPU>/<instance>/<compute instance>`` of older drivers, and the UUID of its GPU."""
    if not entry.startswith(("GPU-", "MIG-")) or len(entry) <= len("GPU-"):
        return False
    if device.uuid.startswith(entry):
        return True
    gpu, _, instance = entry.removeprefix("MIG-").partition("/")
    if entry.startswith("MIG-GPU-") and device.mig and instance:
        return device.parent == gpu
    return device.mig and device.parent.startswith(entry)


def _count(number: int) -> str:
    return "1 GPU" if number == 1 else f"{number} GPUs"
