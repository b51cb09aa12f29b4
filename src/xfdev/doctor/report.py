"""Findings as a person reads them."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby

from xfdev.doctor.examine import ASK
from xfdev.doctor.finding import Finding, Status
from xfdev.doctor.registry import Check

_ORDER: tuple[Status, ...] = ("error", "warning", "unknown", "ok", "not-applicable")
_SHOWN: dict[Status, str] = {
    "ok": "ok", "not-applicable": "-", "unknown": "?", "warning": "warning", "error": "ERROR",
}  # fmt: skip

Found = Sequence[tuple[Check, Finding]]


def lines(found: Found, *, verbose: bool) -> list[str]:
    """Grouped, a line a check, the fix below it where something is wrong; what does not apply only with *verbose*."""
    shown = []
    width = max((len(check.id) for check, _ in found), default=0)
    for group, entries in groupby(found, key=lambda entry: entry[0].group):
        rows = []
        for check, finding in entries:
            if not verbose and (finding.status == "not-applicable" or finding.evidence == ASK):
                continue
            rows.append(f"  {_SHOWN[finding.status]:<7} {check.id:<{width}}  {finding.evidence}")
            if finding.fix and finding.status in ("warning", "error", "unknown"):
                rows.append(f"  {'':<7} {'':<{width}}  do: {finding.fix}")
        if rows:
            shown += [group, *rows]
    waiting = sum(finding.evidence == ASK for _, finding in found)
    return [*shown, *([f"{waiting} more with --network"] if waiting and not verbose else []), count(found)]


def count(found: Found) -> str:
    """How many findings of each kind, the worst first."""
    counts = {status: sum(finding.status == status for _, finding in found) for status in _ORDER}
    words = {"error": "errors", "warning": "warnings", "not-applicable": "do not apply"}
    parts = []
    for status, number in counts.items():
        if number or status in ("error", "warning"):
            word = words.get(status, status)
            parts.append(f"{number} {word.rstrip('s') if number == 1 and status in ('error', 'warning') else word}")
    return ", ".join(parts)


def listing(checks: Sequence[Check]) -> list[str]:
    """Checks, what they look at, what ``--fix`` does."""
    width = max(len(check.id) for check in checks)
    rows = []
    for check in checks:
        notes = (["--network"] if check.network else []) + ([f"--fix {check.safe}"] if check.safe else [])
        rows.append(f"{check.id:<{width}}  {check.looks_at}" + (f" ({'; '.join(notes)})" if notes else ""))
    return rows


def as_json(check: Check, finding: Finding) -> dict[str, object]:
    """One finding for machines."""
    return {
        "id": check.id,
        "group": check.group,
        "status": finding.status,
        "evidence": finding.evidence,
        "fix": finding.fix or None,
        "safe_fix": [str(repair) for repair in finding.repairs],
    }
