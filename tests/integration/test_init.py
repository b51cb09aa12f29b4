"""``xfdev init`` in real checkouts: what it writes, what it leaves alone, what it asks."""

from __future__ import annotations

import json
import os
import pty
import shlex
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import support
from faultkit import read_only, small_disk, tree
from support import Xfdev, git
from xfdev import errors
from xfdev.jsonc import comments, parse

FOLDER = ".devcontainer"


@pytest.fixture
def init() -> Xfdev:
    return Xfdev()


def config(root: Path) -> dict[str, Any]:
    value = parse((root / FOLDER / "devcontainer.json").read_text())
    assert isinstance(value, dict)
    return value


def everything(root: Path) -> dict[str, str]:
    return tree(root, beside=(".git",))


def test_a_checkout_without_one(init: Xfdev, counter: Path) -> None:
    said = init("init", counter).ok()
    names = {Path(name).relative_to(FOLDER).as_posix() for name in said["files"]}
    assert set(said["files"].values()) == {"new"}
    written = {
        path.relative_to(counter / FOLDER).as_posix() for path in (counter / FOLDER).rglob("*") if path.is_file()
    }
    assert names == written
    assert {"Dockerfile", "Dockerfile.dockerignore", "devcontainer.json", "post-create.sh", "private.sh"} < names
    found = config(counter)
    assert found["name"] == "counter"
    assert found["build"]["dockerfile"] == "Dockerfile"
    assert "cacheFrom" not in found["build"]
    assert "FORK_URL" in found["remoteEnv"]
    assert "runArgs" not in found, "there is no GPU that needs them"
    assert not any("type=bind" in mount for mount in found["mounts"])
    assert stat.S_IMODE((counter / FOLDER / "post-create.sh").stat().st_mode) == 0o755
    # Nothing is hidden from git: whether to commit it is up to the user.
    status = git(counter, "status", "--porcelain", "-uall", "--ignored").splitlines()
    assert sorted(status) == sorted(f"?? {name}" for name in said["files"])
    assert not (counter / ".xfdev").exists()
    for script in ("post-create.sh", "private.sh"):
        assert subprocess.run(["sh", "-n", counter / FOLDER / script]).returncode == 0


def test_once_more_changes_nothing(init: Xfdev, counter: Path) -> None:
    first = init.process("init", counter, json_wanted=False)
    assert first.code == 0
    assert first.out.splitlines()[-1].startswith("next: code ")
    before = {path: path.stat() for path in counter.rglob("*")}
    again = init.process("init", counter, json_wanted=False)
    assert again.code == 0
    assert again.out.splitlines()[0] == "nothing to do: .devcontainer is up to date"
    after = {path: path.stat() for path in counter.rglob("*")}
    assert {path: (now.st_ino, now.st_mtime_ns) for path, now in after.items()} == {
        path: (was.st_ino, was.st_mtime_ns) for path, was in before.items()
    }
    assert set(init("init", counter).ok()["files"].values()) == {"unchanged"}


def test_what_is_chosen_ends_in_the_files(init: Xfdev, counter: Path) -> None:
    init("init", counter, "--toolchain", "cu130", "--arch", "9.0 8.0", "--image", "localhost:5000/team/dev").ok()
    caches = config(counter)["build"]["cacheFrom"]
    assert caches
    assert all(cache.startswith("localhost:5000/team/dev") for cache in caches)
    assert "8.0;9.0" in config(counter)["build"]["args"]["TORCH_CUDA_ARCH_LIST"]
    assert "cu130" in (counter / FOLDER / "Dockerfile").read_text()
    for words in (("--toolchain", "cu131"), ("--toolchain", "plain"), ("--image", "a/b:latest")):
        said = init("init", counter, *words)
        assert said.code == errors.UsageError.exit_code
        assert said.json["hint"]
    assert init("init", counter, "--arch", "9").code == errors.UnknownArch.exit_code


FOREIGN = """{
    // The people of the counter made this by hand.
    "image": "python:3.12", // for now
    "remoteUser": "me", /* not root */
    "customizations": { "vscode": { "settings": {
        "editor.rulers": [ 80 ], // narrow
    } } },
    "postStartCommand": "make ready",
    // "unused": true,
}
"""


def test_what_somebody_wrote_is_kept(init: Xfdev, counter: Path) -> None:
    (counter / FOLDER).mkdir()
    place = counter / FOLDER / "devcontainer.json"
    place.write_text(FOREIGN.replace("\n", "\r\n"), newline="")
    before = everything(counter)
    said = init("init", counter)
    assert said.code == errors.FilesInTheWay.exit_code
    assert '-    "image": "python:3.12", // for now' in said.json["details"]
    assert everything(counter) == before
    said = init("init", counter, "--yes")
    assert said.ok()["files"][f"{FOLDER}/devcontainer.json"] == "changed"
    assert "image" in said.json["replaced"]
    text = place.read_bytes().decode()
    assert comments(text) == comments(FOREIGN)
    assert text.count("\n") == text.count("\r\n")
    for line in ('    "postStartCommand": "make ready",', '        "editor.rulers": [ 80 ], // narrow'):
        assert line in text.splitlines()
    found = config(counter)
    assert "image" not in found
    assert found["build"]["dockerfile"] == "Dockerfile"
    assert found["customizations"]["vscode"]["settings"]["editor.rulers"] == [80]
    assert found["customizations"]["vscode"]["settings"].keys() > {"editor.rulers"}
    assert set(init("init", counter).ok()["files"].values()) == {"unchanged"}


def test_a_file_that_was_edited_is_not_overwritten(init: Xfdev, counter: Path) -> None:
    init("init", counter).ok()
    place = counter / FOLDER / "Dockerfile"
    place.write_text(place.read_text() + "RUN mine\n")
    (counter / FOLDER / "post-create.sh").unlink()
    before = everything(counter)
    plain = init.process("init", counter, "--arch", "8.0", json_wanted=False)
    assert plain.code == errors.FilesInTheWay.exit_code
    assert plain.out == ""
    assert "--- .devcontainer/Dockerfile (there)\n+++ .devcontainer/Dockerfile (new)\n" in plain.err
    assert "\n-RUN mine\n" in plain.err
    # What the hint says works, and is about the same files.
    hint = plain.err.rpartition("  do: ")[2].split(" changes what")[0]
    assert everything(counter) == before, "not even the file that was missing is written"
    words = shlex.split(hint)
    assert words[:2] == ["xfdev", "init"]
    assert words[-1] == "--yes"
    assert "8.0" in words
    assert init("init", *words[2:]).ok()["files"][f"{FOLDER}/Dockerfile"] == "changed"
    assert "RUN mine" not in place.read_text()
    assert (counter / FOLDER / "post-create.sh").exists()


def on_terminal(root: Path, answer: bytes) -> tuple[int, str]:
    """``xfdev init`` as somebody at a terminal runs it, who answers its question."""
    master, slave = pty.openpty()
    argv = [sys.executable, "-m", "xfdev", "init", str(root)]
    with subprocess.Popen(argv, stdin=slave, stdout=slave, stderr=slave, start_new_session=True) as process:
        os.close(slave)
        said = b""
        while True:
            try:
                more = os.read(master, 4096)
            except OSError:  # the other end is closed: it has ended
                break
            if not more:
                break
            asked = b"[y/N]" not in said
            said += more
            if asked and b"[y/N]" in said:
                os.write(master, answer)
    os.close(master)
    return process.returncode, said.decode()


@pytest.mark.parametrize(
    ("answer", "agreed"), [(b"y\n", True), (b"YES\n", True), (b"n\n", False), (b"\n", False), (b"\4", False)]
)
def test_at_a_terminal_it_asks(init: Xfdev, counter: Path, answer: bytes, agreed: bool) -> None:
    init("init", counter).ok()
    place = counter / FOLDER / "Dockerfile"
    rendered = place.read_text()
    place.write_text("FROM mine\n")
    (counter / FOLDER / "private.sh").unlink()
    before = everything(counter)
    code, said = on_terminal(counter, answer)
    assert "-FROM mine" in said
    assert "change .devcontainer/Dockerfile? [y/N] " in said
    if agreed:
        assert code == 0, said
        assert place.read_text() == rendered
        assert (counter / FOLDER / "private.sh").exists()
    else:
        assert code == errors.FilesInTheWay.exit_code
        assert "nothing was written" in said
        assert everything(counter) == before


def test_nothing_is_asked_where_nothing_that_is_there_changes(counter: Path) -> None:
    code, said = on_terminal(counter, b"")
    assert code == 0
    assert "[y/N]" not in said


def test_path_with_spaces_and_other_scripts(init: Xfdev, counter_template: Path, tmp_path: Path) -> None:
    root = support.copy_tree(counter_template, tmp_path / "zähler & «mein» $HOME")
    said = init.process("init", root.name, json_wanted=False, cwd=tmp_path)
    assert said.code == 0, said.err
    last = said.out.splitlines()[-1]
    assert shlex.split(last.partition("--workspace-folder ")[2]) == [root.name]
    assert config(root)["name"] == "counter"
    assert set(init("init", root).ok()["files"].values()) == {"unchanged"}


def test_a_project_without_a_name_is_called_like_its_folder(init: Xfdev, tmp_path: Path) -> None:
    root = tmp_path / 'a "b" $c'
    root.mkdir()
    (root / "setup.py").write_text("from setuptools import setup; setup()\n")
    git(root, "init", "-q")
    init("init", root).ok()
    assert config(root)["name"] == "a -b- -c"


def test_subfolder_stands_for_its_checkout(init: Xfdev, counter: Path) -> None:
    assert init("init", counter / "csrc").ok()["checkout"] == str(counter)
    assert (counter / FOLDER / "Dockerfile").exists()


@pytest.mark.parametrize("there", [False, True])
def test_read_only_checkout(init: Xfdev, counter: Path, there: bool) -> None:
    if there:
        init("init", counter).ok()
        (counter / FOLDER / "Dockerfile").unlink()
    before = everything(counter)
    with read_only(counter):
        said = init("init", counter)
        assert said.code == errors.ReadOnlyCheckout.exit_code
        assert said.json["message"].endswith("cannot be written: Read-only file system")
    assert everything(counter) == before


def test_full_disk_leaves_all_as_it_was(init: Xfdev, counter_template: Path, tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 2) as disk:
        root = support.copy_tree(counter_template, disk / "counter")
        free = shutil.disk_usage(disk).free
        (disk / "filler").write_bytes(b"x" * (free - 120_000))
        before = everything(root)
        said = init("init", root)
        assert said.code == errors.DiskFull.exit_code
        assert everything(root) == before


# --- the other place


def test_the_file_at_the_root_moves(init: Xfdev, counter: Path) -> None:
    place = counter / ".devcontainer.json"
    place.write_text(FOREIGN)
    said = init("init", counter)
    assert said.code == errors.FilesInTheWay.exit_code
    assert "--- .devcontainer.json (there)" in said.json["details"]
    assert not (counter / FOLDER).exists()
    found = init("init", counter, "--yes").ok()
    assert found["files"][f"{FOLDER}/devcontainer.json"] == "moved"
    assert any(".devcontainer.json moved" in note for note in found["notes"])
    assert not place.exists()
    assert comments((counter / FOLDER / "devcontainer.json").read_text()) == comments(FOREIGN)
    assert config(counter)["remoteUser"] != "me"
    assert "remoteUser" in found["replaced"]


def test_a_file_at_both_places_is_told(init: Xfdev, counter: Path) -> None:
    init("init", counter).ok()
    (counter / ".devcontainer.json").write_text("{}")
    assert any(".devcontainer.json is there too" in note for note in init("init", counter).ok()["notes"])
    assert (counter / ".devcontainer.json").read_text() == "{}"


# --- what is in the way


def dangling(root: Path) -> None:
    (root / FOLDER).mkdir()
    (root / FOLDER / "Dockerfile").symlink_to("nowhere")


def elsewhere(root: Path) -> None:
    (root.parent / "shared").mkdir()
    (root / FOLDER).symlink_to(root.parent / "shared")


def a_file(root: Path) -> None:
    (root / FOLDER).write_text("not a folder")


def a_folder(root: Path) -> None:
    (root / FOLDER / "devcontainer.json").mkdir(parents=True)


def compose(root: Path) -> None:
    (root / FOLDER).mkdir()
    (root / FOLDER / "devcontainer.json").write_text('{"dockerComposeFile": "compose.yml", "service": "dev"}')


@pytest.mark.parametrize("obstacle", [dangling, elsewhere, a_file, a_folder, compose])
def test_what_cannot_be_written_to_is_left(init: Xfdev, counter: Path, obstacle: Callable[[Path], None]) -> None:
    obstacle(counter)
    before = everything(counter.parent)
    said = init("init", counter, "--yes")
    assert said.code == errors.FilesInTheWay.exit_code
    assert said.json["hint"]
    assert FOLDER in said.json["message"]
    assert everything(counter.parent) == before


@pytest.mark.parametrize("content", [b'{"a": 1', b"\xff\xfe{\x00}\x00", b"[]"])
def test_a_file_that_cannot_be_read_is_left(init: Xfdev, counter: Path, content: bytes) -> None:
    (counter / FOLDER).mkdir()
    (counter / FOLDER / "devcontainer.json").write_bytes(content)
    said = init("init", counter, "--yes")
    assert said.code == errors.UsageError.exit_code
    assert "devcontainer.json" in said.json["message"]
    assert [path.name for path in (counter / FOLDER).iterdir()] == ["devcontainer.json"]


def test_what_is_no_project(init: Xfdev, tmp_path: Path, counter: Path) -> None:
    assert init("init", tmp_path / "nowhere").code == errors.NoSuchPath.exit_code
    assert init("init", tmp_path).code == errors.NotAGitTree.exit_code
    git(tmp_path, "init", "-q")
    assert init("init", tmp_path).code == errors.NotAnExtensionProject.exit_code
    assert not (tmp_path / FOLDER).exists()


def test_the_wheel_of_another_xfdev_goes(init: Xfdev, counter: Path) -> None:
    """The image takes every wheel of that name, and must find one."""
    init("init", counter).ok()
    old = counter / FOLDER / "xfdev-0.0.1-py3-none-any.whl"
    old.write_bytes(b"PK\0")
    assert init("init", counter).code == errors.FilesInTheWay.exit_code
    assert init("init", counter, "--yes").ok()["files"][f"{FOLDER}/{old.name}"] == "removed"
    assert not old.exists()
    assert len(list((counter / FOLDER).glob("*.whl"))) == 1


def test_files_that_git_would_not_take_are_told(init: Xfdev, counter: Path) -> None:
    (counter / ".gitignore").write_text("*.whl\n")
    (note,) = init("init", counter).ok()["notes"]
    assert "git add -f" in note
    assert "Dockerfile" not in note
    (counter / ".gitignore").write_text("/.devcontainer/\n")
    assert init("init", counter).ok()["notes"] == []


def test_the_mode_of_a_file_stays(init: Xfdev, counter: Path) -> None:
    init("init", counter).ok()
    place = counter / FOLDER / "Dockerfile"
    place.write_text("FROM mine\n")
    place.chmod(0o600)
    init("init", counter, "--yes").ok()
    assert stat.S_IMODE(place.stat().st_mode) == 0o600


# --- git in the container


@pytest.mark.parametrize("relative", [False, True])
def test_git_works_in_the_container_of_a_worktree(init: Xfdev, counter: Path, tmp_path: Path, relative: bool) -> None:
    """What the mount is for is tried with a mount: the worktree where a container has it, and what the file names."""
    worktree = counter.parent / "wörk tree"
    git(counter, "worktree", "add", "-q", "-b", "other", str(worktree))
    gitdir = (worktree / ".git").read_text().strip().removeprefix("gitdir: ")
    if relative:  # as git 2.48 writes it with worktree.useRelativePaths
        (worktree / ".git").write_text(f"gitdir: {os.path.relpath(gitdir, worktree)}\n")
    said = init("init", worktree).ok()
    assert any("worktree" in note and "do not commit" in note for note in said["notes"])
    (mount,) = [entry for entry in config(worktree)["mounts"] if "type=bind" in entry]
    parts = dict(part.split("=") for part in mount.split(","))
    assert parts["source"] == str(counter / ".git")
    assert parts["target"] == ("/workspaces/counter/.git" if relative else str(counter / ".git"))
    if os.geteuid() != 0 or subprocess.run(["unshare", "-m", "true"]).returncode != 0:
        support.missing("no mount namespace can be made here")
    container = tmp_path / "container"
    inside, target = f"{container}/workspaces/{worktree.name}", f"{container}{parts['target']}"
    mounts = {str(worktree): inside, parts["source"]: target}
    mounts.update({f"/{name}": f"{container}/{name}" for name in ("usr", "dev", "proc")})
    quote = shlex.quote
    lines = [f"mkdir -p {quote(to)}; mount --rbind {quote(place)} {quote(to)}" for place, to in mounts.items()]
    lines += [f"ln -s usr/{name} {container}/{name}" for name in ("bin", "lib", "lib64")]
    lines.append(f"exec chroot {container} git -C {quote(f'/workspaces/{worktree.name}')} status --porcelain -b")
    done = subprocess.run(["unshare", "-m", "sh", "-ec", "\n".join(lines)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[0] == "## other"
    assert "?? .devcontainer/" in done.stdout


def test_a_submodule_is_told(init: Xfdev, counter: Path, tmp_path: Path) -> None:
    outer = tmp_path / "outer"
    outer.mkdir()
    git(outer, "init", "-q")
    git(outer, "submodule", "--quiet", "add", f"file://{counter}", "inner")
    said = init("init", outer / "inner").ok()
    assert any("submodule" in note for note in said["notes"])
    assert not any("type=bind" in mount for mount in config(outer / "inner")["mounts"])


# --- GPUs, which this machine need not have: programs that answer as docker and nvidia-smi do

H100 = "0, NVIDIA H100 80GB HBM3, 9.0, GPU-5fb7a3a1-0000-1111-2222-333344445555, 81559 MiB, Disabled, 580.95.05"


@pytest.mark.parametrize(
    ("info", "arguments", "note"),
    [
        ({"Runtimes": {"runc": {}, "nvidia": {}}}, None, None),
        (
            {"Runtimes": {"runc": {}}, "DiscoveredDevices": [{"Source": "cdi", "ID": "nvidia.com/gpu=0"}]},
            ["--device=nvidia.com/gpu=all"],
            "by CDI",
        ),
        ({"Runtimes": {"runc": {}}, "CDISpecDirs": ["SPECS"]}, ["--device=nvidia.com/gpu=all"], "by CDI"),
        ({"Runtimes": {"runc": {}}, "CDISpecDirs": ["/nowhere"]}, None, "nvidia-container-toolkit"),
        (None, None, None),
    ],
    ids=["runtime", "devices", "specs", "neither", "no daemon"],
)
def test_gpu(
    counter: Path, tmp_path: Path, info: dict[str, Any] | None, arguments: list[str] | None, note: str | None
) -> None:
    programs = tmp_path / "programs"
    programs.mkdir()
    (tmp_path / "specs").mkdir()
    (tmp_path / "specs" / "nvidia.yaml").write_text("cdiVersion: 0.5.0\nkind: nvidia.com/gpu\n")
    answer = json.dumps(info).replace("SPECS", str(tmp_path / "specs"))
    end = "exit 1" if info is None else "exit 0"
    for name, script in (("nvidia-smi", f"echo {shlex.quote(H100)}"), ("docker", f"echo {shlex.quote(answer)}; {end}")):
        (programs / name).write_text(f"#!/bin/sh\n{script}\n")
        (programs / name).chmod(0o755)
    init = Xfdev({"PATH": f"{programs}:{os.environ['PATH']}"})
    said = init("init", counter).ok()
    assert config(counter).get("runArgs") == arguments
    assert config(counter)["hostRequirements"] == {"gpu": "optional"}
    assert [note in text for text in said["notes"]] == ([True] if note else [])


def test_tasks_of_an_editor(init: Xfdev, counter: Path) -> None:
    assert init("init", counter, "--tasks").ok()["files"] == {".vscode/tasks.json": "new"}
    assert not (counter / FOLDER).exists()
    assert init("init", counter, "--tasks").ok()["files"] == {".vscode/tasks.json": "unchanged"}
    path = counter / ".vscode" / "tasks.json"
    path.write_text('{"tasks": [{"label": "mine"}]}')
    assert init("init", counter, "--tasks").code == errors.FilesInTheWay.exit_code
    init("init", counter, "--tasks", "--yes").ok()
    assert next(task["label"] for task in parse(path.read_text())["tasks"]) == "mine"
