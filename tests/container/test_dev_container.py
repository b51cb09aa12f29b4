"""This repository's dev container without CUDA, for real: built, pushed, taken from the registry, worked in."""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

import engine as engines
import faulty_registry
import support
import workspaces
from support import git
from workspaces import PROJECT, Inside, Variant
from xfdev import devcontainer

RELEASE = "xformers==0.0.35"
UNIT = "xformers/csrc/sparse24/sparse24.cpp"


@pytest.fixture(scope="module")
def release(engine: engines.Engine, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return workspaces.release(tmp_path_factory.mktemp("release"), RELEASE)


@pytest.fixture(scope="module")
def cpu(engine: engines.Engine) -> Variant:
    return Variant(engine, engine.base12, RELEASE, {"GPU": "false"}, workspaces.wheels())


@pytest.fixture(scope="module")
def image(cpu: Variant, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The image without CUDA, in the registry and nowhere else."""
    return cpu.publish(cpu.workspace(tmp_path_factory.mktemp("image"), "image", None), "cpu")


def test_from_the_registry_to_an_edit_and_back(cpu: Variant, image: str, release: Path, tmp_path: Path) -> None:
    folder = cpu.workspace(tmp_path, "first", release)
    inside, _ = cpu.from_an_opened_image_to_an_edit_and_back(folder, image, UNIT, tmp_path)
    checked = json.loads(inside.run("xfdev check --json", cwd=PROJECT).stdout)
    assert checked["operators"]


def test_a_fork_with_a_changed_kernel_compiles_it_alone_and_says_so(
    cpu: Variant, image: str, release: Path, tmp_path: Path
) -> None:
    fork = workspaces.with_a_kernel_of_its_own(release, tmp_path / "changed", UNIT)
    folder = cpu.workspace(tmp_path, "fork", fork)
    with workspaces.counted(tmp_path) as programs:
        inside = cpu.up(folder, image)
    assert not workspaces.compilers(programs), "a container that opens compiles nothing"
    said = inside.prompt()
    assert "partial, 1 of 2 units" in said
    assert "xfdev build" in said
    built = json.loads(inside.run("xfdev build --json", cwd=PROJECT).stdout)
    assert built["compiled"] == [UNIT]
    assert "would have to be compiled" not in inside.prompt()  # it was said until it was done


@contextmanager
def served(engine: engines.Engine, folder: Path) -> Iterator[str]:
    """A git server for the repositories in *folder*, which builds can reach."""
    gateway = engine.docker("network", "inspect", "bridge", "-f", "{{(index .IPAM.Config 0).Gateway}}").stdout.strip()
    with socket.socket() as probe:
        probe.bind((gateway, 0))
        port = probe.getsockname()[1]
    words = ["git", "daemon", "--export-all", f"--base-path={folder}", f"--listen={gateway}", f"--port={port}"]
    with subprocess.Popen([*words, str(folder)], stderr=subprocess.DEVNULL) as process:
        try:
            yield f"git://{gateway}:{port}"
        finally:
            process.terminate()


def test_a_fork_with_kernels_of_its_own_replaces_the_last_layer_alone(
    cpu: Variant, image: str, release: Path, tmp_path: Path
) -> None:
    """The seed's Option B: both variables name the fork."""
    fork = workspaces.with_a_kernel_of_its_own(release, tmp_path / "own", UNIT)
    git(tmp_path, "clone", "-q", "--bare", str(fork), str(tmp_path / f"{PROJECT}.git"))
    folder = cpu.workspace(tmp_path, "optionb", None)
    with served(cpu.engine, tmp_path) as server, workspaces.counted(tmp_path) as programs:
        url = f"{server}/{PROJECT}.git"
        workspaces.edited(
            folder, {"build": {"args": {"XFORMERS_FIRST_BUILD_URL": url}}, "remoteEnv": {"XFORMERS_FORK_URL": url}}
        )
        inside = cpu.up(folder, image)
    assert programs["cc1plus"], "the fork's parts were compiled while the image was built"
    assert not programs["dpkg"], programs
    said = inside.prompt()
    assert "0 units compiled" in said
    assert "reuse: reused bundle" in said
    cpu.engine.docker("pull", "-q", f"{image}:cpu")
    made = cpu.engine.docker("inspect", "-f", "{{.Image}}", inside.id).stdout.strip()
    published, own = (
        json.loads(cpu.engine.docker("image", "inspect", name).stdout)[0]["RootFS"]["Layers"]
        for name in (f"{image}:cpu", made)
    )
    assert own[:-1] == published[:-1]
    assert own[-1] != published[-1]


def test_a_fork_far_behind_says_what_there_is_to_compile(cpu: Variant, image: str, tmp_path: Path) -> None:
    old = workspaces.release(tmp_path, "xformers==0.0.34")
    folder = cpu.workspace(tmp_path, "behind", old)
    inside = cpu.up(folder, image)
    said = inside.prompt()
    assert "would have to be compiled" in said
    assert "xfdev build" in said
    # (That release does not compile without CUDA at all: its pt_stable_utils.h wants cuda.h.)


def test_what_cannot_be_cloned_stays_visible_until_it_can(
    cpu: Variant, image: str, release: Path, tmp_path: Path
) -> None:
    folder = cpu.workspace(tmp_path, "broken", None)
    inside, _ = cpu.fails(folder, image)
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
    cpu: Variant, image: str, release: Path, tmp_path: Path, uid: int
) -> None:
    folder = cpu.workspace(tmp_path, f"uid{uid}", release)
    support.open_to_others(tmp_path)
    subprocess.run(["chown", "-R", str(uid), str(folder)], check=True)
    home = tmp_path / "home"
    home.mkdir()
    os.chown(home, uid, uid)
    socket = cpu.engine.env["DOCKER_HOST"].removeprefix("unix://")
    # The CLI asks for the user's name, which few numbers have: an account of its own, for this process alone.
    accounts = tmp_path / "passwd"
    kept = [line for line in Path("/etc/passwd").read_text().splitlines() if line.split(":")[2] != str(uid)]
    accounts.write_text("\n".join([*kept, f"developer:x:{uid}:{uid}::{home}:/bin/sh"]) + "\n")
    accounts.chmod(0o644)
    as_user = ["unshare", "-m", "sh", "-c", 'mount --bind "$0" /etc/passwd && exec "$@"', str(accounts)]
    as_user += ["setpriv", f"--reuid={uid}", f"--regid={uid}", f"--groups={os.stat(socket).st_gid}"]
    # A folder that this user can write for Docker's settings, with the plugins that are in the engine's.
    shutil.copytree(cpu.engine.env["DOCKER_CONFIG"], home / "docker", symlinks=True, dirs_exist_ok=True)
    subprocess.run(["chown", "-R", f"{uid}:{uid}", str(home)], check=True)
    own = {"HOME": str(home), "TMPDIR": str(home), "DOCKER_CONFIG": str(home / "docker"), "XFDEV_USER": "vscode"}
    inside = cpu.up(folder, image, through=tuple(as_user), **own, USER=cpu.engine.name(f"user{uid}"))
    assert inside.user == "vscode"
    assert inside.run("id -u").stdout.strip() == str(uid)
    assert "ready: xformers" in inside.prompt()
    assert (folder / PROJECT / ".xfdev").stat().st_uid == uid
    # The environment of the image is this user's to change, whatever the number.
    inside.run("pip uninstall -q -y iniconfig && ! python -c 'import iniconfig' 2>/dev/null")


def test_roots_checkout_in_a_container_of_another_user_says_what_to_do(
    cpu: Variant, image: str, release: Path, tmp_path: Path
) -> None:
    folder = cpu.workspace(tmp_path, "roots", release)
    inside, said = cpu.fails(folder, image, XFDEV_USER="vscode")
    assert "belongs to user 0" in said
    assert "XFDEV_USER=root" in said
    assert "XFDEV_USER=root" in inside.prompt()


def test_read_only_checkout_says_what_to_do(cpu: Variant, image: str, release: Path, tmp_path: Path) -> None:
    folder = cpu.workspace(tmp_path, "readonly", release)
    workspaces.edited(
        folder,
        {
            "workspaceMount": "type=bind,source=${localWorkspaceFolder},target=/workspaces/ro,readonly",
            "workspaceFolder": "/workspaces/ro",
        },
    )
    _, said = cpu.fails(folder, image)
    assert "read-only" in said


def test_a_path_with_spaces_and_letters_beyond_ascii(cpu: Variant, image: str, release: Path, tmp_path: Path) -> None:
    name = cpu.engine.name("mit Leerzeichen und ü")
    folder = cpu.workspace(tmp_path, "spaces", None, name=name)
    git(tmp_path, "clone", "-q", "--bare", str(release), str(folder / f"{PROJECT}.git"))
    workspaces.edited(folder, {"remoteEnv": {"XFORMERS_FORK_URL": f"./{PROJECT}"}})
    git(tmp_path, "clone", "-q", str(release), str(folder / PROJECT))
    inside = cpu.up(folder, image)
    assert "ready: xformers" in inside.prompt()
    assert inside.python(f"import {PROJECT}; print({PROJECT}.__file__)").startswith(f"/workspaces/{name}")


def test_no_part_of_a_secret_is_in_the_image(cpu: Variant, image: str, tmp_path: Path) -> None:
    """What a build was given to reach its network is in no layer, no history and no label."""
    secrets = [cpu.engine.env.get(name, "") for name in ("XFDEV_BUILD_CA", "XFDEV_BUILD_PIP_CONF")]
    needles = [line.encode() for text in secrets for line in text.splitlines() if len(line) > 40]
    if not needles:
        support.missing("this machine's network needs no secret")
    cpu.engine.docker("pull", "-q", f"{image}:cpu")
    cpu.engine.docker("save", "-o", tmp_path / "image.tar", f"{image}:cpu")
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
def here(cpu: Variant, image: str, release: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace whose image this machine has."""
    folder = cpu.workspace(tmp_path_factory.mktemp("here"), "here", release)
    cpu.up(folder, image)
    return folder


def test_registry_that_is_down_costs_seconds(cpu: Variant, here: Path) -> None:
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))  # bound and not listening
        started = time.monotonic()
        inside = cpu.up(here, f"localhost:{nobody.getsockname()[1]}/none", "--remove-existing-container")
    assert "0 units compiled" in inside.prompt()
    assert time.monotonic() - started < 60


def test_registry_that_never_answers_costs_seconds(cpu: Variant, here: Path) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen(64)  # connections are taken, and nothing is ever said
        started = time.monotonic()
        inside = cpu.up(here, f"localhost:{silent.getsockname()[1]}/none", "--remove-existing-container")
    assert "0 units compiled" in inside.prompt()
    assert time.monotonic() - started < 120


def test_offline_after_the_first_time(cpu: Variant, image: str, release: Path, tmp_path: Path) -> None:
    """Neither the published image nor the base image can be asked for, and the container has no network."""
    said = cpu.engine.docker("buildx", "imagetools", "inspect", cpu.base).stdout
    (digest,) = re.findall(r"^Digest: +(sha256:\w+)$", said, re.MULTILINE)
    with faulty_registry.forwarded(cpu.engine.registry) as registry:
        there = replace(cpu, base=f"{cpu.base.replace(cpu.engine.registry, registry)}@{digest}")
        folder = there.workspace(tmp_path, "offline", release)
        name = image.replace(cpu.engine.registry, registry)
        there.up(folder, name)
    workspaces.edited(folder, {"runArgs": ["--network=none"]})
    with workspaces.counted(tmp_path) as programs:
        inside = there.up(folder, name, "--remove-existing-container")
    assert not workspaces.compilers(programs)
    assert not programs["pip"], programs
    assert "0 units compiled" in inside.prompt()
    other = there.workspace(tmp_path, "offline-too", release)
    workspaces.edited(other, {"runArgs": ["--network=none"]})
    assert "reuse:" in there.up(other, name).prompt()


def test_foreign_image_in_the_registry_is_no_cache_and_no_harm(cpu: Variant, here: Path) -> None:
    name = cpu.engine.pushed("foreign")
    cpu.engine.docker("pull", "-q", cpu.engine.base13)
    cpu.engine.docker("tag", cpu.engine.base13, f"{name}:cpu")
    cpu.engine.docker("push", "-q", f"{name}:cpu")
    inside = cpu.up(here, name, "--remove-existing-container")
    assert "0 units compiled" in inside.prompt()


def test_damaged_image_in_the_registry_is_not_used(cpu: Variant, image: str, release: Path, tmp_path: Path) -> None:
    """Its layers are not what its manifest says; the machine has none of them."""
    folder = cpu.workspace(tmp_path, "damaged", release)
    cpu.forget()
    with faulty_registry.corrupted(cpu.engine.registry) as registry:
        inside = cpu.up(folder, image.replace(cpu.engine.registry, registry))
    assert "0 units compiled" in inside.prompt()


def test_what_a_days_refresh_makes_users_pull(cpu: Variant, image: str, tmp_path: Path) -> None:
    """A machine that has nothing builds the image with another xfdev, from the cache that the registry has."""
    folder = cpu.workspace(tmp_path, "refresh", None)
    source = folder / "src/xfdev/__init__.py"
    source.write_text(source.read_text() + "\n# another day\n")
    cpu.forget()
    built = cpu.xfdev("image", "build", folder, "--tag", f"{image}:day2", "--push", image=image)
    assert built.returncode == 0, built.stderr[-5000:]
    published, refreshed = cpu.engine.layers(image, "cpu"), cpu.engine.layers(image, "day2")
    assert len(refreshed) == len(published)
    new = {digest: size for digest, size in refreshed.items() if digest not in published}
    assert new, "the same xfdev: nothing was refreshed"
    assert sum(new.values()) < 30_000_000, f"{new} are not among {published}"
    assert sum(refreshed.values()) > 300_000_000


def test_a_worktree_says_what_to_do_and_init_does_it(cpu: Variant, release: Path, tmp_path: Path) -> None:
    """Its repository lies elsewhere: a mount is needed, which `xfdev init` writes."""
    main, folder = tmp_path / "main", tmp_path / cpu.engine.name("worktree")
    git(tmp_path, "clone", "-q", str(release), str(main))
    git(main, "worktree", "add", "-q", str(folder))
    assert cpu.xfdev("init", folder).returncode == 0
    workspaces.edited(folder, {"build": {"args": {"BASE_IMAGE": cpu.base, "XFORMERS_FIRST_BUILD_URL": RELEASE},
                                         "options": cpu.options}})  # fmt: skip
    file = folder / ".devcontainer/devcontainer.json"
    written = file.read_text()
    mounts = devcontainer.read(written)["mounts"]
    file.write_text(written.replace(json.dumps(mounts[-1]), json.dumps(mounts[0]), 1))
    _, said = cpu.fails(folder, "none")
    assert "is a git worktree" in said
    assert "xfdev init" in said
    assert "Traceback" not in said

    file.write_text(written)
    inside = cpu.up(folder, "none", "--remove-existing-container")
    assert "0 units compiled" in inside.prompt()
    assert "branch" in inside.run("git status").stdout


def test_plain_docker_does_the_same_where_the_cli_is_missing(
    cpu: Variant, image: str, release: Path, tmp_path: Path
) -> None:
    folder = cpu.workspace(tmp_path, "plain", release)
    bare = tmp_path / "bin"
    bare.mkdir()
    for program in ("docker", "git", "sh"):
        found = shutil.which(program, path=cpu.engine.env["PATH"])
        assert found
        (bare / program).symlink_to(found)
    env = {"PATH": str(bare)}
    with workspaces.counted(tmp_path) as programs:
        done = cpu.xfdev("up", folder, "--engine", "container", "--json", **env)
    assert done.returncode == 0, done.stderr[-5000:]
    assert not workspaces.compilers(programs)
    said = json.loads(done.stdout)
    inside = Inside(
        cpu.engine,
        {"containerId": said["container"], "remoteUser": said["user"], "remoteWorkspaceFolder": said["workspace"]},
    )
    try:
        assert "ready: xformers" in inside.prompt()
        again = cpu.xfdev("up", folder, "--engine", "container", "--json", **env)
        assert json.loads(again.stdout)["container"] == said["container"]
    finally:
        made = cpu.engine.docker("inspect", "-f", "{{.Config.Image}}", said["container"]).stdout.strip()
        cpu.engine.docker("rm", "-f", said["container"])
        cpu.engine.docker("image", "rm", "-f", made)
