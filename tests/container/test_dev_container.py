"""This repository's dev container without CUDA, for real: built, pushed, taken from the registry, worked in."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

import engine as engines
import support
import workspaces
from support import git
from workspaces import PROJECT, Inside

RELEASE = "xformers==0.0.35"
UNIT = "xformers/csrc/sparse24/sparse24.cpp"


@pytest.fixture(scope="module")
def release(engine: engines.Engine, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return workspaces.release(tmp_path_factory.mktemp("release"), RELEASE)


@pytest.fixture(scope="module")
def image(engine: engines.Engine, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The image without CUDA, in the registry and nowhere else."""
    folder = workspace(engine, tmp_path_factory.mktemp("image"), "image", engine.pushed("dev"), None)
    name = engine.pushed("dev") + ":cpu"
    built = xfdev(engine, "image", "build", folder, "--tag", name, "--push")
    assert built.returncode == 0, built.stderr[-5000:]
    forget(engine)
    return engine.pushed("dev")


def xfdev(engine: engines.Engine, *words: str | Path, **more: str) -> subprocess.CompletedProcess[str]:
    env = {**engine.env, "GPU": "false", "XFDEV_IMAGE": engine.pushed("dev"), **more}
    return subprocess.run(
        [str(Path(sys.executable).parent / "xfdev"), *map(str, words)],
        env=env,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
    )


def forget(engine: engines.Engine) -> None:
    """Delete everything that this machine has of the image."""
    listed = engine.docker("image", "ls", "--format", "{{.Repository}}:{{.Tag}}").stdout.split()
    for name in listed:
        if engine.name("") in name or f"vsc-{engine.name('')}" in name:
            engine.docker("image", "rm", "-f", name, check=False)
    engine.docker("builder", "prune", "--all", "--force")


def workspace(
    engine: engines.Engine, parent: Path, word: str, image: str, fork: Path | None, *, name: str | None = None
) -> Path:
    """A clone of this repository whose devcontainer.json names a base image, and *fork*, that can be had here."""
    folder = workspaces.this_repository(parent / name if name else engine.folder(parent, word))
    inside = f"file:///workspaces/{folder.name}/{PROJECT}.git"
    if fork is not None:
        git(parent, "clone", "-q", "--bare", str(fork), str(folder / f"{PROJECT}.git"))
    return workspaces.edited(
        folder,
        {
            "build": {
                "args": {"BASE_IMAGE": engine.base12, "XFORMERS_FIRST_BUILD_URL": RELEASE},
                "options": workspaces.wheels(),
            },
            "remoteEnv": {"XFORMERS_FORK_URL": inside},
        },
    )


def up(engine: engines.Engine, folder: Path, image: str, *words: str, **more: str) -> Inside:
    # The volume of caches has the user's name.
    env = {
        **engine.env,
        "GPU": "false",
        "XFDEV_IMAGE": image,
        "XFDEV_USER": "root",
        "USER": engine.name("user"),
        **more,
    }
    done = subprocess.run(
        ["devcontainer", "up", "--workspace-folder", str(folder), *words],
        env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    answer = json.loads(done.stdout.strip().splitlines()[-1])
    assert answer["outcome"] == "success", done.stderr[-5000:]
    return Inside(engine, answer)


def test_from_the_registry_to_an_edit_and_back(
    engine: engines.Engine, image: str, release: Path, tmp_path: Path
) -> None:
    folder = workspace(engine, tmp_path, "first", image, release)
    with workspaces.counted(tmp_path) as programs:
        inside = up(engine, folder, image)
    assert programs["git"], "nothing was counted"
    assert not workspaces.compilers(programs)
    # Nothing of the image was made again: neither Debian's packages nor Python's were installed.
    assert not programs["dpkg"], programs
    assert not programs["pip"], programs

    said = inside.prompt()
    assert "ready: xformers" in said
    assert "reuse:" in said
    assert "0 units compiled" in said
    assert inside.python(f"import {PROJECT}, {PROJECT}.ops; print({PROJECT}.__file__)").startswith("/workspaces/")
    checked = json.loads(inside.run("xfdev check --json", cwd=PROJECT).stdout)
    assert checked["operators"]

    # Python edited on the host takes effect inside.
    init = folder / PROJECT / PROJECT / "__init__.py"
    init.write_text(init.read_text() + "\nedited_on_the_host = 7\n")
    assert inside.python(f"import {PROJECT}; print({PROJECT}.edited_on_the_host)") == "7"

    # One unit edited is one unit compiled.
    unit = folder / PROJECT / UNIT
    unit.write_text(unit.read_text() + '\nextern "C" int edited_unit() { return 7; }\n')
    built = json.loads(inside.run("xfdev build --json", cwd=PROJECT).stdout)
    assert built["compiled"] == [UNIT]

    # The container is thrown away and made anew.
    with workspaces.counted(tmp_path) as programs:
        inside = up(engine, folder, image, "--remove-existing-container")
    assert not workspaces.compilers(programs)
    assert "the last build here" in inside.prompt()
    loaded = f"import ctypes, {PROJECT}, glob, os; "
    loaded += f"so = glob.glob(os.path.dirname({PROJECT}.__file__) + '/_C*.so')[0]; import torch; "
    assert inside.python(loaded + "print(ctypes.CDLL(so).edited_unit())") == "7"


def test_a_fork_with_a_changed_kernel_compiles_it_alone_and_says_so(
    engine: engines.Engine, image: str, release: Path, tmp_path: Path
) -> None:
    fork = tmp_path / "changed"
    git(tmp_path, "clone", "-q", str(release), str(fork))
    (fork / UNIT).write_text((fork / UNIT).read_text() + '\nextern "C" int of_the_fork() { return 1; }\n')
    workspaces.commit(fork, "a kernel")
    folder = workspace(engine, tmp_path, "fork", image, fork)
    with workspaces.counted(tmp_path) as programs:
        inside = up(engine, folder, image)
    assert not workspaces.compilers(programs), "a container that opens compiles nothing"
    said = inside.prompt()
    assert "partial, 1 of 2 units" in said
    assert "xfdev build" in said
    built = json.loads(inside.run("xfdev build --json", cwd=PROJECT).stdout)
    assert built["compiled"] == [UNIT]
    assert "would have to be compiled" not in inside.prompt()  # it was said until it was done


def test_a_fork_far_behind_says_what_there_is_to_compile(engine: engines.Engine, image: str, tmp_path: Path) -> None:
    old = workspaces.release(tmp_path, "xformers==0.0.34")
    folder = workspace(engine, tmp_path, "behind", image, old)
    inside = up(engine, folder, image)
    said = inside.prompt()
    assert "would have to be compiled" in said
    assert "xfdev build" in said
    # (That release does not compile without CUDA at all: its pt_stable_utils.h wants cuda.h.)


def test_what_cannot_be_cloned_stays_visible_until_it_can(
    engine: engines.Engine, image: str, release: Path, tmp_path: Path
) -> None:
    folder = workspace(engine, tmp_path, "broken", image, None)
    env = {**engine.env, "GPU": "false", "XFDEV_IMAGE": image, "XFDEV_USER": "root", "USER": engine.name("user")}
    done = subprocess.run(
        ["devcontainer", "up", "--workspace-folder", str(folder)],
        env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    answer = json.loads(done.stdout.strip().splitlines()[-1])
    assert answer["outcome"] == "error"
    inside = Inside(engine, {**answer, "remoteUser": "root", "remoteWorkspaceFolder": f"/workspaces/{folder.name}"})
    for _ in range(2):
        said = inside.prompt()
        assert f"{PROJECT}.git" in said
        assert "again: cd" in said
        assert "Traceback" not in said
    git(tmp_path, "clone", "-q", "--bare", str(release), str(folder / f"{PROJECT}.git"))
    inside.run(f"xfdev attach file:///workspaces/{folder.name}/{PROJECT}.git")
    assert "again:" not in inside.prompt()
    assert "ready: xformers" in inside.prompt()


@pytest.mark.parametrize("uid", [1000, 1001])
def test_a_checkout_of_a_user_with_any_number(
    engine: engines.Engine, image: str, release: Path, tmp_path: Path, uid: int
) -> None:
    folder = workspace(engine, tmp_path, f"uid{uid}", image, release)
    for above in (tmp_path, *list(tmp_path.parents)[:2]):
        above.chmod(0o755)  # pytest's folders are root's alone
    subprocess.run(["chown", "-R", str(uid), str(folder)], check=True)
    home = tmp_path / "home"
    home.mkdir()
    os.chown(home, uid, uid)
    socket = engine.env["DOCKER_HOST"].removeprefix("unix://")
    # The CLI asks for the user's name, which few numbers have: an account of its own, for this process alone.
    accounts = tmp_path / "passwd"
    kept = [line for line in Path("/etc/passwd").read_text().splitlines() if line.split(":")[2] != str(uid)]
    accounts.write_text("\n".join([*kept, f"developer:x:{uid}:{uid}::{home}:/bin/sh"]) + "\n")
    accounts.chmod(0o644)
    as_user = ["unshare", "-m", "sh", "-c", 'mount --bind "$0" /etc/passwd && exec "$@"', str(accounts)]
    as_user += ["setpriv", f"--reuid={uid}", f"--regid={uid}", f"--groups={os.stat(socket).st_gid}"]
    # A folder that this user can write for Docker's settings, with the plugins that are in the engine's.
    shutil.copytree(engine.env["DOCKER_CONFIG"], home / "docker", symlinks=True, dirs_exist_ok=True)
    subprocess.run(["chown", "-R", f"{uid}:{uid}", str(home)], check=True)
    env = {**engine.env, "GPU": "false", "XFDEV_IMAGE": image, "HOME": str(home), "TMPDIR": str(home)}
    env |= {"DOCKER_CONFIG": str(home / "docker"), "USER": engine.name(f"user{uid}")}
    done = subprocess.run(
        [*as_user, "devcontainer", "up", "--workspace-folder", str(folder)],
        env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    answer = json.loads(done.stdout.strip().splitlines()[-1])
    assert answer["outcome"] == "success", f"{answer}\n{done.stderr[-5000:]}"
    inside = Inside(engine, answer)
    assert inside.user == "vscode"
    assert inside.run("id -u").stdout.strip() == str(uid)
    assert "ready: xformers" in inside.prompt()
    assert (folder / PROJECT / ".xfdev").stat().st_uid == uid
    # The environment of the image is this user's to change, whatever the number.
    inside.run("pip uninstall -q -y iniconfig && ! python -c 'import iniconfig' 2>/dev/null")


def test_roots_checkout_in_a_container_of_another_user_says_what_to_do(
    engine: engines.Engine, image: str, release: Path, tmp_path: Path
) -> None:
    folder = workspace(engine, tmp_path, "roots", image, release)
    env = {**engine.env, "GPU": "false", "XFDEV_IMAGE": image, "USER": engine.name("user")}
    done = subprocess.run(
        ["devcontainer", "up", "--workspace-folder", str(folder)],
        env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    answer = json.loads(done.stdout.strip().splitlines()[-1])
    assert answer["outcome"] == "error"
    assert "belongs to user 0" in done.stderr
    assert "XFDEV_USER=root" in done.stderr
    inside = Inside(engine, {**answer, "remoteUser": "vscode", "remoteWorkspaceFolder": f"/workspaces/{folder.name}"})
    assert "XFDEV_USER=root" in inside.prompt()


def test_read_only_checkout_says_what_to_do(engine: engines.Engine, image: str, release: Path, tmp_path: Path) -> None:
    folder = workspace(engine, tmp_path, "readonly", image, release)
    workspaces.edited(
        folder,
        {
            "workspaceMount": "type=bind,source=${localWorkspaceFolder},target=/workspaces/ro,readonly",
            "workspaceFolder": "/workspaces/ro",
        },
    )
    env = {**engine.env, "GPU": "false", "XFDEV_IMAGE": image, "XFDEV_USER": "root", "USER": engine.name("user")}
    done = subprocess.run(
        ["devcontainer", "up", "--workspace-folder", str(folder)],
        env=env, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert json.loads(done.stdout.strip().splitlines()[-1])["outcome"] == "error"
    assert "read-only" in done.stderr


def test_a_path_with_spaces_and_letters_beyond_ascii(
    engine: engines.Engine, image: str, release: Path, tmp_path: Path
) -> None:
    name = engine.name("mit Leerzeichen und ü")
    folder = workspace(engine, tmp_path, "spaces", image, None, name=name)
    git(tmp_path, "clone", "-q", "--bare", str(release), str(folder / f"{PROJECT}.git"))
    workspaces.edited(folder, {"remoteEnv": {"XFORMERS_FORK_URL": f"./{PROJECT}"}})
    git(tmp_path, "clone", "-q", str(release), str(folder / PROJECT))
    inside = up(engine, folder, image)
    assert "ready: xformers" in inside.prompt()
    assert inside.python(f"import {PROJECT}; print({PROJECT}.__file__)").startswith(f"/workspaces/{name}")


def test_no_part_of_a_secret_is_in_the_image(engine: engines.Engine, image: str, tmp_path: Path) -> None:
    """What a build was given to reach its network is in no layer, no history and no label."""
    secrets = [engine.env.get(name, "") for name in ("XFDEV_BUILD_CA", "XFDEV_BUILD_PIP_CONF")]
    needles = [line.encode() for text in secrets for line in text.splitlines() if len(line) > 40]
    if not needles:
        support.missing("this machine's network needs no secret")
    engine.docker("pull", "-q", f"{image}:cpu")
    engine.docker("save", "-o", tmp_path / "image.tar", f"{image}:cpu")
    subprocess.run(["tar", "-xf", "image.tar"], cwd=tmp_path, check=True)
    searched = 0
    for blob in sorted((tmp_path / "blobs/sha256").iterdir()):
        with blob.open("rb") as stream:
            head = stream.read(4)
        words = {b"\x28\xb5\x2f\xfd": ["zstd", "-dc"], b"\x1f\x8b\x08\x00": ["gzip", "-dc"]}.get(head, ["cat"])
        searched += search([*words, str(blob)], needles)
    assert searched > 1_000_000_000


def search(words: list[str], needles: list[bytes]) -> int:
    """Look for *needles* in what a program prints; returns how much that was. Not all of it in memory at once: the peak
    of this process is the least that later tests measure for its children."""
    longest, size, tail = max(map(len, needles)), 0, b""
    with subprocess.Popen(words, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        while chunk := process.stdout.read(1 << 22):
            size += len(chunk)
            tail += chunk
            assert not any(needle in tail for needle in needles), words[-1]
            tail = tail[-longest:]
    assert process.returncode == 0
    return size


@pytest.fixture(scope="module")
def here(engine: engines.Engine, image: str, release: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace whose image this machine has."""
    folder = workspace(engine, tmp_path_factory.mktemp("here"), "here", image, release)
    up(engine, folder, image)
    return folder


def test_registry_that_is_down_costs_seconds(engine: engines.Engine, here: Path) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # bound and not listening
        started = time.monotonic()
        inside = up(engine, here, f"localhost:{nobody.getsockname()[1]}/none", "--remove-existing-container")
    assert "0 units compiled" in inside.prompt()
    assert time.monotonic() - started < 60


def test_registry_that_never_answers_costs_seconds(engine: engines.Engine, here: Path) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen(64)  # connections are taken, and nothing is ever said
        started = time.monotonic()
        inside = up(engine, here, f"localhost:{silent.getsockname()[1]}/none", "--remove-existing-container")
    assert "0 units compiled" in inside.prompt()
    assert time.monotonic() - started < 120


def test_foreign_image_in_the_registry_is_no_cache_and_no_harm(engine: engines.Engine, here: Path) -> None:
    name = engine.pushed("foreign")
    engine.docker("pull", "-q", engine.base13)
    engine.docker("tag", engine.base13, f"{name}:cpu")
    engine.docker("push", "-q", f"{name}:cpu")
    inside = up(engine, here, name, "--remove-existing-container")
    assert "0 units compiled" in inside.prompt()


def test_plain_docker_does_the_same_where_the_cli_is_missing(
    engine: engines.Engine, image: str, release: Path, tmp_path: Path
) -> None:
    folder = workspace(engine, tmp_path, "plain", image, release)
    bare = tmp_path / "bin"
    bare.mkdir()
    for program in ("docker", "git", "sh"):
        found = shutil.which(program, path=engine.env["PATH"])
        assert found
        (bare / program).symlink_to(found)
    env = {"PATH": str(bare), "USER": engine.name("user")}
    with workspaces.counted(tmp_path) as programs:
        done = xfdev(engine, "up", folder, "--engine", "container", "--json", **env)
    assert done.returncode == 0, done.stderr[-5000:]
    assert not workspaces.compilers(programs)
    said = json.loads(done.stdout)
    inside = Inside(
        engine,
        {"containerId": said["container"], "remoteUser": said["user"], "remoteWorkspaceFolder": said["workspace"]},
    )
    try:
        assert "ready: xformers" in inside.prompt()
        again = xfdev(engine, "up", folder, "--engine", "container", "--json", **env)
        assert json.loads(again.stdout)["container"] == said["container"]
    finally:
        made = engine.docker("inspect", "-f", "{{.Config.Image}}", said["container"]).stdout.strip()
        engine.docker("rm", "-f", said["container"])
        engine.docker("image", "rm", "-f", made)
