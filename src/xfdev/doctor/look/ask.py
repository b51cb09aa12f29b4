"""What every area is asked with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from xfdev.doctor.facts import Made


@dataclass(frozen=True)
class Ask:
    """*path* is what the doctor was asked about, *root* the top of its checkout; *submodules* are those that the
    project's compile needs (all, where empty); *seconds* what one program may take."""

    path: Path
    root: Path
    environ: Mapping[str, str]
    cache: Path
    made: Made
    submodules: tuple[str, ...] = ()
    image: str | None = None
    network: bool = False
    seconds: float = 2.2
