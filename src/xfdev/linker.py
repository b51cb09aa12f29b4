"""A faster linker for builds that nobody else gets.

GNU's linker, the default, takes a second for a library with a dozen CUDA units; mold and lld take a fifth of that
(benchmarks/edit_loop.py has the numbers). What a bundle holds is linked as the project's own build would.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

#: What is taken, the fastest first: the value of -fuse-ld, the program that the compiler then looks for.
_LINKERS = (("mold", "ld.mold"), ("lld", "ld.lld"))

#: The compilers that take -fuse-ld: x86_64-linux-gnu-g++-12 is one, nvcc is none.
_DRIVER = re.compile(r"(^|-)(gcc|g\+\+|cc|c\+\+|clang|clang\+\+)(-[0-9.]+)?$")


def faster(argv: Sequence[str], environ: Mapping[str, str]) -> list[str] | None:
    """The link command with the fastest linker on PATH, or None where there is none, or the command must stay.

    A project that names its linker has a reason. gcc has known mold since 12.1; where the compiler does not know the
    linker, or the linker not an option, the command fails, and the caller has its first one still.
    """
    if _DRIVER.search(Path(argv[0]).name) is None:
        return None
    if any(word.startswith(("-fuse-ld", "--ld-path", "-B", "@")) for word in argv):
        return None
    for name, program in _LINKERS:
        if shutil.which(program, path=environ.get("PATH")) is not None:
            return [*argv, f"-fuse-ld={name}"]
    return None
