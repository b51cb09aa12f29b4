"""A plan in words and for machines. Shared by the verbs that make one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from xfdev import plan
from xfdev.bundle import Manifest, Unit
from xfdev.commands.session import Session
from xfdev.console import console, duration, size


def announce(units: Sequence[Unit], known: Manifest | None, cpus: int) -> None:
    """Say how long compiling *units* takes, and how much memory, before it starts."""
    times = {unit.source: unit for unit in known.units} if known else {}
    timed = [times.get(unit.source, unit) for unit in units]
    seconds, peak = plan.predict(timed, cpus)
    guess = "" if any(unit.seconds for unit in timed) else " (a guess: nobody has compiled them here)"
    console.info(
        f"compiling {len(units)} unit{'s' * (len(units) != 1)} on {cpus} CPUs: about {duration(seconds)}, "
        f"{size(peak)} of memory{guess}"
    )


def estimate(decided: plan.Plan) -> str:
    return f" (about {duration(decided.seconds)})" if decided.seconds else ""


def describe(decided: plan.Plan) -> list[str]:
    """A plan in the lines a person reads."""
    lines = []
    if decided.verdict == "reuse":
        assert decided.candidate is not None
        lines.append(f"reuse: {decided.candidate.label}; nothing to compile")
    elif decided.verdict == "partial":
        assert decided.candidate is not None
        lines.append(
            f"partial: {len(decided.affected)} of {decided.total} units to compile{estimate(decided)}, "
            f"{size(decided.peak or 0)} of memory; the rest from {decided.candidate.label}"
        )
        for source, reasons in decided.affected.items():
            lines.append(f"  {source}: {reasons[0]}" + (f" (and {len(reasons) - 1} more)" if len(reasons) > 1 else ""))
        lines += [
            f"  {reason}" for reason in decided.reasons if not any(reason in r for r in decided.affected.values())
        ]
    else:
        count = f"all {decided.total} units" if decided.total else "everything"
        lines.append(f"full: {count} to compile{estimate(decided)}")
        if not decided.refused:
            lines += [f"  {reason}" for reason in decided.reasons[:8]]
    for refusal in decided.refused:
        shown = "; ".join(refusal.reasons[:3]) + (f"; and {len(refusal.reasons) - 3} more" * (len(refusal.reasons) > 3))
        lines.append(f"  not {refusal.label}: {shown}")
    return lines


def as_json(session: Session, decided: plan.Plan) -> dict[str, Any]:
    """A plan for machines."""
    return {
        "verdict": decided.verdict,
        "checkout": str(session.root),
        "project": session.profile.name,
        "environment": str(session.environment.prefix),
        "bundle": decided.candidate.bundle if decided.candidate else None,
        "from": decided.candidate.label if decided.candidate else None,
        "affected": {source: list(reasons) for source, reasons in decided.affected.items()},
        "units": decided.total,
        "reasons": list(decided.reasons),
        "refused": [{"label": entry.label, "reasons": list(entry.reasons)} for entry in decided.refused],
        "seconds": decided.seconds,
        "peak_bytes": decided.peak,
        "toolchain": dict(session.toolchain.facts),
    }
