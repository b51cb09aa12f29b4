"""``xfdev nightly --history``: what it says of each commit is what ``plan`` says of it, checked out and compared with a
build of the commit before."""

from __future__ import annotations

from pathlib import Path

import pytest

import support
from support import git

#: Commits of a project, each after the one before: path -> what to append ("" removes it).
COMMITS: dict[str, dict[str, str]] = {
    "python": {"counter/__init__.py": "\nnothing = 0\n"},
    "one unit": {"csrc/one.cpp": '\nextern "C" int of_one() { return 1; }\n'},
    "a header of several": {"include/shared.h": "\n#define OF_SHARED 2\n"},
    "a text": {"NOTES.md": "words\n"},
    "a header that shadows": {"csrc/inner/shared.h": "#pragma once\n#define SHARED 1\n"},
    "what was asked for": {"include/optional.h": "#pragma once\n#define OPTIONAL 5\n"},
    "a new unit": {"csrc/four.cpp": '#include "shared.h"\nextern "C" int four() { return SHARED; }\n'},
    "its header": {"csrc/inner/deep.h": "\n#define OF_DEEP 3\n"},
    "the script": {"setup.py": "\n# another line\n"},
    "what the script reads": {"csrc/constants.in": "OTHER 5\n"},
    "the unit goes": {"csrc/four.cpp": ""},
}


def commit(root: Path, message: str, changes: dict[str, str]) -> None:
    for name, text in changes.items():
        path = root / name
        if not text:
            path.unlink()
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text((path.read_text() if path.exists() else "") + text)
    git(root, "add", "-A")
    git(root, "commit", "-q", "-m", message)


@pytest.fixture
def grown(counter: Path) -> Path:
    (counter / ".gitignore").write_text("*.so\nbuild\n*.egg-info\ncsrc/generated.h\n.xfdev\n__pycache__\n")
    commit(counter, "ignored", {})
    for message, changes in COMMITS.items():
        commit(counter, message, changes)
    (counter / "vendor/tally").joinpath("x").unlink(missing_ok=True)
    git(counter / "vendor/tally", "checkout", "-q", "v2")
    commit(counter, "the submodule", {})
    return counter


def test_it_says_what_plan_says(grown: Path, xfdev: support.Xfdev, tmp_path: Path) -> None:
    commits = git(grown, "log", "--format=%H", f"-{len(COMMITS) + 2}").split()
    first = commits[-1]

    def at(commit: str) -> None:
        git(grown, "checkout", "-q", commit)
        git(grown, "submodule", "-q", "update")

    at(first)
    # In a cache of its own: the last build here shall be all that the plans can take.
    cache = tmp_path / "bundles"
    bundle = xfdev("prebuild", grown, "--cache", cache).ok()["bundle"]
    git(grown, "checkout", "-q", "main")
    plain = support.Xfdev()
    said = plain("nightly", grown, "--history", str(len(commits) - 1), "--bundle", bundle[:12], "--cache", cache).ok()
    told = {entry["commit"]: entry for entry in said["commits"]}
    assert list(told) == commits[:-1]
    assert sum(said["counts"].values()) == len(told)

    at(first)
    xfdev("build", grown).ok()
    for new in reversed(commits[:-1]):
        at(new)
        plan = xfdev("plan", grown).ok()
        entry = told[new]
        doubted = plan["verdict"] == "partial" and all("not compiled yet" in why for why in plan["affected"].values())
        assert entry["verdict"] == plan["verdict"] or (doubted and entry["verdict"] == "reuse"), entry["subject"]
        if plan["verdict"] == "partial":
            # A file that was checked out in the moment of the last build leaves its readers in doubt; history has none.
            certain = {unit for unit, reasons in plan["affected"].items() if "not compiled yet" not in reasons}
            there = {unit for unit in certain if (grown / unit).exists()}
            assert there <= {*entry["units"]}, (entry["subject"], plan["affected"])
            # A unit that comes with the commit is not among those that changed, yet it is compiled.
            assert {*entry["units"]} - certain <= {"csrc/four.cpp"}, entry["subject"]
        built = xfdev("build", grown).ok()
        in_doubt = {*plan["affected"]} - {*entry["units"]} if plan["verdict"] == "partial" else set()
        assert {*built["compiled"]} <= {*entry["units"], *in_doubt}, entry["subject"]
        assert (entry["seconds"] > 0) == (entry["verdict"] != "reuse")
    verdicts = {entry["subject"]: entry["verdict"] for entry in said["commits"]}
    assert verdicts["python"] == verdicts["a text"] == "reuse"
    assert verdicts["one unit"] == verdicts["the submodule"] == "partial"
    assert verdicts["the script"] == verdicts["what the script reads"] == "full"


def test_a_bare_clone_and_the_newest_bundle_will_do(grown: Path, xfdev: support.Xfdev, tmp_path: Path) -> None:
    xfdev("prebuild", grown).ok()
    bare = tmp_path / "counter.git"
    git(tmp_path, "clone", "-q", "--bare", str(grown), str(bare))
    said = support.Xfdev().process("nightly", bare, "--history", "4", json_wanted=False)
    assert said.code == 0, said.err
    lines = said.out.splitlines()
    assert len(lines) == 6, said.out
    assert "the unit goes" in lines[1]
    assert "4 commits after bundle" in lines[4]
    assert "judged by their includes" in lines[5]


def test_what_is_missing_is_said(tmp_path: Path, counter: Path) -> None:
    xfdev = support.Xfdev()
    assert xfdev("nightly", tmp_path / "nowhere", "--history", "3").code == 10
    assert xfdev("nightly", tmp_path, "--history", "3").code == 11
    said = xfdev("nightly", counter, "--history", "3")
    assert said.code == 22
    assert "prebuild" in said.json["hint"]
    assert xfdev("nightly", counter, "--history", "0").code == 2
