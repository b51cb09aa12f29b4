"""The nightly's page: whole, readable without a script, and nothing in it is taken for markup."""

from __future__ import annotations

import json
import re
import xml.etree.ElementTree as ET
from html.parser import HTMLParser
from typing import Any

import pytest

from nightly_sample import NASTY, result
from xfdev.console import size
from xfdev.nightly import page, plot

VOID = {"meta", "br", "img", "link"}


class Checked(HTMLParser):
    """Raises where a tag is not closed in its turn."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.text += data + "\n"


def made(**more: Any) -> tuple[str, Checked]:
    text = page.html(page.shown(result(**more), {"commits": ["c" * 40]}))
    checked = Checked()
    checked.feed(text)
    assert checked.open == []
    return text, checked


def test_it_is_whole_and_says_what_there_is() -> None:
    text, checked = made()
    assert text.startswith("<!DOCTYPE html>")
    assert "script" not in checked.tags
    for word in (
        *("nightly-20260102-cccccccccccc", "all cells passed", "torch 2.14.0 -> 2.14.1", "published 2026-01-02"),
        *("docker pull ghcr.io/team/dev@sha256:", "xfdev bundle pull ghcr.io/team/dev-bundles@sha256:"),
        *("3.2 GB", "9.7 MB", "1 reuse, 1 partial, 0 full", "from nightly-0", "13 compiled"),
    ):
        assert word in checked.text, word
    assert 'name="viewport"' in text
    assert "prefers-color-scheme: dark" in text
    assert not re.search(r"(src|href)=.(https?:|//)", text), "it loads nothing from elsewhere"


def test_nothing_that_others_wrote_is_markup() -> None:
    text, checked = made()
    assert "<script" not in text
    assert checked.text.count(NASTY) == 3, "a reason, an error, a subject"


def test_plots_are_well_formed() -> None:
    text, _ = made()
    plots = re.findall(r"<svg.*?</svg>", text, re.DOTALL)
    assert len(plots) == 2
    for drawn in plots:
        root = ET.fromstring(drawn)
        assert len(root.findall(".//circle")) == 19
    one = ET.fromstring(plot.line([("2026-01-01", 5.0)], size, NASTY))
    assert one.attrib["aria-label"] == NASTY
    assert len(one.findall(".//circle")) == 1
    ET.fromstring(plot.line([("a", 0.0), ("b", 0.0)], size, ""))


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"failed": ["cpu"]}, "failed; latest stays"),
        ({"waiting": ["cpu"], "night": "nightly-another"}, "not finished"),
        ({"record": None, "failed": ["cpu"]}, "failed; latest stays"),
    ],
)
def test_other_ends(more: dict[str, Any], words: str) -> None:
    _, checked = made(**more)
    assert words in checked.text


def test_the_json_is_the_same_data() -> None:
    value = page.shown(result(), {"commits": ["c" * 40]})
    assert json.loads(page.as_json(value))["bundles"][0]["arch"] == "9.0"
