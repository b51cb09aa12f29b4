"""Which archs to compile for: what was asked for, what the compiler can do, what the GPUs here want."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from xfdev import arch as archs
from xfdev import compat, cuda_releases, gpu, gpu_families, options, profile, toolchain, venv

#: Who asked, where it was the command line: taken at its word.
OPTION = "--arch"


def unserved(devices: Iterable[archs.Arch], arch: Sequence[archs.Arch]) -> list[archs.Arch]:
    """Those of *devices* on which nothing runs that is compiled for *arch*; none where there is no arch at all."""
    code = compat.Code(sass=tuple(arch), ptx=tuple(entry for entry in arch if entry.ptx))
    return [device for device in devices if arch and compat.outcome(code, device, compat.Machine()).how == "no"]


def compilable(cuda: str | None, site_packages: Path | None = None) -> tuple[archs.Arch, ...]:
    """What a toolchain of CUDA release *cuda* compiles for, and its torch accepts; () where that is not known."""
    release = cuda_releases.release(cuda) if cuda else None
    accepted = toolchain.torch_archs(site_packages) if site_packages is not None else frozenset[str]()
    known = archs.from_sm(release.archs) if release else ()
    return tuple(entry for entry in known if not accepted or entry.capability in accepted)


def resolve_arch(
    environment: venv.Environment,
    chosen: options.Options,
    environ: Mapping[str, str],
    devices: tuple[archs.Arch, ...],
    known: tuple[archs.Arch, ...],
) -> tuple[tuple[archs.Arch, ...], str]:
    """The archs to compile for, and who asked for them: the first of option, variable, environment; else nobody, and
    they are those of the GPUs here, as far as the compiler knows them."""
    for text, who in (
        (
            chosen.arch,
            OPTION if chosen.source("arch") == options.COMMAND_LINE else f"arch of {chosen.source('arch')}",
        ),
        (environ.get("TORCH_CUDA_ARCH_LIST"), "TORCH_CUDA_ARCH_LIST"),
        (environment.arch, "the environment"),
    ):
        if text and archs.only_auto(text):
            break
        if text:
            return archs.parse(text, devices=devices, compiler=known), who
    fitting = (gpu_families.best(device, known) or device for device in devices)
    return tuple(sorted(set(fitting))), ""


def asked_archs(text: str, entry: profile.ToolchainEntry, environ: Mapping[str, str]) -> str:
    """An arch list in its canonical form, its words put into numbers; "" for ``auto``: the GPU is looked for each
    time, as without a list."""
    if not text or archs.only_auto(text):
        return ""
    words = {*archs.OF_DEVICES} & {*text.replace(";", " ").split()}
    devices = gpu.visible_archs(environ) if words else None
    return archs.canonical(archs.parse(text, devices=devices, compiler=compilable(entry.cuda)))
