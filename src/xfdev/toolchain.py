"""What compiles and loads, each fact by its name, so that a mismatch can be told by name.

Nothing is imported to find out: torch says its version in ``torch/version.py``, compilers by ``--version``. Digests
of compilers are remembered by the files' identity (device, inode, size, times) in the folder given as *memory*.
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from xfdev import arch as archs
from xfdev import run
from xfdev.errors import BadEnvironment, CommandFailed
from xfdev.files import read_json, write_json

#: Variables that reach compiler, linker or setup.py in every project (gcc and nvcc manuals, distutils, torch).
VARIABLES = (
    "CC", "CXX", "CFLAGS", "CXXFLAGS", "CPPFLAGS", "LDFLAGS", "LDSHARED", "LDCXXSHARED", "CPATH", "C_INCLUDE_PATH",
    "CPLUS_INCLUDE_PATH", "LIBRARY_PATH", "CUDAHOSTCXX", "NVCC_CCBIN", "NVCC_FLAGS", "NVCC_PREPEND_FLAGS",
    "NVCC_APPEND_FLAGS", "FORCE_CUDA", "TORCH_DONT_CHECK_COMPILER_ABI", "DEBUG",
    "TORCH_CUDA_ARCH_LIST", "SOURCE_DATE_EPOCH", "GCC_EXEC_PREFIX", "COMPILER_PATH",
)  # fmt: skip

#: Variables that build scripts ask for but that do not change what is compiled, or that the environment sets.
HARMLESS = frozenset({
    "PATH", "HOME", "PWD", "TMPDIR", "TEMP", "TMP", "MAX_JOBS", "LANG", "LC_ALL", "TERM", "USER", "COLUMNS", "LINES",
    "CUDA_HOME", "CUDA_PATH", "PYTORCH_NVCC", "VIRTUAL_ENV", "CI", "NO_COLOR", "PYTHONPATH", "VERBOSE", "NVCC_THREADS",
})  # fmt: skip

#: Variables that are lists of folders; an empty entry, or a relative one, is meant from where the compiler runs.
FOLDERS = ("CPATH", "C_INCLUDE_PATH", "CPLUS_INCLUDE_PATH", "LIBRARY_PATH")
INCLUDE_FOLDERS = FOLDERS[:3]

#: The programs and files that an nvcc consists of, below its CUDA tree.
NVCC_PARTS = (
    "bin/nvcc", "bin/cudafe++", "bin/ptxas", "bin/fatbinary", "bin/nvlink", "bin/nvcc.profile", "nvvm/bin/cicc",
    "nvvm/libdevice/libdevice.10.bc",
)  # fmt: skip


def absolute_folders(environ: Mapping[str, str], cwd: str) -> dict[str, str]:
    """Those of FOLDERS that are set, their entries as a compiler that runs in *cwd* understands them."""
    return {
        name: ":".join(os.path.normpath(os.path.join(cwd, entry)) for entry in environ[name].split(":"))
        for name in FOLDERS
        if environ.get(name)
    }


@dataclass(frozen=True)
class Torch:
    """*version* with its local part, *cuda* as ``13.0`` or None, *git* the commit it was built from."""

    version: str
    cuda: str | None
    git: str | None


def torch_in(site_packages: Path) -> Torch | None:
    """The torch of an environment, read from its ``version.py``; None where there is none."""
    try:
        text = (site_packages / "torch" / "version.py").read_text()
    except OSError:
        return None

    def value(name: str) -> str | None:
        match = re.search(rf"^{name}(?::[^=]*)? = '([^']*)'", text, re.MULTILINE)
        return match[1] if match else None

    version = value("__version__")
    return None if version is None else Torch(version, value("cuda"), value("git_version"))


def torch_archs(site_packages: Path) -> frozenset[str]:
    """The capabilities (``9.0a``, ...) that torch's cpp_extension accepts; empty where its table is not found."""
    try:
        text = (site_packages / "torch" / "utils" / "cpp_extension.py").read_text()
    except OSError:
        return frozenset()
    match = re.search(r"supported_arches = \[(.*?)\]", text, re.DOTALL)
    return frozenset(re.findall(r"'(\d+\.\d[af]?)'", match[1])) if match else frozenset()


@dataclass(frozen=True)
class Compiler:
    """A compiler by its path, its version as it says, and a digest of the programs it consists of."""

    path: Path
    version: str
    digest: str

    def __str__(self) -> str:
        return f"{self.version} ({self.digest[:12]})"


def nvcc_at(cuda_home: Path, memory: Path) -> Compiler | None:
    """The nvcc of a CUDA tree; None where there is none that runs."""
    path = cuda_home / "bin" / "nvcc"
    if not os.access(path, os.X_OK):
        return None
    parts = [part for part in (cuda_home / name for name in NVCC_PARTS) if part.exists()]
    return _remembered(memory, path, parts, ["--version"], r"\bV(\d+\.\d+\.\d+)")


def nvcc_archs(nvcc: Compiler, memory: Path) -> frozenset[str]:
    """What ``nvcc --list-gpu-code`` prints: ``sm_75``, ``sm_90``, ..."""
    place = memory / f"archs-{nvcc.digest[:16]}.json"
    known = read_json(place)
    if not isinstance(known, dict) or known.get("digest") != nvcc.digest:
        listed = run.capture([nvcc.path, "--list-gpu-code"], check=False).stdout.split()
        known = {"digest": nvcc.digest, "archs": listed}
        _remember(place, known)
    return frozenset(known["archs"])


def compiler_name(environ: Mapping[str, str]) -> str:
    """What the C++ compiler is called, or its path: that of ``CXX``, else ``c++``."""
    return (environ.get("CXX", "").split()[-1:] or ["c++"])[0]


def host_compiler(environ: Mapping[str, str], memory: Path) -> Compiler | None:
    """The C++ compiler that torch's extension build takes: ``CXX``, else ``c++``; None where there is none."""
    found = shutil.which(compiler_name(environ), path=environ.get("PATH"))
    if found is None:
        return None
    path = Path(found).resolve()
    # The driver changes with every release of gcc; cc1plus, which does the work, lies beside its own version.
    return _remembered(memory, path, [path], ["-dumpfullversion", "-dumpversion"], r"(\d[\d.]*)")


def is_script(path: Path) -> bool:
    """Whether a compiler is a script: what stands behind it may change while it stays as it is."""
    try:
        with path.open("rb") as stream:
            return stream.read(2) == b"#!"
    except OSError:
        return False


def _remembered(memory: Path, path: Path, parts: Sequence[Path], ask: Sequence[str], pattern: str) -> Compiler | None:
    # The same tools serve many checkouts, each of which may reach them by a link of its own.
    real = os.path.realpath(path)
    identity = [[os.path.realpath(part), *_identity(part)] for part in parts]
    place = memory / f"{path.name}-{hashlib.sha256(real.encode()).hexdigest()[:16]}.json"
    known = read_json(place)
    if not isinstance(known, dict) or known.get("identity") != identity:
        try:
            said = run.capture([path, *ask]).stdout
        except CommandFailed:
            return None
        match = re.search(pattern, said)
        if match is None:
            return None
        digest = hashlib.sha256()
        for part in parts:
            with part.open("rb") as stream:
                while chunk := stream.read(1 << 20):
                    digest.update(chunk)
        known = {"identity": identity, "version": match[1], "digest": digest.hexdigest()}
        _remember(place, known)
    return Compiler(path, known["version"], known["digest"])


def _identity(path: Path) -> list[int]:
    stat = path.stat()
    return [stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns]


def _remember(place: Path, value: object) -> None:
    from xfdev.errors import XfdevError

    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        write_json(place, value)
    except (OSError, XfdevError):
        pass  # a read-only cache: it is found out anew next time


def _glibc() -> str:
    """The version of this process's C library, ``""`` where it is not glibc. (``platform`` takes long to import.)"""
    try:
        name, _, version = (os.confstr("CS_GNU_LIBC_VERSION") or "").partition(" ")
    except (ValueError, OSError):
        return ""
    return version if name == "glibc" else ""


@dataclass(frozen=True)
class Toolchain:
    """The facts of one environment on one machine.

    ``facts`` maps a name to its value; what is not there (no nvcc, say) is not in it. ``variables`` are those that
    reach the build and are set.
    """

    facts: Mapping[str, str]
    variables: Mapping[str, str]
    cuda_home: Path | None
    nvcc: Compiler | None
    cxx: Compiler | None
    torch: Torch | None

    @property
    def arch(self) -> tuple[archs.Arch, ...]:
        return archs.parse(self.facts.get("arch", ""))

    @property
    def has_cuda(self) -> bool:
        return self.torch is not None and self.torch.cuda is not None


def probe(
    *,
    site_packages: Path,
    python: str,
    cuda_home: Path | None,
    arch: tuple[archs.Arch, ...],
    environ: Mapping[str, str],
    watched: Sequence[str],
    memory: Path,
) -> Toolchain:
    """Find out what compiles and loads in an environment.

    *python* is ``3.11``; *cuda_home* the tree to take nvcc from; *watched* the project's own variables. Raises
    BadEnvironment where its torch cannot be read.
    """
    torch = torch_in(site_packages)
    if torch is None and (site_packages / "torch").exists():
        raise BadEnvironment(
            f"the torch in {site_packages} is incomplete",
            why="an installation was interrupted",
            hint="run xfdev up again; it continues",
        )
    nvcc = nvcc_at(cuda_home, memory) if cuda_home is not None else None
    cxx = host_compiler(environ, memory)
    facts = {
        "platform": f"linux-{os.uname().machine}",
        "glibc": _glibc(),
        "python": python,
    }
    if torch is not None:
        facts["torch"] = torch.version
        if torch.git:
            facts["torch commit"] = torch.git
        if torch.cuda:
            facts["cuda"] = torch.cuda
    if nvcc is not None:
        facts["nvcc"] = str(nvcc)
    if cxx is not None:
        facts["host compiler"] = str(cxx)
    if torch is not None and torch.cuda and arch:
        facts["arch"] = archs.canonical(arch)
    variables = {
        name: environ[name]
        for name in sorted({*VARIABLES, *watched} - HARMLESS - {"TORCH_CUDA_ARCH_LIST"})
        if name in environ
    }
    return Toolchain(facts, variables, cuda_home if nvcc else None, nvcc, cxx, torch)
