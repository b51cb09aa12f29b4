"""CUDA's tools that read compiled code: where they are, and what they say of an object."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from xfdev import run
from xfdev.errors import CommandFailed
from xfdev.venv import Environment

#: The PyPI packages with each; they install below ``nvidia/cu13`` (https://pypi.org/project/nvidia-cuda-cuobjdump/).
_PACKAGES = {"cuobjdump": "nvidia-cuda-cuobjdump", "nvdisasm": "nvidia-cuda-nvdisasm"}


def find(name: str, environment: Environment, environ: Mapping[str, str]) -> Path:
    """The tool *name*. Raises CommandFailed, saying how to get it, where there is none."""
    for path in _candidates(name, environment):
        if os.access(path, os.X_OK):
            return path
    found = shutil.which(name, path=environ.get("PATH"))
    if found is None:
        raise CommandFailed(
            f"{name}, which reads compiled CUDA code, is not here",
            why="it is part of a CUDA toolkit, and of triton and its own package on PyPI; PATH has none of them",
            hint=f"{environment.interpreter} -m pip install {_PACKAGES.get(name, name)}",
        )
    return Path(found)


def _candidates(name: str, environment: Environment) -> Iterator[Path]:
    if environment.cuda_home:
        yield Path(environment.cuda_home) / "bin" / name
    yield from sorted(environment.site_packages.glob(f"nvidia/cu*/bin/{name}"))
    yield environment.site_packages / "triton" / "backends" / "nvidia" / "bin" / name  # torch's wheels bring triton


def dump(tool: Path, words: Sequence[str], path: Path, environ: Mapping[str, str]) -> str:
    """What cuobjdump at *tool* prints of the file *path*; "" where it has no device code. Raises CommandFailed."""
    # It looks for nvdisasm on PATH.
    env = {**environ, "PATH": f"{tool.parent}{os.pathsep}{environ.get('PATH', os.defpath)}"}
    done = run.capture([tool, *words, path], env=env, check=False)
    if not done.ok and "does not contain device code" not in done.stderr:
        raise run.failure(done)
    return done.stdout


def readable(names: Sequence[str], environ: Mapping[str, str]) -> dict[str, str]:
    """Mangled C++ names as a person reads them, where there is a c++filt."""
    program = shutil.which("c++filt", path=environ.get("PATH"))
    if program is None or not names:
        return {}
    done = run.capture([program], input_text="\n".join(names) + "\n", env=environ, check=False)
    said = done.stdout.splitlines()
    return dict(zip(names, said, strict=True)) if done.ok and len(said) == len(names) else {}
