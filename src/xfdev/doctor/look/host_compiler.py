"""Which host compilers a CUDA build uses: one for C++, which torch checks, and one that nvcc takes, by other rules."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path

from xfdev import toolchain

_FLAGS = ("NVCC_APPEND_FLAGS", "NVCC_PREPEND_FLAGS")


def compiler_kind(name: str) -> str:
    """Whether a compiler is ``gcc`` or ``clang``, by its program's name: the version that it says does not tell."""
    return "clang" if "clang" in name else "gcc" if re.search(r"g\+\+|gcc", name) else ""


def any_compiler_allowed(environ: Mapping[str, str]) -> bool:
    """Whether nvcc was told to take any host compiler."""
    return any("-allow-unsupported-compiler" in environ.get(name, "") for name in (*_FLAGS, "NVCC_FLAGS"))


def unchecked(environ: Mapping[str, str]) -> bool:
    """Whether torch was told not to look at the C++ compiler (``torch/utils/cpp_extension.py``)."""
    return environ.get("TORCH_DONT_CHECK_COMPILER_ABI", "").upper() in ("ON", "1", "YES", "TRUE", "Y")


def of_nvcc(environ: Mapping[str, str], memory: Path) -> toolchain.Compiler | None:
    """The compiler that nvcc takes: what its flags say, else ``CC``, which torch passes on, else ``NVCC_CCBIN``, else
    g++ (nvcc's manual, "--compiler-bindir"); None where that is not found."""
    flags = (re.search(r"(?:-ccbin|--compiler-bindir)[= ]\s*(\S+)", environ.get(name, "")) for name in _FLAGS)
    given = next((match[1] for match in flags if match), None)
    name = given or environ.get("CC", "").split()[-1:] or environ.get("NVCC_CCBIN") or "g++"
    name = name if isinstance(name, str) else name[0]
    if os.path.isdir(name):
        name = os.path.join(name, "g++")
    return toolchain.host_compiler({"CXX": name, "PATH": environ.get("PATH", os.defpath)}, memory)
