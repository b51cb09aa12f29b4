"""The tasks of VS Code that build, and tell its editor where an error is. Pure: text in, text out."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from xfdev.errors import UsageError
from xfdev.jsonc import Malformed, parse
from xfdev.jsonc_edit import updated
from xfdev.profile import RESOURCES

PLACE = ".vscode/tasks.json"

#: What ``xfdev watch`` says when work begins, and when it is done.
_BACKGROUND = {"activeOnStart": True, "beginsPattern": "^saved: ", "endsPattern": "^watching \\d+ files"}


def tasks() -> dict[str, Any]:
    """The whole file, where there is none yet."""
    value: dict[str, Any] = parse((RESOURCES / "vscode" / "tasks.json").read_text())
    build, one, watch = value["tasks"]
    one["problemMatcher"] = copy.deepcopy(build["problemMatcher"])
    matchers = build["problemMatcher"]
    watch["problemMatcher"] = [{**copy.deepcopy(matcher), "background": _BACKGROUND} for matcher in matchers]
    return value


def merged(text: str | None) -> str:
    """*text*, a ``tasks.json``, with those of ours that it has not; tasks with our labels, comments and the rest stay
    as they are. Raises UsageError where it cannot be read."""
    import json

    ours = tasks()
    if text is None or not text.strip():
        return json.dumps(ours, indent=2) + "\n"
    try:
        theirs = parse(text)
    except Malformed as error:
        raise UsageError(f"{PLACE} is not JSON with comments: {error}", hint="mend it, or move it away") from error
    listed = theirs.get("tasks", []) if isinstance(theirs, Mapping) else None
    if not isinstance(theirs, Mapping) or not isinstance(listed, list):
        raise UsageError(f"{PLACE} has no list of tasks", hint="mend it, or move it away")
    labels = {task.get("label") for task in listed if isinstance(task, Mapping)}
    more = [task for task in ours["tasks"] if task["label"] not in labels]
    if any(_is_default(task) for task in listed):
        for task in more:  # there is one default, and it is theirs
            if _is_default(task):
                task["group"] = "build"
    return updated(text, {"version": ours["version"], **theirs, "tasks": [*listed, *more]}) if more else text


def _is_default(task: Any) -> bool:
    group = task.get("group") if isinstance(task, Mapping) else None
    return isinstance(group, Mapping) and group.get("kind") == "build" and bool(group.get("isDefault"))
