"""JSON with comments, read so that it can be edited in place (``jsonc_edit``): every value with where it stands.

The dialect is that of ``devcontainer.json``: ``//`` and ``/* */`` comments, trailing commas, of equal keys the last
one counts.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

_TOKEN = re.compile(
    r"""(?P<space>[ \t\r\n]+)
    | (?P<comment>//[^\r\n]*|/\*.*?\*/)
    | (?P<mark>[][{}:,])
    | (?P<scalar>"(?:[^"\\\x00-\x1f]|\\[^\r\n])*"|-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?|true|false|null)
    """,
    re.DOTALL | re.VERBOSE,
)


class Malformed(ValueError):
    """The text is not JSON with comments; says where."""


@dataclass(frozen=True)
class Token:
    """A word, a mark or a comment of the text."""

    text: str
    start: int

    @property
    def end(self) -> int:
        return self.start + len(self.text)


@dataclass(frozen=True)
class Node:
    """A value and where it stands. *items* are those of an object or an array."""

    start: int
    end: int
    value: Any
    items: tuple[Item, ...] = ()

    def last(self, key: str) -> Node:
        return next(item.node for item in reversed(self.items) if item.key == key)


@dataclass(frozen=True)
class Item:
    """An element: *start* is that of its key, where it has one; *comma* where the comma after it stands."""

    start: int
    key: str | None
    node: Node
    comma: int | None


class Document:
    """A text and what it says."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.comments: list[Token] = []
        self._tokens: list[Token] = []
        position = 1 if text.startswith("\ufeff") else 0
        while position < len(text):
            match = _TOKEN.match(text, position)
            if match is None:
                raise self._wrong(position, f"{text[position]!r} is not expected")
            if match.lastgroup != "space":
                found = self.comments if match.lastgroup == "comment" else self._tokens
                found.append(Token(match[0], position))
            position = match.end()
        self._at = 0
        try:
            self.root = self._value()
        except RecursionError:
            raise Malformed("it is nested too deeply") from None
        if self._at < len(self._tokens):
            raise self._unexpected()
        ends = re.search(r"\r\n|\n|\r", text)
        self.newline = ends[0] if ends else "\n"
        first = self.root.items[0].start if self.root.items else 0
        #: What one level is indented by.
        self.unit = (self.prefix(first) if self.begins_line(first) else "") or "  "

    def _wrong(self, position: int, what: str) -> Malformed:
        before = re.split(r"\r\n|\n|\r", self.text[:position])
        return Malformed(f"line {len(before)}, column {len(before[-1]) + 1}: {what}")

    def _unexpected(self) -> Malformed:
        if self._at >= len(self._tokens):
            return self._wrong(len(self.text), "it ends too early")
        token = self._tokens[self._at]
        return self._wrong(token.start, f"{token.text[:20]} is not expected")

    def _take(self, *wanted: str) -> Token | None:
        """The next token if its text is one of *wanted*; of all tokens without any."""
        if self._at >= len(self._tokens) or (wanted and self._tokens[self._at].text not in wanted):
            return None
        self._at += 1
        return self._tokens[self._at - 1]

    def _value(self) -> Node:
        opened = self._take("{", "[")
        if opened is None:
            return self._scalar()
        items: list[Item] = []
        close = "}" if opened.text == "{" else "]"
        while (closed := self._take(close)) is None:
            if items and items[-1].comma is None:
                raise self._unexpected()
            key = self._key() if close == "}" else None
            node = self._value()
            comma = self._take(",")
            start = node.start if key is None else key.start
            name = None if key is None else json.loads(key.text)
            items.append(Item(start, name, node, None if comma is None else comma.start))
        value: Any = [item.node.value for item in items]
        if close == "}":
            value = {item.key: item.node.value for item in items}
        return Node(opened.start, closed.end, value, tuple(items))

    def _key(self) -> Token:
        token = self._tokens[self._at] if self._at < len(self._tokens) else None
        if token is None or not token.text.startswith('"'):
            raise self._unexpected()
        self._scalar()
        if self._take(":") is None:
            raise self._unexpected()
        return token

    def _scalar(self) -> Node:
        token = self._take()
        if token is None or token.text in "{}[]:,":
            self._at -= token is not None
            raise self._unexpected()
        try:
            return Node(token.start, token.end, json.loads(token.text))
        except ValueError:  # an escape that is none, a number of thousands of digits
            self._at -= 1
            raise self._unexpected() from None

    def line_start(self, position: int) -> int:
        return max(self.text.rfind(end, 0, position) for end in "\r\n") + 1

    def prefix(self, position: int) -> str:
        """The white space that the line of *position* begins with."""
        start = self.line_start(position) + (self.text.startswith("\ufeff") and self.line_start(position) == 0)
        return self.text[start : len(self.text) - len(self.text[start:].lstrip(" \t"))]

    def begins_line(self, position: int) -> bool:
        return self.text[self.line_start(position) : position].strip(" \t\ufeff") == ""

    def kept(self, start: int, end: int) -> str:
        """The comments of a part that goes away, as they can stand in its place."""
        inside = [token.text for token in self.comments if start <= token.start < end]
        # A line comment ends its line, and takes the white space with it that the next line has.
        return " ".join(text + self.newline + self.prefix(start) if text.startswith("//") else text for text in inside)


def parse(text: str) -> Any:
    """The value of *text*. Raises Malformed."""
    return Document(text).root.value


def comments(text: str) -> list[str]:
    """The comments of *text*, in order. Raises Malformed."""
    return [token.text for token in Document(text).comments]


def same(one: Any, other: Any) -> bool:
    """Whether two values are equal in JSON, where 1 is neither true nor 1.0; the order of keys does not count."""
    return json.dumps(one, sort_keys=True) == json.dumps(other, sort_keys=True)
