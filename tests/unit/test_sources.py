"""What ``xfdev up`` is given, and what git and pip say when they fail: decisions without a process."""

from __future__ import annotations

import io
import os
import tarfile
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from xfdev import arrivals, clones, index, sdist
from xfdev.errors import (
    CommandFailed,
    DubiousOwnership,
    NotAnExtensionProject,
    RequirementNotFound,
    SourceUnreachable,
    UsageError,
    XfdevError,
)
from xfdev.neighbours import repository_key
from xfdev.sources import GitUrl, LocalPath, Requirement, parse

NOWHERE = Path("/nonexistent-folder")


@pytest.mark.parametrize(
    ("text", "url", "ref"),
    [
        ("https://host/o/r.git", "https://host/o/r.git", None),
        ("git+https://host/o/r@v1", "https://host/o/r", "v1"),
        ("https://me@host/o/r", "https://me@host/o/r", None),
        ("https://me:secret@host:8443/o/r.git@main", "https://me:secret@host:8443/o/r.git", "main"),
        ("ssh://git@host/o/r.git", "ssh://git@host/o/r.git", None),
        ("ssh://git@host:22/o/r@feature/x", "ssh://git@host:22/o/r", "feature/x"),
        ("git@host:o/r.git", "git@host:o/r.git", None),
        ("git@host:o/r.git@v1", "git@host:o/r.git", "v1"),
        ("git+git@host:o/r@0123abc", "git@host:o/r", "0123abc"),
        ("https://host/o/r.git@a@b", "https://host/o/r.git", "a@b"),
        ("file:///srv/r", "file:///srv/r", None),
        ("file:///srv/r.git@v0.0.35", "file:///srv/r.git", "v0.0.35"),
    ],
)
def test_git_urls(text: str, url: str, ref: str | None) -> None:
    assert parse(text, NOWHERE) == GitUrl(url, ref)


@pytest.mark.parametrize(
    "text", ["git@host:r.git", "https://host/o/r/", "file:///srv/r.git", "file:///srv/r/.git/", "file:///r/.git"]
)
def test_the_folder_of_a_clone(text: str) -> None:
    source = parse(text, NOWHERE)
    assert isinstance(source, GitUrl)
    assert source.name == "r"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("xformers==0.0.35", Requirement("xformers", "0.0.35")),
        (" Flash_Attn == 2.8.3 ", Requirement("flash-attn", "2.8.3")),
        ("xformers==0.0.32.post2", Requirement("xformers", "0.0.32.post2")),
        ("xformers", Requirement("xformers")),
    ],
)
def test_requirements(text: str, expected: Requirement) -> None:
    assert parse(text, NOWHERE) == expected


def test_paths(tmp_path: Path) -> None:
    (tmp_path / "xformers").mkdir()
    assert parse("xformers", tmp_path) == LocalPath(tmp_path / "xformers")
    assert parse(".", tmp_path) == LocalPath(tmp_path)
    assert parse("a/b", tmp_path) == LocalPath(tmp_path / "a/b")
    assert parse("./xformers==1", tmp_path) == LocalPath(tmp_path / "xformers==1")
    assert parse("/srv/x", tmp_path) == LocalPath(Path("/srv/x"))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "a b c",
        "xformers>=0.0.30",
        "xformers==0.0.*",
        "xformers=0.0.35",
        "xformers@v0.0.35",
        "xformers @ https://host/o/r",
        "xformers[dev]==0.0.35",
        "ftp://host/o/r",
        "hg+https://host/o/r",
        "ext::sh -c id",
        "https://host",
        "https://host/",
        "https://host/o/r@",
        "https://host/o/r@-x",
        "https://host/o/r@--upload-pack=x",
        "https://host/o/r@a..b",
        "https://host/o/r#egg=r",
        "https://host/x-1.tar.gz",
        "github.com/o/r",
        "x\ny",
    ],
)
def test_nonsense_names_the_three_forms(text: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse(text, NOWHERE)
    for form in ("./project", "https://", "name==version"):
        assert form in caught.value.hint
    assert caught.value.why


def test_a_password_is_not_repeated() -> None:
    with pytest.raises(UsageError) as caught:
        parse("https://me:secret@host/o/r#x", NOWHERE)
    assert "secret" not in str(caught.value) + caught.value.why


@settings(deadline=None)
@given(st.text(max_size=40))
@example("~0")
def test_parse_answers_or_refuses(text: str) -> None:
    try:
        source = parse(text, NOWHERE)
    except UsageError:
        return
    assert isinstance(source, LocalPath | GitUrl | Requirement)


SEGMENT = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_-]{0,8}", fullmatch=True)


@settings(deadline=None)
@given(SEGMENT, SEGMENT, st.lists(SEGMENT, min_size=1, max_size=3).map("/".join), st.booleans())
def test_a_reference_is_split_off(owner: str, name: str, ref: str, suffix: bool) -> None:
    path = f"{owner}/{name}{'.git' if suffix else ''}"
    for base in (f"https://u@h/{path}", f"ssh://git@h/{path}", f"git@h:{path}", f"file:///{path}"):
        assert parse(f"{base}@{ref}", NOWHERE) == GitUrl(base, ref)
        assert parse(f"git+{base}", NOWHERE) == GitUrl(base, None)


@settings(deadline=None)
@given(SEGMENT, SEGMENT)
def test_one_repository_has_one_key(owner: str, name: str) -> None:
    path = f"{owner}/{name}"
    urls = [f"https://H.org/{path}", f"https://u:p@h.org/{path}.git/", f"ssh://git@h.org:22/{path}.git"]
    assert len({repository_key(url) for url in [*urls, f"git@h.org:{path}", f"git+https://h.org/{path}"]}) == 1
    assert repository_key(f"file:///{path}.git") == repository_key(f"/{path}")
    assert repository_key(urls[0]) != repository_key(f"https://other.org/{path}")


@pytest.mark.parametrize(
    ("stderr", "error", "word"),
    [
        ("fatal: could not read Username for 'https://h': terminal prompts disabled", SourceUnreachable, "private"),
        ("fatal: unable to access 'https://h/': Could not resolve host: h", SourceUnreachable, "network"),
        ("fatal: repository 'https://h/o/r/' not found", SourceUnreachable, "no git repository"),
        ("fatal: detected dubious ownership in repository at '/r'", DubiousOwnership, "another user"),
        ("", SourceUnreachable, "network"),
    ],
)
def test_what_git_says(stderr: str, error: type[XfdevError], word: str) -> None:
    found = clones.unreachable("https://me:secret@h/o/r", stderr)
    assert type(found) is error
    assert word in found.why
    assert "secret" not in str(found) + found.hint


NO_MATCH = "ERROR: No matching distribution found for x==9"
VERSIONS = "ERROR: Could not find a version (from versions: 1.0, 1.10, 1.9, 2.0rc1)"


def unfetched(reason: str) -> str:
    return f"Could not fetch URL https://i/x/: {reason} - skipping\n{NO_MATCH}"


@pytest.mark.parametrize(
    ("log", "error", "word"),
    [
        (f"{VERSIONS}\n{NO_MATCH}", RequirementNotFound, "1.10, 1.9, 1.0"),
        (unfetched("404 Client Error: Not Found"), RequirementNotFound, "misspelt"),
        (f"Ignoring indexes: https://i\n{NO_MATCH}", RequirementNotFound, "PIP_NO_INDEX"),
        (
            f"No binaries permitted for x: https://i/x-9-py3-none-any.whl\n{NO_MATCH}",
            RequirementNotFound,
            "wheels only",
        ),
        (unfetched("401 Client Error: Unauthorized"), SourceUnreachable, "login"),
        (unfetched("connection error: Max retries exceeded"), SourceUnreachable, "proxy"),
        ("ERROR: HTTP error 503 while getting https://i/x-9.tar.gz", SourceUnreachable, "proxy"),
        ("error: metadata-generation-failed", NotAnExtensionProject, "setuptools"),
        ("/bin/python: No module named pip", CommandFailed, "pip"),
        ("ERROR: THESE PACKAGES DO NOT MATCH THE HASHES", CommandFailed, "hashes"),
        ("", CommandFailed, "configuration"),
    ],
)
def test_what_pip_says(log: str, error: type[XfdevError], word: str) -> None:
    stamped = "".join(f"2026-11-22T10:00:00,123 {line}\n" for line in log.splitlines())
    for text in (log, stamped):
        found = index.explain("x==9", text)
        assert type(found) is error
        assert word in found.why


def make_tar(path: Path, members: list[tarfile.TarInfo]) -> Path:
    with tarfile.open(path, "w:gz") as tar:
        for member in members:
            data = b"x" if member.isreg() else b""
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path


def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "", mtime: int = 5) -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.mtime = kind, link, mtime
    return info


@pytest.mark.parametrize("old_python", [False, True])
@pytest.mark.parametrize(
    "bad",
    [
        member("x-1/../../evil"),
        member("x-1/link", tarfile.SYMTYPE, "../../evil"),
        member("x-1/link", tarfile.SYMTYPE, "/etc/passwd"),
        member("x-1/dev", tarfile.CHRTYPE),
    ],
    ids=lambda info: info.linkname or info.name,
)
def test_an_archive_that_leaves_its_folder_is_refused(
    bad: tarfile.TarInfo, old_python: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if old_python:
        monkeypatch.delattr(tarfile, "data_filter", raising=False)
    archive = make_tar(tmp_path / "x-1.tar.gz", [member("x-1/a"), bad])
    with pytest.raises(XfdevError, match="not unpacked"):
        sdist.unpack(archive, tmp_path / "a" / "b")
    assert not list(tmp_path.rglob("evil"))


def test_unpacking(tmp_path: Path) -> None:
    members = [member("x-1/a", mtime=7), member("x-1/sub/.git"), member("x-1/sub/b", mtime=9)]
    unpacked = sdist.unpack(make_tar(tmp_path / "x-1.tar.gz", members), tmp_path / "out")
    assert (unpacked.root.name, unpacked.newest) == ("x-1", 9)
    assert sorted(str(p.relative_to(unpacked.root)) for p in unpacked.root.rglob("*")) == ["a", "sub", "sub/b"]


@pytest.mark.parametrize("old_python", [False, True])
def test_what_root_unpacks_is_roots(old_python: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else git refuses the tree as somebody else's."""
    if old_python:
        monkeypatch.delattr(tarfile, "data_filter", raising=False)
    foreign = member("x-1/a")
    foreign.uid = foreign.gid = 54321
    unpacked = sdist.unpack(make_tar(tmp_path / "x-1.tar.gz", [foreign]), tmp_path / "out")
    assert (unpacked.root / "a").stat().st_uid == os.geteuid()


def test_damaged_archives(tmp_path: Path) -> None:
    noise = bytes(i * 7919 % 251 for i in range(200_000))
    whole = tmp_path / "x-1.tar.gz"
    with tarfile.open(whole, "w:gz") as tar:
        info = member("x-1/a")
        info.size = len(noise)
        tar.addfile(info, io.BytesIO(noise))
    data = whole.read_bytes()
    for count in (0, 5, len(data) // 2):
        whole.write_bytes(data[:count])
        with pytest.raises(XfdevError):
            sdist.unpack(whole, tmp_path / f"out{count}")
    middle = len(data) // 2
    whole.write_bytes(data[:middle] + b"\xff" * 64 + data[middle + 64 :])
    with pytest.raises(XfdevError):
        sdist.unpack(whole, tmp_path / "changed")
    two = make_tar(tmp_path / "two.tar.gz", [member("a/x"), member("b/x")])
    with pytest.raises(XfdevError, match="not a source release"):
        sdist.unpack(two, tmp_path / "two")


def test_a_damaged_record_is_none(tmp_path: Path) -> None:
    record = tmp_path / arrivals.RECORD
    record.parent.mkdir()
    for content in ("", "[]", '{"source": 1}'):
        record.write_text(content)
        assert arrivals.recorded(tmp_path) is None
    record.write_text('{"source": "x==1", "ref": null}')
    assert arrivals.recorded(tmp_path) == arrivals.Origin("x==1")
