"""VS Code's tasks: what the problem matchers make of what compilers really say, and what is left of a user's file."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from xfdev import editor_tasks
from xfdev.errors import UsageError
from xfdev.jsonc import parse

MATCHERS = {matcher["source"]: matcher["pattern"] for matcher in editor_tasks.tasks()["tasks"][0]["problemMatcher"]}


def found(source: str, line: str) -> dict[str, str] | None:
    """What a matcher finds in a line, as VS Code does it."""
    pattern = MATCHERS[source]
    match = re.match(pattern["regexp"], line)
    if match is None:
        return None
    return {key: match[place] for key, place in pattern.items() if key != "regexp" and match[place]}


#: Of g++ 12.2 and nvcc 13.0.
SAID = [
    ("g++", "../../../csrc/one.cpp:4:9: error: expected primary-expression before ‘;’ token", ("4", "9", "error")),
    ("g++", "g.cpp:1:10: fatal error: nothing.h: No such file or directory", ("1", "10", "error")),
    ("g++", "/x y/a.h:7: warning: unused", ("7", None, "warning")),
    ("g++", "a.cpp:3:1: note: declared here", ("3", "1", "note")),
    ("nvcc", 'e.cu(1): error: identifier "foo" is undefined', ("1", None, "error")),
    ("nvcc", 'e.cu(1): warning #177-D: variable "unused" was declared but never referenced', ("1", None, "warning")),
    ("nvcc", "../../../csrc/k.cu(12): error #20: more", ("12", None, "error")),
    ("nvcc", "a.cuh(3): catastrophic error: out of tables", ("3", None, "error")),
]


@pytest.mark.parametrize(("source", "line", "expected"), SAID)
def test_what_compilers_say(source: str, line: str, expected: tuple[str, str | None, str]) -> None:
    match = found(source, line)
    assert match is not None
    assert (match["line"], match.get("column"), match["severity"]) == expected
    assert line.startswith(match["file"])
    assert line.endswith(match["message"])
    other = "nvcc" if source == "g++" else "g++"
    assert found(other, line) is None, "it is listed twice"


@pytest.mark.parametrize(
    "line",
    [
        "[3/13] csrc/a.cu: 12 s",
        "error: csrc/one.cpp does not compile:",
        '1 error detected in the compilation of "e.cu".',
        "h.cu: In instantiation of ‘void f() [with T = int]’:",
        "compiled 1, from the cache 2, kept 2 of 5 units, 3.21 s",
        "saved: csrc/a.cu",
    ],
)
def test_what_is_no_problem(line: str) -> None:
    assert found("g++", line) is None
    assert found("nvcc", line) is None


def test_a_file_of_its_own() -> None:
    value = json.loads(editor_tasks.merged(None))
    assert [task["label"] for task in value["tasks"]] == ["xfdev: build", "xfdev: compile this file", "xfdev: watch"]
    assert "@{" not in editor_tasks.merged(None)
    assert re.match(
        value["tasks"][2]["problemMatcher"][1]["background"]["endsPattern"], "watching 12 files; Ctrl-C ends"
    )
    assert editor_tasks.merged(editor_tasks.merged(None)) == editor_tasks.merged(None)


def test_what_is_there_stays() -> None:
    text = """{
  // mine
  "version": "2.0.0",
  "tasks": [
    { "label": "test", "command": "make", "group": { "kind": "build", "isDefault": true } }, // default
    { "label": "xfdev: watch", "command": "my-own" }
  ]
}
"""
    result = editor_tasks.merged(text)
    value: Any = parse(result)
    assert "// mine" in result
    assert "// default" in result
    assert [task["label"] for task in value["tasks"]] == [
        "test", "xfdev: watch", "xfdev: build", "xfdev: compile this file",
    ]  # fmt: skip
    assert value["tasks"][1]["command"] == "my-own"
    assert value["tasks"][2]["group"] == "build", "two tasks would be the default"
    assert editor_tasks.merged(result) == result


@pytest.mark.parametrize("text", ["{", "[]", '{"tasks": {}}'])
def test_what_cannot_be_read(text: str) -> None:
    with pytest.raises(UsageError):
        editor_tasks.merged(text)
