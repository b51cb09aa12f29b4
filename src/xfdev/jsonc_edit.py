"""Edits of JSON with comments: what is not edited stays as it is, byte for byte, and every comment stays, in order.

An edit is a splice of the text, so that nobody's formatting is redone.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

from xfdev.jsonc import Document, Item, Node, same

_WIDTH = 120

#: Where to cut, up to where, and what to put in.
_Edit = tuple[int, int, str]


def updated(text: str, value: Any) -> str:
    """*text* with as little changed as makes it say *value*. Raises Malformed."""
    document = Document(text)
    while (found := _superfluous(document.root, value)) is not None:
        document = Document(_without(document, *found))
    edits: list[_Edit] = []
    _change(document, document.root, value, edits)
    text = document.text
    for start, end, new in sorted(edits, reverse=True):
        text = text[:start] + new + text[end:]
    return text


def _superfluous(node: Node, value: Any) -> tuple[Node, int] | None:
    """An object and the number of one of its items that *value* does not have; None where there is none."""
    if not isinstance(node.value, dict) or not isinstance(value, dict):
        return None
    for number, item in enumerate(node.items):
        if item.key not in value:
            return node, number
    for key in node.value:
        if (found := _superfluous(node.last(key), value[key])) is not None:
            return found
    return None


def _without(document: Document, node: Node, number: int) -> str:
    """The text without one item and without the comma that has no use then."""
    text, item = document.text, node.items[number]
    start, end, comma = item.start, item.node.end, item.comma
    if comma is None and number:
        before = node.items[number - 1].comma
        assert before is not None  # there is an item after it
        rest = _without_span(document, start, end)
        return rest[:before] + rest[before + 1 :]
    if comma is not None and comma != end:  # comments may stand before the comma
        text = text[:comma] + text[comma + 1 :]
        return text[:start] + document.kept(start, end) + text[end:]
    return _without_span(document, start, end if comma is None else comma + 1)


def _without_span(document: Document, start: int, end: int) -> str:
    text, kept = document.text, document.kept(start, end)
    if not kept:
        after = re.compile(r"[ \t]*(\r\n|\n|\r)?").match(text, end)
        if document.begins_line(start) and after is not None and after[1]:
            start, end = document.line_start(start), after.end()  # nothing else is on its lines
        elif after is not None and not after[1] and text[end - 1] == ",":
            end = after.end()
        else:
            start = len(text[:start].rstrip(" \t"))
    return text[:start] + kept + text[end:]


def _change(document: Document, node: Node, value: Any, edits: list[_Edit]) -> None:
    """Collect the edits that make *node* say *value*, which has all keys that it has."""
    if same(node.value, value):
        return
    if isinstance(node.value, dict) and isinstance(value, dict):
        for key in node.value:
            _change(document, node.last(key), value[key], edits)
        added = [(key, new) for key, new in value.items() if key not in node.value]
        _append(document, node, added, edits)
        return
    count = len(node.value) if isinstance(node.value, list) and isinstance(value, list) else 0
    if isinstance(value, list) and isinstance(node.value, list) and same(node.value, value[:count]):
        _append(document, node, [(None, new) for new in value[count:]], edits)
        return
    new, kept = _formatted(document, value, document.prefix(node.start)), document.kept(node.start, node.end)
    edits.append((node.start, node.end, f"{new} {kept}" if kept else new))


def _append(document: Document, node: Node, added: Sequence[tuple[str | None, Any]], edits: list[_Edit]) -> None:
    """Collect the edits that add items at the end of an object or an array, in the manner of those that are there."""
    if not added:
        return
    text, close, last = document.text, node.end - 1, node.items[-1] if node.items else None
    # Behind all that is there, comments too.
    place = max([node.start + 1, *(token.end for token in document.comments if node.start < token.start < close)])
    if last is not None:
        place = max(place, last.node.end, (last.comma or 0) + 1)
    comma = "," if last is not None and last.comma is None else ""
    final = "," if last is not None and last.comma is not None else ""
    outer = document.prefix(node.start)
    line = ", ".join(_named(key, _flat(new)) for key, new in added)
    if not re.search(r"[\r\n]", text[node.start : node.end]):
        started, ended = document.line_start(node.start), re.search(r"[\r\n]|\Z", text[node.end :])
        width = node.end + (ended.start() if ended else 0) - started + len(line) + 4
        if width <= _WIDTH and not any(_nests(new) for _, new in added):
            inner = " " if text[node.start] == "{" else ""
            if place == node.start + 1:
                edits.append((place, close, f"{inner}{line}{inner}"))
            else:
                edits += _with_comma(last, comma, place, place, f" {line}{final}")
            return
    indent = outer + document.unit
    if last is not None and document.begins_line(last.start):
        indent = document.prefix(last.start)
    broken = "".join(
        f"{document.newline}{indent}{_named(key, _formatted(document, new, indent))}," for key, new in added
    )
    broken = broken if final else broken[:-1]
    if re.search(r"[\r\n]", text[place:close]):
        edits += _with_comma(last, comma, place, place, broken)
    else:
        edits += _with_comma(last, comma, place, close, f"{broken}{document.newline}{outer}")


def _with_comma(last: Item | None, comma: str, place: int, end: int, new: str) -> list[_Edit]:
    """The edit that puts *new* in, and the one that ends the item before it by a comma, where it has none."""
    if last is None or not comma:
        return [(place, end, new)]
    if place == last.node.end:
        return [(place, end, comma + new)]
    return [(last.node.end, last.node.end, comma), (place, end, new)]


def _named(key: str | None, text: str) -> str:
    return text if key is None else f"{json.dumps(key, ensure_ascii=False)}: {text}"


def _nests(value: Any) -> bool:
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()
    return any(isinstance(entry, dict) and entry for entry in inner)


def _flat(value: Any) -> str:
    """A value on one line."""
    if isinstance(value, dict) and value:
        return "{ " + ", ".join(_named(str(key), _flat(entry)) for key, entry in value.items()) + " }"
    if isinstance(value, list):
        return "[" + ", ".join(map(_flat, value)) + "]"
    return json.dumps(value, ensure_ascii=False)


def _formatted(document: Document, value: Any, indent: str) -> str:
    """A value as one would write it by hand, on one line where it fits."""
    flat = _flat(value)
    if not isinstance(value, dict | list) or not value or (len(indent + flat) <= 90 and not _nests(value)):
        return flat
    pairs = list(value.items()) if isinstance(value, dict) else [(None, entry) for entry in value]
    deeper = indent + document.unit
    lines = [deeper + _named(key, _formatted(document, entry, deeper)) for key, entry in pairs]
    opened, closed = "{}" if isinstance(value, dict) else "[]"
    return opened + document.newline + f",{document.newline}".join(lines) + document.newline + indent + closed
