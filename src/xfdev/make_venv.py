"""Make an environment, or finish one whose making was interrupted: virtual environment, torch, CUDA's compiler."""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from xfdev import launchers, run, toolchain, venv
from xfdev.console import console
from xfdev.errors import BadEnvironment, CommandFailed, SourceUnreachable, Untrusted
from xfdev.files import check_space, explained, write_atomic
from xfdev.profile import ToolchainEntry

#: What a build needs beside torch; torch >= 2.11 asks for setuptools below 82 or from 77 on.
BUILD_TOOLS = ("setuptools>=77,<82", "wheel", "packaging", "ninja==1.13.*")


_PIP_SIZE = 30_000_000

#: In an environment's tools: what it was made of, where a lock file named it; in the form of pip's requirements.
PINS = "locked.txt"


def requirements(entry: ToolchainEntry, packages: Sequence[str]) -> list[str]:
    """What an environment of *entry* is asked to have, with the project's own *packages*."""
    return [*filter(None, [entry.torch]), *entry.nvcc, *BUILD_TOOLS, *packages]


def create(
    prefix: Path,
    entry: ToolchainEntry,
    *,
    python: str,
    environ: Mapping[str, str],
    arch: str,
    packages: Sequence[str],
    variables: Mapping[str, str],
    build_classes: Sequence[str] = (),
    locked: Callable[[str], str] = lambda python: "",
) -> venv.Environment:
    """Make or finish the environment at *prefix*; what is there already is kept.

    *packages* are the project's own requirements, *variables* its settings, *build_classes* the names of its own
    subclasses of torch's BuildExtension; *locked* gives, for a version of Python, the packages that a lock file names,
    with their hashes, "" without one. Raises BadEnvironment for a folder that is somebody else's, SourceUnreachable or
    CommandFailed when pip cannot install, Untrusted where it would install another file than is locked.
    """
    if prefix.exists() and not (prefix / "xfdev").is_dir():
        raise BadEnvironment(
            f"{prefix} is there already, and xfdev did not make it",
            why="it is probably a virtual environment of your own",
            hint=f"move it away, or give another place: xfdev up --venv {prefix.parent / '.venv-xfdev'}",
        )
    made_for = prefix / "xfdev" / "toolchain"
    with explained(str(prefix)):
        if prefix.exists() and (not made_for.exists() or made_for.read_text() != entry.name):
            # Another torch on top would leave 3 GB of the old one's CUDA behind.
            with console.step(f"removing the environment of another toolchain in {prefix}"):
                _empty(prefix)
        (prefix / "xfdev").mkdir(parents=True, exist_ok=True)
        venv.environment_file(prefix).unlink(missing_ok=True)
        write_atomic(made_for, entry.name)
        (prefix / ".gitignore").write_text("*\n")
    interpreter = prefix / "bin" / "python"
    # `activate` is what python -m venv writes last.
    if not interpreter.exists() or not (prefix / "bin" / "activate").exists():
        with console.step(f"making a virtual environment in {prefix}"):
            _make(prefix, python, environ)
    pins = locked(_python_version(prefix))
    _install(interpreter, entry, environ=environ, packages=packages, pins=pins)
    note = prefix / "xfdev" / PINS
    if pins:
        write_atomic(note, pins)
    else:
        note.unlink(missing_ok=True)
    return finish(prefix, entry, environ=environ, arch=arch, variables=variables, build_classes=build_classes)


def finish(
    prefix: Path,
    entry: ToolchainEntry,
    *,
    environ: Mapping[str, str],
    arch: str,
    variables: Mapping[str, str],
    build_classes: Sequence[str] = (),
) -> venv.Environment:
    """Put into the virtual environment at *prefix*, which has its packages, what makes it one of *entry*.

    Raises BadEnvironment where its torch is not that of *entry*.
    """
    version = _python_version(prefix)
    site = prefix / "lib" / f"python{version}" / "site-packages"
    torch = toolchain.torch_in(site)
    if entry.torch and torch is None:
        raise BadEnvironment(f"pip installed {entry.torch}, but {site}/torch has no version.py")
    if entry.cuda and torch is not None and not (torch.cuda or "").startswith(entry.cuda):
        raise BadEnvironment(
            f"toolchain {entry.name} needs torch for CUDA {entry.cuda}; pip brought {torch.version}",
            why="a package index or link folder of your pip configuration offers another build of the same version",
            hint="pip config list; then xfdev up again without that index",
        )
    cuda_home = _cuda_tree(site, entry, environ)
    environment = venv.Environment(
        prefix=prefix,
        toolchain=entry.name,
        torch=torch.version if torch else "",
        python=version,
        cuda_home=cuda_home,
        arch=arch,
        variables=_variables(prefix, cuda_home, torch is not None and torch.cuda is not None, arch, variables),
    )
    launchers.write(environment, build_classes)
    venv.write(environment)
    return environment


def _empty(prefix: Path) -> None:
    """Remove what is in *prefix*; last the folder that says it is ours, in case we are killed meanwhile."""
    for path in prefix.iterdir():
        if path.is_dir() and not path.is_symlink():
            if path.name != "xfdev":
                shutil.rmtree(path)
        else:
            path.unlink()
    shutil.rmtree(prefix / "xfdev")


def _make(prefix: Path, python: str, environ: Mapping[str, str]) -> None:
    done = run.capture([python, "-m", "venv", prefix], env=environ, check=False)
    if done.ok:
        return
    said = done.stdout + done.stderr
    check_space(said, str(prefix))
    if "ensurepip" in said and shutil.disk_usage(prefix).free < _PIP_SIZE:  # it does not pass on what pip said
        check_space(f"{said}\nNo space left on device", str(prefix))
    last = said.strip().splitlines()[-1:] or [f"exit status {done.returncode}"]
    raise BadEnvironment(
        f"{python} cannot make a virtual environment in {prefix}: {last[0]}",
        why="distributions part the module venv from Python; in a conda environment or a wrapper it may be missing",
        hint="apt-get install python3-venv, or name another one: xfdev up --python PATH",
        details=said,
    )


def _python_version(prefix: Path) -> str:
    text = (prefix / "pyvenv.cfg").read_text()
    match = re.search(r"^version(?:_info)? *= *(\d+\.\d+)", text, re.MULTILINE)
    if match is None:
        raise BadEnvironment(f"{prefix}/pyvenv.cfg names no version", hint=f"remove {prefix} and run xfdev up again")
    return match[1]


def _cuda_tree(site: Path, entry: ToolchainEntry, environ: Mapping[str, str]) -> str | None:
    if not entry.cuda:
        return None
    major = entry.cuda.partition(".")[0]
    tree = site / "nvidia" / f"cu{major}"
    if (tree / "bin" / "nvcc").exists():
        lib = tree / "lib"
        for name in ("libcudart.so", "libnvrtc.so", "libcublas.so", "libcublasLt.so", "libcusparse.so"):
            # Wheels carry only the versioned names; `-lcudart` wants the other.
            versioned = sorted(lib.glob(f"{name}.*"))
            if versioned and not (lib / name).exists():
                (lib / name).symlink_to(versioned[0].name)
        if not (tree / "lib64").exists():
            (tree / "lib64").symlink_to("lib")
        return str(tree)
    return _host_cuda(major, environ)


def _host_cuda(major: str, environ: Mapping[str, str]) -> str | None:
    """A CUDA tree of the host whose nvcc is of the release *major*."""
    trees = [Path(environ[name]) for name in ("CUDA_HOME", "CUDA_PATH") if environ.get(name)]
    found = shutil.which("nvcc", path=environ.get("PATH"))
    if found:
        trees.append(Path(found).resolve().parent.parent)
    trees += sorted(Path("/usr/local").glob(f"cuda-{major}*"), reverse=True)
    for tree in trees:
        nvcc = tree / "bin" / "nvcc"
        # The compiler proper beside it: a script of that name in /usr/local/bin makes no CUDA tree of /usr/local.
        whole = (tree / "nvvm" / "bin" / "cicc").exists()
        if (
            whole
            and os.access(nvcc, os.X_OK)
            and f"release {major}." in run.capture([nvcc, "--version"], check=False).stdout
        ):
            return str(tree)
    return None


def _variables(
    prefix: Path, cuda_home: str | None, cuda: bool, arch: str, project: Mapping[str, str]
) -> dict[str, str]:
    tools = prefix / "xfdev"
    result = {
        "DIST_EXTRA_CONFIG": str(tools / "distutils.cfg"),
        "CCACHE_BASEDIR": str(prefix.parent),
        "CCACHE_DEPEND": "1",
        "CCACHE_COMPILERCHECK": "content",
        "CCACHE_NOHASHDIR": "1",
        "CCACHE_DIR": str(venv.cache_folder(os.environ) / "ccache"),
        "UV_CONSTRAINT": str(tools / "constraints.txt"),
        "UV_NO_BUILD_ISOLATION": "1",
    }
    if cuda_home:
        result["CUDA_HOME"] = cuda_home
        # torch before 2.13 does not look for ccache by itself.
        result["PYTORCH_NVCC"] = f"{tools / 'bin' / 'ccache'} {cuda_home}/bin/nvcc"
    if arch and cuda and cuda_home:
        result["TORCH_CUDA_ARCH_LIST"] = arch
    result.update(project)
    return {name: value for name, value in result.items() if value}


def _install(
    interpreter: Path, entry: ToolchainEntry, *, environ: Mapping[str, str], packages: Sequence[str], pins: str
) -> None:
    base = [sys.executable, "-m", "pip", "--python", str(interpreter), "install", "--disable-pip-version-check"]
    # The environment's own pip.conf pins the old toolchain's torch; making it anew must not be held back by it.
    quiet = [] if console.verbose else ["-q"]
    wanted = requirements(entry, packages)
    pip_conf = interpreter.parent.parent / "pip.conf"
    pip_conf.unlink(missing_ok=True)
    what = entry.torch + (f" and CUDA {entry.cuda}" if entry.cuda else "") if entry.torch else "build tools"
    given = wanted
    file = interpreter.parent.parent / "xfdev" / f"{PINS}.new"
    if pins:
        what += ", as locked"
        write_atomic(file, pins)
        # What is in the file is all that is installed: nothing comes along without a hash.
        given = ["--require-hashes", "--no-deps", "-r", str(file)]
    with console.step(f"installing {what}"):
        done = run.capture([*base, *quiet, *given], env=environ, check=False)
        if not done.ok and entry.index and "No matching distribution" in done.stderr:
            done = run.capture([*base, *quiet, "--extra-index-url", entry.index, *given], env=environ, check=False)
    file.unlink(missing_ok=True)
    if done.ok:
        return
    reason = next((line for line in reversed(done.stderr.splitlines()) if line.startswith("ERROR")), "pip failed")
    check_space(done.stderr, str(interpreter.parent.parent))
    if "DO NOT MATCH THE HASHES" in done.stderr:
        named = re.search(r"^\s+(\S+==\S+).*:$", done.stderr, re.MULTILINE)
        raise Untrusted(
            f"the package index has another file of {named[1] if named else 'a package'} than the lock file names",
            why="a mirror, or somebody on the way, changed it; or the lock is of another platform",
            hint="do not install it; xfdev lock takes what the index has now, if that is what you want",
            details=done.stderr,
        )
    if "No matching distribution" in done.stderr and "from versions: none" not in done.stderr:
        raise CommandFailed(
            f"no package index has all of {', '.join(wanted)} for this machine: {reason.removeprefix('ERROR: ')}",
            hint="xfdev up --toolchain NAME takes another torch; xfdev up --python PATH another Python",
            details=done.stderr,
        )
    if any(word in done.stderr for word in ("Connection", "Max retries", "timed out", "SSL", "from versions: none")):
        raise SourceUnreachable(
            f"pip cannot fetch {what}: {reason.removeprefix('ERROR: ')}",
            why="the package index does not answer, or a proxy or a private CA stands between",
            hint="check pip config list, HTTPS_PROXY and PIP_CERT; then run the same command again, it continues",
            details=done.stderr,
        )
    raise CommandFailed(f"pip cannot install {what}: {reason}", details=done.stderr)
