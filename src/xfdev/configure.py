"""Ask a project's own build script what it would compile: the recipe, recorded and not run.

``resources/capture/driver.py`` runs ``setup.py build_ext`` in the environment and writes down every compiler and
linker command, and what the script itself depended on. Here that becomes a manifest without outputs.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from xfdev import orphans, run, shadows
from xfdev.bundle import Manifest, Places, Scripts, Step, Unit
from xfdev.checkout import Checkout
from xfdev.errors import ConfigureFailed, NotAnExtensionProject
from xfdev.files import check_space, explained, read_json, write_json
from xfdev.profile import RESOURCES, Profile
from xfdev.toolchain import HARMLESS, INCLUDE_FOLDERS, VARIABLES, Toolchain
from xfdev.venv import Environment
from xfdev.workspace import BUILD, LIB, SCRATCH, TEMP, places_of

_SOURCE_SUFFIXES = (".c", ".cc", ".cpp", ".cxx", ".c++", ".C", ".cu", ".S", ".s", ".m", ".mm")
#: Flags whose value is a separate word that is no file, even if a file of that name is there.
_VALUE_FLAGS = frozenset({"-x", "-D", "-U", "-Xcompiler", "-Xlinker", "-Xptxas", "-arch", "-gencode", "-std", "-z"})


def configure(
    checkout: Checkout,
    environment: Environment,
    toolchain: Toolchain,
    profile: Profile,
    environ: Mapping[str, str],
) -> Manifest:
    """The recipe of the checkout as it is now: units without their inputs, no outputs.

    Raises NotAnExtensionProject where nothing native is built, ConfigureFailed where the build script fails.
    """
    if not any((checkout.root / name).exists() for name in ("setup.py", "pyproject.toml")):
        raise NotAnExtensionProject(
            f"{checkout.root} has neither setup.py nor pyproject.toml",
            why="xfdev builds projects whose native extensions setuptools describes",
            hint="give the folder of such a checkout",
        )
    scratch = checkout.root / SCRATCH
    orphans.end("XFDEV_NINJA_LOG", _ninja_log(scratch))  # before it is removed: they would make it again
    with explained(str(scratch)):
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir(parents=True)
    started = scratch.stat().st_ctime_ns
    result = _drive(checkout, environment, scratch, environ)
    checkout = checkout.anew()  # the script may have taken long, and may have written files
    if not result["extensions"] or not result["commands"]:
        raise NotAnExtensionProject(
            f"{checkout.root} builds no native extension in this environment",
            why="its build script found no compiler or CUDA it wanted, or the project is pure Python",
            hint="pip install -e . is all a pure Python project needs",
        )
    include, base = result["python"]["include"], result["python"]["base_prefix"]
    places = places_of(checkout, environment, include, base)
    units, steps = _commands(result["commands"], places, environ)
    _keep_outputs(checkout.root, scratch, result["outputs"])
    reads = [path for path in result["reads"] if (checkout.root / path).is_file()]
    linked = _link_inputs(steps, places, environ)
    ids = checkout.identify({*reads, *linked})
    for path in reads:
        if os.stat(checkout.root / path).st_ctime_ns >= started:
            ids[path] = None  # read before or after it changed: not known
    metadata_files = {path: ids[path] or "" for path in reads if profile.is_metadata(path)}
    watched = sorted({*VARIABLES, *profile.variables, *result["variables"]} - HARMLESS)
    values = {name: environ[name] for name in watched if name in environ and name not in profile.names_of_archs}
    name, version = _name_and_version(result["metadata"], checkout)
    manifest = Manifest(
        project=name,
        version=version,
        kind="build",
        facts=toolchain.facts,
        variables={name: places.abstract(value) for name, value in values.items()},
        watched=tuple(watched),
        scripts=Scripts(
            files={path: ids[path] or "" for path in reads if path not in metadata_files},
            globs=tuple(result["globs"]),
            listings={folder: tuple(names) for folder, names in result["listings"].items()},
            generated=tuple(result["writes"]),
            asked=result["asked"],
            linked={path: ids[path] or "" for path in linked},
        ),
        units=units,
        steps=steps,
        metadata=result["metadata"],
        metadata_files=metadata_files,
        source_root=_source_root(result["package_dir"]),
        submodules={path: module.commit for path, module in checkout.submodules.items() if module.head is not None},
        origin={
            "commit": checkout.commit or "",
            "outputs": json.dumps(result["outputs"]),
            "cwd": _common_cwd(result["commands"], checkout.root),
        },
    )
    shutil.rmtree(scratch, ignore_errors=True)
    return manifest


def _ninja_log(scratch: Path) -> str:
    """What the build script would have ninja do; as a variable, what its processes are known by."""
    return str(scratch / "ninja.jsonl")


def _drive(checkout: Checkout, environment: Environment, scratch: Path, environ: Mapping[str, str]) -> dict[str, Any]:
    request = {
        "checkout": str(checkout.root),
        "build_temp": str(scratch / "temp"),
        "build_lib": str(scratch / "lib"),
        "result": str(scratch / "result.json"),
        "ninja": _ninja_log(scratch),
        "metadata": str(scratch / "metadata"),
    }
    write_json(scratch / "request.json", request)
    done = run.capture(
        [environment.interpreter, RESOURCES / "capture" / "driver.py", scratch / "request.json"],
        cwd=checkout.root,
        env={**environ, "XFDEV_NINJA_LOG": request["ninja"]},
        check=False,
    )
    result = read_json(scratch / "result.json")
    if done.ok and isinstance(result, dict):
        return result
    said = (done.stdout + done.stderr).strip()
    check_space(said, str(checkout.root))
    last = [line for line in said.splitlines() if line.strip() and not line.startswith(" ")]
    ending = f"it ended with exit status {done.returncode}" + ("" if done.returncode else ", before setup() was done")
    raise ConfigureFailed(
        f"the project's build script failed: {_where(said, checkout.root)}{last[-1] if last else ending}",
        why=f"it runs as setup.py build_ext does, in this environment; {ending}",
        hint="the same command with --verbose shows all it said",
        details=said,
    )


def _where(said: str, root: Path) -> str:
    """``setup.py:12: ``, the deepest line of the project's own in the last traceback of *said*; else nothing."""
    traceback = said.rpartition("Traceback (most recent call last)")[2]
    named = re.findall(r'^ +File "([^"\n]+)", line (\d+)', traceback, re.MULTILINE)
    for name, line in reversed(named):
        path = os.path.normpath(os.path.join(root, name))
        if shadows.is_source_path(path, str(root)):
            return f"{os.path.relpath(path, root)}:{line}: "
    return ""


def _common_cwd(recorded: Sequence[Mapping[str, Any]], root: Path) -> str:
    """``.`` where all commands are meant to run in the checkout's own folder (distutils), else empty (ninja)."""
    return "." if all(command["cwd"] == str(root) for command in recorded) else ""


def _link_inputs(steps: Sequence[Step], places: Places, environ: Mapping[str, str]) -> list[str]:
    """Files of the checkout that link commands name, or that ``-l`` may find there; not all of them need exist."""
    found: dict[str, None] = {}
    for step in steps:
        argv = [places.concrete(word) for word in step.argv]
        folders = [word[2:] for word in argv if word.startswith("-L") and len(word) > 2]
        folders += environ.get("LIBRARY_PATH", "").split(":")
        for word in argv[1:]:
            named = [part for part in re.split(r"[,=]", word) if os.path.isfile(part)]
            if word.startswith("-l"):
                named += [os.path.join(d, f"lib{word[2:]}{suffix}") for d in folders for suffix in (".so", ".a")]
            for path in named:
                if shadows.is_source_path(path, places.checkout):
                    found[os.path.relpath(path, places.checkout)] = None
    return list(found)


def _commands(
    recorded: Sequence[Mapping[str, Any]], places: Places, environ: Mapping[str, str]
) -> tuple[tuple[Unit, ...], tuple[Step, ...]]:
    units: list[Unit] = []
    steps: list[Step] = []
    objects: dict[str, str] = {}  # as the script names them -> as they are named here
    commands: dict[str, list[str]] = {}
    build = f"{places.checkout}/{BUILD}"
    for command in recorded:
        cwd = command["cwd"]
        argv = [word.replace(f"{places.checkout}/{SCRATCH}/", f"{build}/") for word in _absolute(command)]
        if Path(argv[0]).name == "ccache":
            del argv[0]  # torch puts it there; every unit gets it when it is run
        output = os.path.join(cwd, command["output"]).replace(f"{places.checkout}/{SCRATCH}/", f"{build}/")
        relative = os.path.relpath(output, build)
        if command["kind"] == "compile":
            source = command.get("source") or _source(argv)
            if places.checkout + "/" in source:
                source = os.path.relpath(source, places.checkout)
            if commands.get(output) == argv:
                continue  # two libraries have this object in common
            if output in commands:
                # Compiled again, otherwise, for the next library: here all is compiled first, then linked.
                stem, suffix = os.path.splitext(output)
                objects[output] = f"{stem}.{len(units)}{suffix}"
                commands[output] = argv
                argv = [word.replace(output, objects[output]) for word in argv]
                relative = os.path.relpath(objects[output], build)
            else:
                commands[output] = argv
            given = [path for name in INCLUDE_FOLDERS if name in environ for path in environ[name].split(":")]
            given = [os.path.normpath(os.path.join(cwd, path)) for path in given]
            # Between the others: what lies there may shadow, and be shadowed.
            search = [*given, *shadows.search_path(argv, cwd), *given]
            units.append(
                Unit(
                    source=places.abstract(source),
                    object=relative,
                    argv=tuple(places.abstract(word) for word in argv),
                    search=tuple(places.abstract(folder) for folder in search),
                )
            )
        else:
            steps.append(Step(tuple(places.abstract(objects.get(word, word)) for word in argv), relative))
    return tuple(units), tuple(steps)


def _absolute(command: Mapping[str, Any]) -> list[str]:
    """The command with relative file names made absolute, so that it can run in another folder."""
    cwd, previous = command["cwd"], ""
    words: list[str] = []
    for word in command["argv"]:
        if word.startswith(("-I", "-L")) and len(word) > 2 and not word[2:].startswith(("/", "$", "=")):
            word = word[:2] + os.path.normpath(os.path.join(cwd, word[2:]))
        elif previous in ("-o", "-MF", "-I", "-L", "-isystem", "-iquote", "-include") or (
            not word.startswith("-")
            and previous not in _VALUE_FLAGS
            and words
            and "/" + word != word
            and os.path.exists(os.path.join(cwd, word))
        ):
            word = os.path.normpath(os.path.join(cwd, word))
        words.append(word)
        previous = word
    return words


def _source(argv: Sequence[str]) -> str:
    named = [word for word in argv[1:] if not word.startswith("-") and word.endswith(_SOURCE_SUFFIXES)]
    if not named:
        raise ConfigureFailed(
            f"cannot tell which source this command compiles: {' '.join(argv)}",
            hint="xfdev understands C, C++ and CUDA sources",
        )
    return named[-1]


def _keep_outputs(root: Path, scratch: Path, outputs: Sequence[str]) -> None:
    """Move what the script wrote beside the libraries (generated Python files, say) to the build folder."""
    with explained(str(root / LIB)):
        (root / TEMP).mkdir(parents=True, exist_ok=True)
        for name in outputs:
            source, target = scratch / "lib" / name, root / LIB / name
            target.parent.mkdir(parents=True, exist_ok=True)
            if source.stat().st_size:  # empty: a library that is still to be linked
                shutil.copy2(source, target)


def _source_root(package_dir: Mapping[str, str]) -> str:
    roots = {package_dir.get("", "").rstrip("/").removeprefix("./")}
    for package, folder in package_dir.items():
        if package:
            tail = PurePosixPath(package.replace(".", "/"))
            path = PurePosixPath(folder)
            if path.parts[-len(tail.parts) :] != tail.parts:
                raise NotAnExtensionProject(
                    f"package {package} lies in {folder}: that needs an import hook, which xfdev does not install",
                    hint="pip install --no-build-isolation -e . works here, and is safe in this environment",
                )
            roots.add(str(path.parents[len(tail.parts) - 1]))
    return next(iter(sorted(roots - {"", "."})), "")


def _name_and_version(metadata: Mapping[str, str], checkout: Checkout) -> tuple[str, str]:
    name, _, version = metadata.get("name", "").removesuffix(".dist-info").rpartition("-")
    return (name or checkout.root.name, version)
