"""xfdev.git_index, read from what a real git says."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from xfdev.git_index import QUESTION, Index

ODD = ["plain.h", "tab\there.h", "line\nend.h", "  ctime: 1:2.h", "flags: 0", "ä.h", "sub/deep.h"]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for name in ODD:
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(name)
    (tmp_path / "link.h").symlink_to("plain.h")
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", "-A")
    return tmp_path


def git(root: Path, *words: str) -> str:
    me = ("-c", "user.name=me", "-c", "user.email=me@example.org", "-c", "core.quotePath=false")
    return subprocess.run(["git", *me, *words], cwd=root, check=True, capture_output=True, text=True).stdout


def index(root: Path) -> Index:
    return Index(git(root, *QUESTION))


def test_every_name_and_its_stat(tree: Path) -> None:
    found = index(tree)
    assert sorted(found) == sorted([*ODD, "link.h"])
    assert len(found) == len(ODD) + 1
    for name in ODD:
        entry, now = found[name], os.lstat(tree / name)
        assert entry.trusted
        assert entry.mode == "100644"
        assert entry.blob == git(tree, "hash-object", "--", name).strip()
        assert entry.stat == (now.st_ctime_ns, now.st_mtime_ns, now.st_ino & 0xFFFFFFFF, now.st_size)
        assert entry.same_file(str(tree / name))
    assert "other.h" not in found
    assert found.get("other.h") is None


def test_a_file_written_again_is_another(tree: Path) -> None:
    found = index(tree)
    (tree / "plain.h").write_text("plain.h")
    assert not found["plain.h"].same_file(str(tree / "plain.h"))
    (tree / "plain.h").unlink()
    assert not found["plain.h"].same_file(str(tree / "plain.h"))


def test_what_git_does_not_look_at_is_not_trusted(tree: Path) -> None:
    git(tree, "update-index", "--assume-unchanged", "plain.h")
    git(tree, "update-index", "--skip-worktree", "sub/deep.h")
    found = index(tree)
    assert [name for name in found if not found[name].trusted] == ["link.h", "plain.h", "sub/deep.h"]


def test_a_conflict_is_not_trusted(tree: Path) -> None:
    git(tree, "commit", "-qm", "one")
    for branch, text in (("a", "1"), ("b", "2")):
        git(tree, "checkout", "-q", "-b", branch, "HEAD" if branch == "a" else "a~1")
        (tree / "plain.h").write_text(text)
        git(tree, "commit", "-qam", branch)
    with pytest.raises(subprocess.CalledProcessError):
        git(tree, "merge", "-q", "a")
    found = index(tree)
    assert not found["plain.h"].trusted
    assert found["sub/deep.h"].trusted


def test_submodules_alone(tree: Path) -> None:
    git(tree, "update-index", "--add", "--cacheinfo", f"160000,{'1' * 40},third_party/lib")
    found = index(tree)
    assert found.submodules() == ["third_party/lib"]
    assert found["third_party/lib"].blob == "1" * 40
    assert not found["third_party/lib"].trusted


def test_nothing_said() -> None:
    assert not Index("")
