"""The libraries of a build: its link commands, and what came out of them."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from xfdev import linker, needs, run
from xfdev.bundle import Manifest, Output, Places, seen
from xfdev.console import console
from xfdev.diagnostics import first_link_error, how_it_ended
from xfdev.errors import BadBundle, CompileFailed
from xfdev.files import check_space, explained, sha256
from xfdev.toolchain import Toolchain
from xfdev.venv import Environment
from xfdev.workspace import BUILD, LIB, TEMP, extras

Result = TypeVar("Result")


@contextmanager
def meanwhile(work: Callable[[], Result]) -> Iterator[Callable[[], Result]]:
    """Do *work* in a thread beside the block, which does not end before it. What the block gets waits for the result,
    and raises what *work* has raised. (``concurrent.futures`` takes 15 ms to import.)"""
    results: list[Result] = []
    failures: list[BaseException] = []

    def do() -> None:
        try:
            results.append(work())
        except BaseException as error:
            failures.append(error)

    def outcome() -> Result:
        thread.join()
        if failures:
            raise failures[0]
        return results[0]

    thread = threading.Thread(target=do)
    thread.start()
    try:
        yield outcome
    finally:
        thread.join()


def link(
    manifest: Manifest,
    root: Path,
    places: Places,
    env: Mapping[str, str],
    *,
    quickly: bool,
) -> float:
    """Run the link commands; returns how many seconds that took. Raises CompileFailed."""
    made = {os.path.relpath(step.output, "lib") for step in manifest.steps if step.output.startswith("lib/")}
    started = time.monotonic()
    for step in manifest.steps:
        output = root / BUILD / step.output
        partial = output.with_name(f".{output.name}.partial")
        argv = [places.concrete(word) for word in step.argv]
        argv[argv.index("-o") + 1] = str(partial)
        with explained(str(output)):
            output.parent.mkdir(parents=True, exist_ok=True)
        fast = linker.faster(argv, env) if quickly else None
        done = run.capture(fast or argv, cwd=root / TEMP, env=env, check=False)
        if fast and not done.ok:
            console.debug(f"{fast[-1]} failed; once more with the default linker")
            done = run.capture(argv, cwd=root / TEMP, env=env, check=False)
        if not done.ok:
            partial.unlink(missing_ok=True)
            said = (done.stderr or done.stdout).strip()
            check_space(said, str(output.parent))
            reason = first_link_error(said) or how_it_ended(done.returncode)
            raise CompileFailed(
                f"{output.name} does not link: {reason}",
                why="a library named by -l is missing, or an object was compiled for something else",
                hint="the same command with --verbose shows what was run, and all it said",
                details=f"$ {shlex.join(argv)}\n{said}",
            )
        partial.replace(output)
    _remove_others(root / LIB, extras(manifest) | made)
    return round(time.monotonic() - started, 2)


def fetch_extras(manifest: Manifest, root: Path, source: Callable[[str], Path]) -> None:
    """Copy what the build script wrote beside the libraries from where *source* says. Raises BadBundle."""
    for name in extras(manifest).intersection(manifest.outputs):
        _copy_checked(source(name), root / LIB / name, manifest.outputs[name].sha256)


def _copy_checked(source: Path, target: Path, digest: str) -> None:
    with explained(str(target)):
        target.parent.mkdir(parents=True, exist_ok=True)
        try:
            shutil.copyfile(source, target)
            if sha256(target) == digest:
                return
        except FileNotFoundError:
            pass
        target.unlink(missing_ok=True)
    raise BadBundle(
        f"{source} is missing, or not what it was",
        why="the disk, or another program, changed the bundle; or it was pruned just now",
        hint="xfdev bundle verify --remove throws damaged bundles away; then run the same command again",
    )


def _remove_others(folder: Path, names: set[str]) -> None:
    for path in folder.rglob("*"):
        if path.is_file() and path.relative_to(folder).as_posix() not in names:
            path.unlink()


def describe(
    manifest: Manifest, root: Path, environment: Environment, toolchain: Toolchain, places: Places, started: int
) -> Manifest:
    """The manifest with its outputs as they lie in the build folder, and what they need."""
    names = [path.relative_to(root / LIB).as_posix() for path in sorted((root / LIB).rglob("*")) if path.is_file()]
    outputs = {name: output(manifest, root, name) for name in names}
    libraries = [root / LIB / name for name in names if needs.is_library(root / LIB / name)]
    return replace(
        manifest,
        outputs=outputs,
        facts=toolchain.facts,
        needs=needs.of_outputs(
            libraries,
            torch=toolchain.facts.get("torch", ""),
            python=environment.python,
            stable=needs.stable_torch(manifest.units),
        ),
        origin={
            **manifest.origin,
            "created": f"{started / 1e9:.0f}",
            "seen": json.dumps(seen(manifest.units, places)),
        },
    )


def output(manifest: Manifest, root: Path, name: str) -> Output:
    """A file of the build folder's LIB as an output of *manifest*."""
    path = root / LIB / name
    place = f"{manifest.source_root}/{name}".lstrip("/")
    return Output(place, sha256(path), path.stat().st_size, 0o755 if needs.is_library(path) else 0o644)
