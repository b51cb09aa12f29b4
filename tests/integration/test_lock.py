"""The lock file: what a team takes from elsewhere, with a real registry and a real package index."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

import registrykit as kit
import support
from faultkit import BEHAVIOUR
from xfdev.errors import CommandFailed, StaleLock, Untrusted
from xfdev.stores import artifact
from xfdev.stores.local import LocalStore


@dataclass
class World:
    host: str
    cache: Path
    prefix: Path
    bundle: str
    checkout: Path

    def push(self, repository: str, bundle: str = "") -> str:
        maker = support.Xfdev(variables={"XFDEV_CACHE": str(self.cache), "DOCKER_CONFIG": str(self.cache)})
        words = ("push", bundle or self.bundle, "--to", f"{self.host}/{repository}")
        return str(maker("bundle", *words).ok()["digest"])

    def newer(self, number: int) -> str:
        """The same, made later."""
        store = LocalStore(self.cache / "store")
        manifest = store.manifest(self.bundle)
        later = replace(manifest, origin={**manifest.origin, "created": str(2_000_000_000 + number)}, version="9")
        outputs = {name: store.output(self.bundle, name) for name in manifest.outputs}
        return store.put(later, outputs, store.objects(self.bundle, manifest))


@pytest.fixture(scope="module")
def world(
    _session_environ: None, counter_template: Path, plain_prefix: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("lock")
    with kit.real(folder) as host:
        maker = support.Xfdev(variables={"XFDEV_CACHE": str(folder / "cache")})
        checkout = support.copy_tree(counter_template, folder / "counter")
        name = maker("prebuild", checkout, "--venv", plain_prefix).ok()["bundle"]
        yield World(host, folder / "cache", plain_prefix, name, checkout)


@dataclass
class User:
    world: World
    folder: Path
    checkout: Path

    def __post_init__(self) -> None:
        self.lock = self.checkout / "xfdev.lock"

    def __call__(self, verb: str, *words: str, store: str = "") -> support.Said:
        variables = {"XFDEV_CACHE": str(self.folder / "cache"), "DOCKER_CONFIG": str(self.folder)}
        if store:
            variables["XFDEV_STORES"] = f"{self.world.host}/{store}"
        chosen = support.Xfdev(variables=variables, options=("--venv", str(self.world.prefix)))
        return chosen(verb, self.checkout, *words)


@pytest.fixture
def user(world: World, tmp_path: Path, counter: Path) -> User:
    return User(world, tmp_path, counter)


def test_written_with_a_diff_and_honoured(world: World, user: User) -> None:
    digest = world.push("team/a")
    written = user("lock", "--no-packages", store="team/a").ok()
    assert [line[:2] for line in written["changes"]] == ["+ "]
    assert world.bundle[:12] in written["changes"][0]
    value = json.loads(user.lock.read_text())
    assert [entry["digest"] for entry in value["bundles"]] == [digest]
    assert user("lock", "--no-packages", store="team/a").ok()["changes"] == []
    assert user("lock", "--no-packages", "--check", store="team/a").ok()["written"] is False
    linked = user("link", "--locked", store="team/a").ok()
    assert (linked["verdict"], linked["bundle"]) == ("reuse", world.bundle)
    assert support.behaviour(world.prefix / "bin" / "python", user.checkout) == BEHAVIOUR


def test_what_is_not_in_it_is_refused_by_name_and_the_next_is_taken(world: World, user: User) -> None:
    world.push("team/b")
    user("lock", "--no-packages", store="team/b").ok()
    later = world.newer(1)
    world.push("team/b", later)
    planned = user("plan", store="team/b").ok()
    assert (planned["verdict"], planned["bundle"]) == ("reuse", world.bundle)
    assert [entry["label"] for entry in planned["refused"]] == [f"bundle {later[:12]} of {world.host}/team/b"]
    assert planned["refused"][0]["reasons"] == ["it is not in xfdev.lock"]
    # The newer one alone: nothing else would serve.
    world.push("team/b-new", later)
    said = user("link", store="team/b-new")
    assert (said.code, said.json["error"]) == (Untrusted.exit_code, "Untrusted")
    assert later[:12] in said.json["message"]
    assert not list((user.checkout / "counter").glob("*.so"))
    # Locking it anew says what changes.
    stale = user("lock", "--no-packages", "--check", store="team/b")
    assert stale.code == StaleLock.exit_code
    assert world.bundle[:12] in stale.json["message"]
    assert later[:12] in stale.json["message"]


def test_a_locked_bundle_is_found_without_a_list(world: World, user: User) -> None:
    """Many newer ones may push it out of the list; who locked it still gets it."""
    world.push("team/c")
    user("lock", "--no-packages", store="team/c").ok()
    store = LocalStore(world.cache / "store")
    tag = artifact.tag_of(store.manifest(world.bundle))
    with kit.before(world.host) as proxy:
        proxy.rule = lambda request: kit.status(404) if request.path.endswith(f"/manifests/{tag}") else None
        lock = user.lock.read_text()
        user.lock.write_text(lock.replace(world.host, proxy.host))
        variables = {
            "XFDEV_CACHE": str(user.folder / "cache"),
            "DOCKER_CONFIG": str(user.folder),
            "XFDEV_STORES": f"{proxy.host}/team/c",
        }
        chosen = support.Xfdev(variables=variables, options=("--venv", str(world.prefix)))
        assert chosen("link", user.checkout).ok()["bundle"] == world.bundle


def test_a_locked_bundle_that_is_gone_is_said(world: World, user: User) -> None:
    world.push("team/d")
    user("lock", "--no-packages", store="team/d").ok()
    user.lock.write_text(user.lock.read_text().replace("team/d", "team/none"))
    planned = user("plan", store="team/none").ok()
    assert planned["verdict"] == "full"
    assert [entry["reasons"] for entry in planned["refused"]] == [
        ["the lock file names it, and the store has it no more"]
    ]


def test_what_was_fetched_before_counts_as_well(world: World, user: User) -> None:
    world.push("team/e")
    user("link", store="team/e").ok()
    shutil.rmtree(user.checkout / ".xfdev")
    for path in (user.checkout / "counter").glob("*.so"):
        path.unlink()
    user.lock.write_text('{"schema": 1, "bundles": []}')
    planned = user("plan").ok()
    assert planned["verdict"] == "full"
    assert planned["refused"][0]["reasons"] == ["it is not in xfdev.lock"]


def test_what_is_compiled_here_needs_no_lock(world: World, user: User, tmp_path: Path) -> None:
    user.lock.write_text('{"schema": 1, "bundles": []}')
    assert len(user("build").ok()["compiled"]) == 4
    other = support.copy_tree(world.checkout, tmp_path / "other")
    shutil.rmtree(other / ".xfdev")
    (other / "xfdev.lock").write_text(user.lock.read_text())
    assert User(world, user.folder, other)("plan", "--locked").ok()["verdict"] == "reuse"


@pytest.mark.parametrize(
    ("text", "words", "said"),
    [
        (None, ("--locked",), "there is no"),
        ("<<<<<<< HEAD\n", (), "cannot be read"),
        ('{"schema": 1}', ("--locked",), "names no bundles"),
    ],
)
def test_a_lock_that_is_stale_is_named(
    world: World, user: User, text: str | None, words: tuple[str, ...], said: str
) -> None:
    if text is not None:
        user.lock.write_text(text)
    for verb in ("plan", "link", "build"):
        found = user(verb, *words, store="team/nothing")
        assert (found.code, found.json["error"]) == (StaleLock.exit_code, "StaleLock"), found
        assert said in found.json["message"]
        assert "xfdev.lock" in found.json["message"]
        assert found.json["hint"]
    assert not list((user.checkout / "counter").glob("*.so"))


def test_images_by_digest(world: World, user: User) -> None:
    digest = world.push("team/f")
    tag = f"bundle-{world.bundle}"
    user("lock", "--no-packages", "--image", f"{world.host}/team/f:{tag}").ok()
    assert json.loads(user.lock.read_text())["images"] == [
        {"reference": f"{world.host}/team/f:{tag}", "digest": digest}
    ]
    assert user("lock", "--no-packages").ok()["changes"] == [], "it stays, and is the same"


def test_packages_with_hashes(world: World, user: User) -> None:
    """An environment is made of the locked files, and of nothing else."""
    said = user("lock")
    if said.code == CommandFailed.exit_code:
        support.missing(f"no package index: {said.json['message']}")
    said.ok()
    (name, wheels), *_ = json.loads(user.lock.read_text())["wheels"].items()
    assert name.startswith("plain ")
    assert {entry.partition("==")[0] for entry in wheels["files"]} >= {"setuptools", "wheel", "ninja", "packaging"}
    prefix = user.folder / "made" / ".venv"
    prefix.parent.mkdir()
    variables = {"XFDEV_CACHE": str(user.folder / "cache")}
    up = support.Xfdev(variables=variables, options=("--toolchain", "plain", "--venv", str(prefix), "--no-build"))
    up("up", user.checkout, "--locked")
    assert "--hash=sha256:" in (prefix / "xfdev" / "locked.txt").read_text()
    installed = {path.name for path in prefix.glob("lib/python*/site-packages/*.dist-info")}
    for entry in wheels["files"]:
        package, _, version = entry.partition("==")
        assert f"{package}-{version}.dist-info" in installed
    # Another file behind the same name and version.
    text = user.lock.read_text()
    ninja = next(digest for entry, digest in wheels["files"].items() if entry.startswith("ninja=="))
    user.lock.write_text(text.replace(ninja, "0" * 64))
    for path in prefix.glob("lib/python*/site-packages/ninja-*"):
        shutil.rmtree(path)
    said = up("up", user.checkout, "--locked")
    assert (said.code, said.json["error"]) == (Untrusted.exit_code, "Untrusted")
    assert "ninja==" in said.json["message"]
    # A lock that is older than what an environment is made of.
    user.lock.write_text(text.replace('"wheel"', '"wheel<1"'))
    said = up("up", user.checkout, "--locked")
    assert (said.code, said.json["error"]) == (StaleLock.exit_code, "StaleLock")
    assert "wheel" in said.json["message"]
