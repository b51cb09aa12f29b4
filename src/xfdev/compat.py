"""What runs where: GPUs, driver and compilers on one side, machine code and PTX on the other. Pure.

Sources: CUDA Programming Guide, "CUDA Platform" (binary and PTX compatibility); CUDA Compatibility guide (drivers);
PTX ISA, ".version" and ".target". The numbers are in resources/cuda.toml and gpus.toml.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from xfdev import cuda_releases, gpu_families
from xfdev.arch import Arch, from_sm, parse
from xfdev.cuda_releases import numbers

How = Literal["native", "jit", "no"]

#: What it costs that the driver compiles PTX at the first use of a library (and again after every driver update).
JIT_COST = "the first start is slow, and fast paths made for this GPU are missing"


@dataclass(frozen=True)
class Machine:
    """What is here. *devices* are capabilities; *supported* the newest CUDA release that the driver says it
    supports."""

    devices: tuple[Arch, ...] = ()
    driver: str | None = None
    supported: str | None = None


@dataclass(frozen=True)
class Code:
    """What a bundle or a library holds: archs of its machine code and of its PTX, the version of that PTX (None: not
    known), and the major version of the CUDA runtime that it loads (None: none, or a static one)."""

    sass: tuple[Arch, ...] = ()
    ptx: tuple[Arch, ...] = ()
    isa: str | None = None
    cuda: str | None = None

    def __str__(self) -> str:
        machine = f"machine code for {', '.join(map(str, self.sass))}" if self.sass else "no machine code"
        return machine + (f" and PTX of {', '.join(map(str, self.ptx))}" if self.ptx else " and no PTX")


@dataclass(frozen=True)
class Outcome:
    """How code runs on one GPU, and why. *because* is what stands in the way: no code for this arch, PTX that
    is newer than the driver, or a driver that is too old for that CUDA at all."""

    device: Arch
    how: How
    why: str
    because: Literal["", "arch", "ptx", "driver"] = ""

    def __str__(self) -> str:
        words = {"native": "runs natively", "jit": "runs after the driver compiled it", "no": "does not run"}
        return f"{self.device} {words[self.how]}: {self.why}"


def outcomes(code: Code, machine: Machine) -> tuple[Outcome, ...]:
    """How *code* runs on each GPU of *machine*."""
    return tuple(outcome(code, device, machine) for device in machine.devices)


def outcome(code: Code, device: Arch, machine: Machine) -> Outcome:
    """How *code* runs on *device*."""
    if code.cuda is not None and (why := _driver_too_old(code.cuda, machine)):
        return Outcome(device, "no", why, "driver")
    native = sorted(arch for arch in code.sass if gpu_families.serves(arch, device))
    if native:
        nearest = next((arch for arch in native if arch.base == device.base), native[-1])
        if nearest.base == device.base:
            return Outcome(device, "native", f"it has machine code for {nearest}")
        return Outcome(device, "native", f"machine code for {nearest} runs on later GPUs of {nearest.major}.x")
    fitting = sorted(arch for arch in code.ptx if gpu_families.compiles(arch, device))
    if not fitting:
        return Outcome(device, "no", f"it has {code}{_almost(code, device)}", "arch")
    newest = cuda_releases.newest_ptx(driver=machine.driver, cuda=machine.supported)
    if code.isa is not None and newest is not None and numbers(code.isa) > numbers(newest):
        writer = cuda_releases.first_to_write(code.isa)
        wanted = f"; driver {writer.driver} or newer does" if writer and writer.driver else ""
        which = f"driver {machine.driver}" if machine.driver else "this driver"
        why = f"only its PTX would fit, and {which} does not know PTX {code.isa} ({newest} at most){wanted}"
        return Outcome(device, "no", why, "ptx")
    return Outcome(device, "jit", f"the driver compiles its PTX of {fitting[-1]}: {JIT_COST}")


def _almost(code: Code, device: Arch) -> str:
    """Why code of the same generation does not do."""
    near = [arch for arch in (*code.sass, *code.ptx) if arch.major == device.major]
    if any(arch.suffix == "a" for arch in near):
        return "; code with an `a` runs on its own capability alone"
    if any(arch.suffix == "f" for arch in near):
        return "; code with an `f` runs on its own family alone"
    if any(arch.minor > device.minor for arch in near):
        return "; code for a later GPU does not run on an earlier one"
    if any((arch.major, arch.minor) > (device.major, device.minor) for arch in code.ptx):
        return "; PTX of a later GPU is not compiled for an earlier one"
    return ""


def _driver_too_old(cuda: str, machine: Machine) -> str:
    """Why the driver cannot run anything of CUDA *cuda* (a major version, or a release), "" if it can."""
    major = numbers(cuda)[:1]
    if machine.supported is not None:
        if numbers(machine.supported)[:1] >= major:
            return ""
    elif machine.driver is None:
        return ""
    entry = next((entry for entry in cuda_releases.releases().values() if numbers(entry.version)[:1] == major), None)
    if entry is None or (
        machine.supported is None and machine.driver is not None and cuda_releases.runs_with(entry, machine.driver)
    ):
        return ""
    has = f"driver {machine.driver}" if machine.driver else "the driver"
    upto = f" supports CUDA up to {machine.supported}" if machine.supported else " is older"
    return f"it needs CUDA {major[0]}, which wants driver {entry.least_driver} or newer; {has}{upto}"


@dataclass(frozen=True)
class Gap:
    """A GPU that a compiler or a library has no machine code for. *grave*: nothing that it makes runs there."""

    grave: bool
    text: str
    hint: str


def nvcc_gaps(nvcc: str, devices: Iterable[Arch]) -> list[Gap]:
    """The *devices* that this release of *nvcc* does not know (a release that is not in the table: none)."""
    release = cuda_releases.release(nvcc)
    known = from_sm(release.archs) if release is not None else ()
    found = []
    for device in devices:
        fit = gpu_families.best(device, known)
        if release is None or (fit is not None and fit.base == device.base):
            continue
        with_what = f"code for {fit} is what it can have" if fit else "nothing that it compiles runs there"
        text = f"nvcc {release.version} does not know {gpu_families.described(device.base)}: {with_what}"
        newer = next((e for e in cuda_releases.releases().values() if device.sm in e.archs), None)
        hint = f"CUDA {newer.version} was the first to know it" if newer else "no CUDA in xfdev's table knows it"
        found.append(Gap(fit is None, text, hint))
    return found


def torch_gaps(cuda: str, platform: str, devices: Iterable[Arch]) -> list[Gap]:
    """The *devices* that torch's own wheel for *cuda* and *platform* (``x86_64``) has no machine code for."""
    wheel = parse(";".join(gpu_families.torch_wheel(cuda, platform)))
    has = ", ".join(arch.base for arch in wheel)
    found = []
    for device in devices:
        if wheel and not any(gpu_families.serves(arch, device) for arch in wheel):
            text = f"torch's wheel for CUDA {cuda} has no machine code for {gpu_families.described(device.base)}"
            found.append(Gap(True, f"{text}: it has {has}", "take another CUDA: xfdev up --toolchain NAME"))
    return found


def code_of(sass: Iterable[str], ptx: Iterable[str], isa: str | None, cuda: str | None) -> Code:
    """Code from archs as binaries and manifests name them."""
    return Code(parse(";".join(sass)), parse(";".join(ptx)), isa or None, cuda)
