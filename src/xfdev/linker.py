"""A faster linker for builds that nobody else gets.

GNU's linker, the default, reads all symbols of libtorch_cpu for each link: 0.4 to 0.7 s for a library of a dozen CUDA
units, where mold takes 0.1 s (docs/how-to/edit-loop.md). gold (0.2 s) is not taken: nobody keeps it any more, and its
libraries export three symbols that GNU's do not. What a bundle holds is linked as the project's own build would.
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
    name = fastest(environ)
    return [*argv, f"-fuse-ld={name}"] if name else None


def fastest(environ: Mapping[str, str]) -> str:
    """The name of the fastest linker on PATH, "" where the default is all there is."""
    path = environ.get("PATH")
    return next((name for name, program in _LINKERS if shutil.which(program, path=path) is not None), "")
