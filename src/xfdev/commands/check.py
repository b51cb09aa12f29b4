"""``xfdev check``"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from xfdev import link
from xfdev import run as processes
from xfdev.cli import add_options
from xfdev.commands.session import Session, open_session
from xfdev.errors import CheckFailed
from xfdev.profile import RESOURCES

EXAMPLE = "xfdev check ~/src/project"
_TIMEOUT = 300.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("path", nargs="?", default=".", help="the checkout (default: this folder)")
    add_options(parser, "arch", "venv", "cache")


def run(args: argparse.Namespace, environ: Mapping[str, str]) -> Mapping[str, Any]:
    session = open_session(args, environ)
    stale = staleness(session)
    report = imported(session)
    problems = list(stale)
    if report["error"]:
        problems.append(report["error"])
    features = info(session) if not report["error"] else {}
    lines = [f"imports: {', '.join(report['imported']) or 'nothing'}"]
    if report["operators"]:
        lines.append(f"operators registered: {len(report['operators'])}")
    available = [name for name, said in features.items() if said == "available"]
    missing = [name for name, said in features.items() if said == "unavailable"]
    if features:
        lines.append(f"{session.profile.check['info']}: {len(available)} available, {len(missing)} unavailable")
        lines += [f"  unavailable: {name}" for name in missing]
    lines += [f"problem: {problem}" for problem in problems] or ["what is linked is what the sources say"]
    return {
        "checkout": str(session.root),
        "imported": report["imported"],
        "operators": report["operators"],
        "features": features,
        "problems": problems,
        "details": report["traceback"],
        "lines": lines,
        "exit_code": CheckFailed.exit_code if problems else 0,
    }


def staleness(session: Session) -> list[str]:
    """What is wrong with the binaries that lie in the checkout, by name."""
    linked = link.read_linked(session.root)
    if linked is None or not linked.get("outputs"):
        return ["nothing is linked: xfdev link, or xfdev build"]
    problems = link.disturbed(session.root, linked)
    for name, made in linked.get("facts", {}).items():
        now = session.toolchain.facts.get(name)
        if name in ("torch", "cuda", "python", "platform", "arch") and now is not None and now != made:
            problems.append(f"linked for {name} {made}, this environment has {now}: xfdev link --build")
    decided = session.plan()
    if decided.verdict == "partial":
        changed = [reason for reasons in decided.affected.values() for reason in reasons]
        names = ", ".join(dict.fromkeys(changed))
        problems.append(f"binaries are older than their sources ({names}): xfdev build")
    elif decided.verdict == "full":
        problems.append(f"binaries do not belong to these sources ({'; '.join(decided.reasons[:2])}): xfdev build")
    elif decided.candidate is not None and linked.get("bundle") != decided.candidate.bundle:
        wanted = {output.place: output.sha256 for output in decided.candidate.manifest.outputs.values()}
        if {place: entry["sha256"] for place, entry in linked["outputs"].items()} != wanted:
            problems.append(f"{decided.candidate.label} fits, something else is linked: xfdev link")
    return problems


def imported(session: Session) -> dict[str, Any]:
    """What importing the project in a fresh process gives, outside the checkout's own folder."""
    names = session.profile.check.get("import") or default_imports(session)
    done = processes.capture(
        [session.environment.interpreter, RESOURCES / "check_import.py", json.dumps(names)],
        cwd=session.environment.prefix,
        env={**session.environ, "PYTHONDONTWRITEBYTECODE": "1"},
        timeout=_TIMEOUT,
        check=False,
    )
    last = done.stdout.strip().splitlines()[-1:] or [""]
    try:
        report: dict[str, Any] = json.loads(last[0])
    except ValueError:
        said = (done.stderr or done.stdout).strip().splitlines()
        return {
            "imported": {}, "operators": [], "traceback": done.stderr,
            "error": f"the process died ({done.returncode}): {said[-1] if said else 'it said nothing'}",
        }  # fmt: skip
    root = str(session.root)
    for name, file in report["imported"].items():
        if file and not str(Path(file).resolve()).startswith(root):
            report["error"] = f"{name} is imported from {file}, not from the checkout: xfdev link"
    return report


def default_imports(session: Session) -> list[str]:
    """The modules that the linked metadata names as the project's own."""
    linked = link.read_linked(session.root) or {}
    top = session.environment.site_packages / linked.get("metadata", "-") / "top_level.txt"
    try:
        return [name for name in top.read_text().split() if not name.startswith("_")] or top.read_text().split()
    except OSError:
        return []


def info(session: Session) -> dict[str, str]:
    """What the project's own report says, ``name: value`` a line; empty for a project that has none."""
    module = session.profile.check.get("info")
    if not module:
        return {}
    done = processes.capture(
        [session.environment.interpreter, "-m", module],
        cwd=session.environment.prefix,
        env={**session.environ, "PYTHONDONTWRITEBYTECODE": "1"},
        timeout=_TIMEOUT,
        check=False,
    )
    found = {}
    for line in done.stdout.splitlines():
        name, colon, value = line.partition(":")
        if colon:
            found[name.strip()] = value.strip()
    return found
