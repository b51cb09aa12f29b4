"""The page of the nights: one file of HTML that needs no script, and the JSON that it was made of. Pure."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

from xfdev.console import duration, size
from xfdev.nightly import plot

_STYLE = """
:root { color-scheme: light dark; --page: #fff; --ink: #1a1c1f; --quiet: #5b6169; --line: #d9dde2; --panel: #f5f6f8;
  --good: #1a7f37; --bad: #c62828; --wait: #8a6100; --series: #2563b0; }
@media (prefers-color-scheme: dark) { :root { --page: #14161a; --ink: #e7e9ec; --quiet: #a0a7b0; --line: #343a42;
  --panel: #1d2026; --good: #57c878; --bad: #ff8a80; --wait: #e3b341; --series: #79b0f2; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 60rem; padding: 1rem; background: var(--page); color: var(--ink);
  font: 1rem/1.5 system-ui, sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 1.4rem; margin: .5rem 0; } h2 { font-size: 1.1rem; margin: 2rem 0 .5rem; }
p, ul { margin: .4rem 0; } ul { padding-left: 1.2rem; } .quiet { color: var(--quiet); }
.passed { color: var(--good); } .failed { color: var(--bad); } .waiting { color: var(--wait); }
.cells, .plots { display: grid; gap: .75rem; grid-template-columns: repeat(auto-fill, minmax(min(17rem, 100%), 1fr)); }
.cell, figure { margin: 0; padding: .75rem; background: var(--panel); border: 1px solid var(--line);
  border-radius: .4rem; }
.cell b { display: block; } figcaption { font-size: .9rem; } svg { width: 100%; height: auto; display: block; }
pre { margin: .4rem 0; padding: .6rem; background: var(--panel); border: 1px solid var(--line); border-radius: .4rem;
  white-space: pre-wrap; font-size: .85rem; }
.wide { overflow-x: auto; } table { border-collapse: collapse; font-size: .9rem; width: 100%; }
th, td { text-align: left; padding: .25rem .6rem .25rem 0; border-bottom: 1px solid var(--line); vertical-align: top;
  overflow-wrap: normal; } td:not(:last-child) { white-space: nowrap; } td:last-child { min-width: 12rem; }
td.number, th.number { text-align: right; font-variant-numeric: tabular-nums; }
"""

#: Beside the colour, for those who do not see it.
_MARKS = {"passed": "✓", "failed": "✗", "waiting": "…"}


def shown(result: Mapping[str, Any], facts: Mapping[str, Any]) -> dict[str, Any]:
    """What the page says, as data: the night that was tried, and what ``latest`` is."""
    record = result.get("record") or {}
    return {
        "night": result["night"],
        "state": "failed" if result["failed"] else "waiting" if result["waiting"] and not _fresh(result) else "passed",
        "latest": record.get("night"),
        "created": record.get("created"),
        "repository": record.get("repository"),
        "image": record.get("image"),
        "default": record.get("default"),
        "commits": list(facts["commits"]),
        "reasons": list(result["reasons"]) or list(record.get("changes", ())),
        "packages": record.get("packages", {}),
        "cells": result["cells"],
        "images": record.get("images", {}),
        "bundles": record.get("bundles", []),
        "history": record.get("history", []),
        "statistics": record.get("statistics"),
    }


def _fresh(result: Mapping[str, Any]) -> bool:
    return bool((result.get("record") or {}).get("night") == result["night"])


def as_json(value: Mapping[str, Any]) -> str:
    return json.dumps(value, indent=1, sort_keys=True, default=str) + "\n"


def html(value: Mapping[str, Any]) -> str:
    """The page that shows *value*."""
    title = f"{value['image'] or 'nightly'}: {value['night']}"
    parts = [
        "<!DOCTYPE html>",
        '<html lang="en">',
        '<head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head>",
        "<body>",
        *_head(value),
        *_cells(value),
        *_changes(value),
        *_use(value),
        *_history(value),
        *_statistics(value),
        '<p class="quiet">The same as data: <a href="nightly.json">nightly.json</a></p>',
        "</body></html>",
    ]
    return "\n".join(parts) + "\n"


def _head(value: Mapping[str, Any]) -> list[str]:
    state = value["state"]
    words = {"passed": "all cells passed", "failed": "failed; latest stays", "waiting": "not finished"}[state]
    lines = [
        f"<h1>{escape(str(value['image'] or 'nightly'))}</h1>",
        f'<p><b class="{state}">{_MARKS[state]} {escape(str(value["night"]))}</b>: {words}</p>',
    ]
    if value["latest"]:
        when = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(float(value["created"])))
        commit = str(value["commits"][0])
        lines.append(f"<p><code>latest</code> is {escape(str(value['latest']))}, published {when}.</p>")
        lines.append(f'<p class="quiet">{escape(str(value["repository"]))} at {escape(commit[:12])}</p>')
    return lines


def _cells(value: Mapping[str, Any]) -> list[str]:
    lines = ["<h2>Cells</h2>", '<div class="cells">']
    for row in value["cells"]:
        state = row["state"]
        about = []
        if row.get("seconds") is not None:
            about.append(duration(float(row["seconds"])))
        if image := row.get("image"):
            about.append(size(image["bytes"]))
        if bundle := row.get("bundle"):
            about.append(f"{size(bundle['bytes'])}, {bundle['units']} units")
        if row.get("night") not in (None, value["night"]):
            about.append(f"from {row['night']}")
        lines.append(f'<div class="cell"><b class="{state}">{_MARKS[state]} {escape(row["cell"])}</b>')
        lines.append(f"{escape(', '.join(about) or state)}")
        if row.get("error"):
            lines.append(f'<p class="failed">{escape(str(row["error"]))}</p>')
        steps = row.get("steps") or ()
        if steps:
            lines.append('<ul class="quiet">')
            lines += [
                f"<li>{_MARKS['passed' if step['ok'] else 'failed']} {escape(step['name'])}, "
                f"{duration(float(step['seconds']))}{escape(_counted(step))}</li>"
                for step in steps
            ]
            lines.append("</ul>")
        lines.append("</div>")
    return [*lines, "</div>"]


def _counted(step: Mapping[str, Any]) -> str:
    names = ("compiled", "restored", "operators")
    said = [f"{step[name]} {name}" for name in names if step.get(name)]
    return f" ({', '.join(said)})" if said else ""


def _changes(value: Mapping[str, Any]) -> list[str]:
    lines = ["<h2>What changed</h2>", "<ul>"]
    lines += [f"<li>{escape(str(reason))}</li>" for reason in value["reasons"]] or ["<li>nothing</li>"]
    return [*lines, "</ul>"]


def _use(value: Mapping[str, Any]) -> list[str]:
    if not value["images"]:
        return []
    lines = ["<h2>Use it</h2>", "<p>Each name below means the same bytes for ever.</p>"]
    for name, image in value["images"].items():
        new = f"; {size(image['new_bytes'])} for who has the night before"
        lines.append(f"<p><b>{escape(name)}</b>, {size(image['bytes'])}{new}</p>")
        lines.append(f"<pre>docker pull {escape(image['reference'])}</pre>")
    for bundle in value["bundles"]:
        about = f"{bundle['variant']}, {bundle['arch'] or 'no device code'}, {bundle['commit'][:12]}"
        lines.append(f"<p>Bundle of <b>{escape(about)}</b>, {size(bundle['bytes'])}</p>")
        lines.append(f"<pre>xfdev bundle pull {escape(bundle['reference'])}</pre>")
    return lines


def _history(value: Mapping[str, Any]) -> list[str]:
    nights = value["history"]
    if not nights:
        return []
    lines = ["<h2>Nights so far</h2>", '<div class="plots">']
    for name in sorted({name for night in nights for name in night["bytes"]}):
        points = [(_day(night), night["bytes"][name]) for night in nights if night["bytes"].get(name)]
        lines += _figure(f"{name}: compressed size", points, size)
    lines += _figure("duration", [(_day(night), night["seconds"]) for night in nights], duration)
    return [*lines, "</div>"]


def _day(night: Mapping[str, Any]) -> str:
    found = re.search(r"(\d{4})(\d\d)(\d\d)", str(night["night"]))
    return "-".join(found.groups()) if found else str(night["night"])


def _figure(title: str, points: Sequence[tuple[str, float]], said: Any) -> list[str]:
    if not points:
        return []
    caption = f"{title}, {said(points[-1][1])} now"
    return [f"<figure><figcaption>{escape(caption)}</figcaption>", plot.line(points, said, caption), "</figure>"]


def _statistics(value: Mapping[str, Any]) -> list[str]:
    found = value["statistics"]
    if not found:
        return []
    counts = found["counts"]
    total = sum(counts.values())
    shares = ", ".join(f"{number} {verdict}" for verdict, number in counts.items())
    lines = [
        "<h2>What upstream's commits cost</h2>",
        f"<p>Of the last {total} commits, for who had the one before: {escape(shares)}. Seconds are those of "
        f"{found['cpus']} CPUs.</p>",
        '<div class="wide"><table><thead><tr><th>commit</th><th>date</th><th>verdict</th>'
        '<th class="number">units</th><th class="number">time</th><th>subject</th></tr></thead><tbody>',
        *(_commit(entry) for entry in found["commits"]),
        "</tbody></table></div>",
    ]
    if not all(entry["known"] for entry in found["commits"]):
        lines.append('<p class="quiet">?: units that were not compiled here yet; their time is a guess.</p>')
    return lines


def _commit(entry: Mapping[str, Any]) -> str:
    units = f"{len(entry['units'])} of {entry['total']}{'' if entry['known'] else ' ?'}"
    took = duration(float(entry["seconds"])) if entry["seconds"] else "–"
    return _row(
        [(entry["commit"][:9], ""), (entry["date"], ""), (entry["verdict"], ""), (units, "number"), (took, "number"),
         (entry["subject"], "")]
    )  # fmt: skip


def _row(cells: Iterable[tuple[str, str]]) -> str:
    inner = "".join(f"<td{f' class={kind!r}' if kind else ''}>{escape(str(text))}</td>" for text, kind in cells)
    return f"<tr>{inner}</tr>"
