"""What each CUDA release compiles for and with, and the driver that it wants. The facts are in resources/cuda.toml."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

_FACTS = Path(__file__).parent / "resources" / "cuda.toml"


@dataclass(frozen=True)
class Release:
    """One CUDA release (*version* is ``13.0``).

    *archs* are what its ``nvcc --list-gpu-code`` prints (``sm_75``, ...), *features* those that it takes besides
    (``sm_90a``, ``sm_100f``). *gcc* and *clang* are the newest major versions that it accepts as host compiler.
    *driver* is the first driver with all of this release (None: not known), *least_driver* the first one that runs
    its machine code at all; PTX of version *ptx*, which it writes, needs the former.
    """

    version: str
    archs: tuple[str, ...]
    features: tuple[str, ...]
    gcc: int
    clang: int
    driver: str | None
    least_driver: str
    ptx: str

    @property
    def major(self) -> int:
        return int(self.version.partition(".")[0])


def numbers(version: str) -> tuple[int, ...]:
    """A version as numbers that compare: ``580.65.06`` as (580, 65, 6). What is no number ends it."""
    return tuple(int(part) for part in re.findall(r"\d+", re.match(r"[\d.]*", version.strip())[0]))  # type: ignore[index]


@cache
def releases() -> Mapping[str, Release]:
    """All releases by version, the oldest first."""
    facts: dict[str, Any] = tomllib.loads(_FACTS.read_text())
    least = facts.pop("minor_version_compatibility")

    def spelled(names: str) -> tuple[str, ...]:
        return tuple(f"sm_{name}" for name in names.split())

    return {
        version: Release(
            version=version,
            archs=spelled(entry["archs"]),
            features=spelled(entry["features"]),
            gcc=entry["gcc"],
            clang=entry["clang"],
            driver=entry.get("driver"),
            least_driver=least[version.partition(".")[0]],
            ptx=entry["ptx"],
        )
        for version, entry in facts.items()
    }


def release(version: str) -> Release | None:
    """The release that *version* (``13.0``, ``13.0.88``) belongs to; None for one that the table does not have."""
    return releases().get(".".join(str(part) for part in numbers(version)[:2]))


def newest_for_driver(driver: str) -> Release | None:
    """The newest release all of which a driver (``580.95.05``) has; None for one older than the table."""
    have = numbers(driver)
    able = [entry for entry in releases().values() if entry.driver is not None and numbers(entry.driver) <= have]
    return able[-1] if able else None


def newest_ptx(*, driver: str | None, cuda: str | None) -> str | None:
    """The newest PTX that a driver compiles. *cuda* is the CUDA release that it says it supports, which is believed
    before the number of the *driver*; a release newer than the table takes at least the newest PTX in it."""
    if cuda is not None and (found := numbers(cuda)):
        able = [entry.ptx for entry in releases().values() if numbers(entry.version) <= found[:2]]
        return able[-1] if able else None
    entry = newest_for_driver(driver) if driver else None
    return entry.ptx if entry else None


def first_to_write(ptx: str) -> Release | None:
    """The first release whose compiler writes PTX of this version, and whose driver so takes it."""
    return next((entry for entry in releases().values() if numbers(entry.ptx) >= numbers(ptx)), None)


def runs_with(entry: Release, driver: str) -> bool:
    """Whether machine code of a release runs with a driver: its own, or any of that major version or a later one."""
    return numbers(driver) >= numbers(entry.least_driver)
