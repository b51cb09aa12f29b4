"""A project's facts, from a data file: no project's name appears in code."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatch
from functools import cache
from pathlib import Path
from typing import Any

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

from xfdev.arch_variables import ArchVariable
from xfdev.errors import UsageError

RESOURCES = Path(__file__).parent / "resources"


@dataclass(frozen=True)
class Profile:
    """What xfdev has to know about one project beyond what its build tells. ``docs/reference/profiles.md``."""

    name: str
    distribution: str | None = None
    repository: str | None = None
    marker: str | None = None
    submodules: tuple[str, ...] = ()
    metadata: tuple[str, ...] = ("README*", "*.md", "*.rst", "LICENSE*", "requirements*.txt", "MANIFEST.in")
    variables: tuple[str, ...] = ()
    native: tuple[str, ...] = ()
    version_file: str | None = None
    build_classes: tuple[str, ...] = ()
    first_build_variable: str = "FIRST_BUILD_URL"
    fork_variable: str = "FORK_URL"
    environment: Mapping[str, str] = field(default_factory=dict)
    arch_variables: Mapping[str, ArchVariable] = field(default_factory=dict)
    submodule_commits: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    guess: Mapping[str, Any] = field(default_factory=dict)
    check: Mapping[str, Any] = field(default_factory=dict)
    toolchain: Mapping[str, Any] = field(default_factory=dict)

    @property
    def names_of_archs(self) -> frozenset[str]:
        """Variables that say no more than the archs, which are compared by what the binaries hold."""
        return frozenset({"TORCH_CUDA_ARCH_LIST", *self.arch_variables})

    def is_metadata(self, path: str) -> bool:
        """Whether *path* (from the checkout's root) changes packaging metadata but never what is compiled."""
        return any(fnmatch(path, pattern) for pattern in self.metadata)

    def toolchain_for(self, purpose: str, version: str | None) -> str:
        """The name of the toolchain for a *purpose* (``reuse``, ``compile`` or ``cpu``) at a release *version*."""
        if version is not None:
            from packaging.specifiers import SpecifierSet
            from packaging.version import InvalidVersion

            for entry in self.toolchain.get("releases", ()):
                try:
                    if purpose in entry and SpecifierSet(entry["versions"], prereleases=True).contains(version):
                        return str(entry[purpose])
                except InvalidVersion:
                    break
        return str(self.toolchain[purpose])


@dataclass(frozen=True)
class ToolchainEntry:
    """One named entry of ``resources/toolchains.toml``."""

    name: str
    torch: str
    cuda: str
    nvcc: tuple[str, ...]
    summary: str
    index: str | None = None


@cache
def profiles() -> Mapping[str, Profile]:
    """All profiles by name."""
    found = {}
    for path in sorted((RESOURCES / "profiles").glob("*.toml")):
        data = tomllib.loads(path.read_text())
        for key in ("submodules", "metadata", "variables", "native", "build_classes"):
            if key in data:
                data[key] = tuple(data[key])
        data["arch_variables"] = {
            name: ArchVariable(**{**entry, "known": tuple(entry.get("known", ()))})
            for name, entry in data.get("arch_variables", {}).items()
        }
        found[data["name"]] = Profile(**data)
    return found


@cache
def toolchains() -> Mapping[str, ToolchainEntry]:
    """All toolchain entries by name."""
    data = tomllib.loads((RESOURCES / "toolchains.toml").read_text())
    return {name: ToolchainEntry(name=name, **{**entry, "nvcc": tuple(entry["nvcc"])}) for name, entry in data.items()}


def toolchain_entry(name: str) -> ToolchainEntry:
    """The entry *name*. Raises UsageError for a name that is not there."""
    try:
        return toolchains()[name]
    except KeyError:
        raise UsageError(f"there is no toolchain {name!r}", hint=f"take one of: {', '.join(toolchains())}") from None


def of_checkout(root: Path) -> Profile:
    """The profile whose marker the checkout has, else the default one."""
    for profile in profiles().values():
        if profile.marker is not None and (root / profile.marker).exists():
            return profile
    return profiles()["default"]


def of_distribution(name: str) -> Profile:
    """The profile for a distribution on a package index, else the default one."""
    wanted = name.lower().replace("_", "-")
    for profile in profiles().values():
        if profile.distribution == wanted:
            return profile
    return profiles()["default"]
