"""The environment on the host: a ``.venv`` in the checkout, with torch and what compiles against it.

``make_venv`` makes it, ``launchers`` puts into it what keeps builds right. ``environment.json`` is written last:
without it a ``.venv`` is unfinished.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from xfdev import toolchain
from xfdev.errors import BadEnvironment
from xfdev.files import read_json, write_json


@dataclass(frozen=True)
class Environment:
    """A finished environment. *cuda_home* is the tree nvcc is taken from, None where there is no nvcc."""

    prefix: Path
    toolchain: str
    torch: str
    python: str
    cuda_home: str | None = None
    arch: str = ""
    variables: Mapping[str, str] = field(default_factory=dict)

    @property
    def site_packages(self) -> Path:
        return self.prefix / "lib" / f"python{self.python}" / "site-packages"

    @property
    def interpreter(self) -> Path:
        return self.prefix / "bin" / "python"

    @property
    def tools(self) -> Path:
        return self.prefix / "xfdev"

    def environ(self, base: Mapping[str, str]) -> dict[str, str]:
        """The variables of a process in this environment, on top of *base*."""
        result = dict(base)
        result.pop("PYTHONHOME", None)
        result.update(self.variables)
        result["VIRTUAL_ENV"] = str(self.prefix)
        first = f"{self.tools / 'bin'}{os.pathsep}{self.prefix / 'bin'}"
        if self.cuda_home:
            first += f"{os.pathsep}{self.cuda_home}/bin"
        result["PATH"] = f"{first}{os.pathsep}{base.get('PATH', os.defpath)}"
        return result


def environment_file(prefix: Path) -> Path:
    """What an environment is, written when it is finished."""
    return prefix / "xfdev" / "environment.json"


def read(prefix: Path) -> Environment | None:
    """The environment at *prefix*; None where there is none or it is unfinished."""
    known = read_json(environment_file(prefix))
    if not isinstance(known, dict):
        return None
    try:
        environment = Environment(**{**_replace(known, _PREFIX, str(prefix)), "prefix": prefix})
    except TypeError:
        return None
    return environment if _is_whole(environment) else None


#: Stands for the environment's own folder in ``environment.json``: it may be reached by another path, through a
#: link or a mount, and commands written with that path share entries of the compiler cache with others.
_PREFIX = "%{prefix}"


def _replace(value: Any, old: str, new: str) -> Any:
    """*value*, of JSON's types, with *old* replaced in every text."""
    if isinstance(value, str):
        return value.replace(old, new)
    if isinstance(value, dict):
        return {key: _replace(entry, old, new) for key, entry in value.items()}
    return value


def _is_whole(environment: Environment) -> bool:
    """Whether what was read has the types that were written."""
    texts = (environment.toolchain, environment.torch, environment.python, environment.arch)
    variables = environment.variables
    return (
        all(isinstance(text, str) for text in texts)
        and isinstance(environment.cuda_home, str | None)
        and isinstance(variables, Mapping)
        and all(isinstance(value, str) for value in variables.values())
    )


def check_torch(environment: Environment) -> None:
    """Raise BadEnvironment when its torch is no longer the one it was made with."""
    torch = toolchain.torch_in(environment.site_packages)
    if (torch.version if torch else "") != environment.torch:
        have = torch.version if torch else "none"
        raise BadEnvironment(
            f"torch of {environment.prefix} was swapped: it was {environment.torch}, now {have}",
            why="an installation without this environment's constraint replaced it",
            hint="run xfdev up again: it puts the right one back",
        )


def write(environment: Environment) -> None:
    """Note that an environment is finished."""
    known = {key: value for key, value in asdict(environment).items() if key != "prefix"}
    write_json(environment_file(environment.prefix), _replace(known, str(environment.prefix), _PREFIX))


def cache_folder(environ: Mapping[str, str]) -> Path:
    """Where bundles and compiler caches lie: ``XFDEV_CACHE``, else below ``XDG_CACHE_HOME`` or ``~/.cache``."""
    if environ.get("XFDEV_CACHE"):
        return Path(environ["XFDEV_CACHE"]).absolute()
    base = environ.get("XDG_CACHE_HOME") or str(Path(environ.get("HOME", "~")).expanduser() / ".cache")
    return Path(base) / "xfdev"


def tools_memory(environ: Mapping[str, str]) -> Path:
    """Where versions and digests of compilers are remembered: hashing nvcc takes longer than a whole link."""
    return cache_folder(environ) / "tools"
