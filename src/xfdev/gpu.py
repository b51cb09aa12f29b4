"""Which GPUs are here. Never initialises CUDA, never imports torch."""

from __future__ import annotations

import shutil
from collections.abc import Mapping

from xfdev import arch, run


def visible_archs(environ: Mapping[str, str]) -> tuple[arch.Arch, ...]:
    """The capabilities of this machine's GPUs, as ``nvidia-smi`` tells; empty where there is none."""
    smi = shutil.which("nvidia-smi", path=environ.get("PATH"))
    if smi is None:
        return ()
    from xfdev.errors import CommandFailed, UnknownArch

    try:
        said = run.capture([smi, "--query-gpu=compute_cap", "--format=csv,noheader"], timeout=10)
        return arch.parse(said.stdout)
    except (CommandFailed, UnknownArch):
        return ()
