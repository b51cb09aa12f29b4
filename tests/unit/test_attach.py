"""What a container says about its checkout, and what stands in its way."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from xfdev import status
from xfdev.commands import attach
from xfdev.errors import BadEnvironment, NotAGitTree
from xfdev.profile import RESOURCES


@pytest.fixture
def noted(tmp_path: Path) -> dict[str, str]:
    folder = tmp_path / "status"
    folder.mkdir()
    return {"XFDEV_STATUS": str(folder)}


def shown(environ: dict[str, str], tmp_path: Path) -> tuple[str, str]:
    """What a new terminal shows when it starts, and before a prompt, by the very script of the image."""
    venv = tmp_path / "venv"
    (venv / "xfdev").mkdir(parents=True, exist_ok=True)
    (venv / "bin").mkdir(exist_ok=True)
    (venv / "bin/activate").write_text("")
    (venv / "xfdev/shell.bash").write_text((RESOURCES / "shell.bash").read_text())
    script = f'. {venv}/xfdev/shell.bash; echo "--"; false; eval "$PROMPT_COMMAND"; echo "status $?"'
    done = subprocess.run(["bash", "-c", script], env={**os.environ, **environ}, capture_output=True, text=True)
    start, _, prompt = done.stdout.partition("--\n")
    return start, prompt


def test_what_waits_is_shown_at_every_prompt_until_it_is_done(noted: dict[str, str], tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    status.todo(noted, one, ["xfdev: 2 units", "  xfdev build one"])
    status.todo(noted, other, ["xfdev: clone failed"])
    start, prompt = shown(noted, tmp_path)
    assert start == ""
    assert "xfdev build one" in prompt
    assert "clone failed" in prompt
    assert "status 1" in prompt, "a prompt must not swallow the status of the last command"
    status.ready(noted, one, ["ready: one"])
    start, prompt = shown(noted, tmp_path)
    assert start == "ready: one\n"
    assert "build one" not in prompt
    assert "clone failed" in prompt


def test_elsewhere_nothing_is_written(tmp_path: Path) -> None:
    status.ready({}, tmp_path, ["x"])
    status.todo({"XFDEV_STATUS": str(tmp_path / "none")}, tmp_path, ["x"])
    assert list(tmp_path.iterdir()) == []


def test_worktree_without_its_repository(tmp_path: Path) -> None:
    (tmp_path / ".git").write_text(f"gitdir: {tmp_path}/elsewhere/.git/worktrees/x\n")
    with pytest.raises(NotAGitTree, match="worktree") as caught:
        attach.require_repository(tmp_path)
    assert "xfdev init" in caught.value.hint
    (tmp_path / "elsewhere/.git/worktrees/x").mkdir(parents=True)
    attach.require_repository(tmp_path)


def test_cache_of_another_user(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    attach.require_cache(tmp_path / "none")
    attach.require_cache(tmp_path)
    monkeypatch.setattr(os, "access", lambda *_: False)  # root may write everything
    with pytest.raises(BadEnvironment, match="cannot be written") as caught:
        attach.require_cache(tmp_path)
    assert "sudo chown" in caught.value.hint
