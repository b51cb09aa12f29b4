"""``xfdev inspect``"""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from xfdev import cuda_tools, kernels
from xfdev import run as processes
from xfdev.bundle import Manifest, Unit
from xfdev.cli import add_options
from xfdev.commands import apply, demands
from xfdev.commands.session import Session, open_session
from xfdev.compile_commands import device_arch, is_nvcc
from xfdev.console import console
from xfdev.errors import NothingFits, UsageError
from xfdev.files import explained
from xfdev.workspace import BEFORE, BUILD, TEMP, kept_build, last_recipe

EXAMPLE = "xfdev inspect gemm.cu --kernel 'sparse*'"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("unit", metavar="UNIT", help="the source (the end of its path, or a pattern for one)")
    parser.add_argument("path", nargs="?", default=".", help="the checkout (default: this folder)")
    shown = parser.add_mutually_exclusive_group()
    shown.add_argument("--command", dest="show_command", action="store_true", help="the compiler's exact command")
    shown.add_argument("--ptx", action="store_true", help="the unit as PTX; compiled anew for its newest arch")
    shown.add_argument("--sass", action="store_true", help="the machine code of its kernels")
    shown.add_argument("--spills", action="store_true", help="also bytes spilled; the unit is compiled again to know")
    parser.add_argument("--kernel", metavar="PATTERN", default="", help="only kernels whose name has this in it")
    add_options(parser, "arch", "venv", "cache")


def run(args: argparse.Namespace, environ: Mapping[str, str]) -> Mapping[str, Any]:
    session = open_session(args, environ)
    manifest = kept_build(session.root) or last_recipe(session.root)
    if manifest is None:
        raise NothingFits(
            f"nothing was compiled in {session.root} yet, so nobody knows its units",
            why="what is linked came from a bundle, or nothing is",
            hint=f"xfdev build {shlex.quote(str(session.root))} --only {args.unit}",
        )
    unit = _unit(args.unit, manifest)
    argv = [session.places.concrete(word) for word in unit.argv]
    command = f"cd {shlex.quote(str(session.root / TEMP))} && {shlex.join(argv)}"
    result = {"checkout": str(session.root), "unit": unit.source, "command": command}
    if args.show_command or not is_nvcc(argv[0]):
        if args.ptx or args.sass or args.spills:
            raise UsageError(f"{unit.source} is not compiled by nvcc: it has no kernels")
        return {**result, "lines": [command]}
    if args.ptx:
        text = _ptx(session, unit, argv)
        return {**result, "ptx": text, "lines": text.rstrip().splitlines()}
    return {**result, **_kernels(args, session, unit, argv)}


def _unit(name: str, manifest: Manifest) -> Unit:
    sources = apply.resolve_units([name], [unit.source for unit in manifest.units])
    if len(sources) > 1:
        raise UsageError(f"{name} names several units: {', '.join(sources[:6])}", hint="give more of its path")
    return next(unit for unit in manifest.units if unit.source == sources[0])


def _kernels(args: argparse.Namespace, session: Session, unit: Unit, argv: Sequence[str]) -> dict[str, Any]:
    path = session.root / BUILD / unit.object
    if not path.is_file():
        raise NothingFits(
            f"the object of {unit.source} is not here",
            why="what is linked came from a bundle: nothing was compiled here",
            hint=f"xfdev build {shlex.quote(str(session.root))} --only {unit.source}",
        )
    tool = cuda_tools.find("cuobjdump", session.environment, session.environ)
    earlier = path.with_name(path.name + BEFORE)
    usage = ["--dump-resource-usage"]
    now = kernels.from_cuobjdump(cuda_tools.dump(tool, usage, path, session.environ))
    compared = earlier.is_file()
    before = kernels.from_cuobjdump(cuda_tools.dump(tool, usage, earlier, session.environ)) if compared else []
    pairs = kernels.side_by_side(now, before)
    readable = cuda_tools.readable([pair.one.name for pair in pairs], session.environ)
    pairs = kernels.chosen(pairs, args.kernel, readable) if args.kernel else pairs
    if not pairs:
        what = f"no kernel of {unit.source} is called {args.kernel}" if args.kernel else f"{unit.source} has no kernels"
        return {"kernels": [], "lines": [what]}
    if args.sass:
        names = ",".join(dict.fromkeys(pair.now.name for pair in pairs if pair.now))
        words = ["-sass", *(["-fun", names] if args.kernel and names else [])]
        text = cuda_tools.dump(tool, words, path, session.environ)
        return {"sass": text, "lines": text.strip("\n").splitlines()}
    if args.spills:
        told = kernels.from_ptxas(_compile(session, unit, [*argv, "-Xptxas", "-v"], ".o"))
        live = kernels.with_spills([pair.now for pair in pairs if pair.now], told)
        fresh = {(usage.name, usage.arch): usage for usage in live}
        pairs = [kernels.Pair(fresh[pair.now.name, pair.now.arch], pair.before) if pair.now else pair for pair in pairs]
    changed = sum(pair.differs for pair in kernels.side_by_side(now, before)) if compared else 0
    lines = kernels.lines(pairs, readable, compared=compared)
    if compared:
        lines.append(
            f"{changed} kernels differ from those of the build before" if changed else "as in the build before"
        )
    return {
        "kernels": [
            {
                "name": readable.get(pair.one.name, pair.one.name),
                "now": asdict(pair.now) if pair.now else None,
                "before": asdict(pair.before) if pair.before else None,
            }
            for pair in pairs
        ],
        "lines": lines,
    }


def _ptx(session: Session, unit: Unit, argv: Sequence[str]) -> str:
    arch = device_arch(argv).replace("sm_", "compute_")
    words, rest = [], iter(argv)
    for word in rest:
        if word in ("-gencode", "--generate-code", "-arch", "-code", "--gpu-architecture", "--gpu-code"):
            next(rest, None)
        elif not word.startswith(("-gencode=", "--generate-code=", "-arch=", "-code=", "--gpu-")) and word not in (
            "-c", "-dc", "--compile", "--device-c",
        ):  # fmt: skip
            words.append(word)
    path = session.root / BUILD / "inspect.ptx"
    _compile(session, unit, [*words, "-ptx", f"-arch={arch}"], ".ptx")
    return path.read_text(errors="replace")


def _compile(session: Session, unit: Unit, argv: Sequence[str], suffix: str) -> str:
    """Compile *unit* aside, by the command *argv*; returns what the compiler said."""
    demands.require_compilers(session)
    output = session.root / BUILD / f"inspect{suffix}"
    words = list(argv)
    for option, value in (("-o", str(output)), ("-MF", f"{output}.d")):
        if option in words:
            words[words.index(option) + 1] = value
    folder = session.root / TEMP
    with explained(str(folder)):
        folder.mkdir(parents=True, exist_ok=True)
    with console.step(f"compiling {unit.source}"):
        done = processes.capture(words, cwd=folder, env=session.environ, check=False)
    if not done.ok:
        raise processes.failure(done)
    if suffix != ".ptx":
        Path(output).unlink(missing_ok=True)
    return done.stdout + done.stderr
