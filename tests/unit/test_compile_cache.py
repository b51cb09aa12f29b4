"""A team's compiler cache in ccache's words, and what is no place for one."""

from __future__ import annotations

import os
import time
from pathlib import Path

import pytest

from xfdev import compile_cache
from xfdev.errors import UsageError


@pytest.mark.parametrize(
    ("place", "url"),
    [
        ("/mnt/team/ccache", "file:/mnt/team/ccache"),
        ("file:///mnt/team/ccache", "file:/mnt/team/ccache"),
        ("/mnt/a b|c%", "file:/mnt/a%20b%7Cc%25"),
        ("https://cache.example.com/project/", "https://cache.example.com/project/"),
        ("https://cache.example.com:8443/a b", "https://cache.example.com:8443/a%20b"),
        ("http://localhost:8080/x", "http://localhost:8080/x"),
        ("http://[::1]:8080/x", "http://[::1]:8080/x"),
        ("crsh:/run/helper.sock", "crsh:/run/helper.sock"),
    ],
)
def test_places(place: str, url: str) -> None:
    cache = compile_cache.parse(place)
    assert cache.url == url
    words = compile_cache.storage(cache, Path("/tools/a b"), Path("/cache/report"), write=True).split()
    assert words[:2] == [url, "read-only=true"], "read only, unless it was asked for"
    assert ("helper=/tools/a%20b" in words) == url.startswith("http")


def test_written_where_it_was_asked_for_and_not_by_hand() -> None:
    cache = compile_cache.parse("/mnt/team", written=True)
    assert compile_cache.storage(cache, Path(), Path(), write=True) == "file:/mnt/team"
    assert "read-only=true" in compile_cache.storage(cache, Path(), Path(), write=False)


@pytest.mark.parametrize(
    ("place", "said"),
    [
        ("team/ccache", "no folder and no server"),
        ("redis://cache.example.com", "no folder and no server"),
        ("http://cache.example.com/x", "without TLS"),
        ("https://", "no folder and no server"),
        ("https://cache.example.com/x?token=1", "no folder and no server"),
        ("https://cache.example.com:port/x", "no address"),
    ],
)
def test_places_that_are_none(place: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        compile_cache.parse(place)


def test_a_password_is_refused_and_not_repeated() -> None:
    with pytest.raises(UsageError) as caught:
        compile_cache.parse("https://me:sesame@cache.example.com/x")
    assert "sesame" not in f"{caught.value}{caught.value.why}{caught.value.hint}"
    assert "netrc" in caught.value.hint


def test_a_folder_that_cannot_be_used(tmp_path: Path) -> None:
    assert compile_cache.absent(compile_cache.parse(str(tmp_path))) == ""
    assert compile_cache.absent(compile_cache.parse(str(tmp_path / "none"))) == "is not there"
    assert compile_cache.absent(compile_cache.parse("https://cache.example.com")) == ""
    if os.geteuid():
        tmp_path.chmod(0o500)
        assert compile_cache.absent(compile_cache.parse(str(tmp_path), written=True)) == "may not be written"


def test_what_the_helper_says(tmp_path: Path) -> None:
    report, now = tmp_path / "report", time.time()
    assert compile_cache.complaint(report, now) == ""
    assert not compile_cache.rests(report)
    report.write_text("denies reading (401)\n")
    assert compile_cache.complaint(report, now - 1) == "denies reading (401)"
    assert compile_cache.rests(report)
    os.utime(report, (now - 400, now - 400))
    assert compile_cache.complaint(report, now - 1) == ""
    assert not compile_cache.rests(report)
