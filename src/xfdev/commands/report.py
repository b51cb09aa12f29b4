"""A plan in words and for machines. Shared by the verbs that make one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from xfdev import plan
from xfdev.bundle import Manifest, Unit
from xfdev.commands.session import Session
from xfdev.console import console, duration, size
from xfdev.gpu_families import described
from xfdev.timeline import Timeline


def announce(units: Sequence[Unit], known: Manifest | None, cpus: int, guess: plan.Guess) -> None:
    """Say how long compiling *units* takes, and how much memory, before it starts."""
    times = {unit.source: unit for unit in known.units} if known else {}
    timed = [times.get(unit.source, unit) for unit in units]
    seconds, peak = plan.predict(timed, cpus, guess)
    how = "" if any(unit.seconds for unit in timed) else " (a guess: nobody has compiled them here)"
    console.info(
        f"compiling {len(units)} unit{'s' * (len(units) != 1)} on {cpus} CPUs: about {duration(seconds)}, "
        f"{size(peak)} of memory{how}"
    )


_SLOWEST = 3


def spent(timeline: Timeline, seconds: float) -> list[str]:
    """Where the *seconds* of a build went: its phases, and the units that took longest."""
    phases = timeline.seconds("phase")
    parts = [f"{name} {duration(took)}" for name, took in phases.items() if took >= 0.05]
    rest = seconds - sum(phases.values())
    lines = [f"  {', '.join(parts)}, the rest {duration(max(0.0, rest))}"] if parts else []
    units = sorted((span for span in timeline.spans if span.kind == "compile"), key=lambda span: -span.seconds)
    if len(units) > 1:
        slow = [f"{span.name} {duration(span.seconds)} ({size(span.details['peak'])})" for span in units[:_SLOWEST]]
        compiled = sum(span.seconds for span in units)
        lines.append(f"  {duration(compiled)} of compilers; the slowest: {', '.join(slow)}")
    return lines


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
    if decided.missing:
        cost = f"about {duration(decided.seconds)}" if decided.seconds else "nobody has timed it here"
        lines.append(f"  no code for {', '.join(map(described, decided.missing))}: compiling it costs {cost}, once")
    for refusal in decided.refused:
        shown = "; ".join(refusal.reasons[:3]) + (f"; and {len(refusal.reasons) - 3} more" * (len(refusal.reasons) > 3))
        lines.append(f"  not {refusal.label}: {shown}")
    return [*lines, *(f"  note: {note}" for note in decided.notes)]


def _runs(decided: plan.Plan) -> dict[str, str]:
    """How what is linked runs on each GPU it is for: natively, after the driver compiled it, or not."""
    outcomes = decided.candidate.outcomes if decided.candidate else ()
    return {str(outcome.device): outcome.how for outcome in outcomes}


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
        "missing_archs": list(decided.missing),
        "notes": list(decided.notes),
        "runs": _runs(decided),
        "seconds": decided.seconds,
        "peak_bytes": decided.peak,
        "toolchain": dict(session.toolchain.facts),
    }
