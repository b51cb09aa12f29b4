"""JSON with comments: what it says, and edits that leave everything else alone."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from xfdev.jsonc import Document, Malformed, comments, parse, same
from xfdev.jsonc_edit import updated

# --- documents at random: a value, written down in some way


def dumped(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


WORDS = st.text(st.characters(exclude_categories=["Cs"]), max_size=6)
SCALARS = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False), WORDS)
KEYS = st.one_of(st.sampled_from(["a", "b", "build", "é☃", 'q"\\', ""]), WORDS)
VALUES = st.recursive(
    SCALARS, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=4), max_leaves=12
)
OBJECTS = st.dictionaries(KEYS, VALUES, max_size=5)


@st.composite
def documents(draw: st.DrawFn, values: st.SearchStrategy[Any] = OBJECTS) -> tuple[str, Any, list[str]]:
    """A text, what it says, and its comments."""
    newline = draw(st.sampled_from(["\n", "\r\n", "\r"]))
    said: list[str] = []
    line_comment = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\r\n"), max_size=8)
    block_comment = st.text(st.characters(exclude_categories=["Cs"]), max_size=8).filter(lambda text: "*/" not in text)
    trivia = st.lists(st.sampled_from(["", " ", "\t", newline, newline + "  ", "//", "/*"]), max_size=3)

    def between() -> str:
        parts = []
        for part in draw(trivia):
            if part == "//":
                said.append("//" + draw(line_comment))
                part = said[-1] + newline
            elif part == "/*":
                said.append("/*" + draw(block_comment) + "*/")
                part = said[-1]
                if part.endswith("/*/") and len(part) == 3:  # "/*" and "/" are no comment yet
                    part = said[-1] = "/**/"
            parts.append(part)
        return "".join(parts)

    def write(value: Any) -> str:
        if not isinstance(value, dict | list):
            return draw(st.sampled_from([dumped(value), json.dumps(value)]))
        pairs = list(value.items()) if isinstance(value, dict) else [(None, entry) for entry in value]
        text = "{" if isinstance(value, dict) else "["
        for number, (key, entry) in enumerate(pairs):
            text += between()
            if key is not None:
                text += dumped(key) + between() + ":" + between()
            text += write(entry) + between()
            if number + 1 < len(pairs) or draw(st.booleans()):
                text += ","
        return text + between() + ("}" if isinstance(value, dict) else "]")

    value = draw(values)
    text = draw(st.sampled_from(["", "\ufeff"])) + between() + write(value) + between()
    return text, value, said


@given(documents(VALUES))
def test_what_is_written_is_read(document: tuple[str, Any, list[str]]) -> None:
    text, value, said = document
    assert same(parse(text), value)
    assert comments(text) == said


@given(documents(), OBJECTS)
def test_any_value_can_be_made_of_any_text_and_no_comment_is_lost(
    document: tuple[str, Any, list[str]], value: dict[str, Any]
) -> None:
    text, old, said = document
    new = updated(text, value)
    assert same(parse(new), value)
    assert comments(new) == said
    assert updated(new, value) == new
    assert updated(text, old) == text


@given(documents(), OBJECTS)
def test_what_is_not_touched_keeps_its_bytes(document: tuple[str, Any, list[str]], more: dict[str, Any]) -> None:
    text, old, _ = document
    new = updated(text, {**old, **{key: value for key, value in more.items() if key not in old}})
    root = Document(text).root
    last = root.items[-1].node.end if root.items else root.start + 1
    assert new.startswith(text[:last])
    assert new.endswith(text[root.end - 1 :])


@given(documents(), SCALARS)
def test_a_change_of_one_value_changes_its_bytes_alone(document: tuple[str, Any, list[str]], value: Any) -> None:
    text, old, _ = document
    for key in [key for key, entry in old.items() if not isinstance(entry, dict | list)]:
        node = Document(text).root.last(key)
        new = updated(text, {**old, key: value})
        assert new.startswith(text[: node.start])
        assert new.endswith(text[node.end :])


# --- as people write it


def check(text: str, value: Any, expected: str) -> None:
    new = updated(text, value)
    assert new == expected
    assert same(parse(new), value)


def test_a_key_is_added_in_the_manner_of_the_file() -> None:
    check('{\n  "a": 1\n}\n', {"a": 1, "b": "é"}, '{\n  "a": 1,\n  "b": "é"\n}\n')
    check('{\n\t"a": 1,\n}\n', {"a": 1, "b": 2}, '{\n\t"a": 1,\n\t"b": 2,\n}\n')
    check('{\r\n    "a": 1\r\n}', {"a": 1, "b": 2}, '{\r\n    "a": 1,\r\n    "b": 2\r\n}')
    check('{"a": 1}', {"a": 1, "b": 2}, '{"a": 1, "b": 2}')
    check("{}", {"a": [1, 2]}, '{ "a": [1, 2] }')
    check("\ufeff{ }", {"a": True}, '\ufeff{ "a": true }')
    check("{\n}\n", {"a": True}, '{\n  "a": true\n}\n')
    check('{ "l": [] }', {"l": ["x"]}, '{ "l": ["x"] }')


def test_comments_stay_where_they_are() -> None:
    check(
        '{\n  "a": 1 // one\n  // "z": 26\n}\n',
        {"a": 1, "b": 2},
        '{\n  "a": 1, // one\n  // "z": 26\n  "b": 2\n}\n',
    )
    check('{ "a": 1 /* one */ }', {"a": 1, "b": 2}, '{ "a": 1, /* one */ "b": 2 }')
    check('{\n  "a": [ // why\n    1 // one\n  ]\n}', {"a": [1, 2]}, '{\n  "a": [ // why\n    1, // one\n    2\n  ]\n}')
    check(
        '{ "a" /* k */ : /* v */ 1 /* e */ , "b": 2 }', {"a": 7, "b": 2}, '{ "a" /* k */ : /* v */ 7 /* e */ , "b": 2 }'
    )
    check('{"a": {\n // inner\n}}', {"a": {"b": 1}}, '{"a": {\n // inner\n  "b": 1\n}}')


def test_comments_of_what_goes_away_stay() -> None:
    check('{\n  // base\n  "image": "x", // pinned\n  "a": 1\n}', {"a": 1}, '{\n  // base\n  // pinned\n  "a": 1\n}')
    check('{ "a": [1, /* two */ 2] }', {"a": "x"}, '{ "a": "x" /* two */ }')
    check('{\n  "a": [ // one\n    1 ],\n  "b": 2\n}', {"a": 5, "b": 2}, '{\n  "a": 5 // one\n  ,\n  "b": 2\n}')
    check('{ "image": /* x */ "y", "a": 1 }', {"a": 1}, '{ /* x */ "a": 1 }')


def test_a_key_is_taken_out_with_its_comma() -> None:
    check('{\n  "a": 1,\n  "b": 2,\n  "c": 3\n}', {"a": 1, "c": 3}, '{\n  "a": 1,\n  "c": 3\n}')
    check('{\n  "a": 1,\n  "b": 2\n}', {"a": 1}, '{\n  "a": 1\n}')
    check('{ "a": 1, "b": 2 }', {"b": 2}, '{ "b": 2 }')
    check('{ "a": 1, "b": 2 }', {"a": 1}, '{ "a": 1 }')
    check('{ "a": 1, "b": 2, "c": 3 }', {"a": 1}, '{ "a": 1 }')
    check('{"a": 1,}', {}, "{}")
    check('{\n  "a": {\n    "b": 1\n  },\n  "c": 2\n}', {"c": 2}, '{\n  "c": 2\n}')


def test_what_does_not_fit_on_a_line_gets_lines_of_its_own() -> None:
    check(
        '{ "image": "x" }',
        {"image": "x", "build": {"args": {"A": "1"}}},
        '{ "image": "x",\n  "build": {\n    "args": { "A": "1" }\n  }\n}',
    )
    long = ["x" * 30, "y" * 30, "z" * 30]
    assert parse(updated("{\n}", {"l": long})) == {"l": long}
    assert updated("{\n}", {"l": long}).count("\n") == 6


def test_of_equal_keys_the_last_one_counts() -> None:
    text = '{ "a": 1, "b": 0, "a": 2 }'
    assert parse(text) == {"a": 2, "b": 0}
    check(text, {"a": 3, "b": 0}, '{ "a": 1, "b": 0, "a": 3 }')
    check(text, {"b": 0}, '{ "b": 0 }')


def test_numbers_are_not_booleans() -> None:
    check('{"a": 1, "b": 1.0}', {"a": True, "b": 1}, '{"a": true, "b": 1}')
    check('{"a": 1e2}', {"a": 100.0}, '{"a": 1e2}')


def test_slashes_and_stars_in_strings_are_no_comments() -> None:
    text = '{"a": "https://x/*y*/", "b": "\\"// no"}'
    assert comments(text) == []
    assert parse(text) == {"a": "https://x/*y*/", "b": '"// no'}


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("", "line 1, column 1: it ends too early"),
        ("// only words\n", "line 2, column 1: it ends too early"),
        ('{"a": 1', "line 1, column 8: it ends too early"),
        ('{\n  "a": 1\n  "b": 2\n}', 'line 3, column 3: "b" is not expected'),
        ("{a: 1}", "line 1, column 2: 'a' is not expected"),
        ("{'a': 1}", 'line 1, column 2: "\'" is not expected'),
        ('{"a": }', "line 1, column 7: } is not expected"),
        ('{1: "a"}', "line 1, column 2: 1 is not expected"),
        ('{"a" 1}', "line 1, column 6: 1 is not expected"),
        ("[1,,2]", "line 1, column 4: , is not expected"),
        ("{,}", "line 1, column 2: , is not expected"),
        ('{"a": 01}', "line 1, column 8: 1 is not expected"),
        ('{"a": NaN}', "line 1, column 7: 'N' is not expected"),
        ('{"a": "\\x"}', 'line 1, column 7: "\\x" is not expected'),
        ('{"a": "x\ny"}', "line 1, column 7: '\"' is not expected"),
        ("{} {}", "line 1, column 4: { is not expected"),
        ("{} /* open", "line 1, column 4: '/' is not expected"),
        ("\xa0{}", "line 1, column 1: '\\xa0' is not expected"),
    ],
)
def test_what_is_wrong_and_where(text: str, where: str) -> None:
    with pytest.raises(Malformed) as caught:
        parse(text)
    assert str(caught.value) == where


def test_what_is_nested_too_deeply_is_no_crash() -> None:
    with pytest.raises(Malformed, match="too deeply"):
        parse("[" * 100_000)
