"""What the last commits of a project would have cost, one after another: ``xfdev nightly --history N``."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

from xfdev import history, profile, trees
from xfdev.bundle import Manifest
from xfdev.console import duration
from xfdev.errors import BadBundle
from xfdev.project import normal
from xfdev.stores.local import LocalStore


def told(
    repository: trees.Repository, manifest: Manifest, count: int, *, revision: str = "HEAD", cpus: int
) -> dict[str, Any]:
    """The verdicts of the newest *count* commits of *revision*, the newest first, with how many had each."""
    commits = repository.commits(revision, count + 1)
    steps = []
    after = repository.tree(commits[0].id)
    for new, old in pairwise(commits):
        before = repository.tree(old.id)

        def includes(commit: str = old.id) -> Mapping[str, tuple[str, ...]]:
            return repository.includes(commit)

        found = history.step(manifest, before, after, includes, cpus)
        steps.append((new, found))
        after = before
    return {
        "commits": [
            {
                "commit": commit.id,
                "date": commit.when,
                "subject": commit.subject,
                "verdict": found.verdict,
                "units": sorted(found.units),
                "total": found.total,
                "seconds": found.seconds,
                "reasons": list(found.reasons),
                "known": found.known,
            }
            for commit, found in steps
        ],
        "counts": history.counts(found for _, found in steps),
        "seconds": round(sum(found.seconds for _, found in steps), 1),
        "cpus": cpus,
    }


def run(path: Path, count: int, bundle: str | None, store: LocalStore, environ: Mapping[str, str]) -> dict[str, Any]:
    """The answer of the command. Raises BadBundle where no bundle tells what the project's units read."""
    from xfdev import limits

    repository = trees.Repository(path, environ)
    name = store.resolve(bundle) if bundle else newest(store, repository)
    manifest = store.manifest(name)
    found = told(repository, manifest, count, cpus=limits.cpus(environ))
    return {"repository": str(path), "bundle": name, **found, "lines": _lines(found, name)}


def newest(store: LocalStore, repository: trees.Repository) -> str:
    """The newest bundle with units of the project that the repository holds. Raises BadBundle."""
    facts = next(
        (entry for entry in profile.profiles().values() if entry.marker and repository.holds("HEAD", entry.marker)),
        None,
    )
    wanted = normal((facts and facts.distribution) or repository.place.name.removesuffix(".git"))
    for summary in store.summaries():
        if summary.kind == "build" and normal(summary.project) == wanted:
            return summary.id
    raise BadBundle(
        f"there is no bundle of {wanted} in {store.folder}",
        why="what each unit reads is known once it was compiled",
        hint="xfdev prebuild makes one, xfdev bundle pull fetches one; or name another with --bundle",
    )


def _lines(found: Mapping[str, Any], name: str) -> list[str]:
    rows = [
        f"{entry['commit'][:9]}  {entry['date']}  {entry['verdict']:7}  "
        f"{len(entry['units']):3} of {entry['total']:3}{' ' if entry['known'] else '?'}  "
        f"{duration(entry['seconds']) if entry['seconds'] else '–':>12}  {entry['subject'][:60]}"
        for entry in found["commits"]
    ]
    total = len(found["commits"])
    shares = ", ".join(
        f"{number} {verdict} ({100 * number / max(total, 1):.0f} %)" for verdict, number in found["counts"].items()
    )
    rows.append(f"{total} commits after bundle {name[:12]}'s recipe: {shares}; {duration(found['seconds'])} in all")
    if any(not entry["known"] for entry in found["commits"]):
        rows.append("  ?: units that the bundle does not know, judged by their includes; their seconds are a guess")
    return rows
