"""What facts are compared with, from ``resources/doctor.toml``."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_FILE = Path(__file__).parent.parent / "resources" / "doctor.toml"


@dataclass(frozen=True)
class Wanted:
    """``resources/doctor.toml``: what is compared with, and why, stands there."""

    docker: str
    podman: str
    memory_least: int
    memory_enough: int
    environment: int
    environment_least: int
    temporary: int
    build_least: int
    disk_least: int
    disk_enough: int
    images_least: int
    images_enough: int
    inodes_least: int
    caches_large: int
    files_per_second: int
    bytes_per_second: int
    shared_systems: tuple[str, ...]
    clock_files: float
    clock_warning: float
    clock_error: float
    lock_age: float


@cache
def wanted() -> Wanted:
    data: dict[str, Any] = tomllib.loads(_FILE.read_text())
    return Wanted(**{**data, "shared_systems": tuple(data["shared_systems"])})
