# Runs in the environment's Python, without xfdev: standard library and the project's own build requirements only.
"""Run a project's ``setup.py build_ext`` and record what it would compile, without compiling anything.

    python driver.py REQUEST.json

The request names the checkout, the build folders, and the file to write. What is recorded:

- every command that compiles or links (from ninja's own ``compdb``, see ``ninja`` beside this file, and from
  distutils' ``spawn``), which is not run; every other command is;
- what the build script depended on: files of the checkout it read, patterns it globbed, folders it listed,
  environment variables it asked for, files of the checkout it wrote;
- everything it left in ``build_lib``, and the metadata for an editable install.
"""

from __future__ import annotations

import glob
import json
import os
import runpy
import shutil
import sys
import sysconfig
from importlib.machinery import SourceFileLoader
from pathlib import Path

with open(sys.argv[1]) as stream:
    REQUEST = json.load(stream)

CHECKOUT = os.path.realpath(REQUEST["checkout"])
BUILD_TEMP = REQUEST["build_temp"]
BUILD_LIB = REQUEST["build_lib"]
SKIPPED = tuple(os.path.join(CHECKOUT, name) + os.sep for name in (".git", ".venv", ".xfdev", "build"))

reads: set[str] = set()
writes: set[str] = set()
globs: dict[tuple[str, bool], None] = {}
listings: set[str] = set()
asked: dict[str, bool] = {}
variables: set[str] = set()
commands: list[dict[str, object]] = []
recording = True


def inside(path: object) -> str | None:
    """The path relative to the checkout, or None for what is not the project's own."""
    if isinstance(path, bytes):
        path = os.fsdecode(path)
    if not isinstance(path, (str, os.PathLike)):
        return None
    full = os.path.normpath(os.path.join(os.getcwd(), os.fspath(path)))
    if full != CHECKOUT and not full.startswith(CHECKOUT + os.sep):
        return None
    if (full + os.sep).startswith(SKIPPED) or ".egg-info" in full or "__pycache__" in full:
        return None
    return os.path.relpath(full, CHECKOUT)


def called_by_project(depth: int) -> bool:
    """Whether the nearest frame that is not the standard library's own is a file of the checkout."""
    frame = sys._getframe(depth)
    while frame is not None:
        name = frame.f_code.co_filename
        if (not name.startswith("<") and not name.startswith(STDLIB)) or "site-packages" in name:
            return inside(name) is not None
        frame = frame.f_back
    return False


STDLIB = (sysconfig.get_path("stdlib") + os.sep, os.path.dirname(os.__file__) + os.sep)


def audit(event: str, args: tuple) -> None:
    if not recording:
        return
    if event == "open":
        path, mode, flags = args[0], args[1], args[2] if len(args) > 2 else 0
        relative = inside(path)
        if relative is not None:
            writing = bool(isinstance(flags, int) and flags & (os.O_WRONLY | os.O_RDWR))
            if isinstance(mode, str) and set(mode) & set("wax+"):
                writing = True
            (writes if writing else reads).add(relative)
    elif event == "glob.glob":
        if called_by_project(2):
            add_glob(str(args[0]), bool(args[1]))
    elif event in ("pathlib.Path.glob", "pathlib.Path.rglob"):
        if called_by_project(2):
            pattern = str(args[1])
            if event.endswith("rglob"):
                pattern = os.path.join("**", pattern)
            add_glob(os.path.join(str(args[0]), pattern), True)
    elif event in ("os.listdir", "os.scandir") and called_by_project(2):
        # glob and pathlib list folders too; those lists are already described by their patterns.
        frame = sys._getframe(1)
        while frame is not None:
            if os.path.basename(frame.f_code.co_filename) in ("glob.py", "pathlib.py", "_glob.py", "_abc.py"):
                return
            if inside(frame.f_code.co_filename) is not None:
                break
            frame = frame.f_back
        relative = inside(args[0] if args[0] is not None else ".")
        if relative is not None:
            listings.add(relative)


def add_glob(pattern: str, recursive: bool) -> None:
    full = os.path.normpath(os.path.join(os.getcwd(), pattern))
    if full.startswith(CHECKOUT + os.sep):
        globs[(os.path.relpath(full, CHECKOUT), recursive)] = None


class Watched(type(os.environ)):
    """``os.environ``, noting which variables the project's own code asks for."""

    def __getitem__(self, key: str) -> str:
        note(key)
        return super().__getitem__(key)

    def __contains__(self, key: object) -> bool:
        note(key)
        return super().__contains__(key)

    def get(self, key, default=None):
        note(key)
        return super().get(key, default)


def note(key: object) -> None:
    if recording and isinstance(key, str) and called_by_project(3):
        variables.add(key)


def asking(function):
    """Stand in for ``os.stat`` and its like (behind ``os.path.exists``, ``Path.is_file``, ...), which Python does
    not audit: note the paths whose existence the project's own code asks for."""

    def noted(path, *args, **kwargs):
        relative = None
        if recording and not isinstance(path, int) and called_by_project(2) and not listed_by_library(2):
            relative = inside(path)
        if relative is not None and not relative.endswith((".so", ".pyc")):
            asked.setdefault(relative, exists(path))
        return function(path, *args, **kwargs)

    return noted


STAT = os.stat


def exists(path) -> bool:
    try:
        STAT(path)
        return True
    except (OSError, ValueError):
        return False


def listed_by_library(depth: int) -> bool:
    """Whether glob or a walk asks on the project's behalf; what it found is described by its pattern."""
    frame = sys._getframe(depth)
    while frame is not None and inside(frame.f_code.co_filename) is None:
        if os.path.basename(frame.f_code.co_filename) in ("glob.py", "_glob.py", "fnmatch.py"):
            return True
        frame = frame.f_back
    return False


def is_compile(argv: list[str]) -> bool:
    return "-c" in argv and "-o" in argv


def is_link(argv: list[str]) -> bool:
    return "-shared" in argv and "-o" in argv


def intercept(run):
    """Stand in for ``CCompiler.spawn`` (named ``call`` since setuptools 84)."""

    def recorded(self, cmd, *args, **kwargs):
        argv = [os.fspath(word) for word in cmd]
        if not (is_compile(argv) or is_link(argv)):
            return run(self, cmd, *args, **kwargs)
        output = os.path.abspath(argv[argv.index("-o") + 1])
        commands.extend(ninja_commands())  # what ninja compiled for this library
        commands.append(
            {
                "kind": "compile" if is_compile(argv) else "link",
                "cwd": os.getcwd(),
                "argv": argv,
                "output": output,
            }
        )
        touch(output)
        return None

    return recorded


def touch(path: str) -> None:
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "wb"):
        pass


def main() -> None:
    global recording
    shutil.rmtree(BUILD_LIB, ignore_errors=True)
    os.makedirs(BUILD_LIB)
    os.makedirs(BUILD_TEMP, exist_ok=True)
    os.chdir(CHECKOUT)
    sys.path.insert(0, CHECKOUT)  # as `python setup.py` has it
    sys.dont_write_bytecode = True
    read_sources_of_the_project()
    before = {path: os.stat(path).st_mtime_ns for path in project_files()}

    import setuptools
    import distutils.core

    import distutils.ccompiler

    base = distutils.ccompiler.CCompiler
    for name in ("spawn", "call"):
        if hasattr(base, name):
            setattr(base, name, intercept(getattr(base, name)))
    os.environ.__class__ = Watched
    for name in ("stat", "lstat", "access"):
        setattr(os, name, asking(getattr(os, name)))
    sys.addaudithook(audit)

    # A pinned build_temp of the environment (DIST_EXTRA_CONFIG) must not override the folders asked for here.
    os.environ.pop("DIST_EXTRA_CONFIG", None)
    sys.argv = ["setup.py", "build_ext", "--force", "--build-temp", BUILD_TEMP, "--build-lib", BUILD_LIB]
    if os.path.exists("setup.py"):
        runpy.run_path("setup.py", run_name="__main__")
    else:
        setuptools.setup()
    recording = False
    os.environ.__class__ = Watched.__mro__[1]

    dist = distutils.core._setup_distribution
    if dist is None:
        raise SystemExit("setup.py did not call setup()")
    for path in project_files():
        if before.get(path) != os.stat(path).st_mtime_ns:
            writes.add(path)  # written by a process that setup.py started, or in a way Python does not audit
    result = {
        "commands": commands + ninja_commands(),
        "reads": sorted(reads - writes),
        "writes": sorted(writes),
        "globs": [
            {"pattern": pattern, "recursive": recursive, "matches": matches(pattern, recursive)}
            for pattern, recursive in globs
        ],
        "listings": {path: sorted(os.listdir(path)) for path in sorted(listings)},
        "asked": {path: there for path, there in sorted(asked.items()) if path not in writes},
        "variables": sorted(variables),
        "extensions": [extension(ext) for ext in dist.ext_modules or []],
        "package_dir": dict(dist.package_dir or {}),
        "packages": sorted(dist.packages or []),
        "outputs": sorted(
            os.path.relpath(os.path.join(folder, name), BUILD_LIB)
            for folder, _, names in os.walk(BUILD_LIB)
            for name in names
        ),
        "python": {
            "version": ".".join(map(str, sys.version_info[:2])),
            "include": sysconfig.get_path("include"),
            "base_prefix": sys.base_prefix,
        },
        "metadata": metadata(dist),
    }
    with open(REQUEST["result"], "w") as stream:
        json.dump(result, stream)


def read_sources_of_the_project() -> None:
    """Let no module of the checkout come from bytecode: its source would not be seen to be read, and a source with
    the bytecode's time would not be seen to be another. torch comes from it, whose sources take seconds to compile."""
    cached = SourceFileLoader.get_code

    def get_code(self, fullname):
        path = self.get_filename(fullname)
        if inside(path) is None:
            return cached(self, fullname)
        return self.source_to_code(self.get_data(path), path)

    SourceFileLoader.get_code = get_code


def project_files() -> list[str]:
    """Untracked and tracked files that a build script may write beside its sources, by path from the checkout."""
    found = []
    for folder, names, files in os.walk("."):
        names[:] = [
            n
            for n in names
            if n not in (".git", ".venv", ".xfdev", "build", "__pycache__") and not n.endswith(".egg-info")
        ]
        found += [os.path.relpath(os.path.join(folder, name), ".") for name in files]
    return [path for path in found if not os.path.islink(path) or os.path.exists(path)]


def extension(ext) -> dict[str, object]:
    return {"name": ext.name, "sources": [str(s) for s in ext.sources], "depends": [str(d) for d in ext.depends]}


def matches(pattern: str, recursive: bool) -> list[str]:
    return sorted(set(glob.glob(pattern, recursive=recursive)))


def ninja_commands() -> list[dict[str, object]]:
    """What the ``ninja`` shim noted since the last call, one JSON object a line."""
    try:
        with open(REQUEST["ninja"]) as stream:
            noted = [json.loads(line) for line in stream]
        os.unlink(REQUEST["ninja"])
        return noted
    except FileNotFoundError:
        return []


def metadata(dist) -> dict[str, str]:
    """The ``.dist-info`` files of an editable install; empty where the project's setuptools cannot make them."""
    folder = REQUEST["metadata"]
    shutil.rmtree(folder, ignore_errors=True)
    os.makedirs(folder)
    try:
        command = dist.get_command_obj("dist_info")
        command.output_dir = folder
        command.ensure_finalized()
        command.run()
    except (Exception, SystemExit) as error:
        print(f"metadata: {type(error).__name__}: {error}", file=sys.stderr)
        return {}
    found = {}
    for info in Path(folder).glob("*.dist-info"):
        found["name"] = info.name
        for path in sorted(info.rglob("*")):
            if path.is_file() and path.name not in ("RECORD", "INSTALLER", "WHEEL", "direct_url.json"):
                found[path.relative_to(info).as_posix()] = path.read_text(errors="replace")
    return found


if __name__ == "__main__":
    main()
