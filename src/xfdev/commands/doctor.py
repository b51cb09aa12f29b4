"""``xfdev doctor``"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from xfdev import profile, venv
from xfdev.cli import add_options
from xfdev.commands.session import resolve_options, with_cache
from xfdev.console import console
from xfdev.doctor import facts as areas
from xfdev.doctor import report
from xfdev.doctor.examine import Look, areas_of, gather, judge
from xfdev.doctor.finding import Finding, Repair
from xfdev.doctor.look import chain, engine, hardware, index, place, registry, settings, tree
from xfdev.doctor.look.ask import Ask
from xfdev.doctor.registry import Check, chosen
from xfdev.doctor.wanted import Wanted, wanted
from xfdev.errors import FilesInTheWay, NoSuchPath, Unhealthy

EXAMPLE = "xfdev doctor ~/src/project --network"

#: Seconds for everything, and what one program may take of them: by default, and where somebody asked for what takes
#: longer.
_WITHIN, _PROGRAM = 2.5, 2.2
_WITHIN_LONG, _PROGRAM_LONG = 60.0, 45.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("path", nargs="?", default=".", help="the checkout, or any folder (default: this one)")
    parser.add_argument("--network", action="store_true", help="also the checks that use the network")
    parser.add_argument("--only", metavar="ID", action="append", default=[], help="just this check; may be given again")
    parser.add_argument("--list", action="store_true", help="all checks and what they look at; makes none")
    parser.add_argument(
        "--fix", action="store_true", help="make the fixes that are safe, after showing them and asking"
    )
    parser.add_argument("--yes", action="store_true", help="with --fix: do not ask")
    parser.add_argument(
        "--image", metavar="REF", help="the image to run a container of, and whose registry is looked at"
    )
    add_options(parser, "venv", "cache")


def run(args: argparse.Namespace, environ: Mapping[str, str]) -> Mapping[str, Any]:
    checks = chosen(args.only)
    if args.list:
        entries = [
            {"id": check.id, "group": check.group, "looks_at": check.looks_at, "says": [*check.says, "unknown"],
             "network": check.network, "safe_fix": check.safe or None}
            for check in checks
        ]  # fmt: skip
        return {"checks": entries, "lines": report.listing(checks)}
    started = time.monotonic()
    ask = ask_about(args, environ)
    found = examine(checks, ask)
    fixed: list[dict[str, str]] = []
    if args.fix:
        found, fixed = fix(found, ask, args)
    bad = any(finding.status == "error" for _, finding in found)
    made = [f"fixed: {entry['fix']}" for entry in fixed if not entry["problem"]]
    failed = [f"not fixed: {entry['fix']}: {entry['problem']}" for entry in fixed if entry["problem"]]
    return {
        "checkout": str(ask.root),
        "checks": [report.as_json(check, finding) for check, finding in found],
        "fixed": fixed,
        "elapsed": time.monotonic() - started,
        "lines": [*made, *failed, *report.lines(found, verbose=args.verbose or bool(args.only))],
        "exit_code": Unhealthy.exit_code if bad else 0,
    }


def ask_about(args: argparse.Namespace, environ: Mapping[str, str]) -> Ask:
    """What the areas are asked with. Raises NoSuchPath."""
    path = Path(args.path).absolute()
    if not path.is_dir():
        raise NoSuchPath(f"{path} is no folder that is there", hint="give the folder of a checkout, or none")
    # git may refuse this checkout, which is one of the things to find out.
    root = next((folder for folder in (path, *path.parents) if (folder / ".git").exists()), path)
    options = resolve_options(args, root, environ)
    environ = with_cache(options, environ)
    return Ask(
        path=path,
        root=root,
        environ=environ,
        cache=venv.cache_folder(environ),
        made=made(root / (options.venv or ".venv"), environ),
        submodules=profile.of_checkout(root).submodules,
        image=args.image,
        network=args.network,
        seconds=_PROGRAM_LONG if args.network or args.only else _PROGRAM,
    )


def made(prefix: Path, environ: Mapping[str, str]) -> areas.Made:
    """What the environment's own notes say."""
    environment = venv.read(prefix)
    if environment is None:
        state = "none" if not prefix.exists() else "unfinished" if (prefix / "xfdev").is_dir() else "foreign"
        return areas.Made(str(prefix), state)
    within = environment.environ(environ)
    return areas.Made(
        prefix=str(prefix),
        state="finished",
        toolchain=environment.toolchain,
        recorded=environment.torch,
        python=environment.python,
        cuda_home=environment.cuda_home,
        environ={name: within[name] for name in (*environment.variables, "PATH")},
    )


def looks(ask: Ask) -> dict[type, Look]:
    """How each area is looked at."""

    def alone(look: Callable[[Ask], Any]) -> Look:
        return lambda wait: look(ask)

    return {
        areas.Machine: alone(hardware.machine),
        areas.Gpus: alone(hardware.gpus),
        areas.Disks: alone(hardware.disks),
        areas.Caches: alone(hardware.caches),
        areas.Engine: alone(engine.look),
        areas.Probe: partial(engine.probe, ask),
        areas.Chain: alone(chain.look),
        areas.Tree: alone(tree.look),
        areas.Mount: alone(place.mount),
        areas.Owners: alone(place.owners),
        areas.Settings: alone(settings.settings),
        areas.Login: alone(settings.login),
        areas.Index: alone(index.look),
        areas.Registry: lambda wait: registry.look(ask, wait(areas.Login)),
    }


def examine(checks: tuple[Check, ...], ask: Ask) -> list[tuple[Check, Finding]]:
    """Make *checks*."""
    facts = gather(
        looks(ask),
        areas_of(checks, network=ask.network),
        seconds=_WITHIN_LONG if ask.seconds > _WITHIN else _WITHIN,
        given={Wanted: wanted()},
    )
    return [(check, judge(check, facts, network=ask.network)) for check in checks]


def fix(
    found: list[tuple[Check, Finding]], ask: Ask, args: argparse.Namespace
) -> tuple[list[tuple[Check, Finding]], list[dict[str, str]]]:
    """Make what is safe, once somebody agreed; returns the findings after that, and what was done."""
    from xfdev.doctor import repair

    able = [(check, one) for check, finding in found if check.safe for one in finding.repairs]
    if not able:
        return found, []
    agree(able, args)
    done = [{"check": check.id, "fix": str(one), "problem": repair.make(one, ask.environ)} for check, one in able]
    again = tuple(check for check, _ in found if check in {entry for entry, _ in able})
    now = dict(examine(again, ask))
    return [(check, now.get(check, finding)) for check, finding in found], done


def agree(able: list[tuple[Check, Repair]], args: argparse.Namespace) -> None:
    """Raise FilesInTheWay unless somebody agrees to these repairs."""
    if args.yes:
        return
    shown = "\n".join(f"{check.id}: {one}" for check, one in able)
    hint = "xfdev doctor --fix --yes does it without asking; or run those commands yourself"
    if not args.json:
        console.info(shown)
        if console.interactive and sys.stdin.isatty():
            sys.stderr.write("do this? [y/N] ")
            sys.stderr.flush()
            if sys.stdin.readline().strip().lower() in ("y", "yes"):
                return
            raise FilesInTheWay("nothing was changed", why="the answer was no", hint=hint)
    raise FilesInTheWay(
        f"nothing was changed: {len(able)} safe fix{'es' * (len(able) > 1)} could be made",
        why="there was nobody to ask",
        hint=hint,
        details=shown,
    )
