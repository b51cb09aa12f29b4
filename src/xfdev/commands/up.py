"""``xfdev up``"""

from __future__ import annotations

import argparse
import shutil
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from xfdev import arch as archs
from xfdev import arch_variables, gpu, make_venv, profile, project, sources, targets, toolchain, venv
from xfdev.checkout import open_checkout
from xfdev.cli import add_options, add_trace
from xfdev.commands import apply, report
from xfdev.commands.candidates import missed_releases
from xfdev.commands.pins import Pins
from xfdev.commands.session import Session, resolve_options, session_for, with_cache
from xfdev.console import console, duration
from xfdev.errors import UsageError
from xfdev.files import locked
from xfdev.link import state_folder
from xfdev.options import SHARED
from xfdev.plan import Plan

EXAMPLE = "xfdev up https://github.com/you/project.git@branch"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", help="a path, a git URL (with @REF for a branch, tag or commit), or name==version")
    parser.add_argument("--cpu", action="store_true", help="an environment without CUDA: the C++ parts are compiled")
    parser.add_argument("--no-build", action="store_true", help="link what can be linked, and compile nothing")
    parser.add_argument(
        "--engine",
        choices=("venv", "container", "podman", "auto"),
        default="venv",
        help="venv: an environment in the checkout; container: the dev container of the checkout, whose .devcontainer "
        "is written where there is none; podman: the same with Podman; auto: the container where Docker answers "
        "(default: venv)",
    )
    add_environment_arguments(parser)


def add_environment_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--into", metavar="PATH", help="the folder to put the checkout in (default: by its name, here)")
    add_trace(parser)
    add_options(
        parser, "arch", "toolchain", "python", "venv", "cache", "jobs", *SHARED, "compile_cache", "compile_cache_write"
    )


def run(args: argparse.Namespace, environ: Mapping[str, str]) -> Mapping[str, Any]:
    if args.engine != "venv":
        from xfdev.commands import engine

        if args.engine != "auto" or engine.answers(environ):
            return _in_container(args, environ)
    started = time.monotonic()
    session = prepare(args, environ)
    with session.locked():
        decided, built, state = apply.bring_up_to_date(session, compile_allowed=not args.no_build)
    if built is None and session.options.compile_cache is not None:
        from xfdev.commands import team_cache

        team_cache.prepare(session)  # for builds typed by hand
    compiled = list(built.compiled) if built else []
    restored = list(built.restored) if built else []
    seconds = time.monotonic() - started
    return {
        **report.as_json(session, decided),
        **state,
        "compiled": compiled,
        "restored": restored,
        "elapsed": seconds,
        "lines": summary(session, decided, compiled, restored, seconds) + _next(session),
    }


def _in_container(args: argparse.Namespace, environ: Mapping[str, str]) -> Mapping[str, Any]:
    from xfdev.commands import engine, init

    program = "podman" if args.engine == "podman" else "docker"
    engine.require(environ, program)
    into = Path(args.into).absolute() if args.into else None
    root = sources.obtain(sources.parse(args.source, Path.cwd()), into, submodules=(), cwd=Path.cwd())
    if engine.config_of(root) is None:
        wanted = argparse.Namespace(path=str(root), image=None, yes=False, toolchain=args.toolchain, arch=args.arch)
        for line in init.run(wanted, environ)["lines"]:
            console.info(line)
    return engine.up(root, environ, program)


def prepare(args: argparse.Namespace, environ: Mapping[str, str]) -> Session:
    """The checkout of ``args.source`` and its environment, both made where they are missing."""
    cwd = Path.cwd()
    source = sources.parse(args.source, cwd)
    facts = profile.profiles()["default"]
    if isinstance(source, sources.Requirement):
        facts = profile.of_distribution(source.name)
    into = Path(args.into).absolute() if args.into else None
    # A link needs no submodule; a compile fetches those it needs.
    root = sources.obtain(source, into, submodules=(), cwd=cwd)
    checkout = open_checkout(root, environ)
    project.check_project(checkout.root)
    facts = profile.of_checkout(checkout.root)
    chosen = resolve_options(args, checkout.root, environ)
    environ = with_cache(chosen, environ)
    prefix = checkout.root / (chosen.venv or ".venv")
    # One that lies elsewhere serves many checkouts: it is what it is, and its arch is whatever each of them asks for.
    shared = venv.read(prefix) if chosen.venv and not (args.cpu or chosen.toolchain) else None
    if shared is not None:
        name, arch, reason = shared.toolchain, shared.arch, ""
    else:
        name, arch, reason = choose_toolchain(args.cpu, chosen.toolchain, chosen.arch, checkout.root, facts, environ)
    entry = profile.toolchain_entry(name)
    state_folder(checkout.root)
    packages = tuple(facts.check.get("packages", ())) if entry.torch else ()
    pins = Pins(chosen, checkout.root, entry, packages)
    with locked(checkout.root / ".xfdev" / "lock", str(checkout.root), wait=10.0):
        environment = ready(prefix, entry, arch)
        if environment is not None and shared is None and not pins.met_by(environment):
            environment = None
        if environment is None:
            from xfdev.doctor import early

            early.before_environment(prefix, cuda=bool(entry.cuda), environ=environ)
            console.info(f"toolchain {entry.name}: {entry.summary}{reason}")
            environment = make_venv.create(
                prefix,
                entry,
                python=chosen.python or sys.executable,
                environ=environ,
                arch=arch,
                packages=packages,
                locked=pins.text,
                variables={
                    **facts.environment,
                    **arch_variables.translated(archs.parse(arch) if entry.cuda else (), facts.arch_variables),
                },
                build_classes=facts.build_classes,
            )
    session = session_for(checkout, environment, chosen, environ)
    # Whoever asks for everything, perhaps after the network was mended, is not told what was true an hour ago.
    shutil.rmtree(missed_releases(session.store), ignore_errors=True)
    return session


def ready(prefix: Path, entry: profile.ToolchainEntry, arch: str) -> venv.Environment | None:
    """The environment at *prefix* if it is finished, of that toolchain, for that arch, and its torch unswapped."""
    environment = venv.read(prefix)
    if environment is None or environment.toolchain != entry.name or (arch and environment.arch != arch):
        return None
    torch = toolchain.torch_in(environment.site_packages)
    return environment if (torch.version if torch else "") == environment.torch else None


def choose_toolchain(
    cpu: bool,
    named: str | None,
    arch: str | None,
    root: Path,
    facts: profile.Profile,
    environ: Mapping[str, str],
) -> tuple[str, str, str]:
    """The toolchain's name, the arch list to make the environment for, and the reason in words.

    An arch that was asked for is one to compile for; without one, what reuses most is taken.
    """
    version = project.release_version(root, facts)
    compiling = facts.toolchain_for("compile", version) if named is None else named
    wanted = targets.asked_archs(
        arch or environ.get("TORCH_CUDA_ARCH_LIST", ""), profile.toolchain_entry(compiling), environ
    )
    if cpu and (named or arch):
        raise UsageError("--cpu goes with neither --toolchain nor --arch", hint="leave one of them out")
    if cpu:
        return facts.toolchain_for("cpu", version), "", ""
    if named:
        return named, wanted if profile.toolchain_entry(named).cuda else "", ""
    if wanted:
        return compiling, wanted, f" (for arch {wanted})"
    existing = venv.read(root / ".venv")
    if existing is not None:
        return existing.toolchain, "", ""  # up again: what is there is what was chosen
    return facts.toolchain_for("reuse", version), "", " (reuses most)"


def summary(session: Session, decided: Plan, compiled: list[str], restored: list[str], seconds: float) -> list[str]:
    """What is ready, in two lines."""
    chain = session.toolchain.facts
    reused = decided.candidate.label if decided.candidate else "nothing"
    return [
        f"ready: {_where(session)}, "
        + (f"torch {chain['torch']}" if "torch" in chain else "no torch")
        + (f", CUDA {chain['cuda']}" if "cuda" in chain else ", no CUDA")
        + f", {duration(seconds)}",
        f"{decided.verdict}: reused {reused}; {len(compiled)} units compiled, {len(restored)} from the cache",
    ]


def _where(session: Session) -> Path:
    root = session.root
    return root.relative_to(Path.cwd()) if root.is_relative_to(Path.cwd()) else root


def _next(session: Session) -> list[str]:
    lines, where = [], _where(session)
    if session.toolchain.has_cuda and not gpu.visible_archs(session.environ):
        other = "" if session.toolchain.nvcc else f"; xfdev up {where} --arch 9.0 compiles for a GPU that is not there"
        lines.append(f"no GPU here: kernels do not run; xfdev up {where} --cpu makes a CPU-only environment{other}")
    lines.append(f"next: . {where}/{session.environment.prefix.name}/bin/activate")
    return lines
