"""What a night with everything in it tells its page."""

from __future__ import annotations

from typing import Any

#: Whoever writes a subject or an error may write this.
NASTY = '<script>alert("x")</script> & "quotes" \'single\''


def result(**more: Any) -> dict[str, Any]:
    digest = "sha256:" + "d" * 64
    image = {
        "reference": f"ghcr.io/team/dev@{digest}",
        "digest": digest,
        "bytes": 3_200_000_000,
        "new_bytes": 9_700_000,
    }
    bundle = {
        "variant": "cu130", "arch": "9.0", "commit": "c" * 40, "bytes": 13_300_000, "units": 13, "id": "e" * 64,
        "reference": f"ghcr.io/team/dev-bundles@{digest}", "digest": digest,
    }  # fmt: skip
    steps = [{"name": "compile", "ok": True, "seconds": 99.8, "compiled": 13, "restored": 0}]
    record = {
        "night": "nightly-20260102-cccccccccccc", "created": 1767312000.0, "repository": "https://example.org/p.git",
        "image": "ghcr.io/team/dev", "default": "cu130", "changes": ["cu130: torch 2.14.0 -> 2.14.1", NASTY],
        "packages": {"cu130": ["torch 2.14.0 -> 2.14.1"]}, "images": {"cu130": image}, "bundles": [bundle],
        "history": [
            {"night": f"nightly-202601{day:02}-cccccccccccc", "bytes": {"cu130": 3e9 + day * 1e7}, "seconds": 300 + day}
            for day in range(1, 20)
        ],
        "statistics": {
            "counts": {"reuse": 1, "partial": 1, "full": 0}, "cpus": 4,
            "commits": [
                {"commit": "c" * 40, "date": "2026-01-02", "verdict": "partial", "units": ["a.cu"], "total": 13,
                 "seconds": 99.8, "subject": NASTY, "known": True},
                {"commit": "b" * 40, "date": "2026-01-01", "verdict": "reuse", "units": [], "total": 13,
                 "seconds": 0.0, "subject": "words", "known": False},
            ],
        },
    }  # fmt: skip
    cells = [
        {
            "cell": "cu130",
            "state": "passed",
            "seconds": 310.0,
            "image": image,
            "night": record["night"],
            "steps": steps,
        },
        {"cell": "cu130/9.0/cccccccccccc", "state": "passed", "bundle": bundle, "seconds": 1.0, "night": "nightly-0"},
        {"cell": "cpu", "state": "failed", "error": NASTY, "seconds": 3.0, "steps": [{**steps[0], "ok": False}]},
        {"cell": "cpu/none/cccccccccccc", "state": "waiting"},
    ]
    return {
        "night": record["night"],
        "reasons": [],
        "cells": cells,
        "waiting": [],
        "failed": [],
        "record": record,
        **more,
    }
