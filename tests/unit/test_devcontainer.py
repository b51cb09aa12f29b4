"""The files of a dev container: templates filled in, and merged with what somebody else wrote."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from test_jsonc import OBJECTS, documents

from xfdev import container, devcontainer
from xfdev.errors import FilesInTheWay, UsageError, XfdevError
from xfdev.jsonc import comments, parse, same

# --- rendering

CONFIG = """{
  // ours
  "name": "@{name}",
  "build": {
    "dockerfile": "Dockerfile", // here
    "args": { "@{fork_variable}": "${localEnv:@{fork_variable}:@{first_build}}" },
    "cacheFrom": ["@{image}"]
  }
}
"""
VALUES: dict[str, str | None] = {
    "name": 'a "quoted" näme',
    "fork_variable": "FORK_URL",
    "first_build": "https://example.org/a.git",
    "image": "example.org/team/dev",
    "toolchain": "cu130",
    "wheel": "xfdev-1-py3-none-any.whl",
}


@pytest.fixture
def templates(tmp_path: Path) -> Path:
    (tmp_path / "requirements").mkdir()
    (tmp_path / "devcontainer.json").write_text(CONFIG)
    (tmp_path / "Dockerfile").write_text("ARG TOOLCHAIN=@{toolchain}\nENV HOME=${HOME} A=@{wheel}\n")
    (tmp_path / "requirements" / "cu130.txt").write_text("torch==1\n")
    (tmp_path / "requirements" / "xfdev.txt").write_text("pip==1\n")
    (tmp_path / "tools.in").write_text("what the locks are made of: @{nothing}\n")
    return tmp_path


def test_every_placeholder_is_filled_in(templates: Path) -> None:
    found = devcontainer.render(VALUES, templates)
    assert sorted(found) == ["Dockerfile", "devcontainer.json", "requirements/cu130.txt", "requirements/xfdev.txt"]
    assert found["Dockerfile"] == b"ARG TOOLCHAIN=cu130\nENV HOME=${HOME} A=xfdev-1-py3-none-any.whl\n"
    config = parse(found["devcontainer.json"].decode())
    assert config["name"] == 'a "quoted" näme'
    assert config["build"]["cacheFrom"] == ["example.org/team/dev"]
    assert config["build"]["args"] == {"FORK_URL": "${localEnv:FORK_URL:https://example.org/a.git}"}


def test_without_an_image_nothing_is_taken_from_a_cache(templates: Path) -> None:
    text = devcontainer.render({**VALUES, "image": None}, templates)["devcontainer.json"].decode()
    assert parse(text)["build"].keys() == {"dockerfile", "args"}
    assert comments(text) == ["// ours", "// here"]
    assert '{localEnv:FORK_URL:https://example.org/a.git}" }\n  }\n}\n' in text


@pytest.mark.parametrize(
    ("image", "unset", "set_by_the_user"),
    [
        (None, "", "ghcr.io/a"),
        ("example.org/team/dev", "example.org/team/dev-bundles", "ghcr.io/a"),
        ("localhost:5000/dev", "localhost:5000/dev-bundles", "localhost:5000/dev-bundles"),
    ],
)
def test_where_bundles_come_from(tmp_path: Path, image: str | None, unset: str, set_by_the_user: str) -> None:
    text = json.dumps({"remoteEnv": {"XFDEV_STORES": devcontainer.stores(image)}})
    for environ, value in (({}, unset), ({"XFDEV_STORES": "ghcr.io/a"}, set_by_the_user)):
        config = container.read(tmp_path / ".devcontainer/devcontainer.json", tmp_path, text, environ)
        assert config.data["remoteEnv"] == {"XFDEV_STORES": value}


def test_a_name_without_value_is_an_error(templates: Path) -> None:
    (templates / "private.sh").write_text("echo @{nobody_knows}")
    with pytest.raises(XfdevError, match=r"private\.sh wants @\{nobody_knows\}"):
        devcontainer.render(VALUES, templates)
    (templates / "private.sh").write_text("echo @{toolchain}")
    with pytest.raises(XfdevError, match="toolchain"):
        devcontainer.render({**VALUES, "toolchain": None}, templates)


@pytest.mark.parametrize("value", ["a b\nRUN evil", 'x" y="z', "$(id)", "`id`", "a\\", "a'b"])
def test_a_value_that_would_mean_something_else_is_refused(templates: Path, value: str) -> None:
    with pytest.raises(UsageError, match="Dockerfile as toolchain"):
        devcontainer.render({**VALUES, "toolchain": value}, templates)


def test_toolchains_are_those_that_are_locked(templates: Path) -> None:
    assert devcontainer.toolchains(templates) == ["cu130"]
    assert {"cpu", "cu130"} <= set(devcontainer.toolchains())


def test_the_real_templates_take_these_values() -> None:
    values: dict[str, str | None] = {
        **VALUES, "name": "counter", "version": "1", "base_image": devcontainer.base_image(), "arch": "8.0;9.0a+PTX",
        "first_build_variable": "FIRST_BUILD_URL",
    }  # fmt: skip
    for image in (None, "example.org/team/dev"):
        found = devcontainer.render({**values, "image": image, "stores": devcontainer.stores(image)})
        assert {"Dockerfile", "devcontainer.json", "post-create.sh", "private.sh"} <= set(found)
        assert not any(b"@{" in content for content in found.values())
        config = devcontainer.read(found["devcontainer.json"].decode())
        assert config["build"]["dockerfile"] == "Dockerfile"
        assert ("cacheFrom" in config["build"]) == bool(image)


@pytest.mark.parametrize("reference", ["debian", "ghcr.io/you/dev-image", "localhost:5000/a/b_c", "you/dev"])
def test_an_image_is_a_name(reference: str) -> None:
    assert devcontainer.check_image(reference) == reference


@pytest.mark.parametrize(
    ("reference", "hint"),
    [
        ("ghcr.io/you/dev:latest", "--image ghcr.io/you/dev"),
        ("localhost:5000/dev:1", "--image localhost:5000/dev"),
        ("you/dev@sha256:abc", "--image you/dev"),
        ('a"b', "for example"),
        ("Ghcr.io/You/Dev", "for example"),
        ("-v", "for example"),
        ("a b", "for example"),
    ],
)
def test_what_is_no_name_of_an_image(reference: str, hint: str) -> None:
    with pytest.raises(UsageError) as caught:
        devcontainer.check_image(reference)
    assert caught.value.hint.startswith(hint)


# --- merging

OURS: dict[str, Any] = {
    "build": {"dockerfile": "Dockerfile", "context": ".."},
    "mounts": ["source=cache,target=/var/cache/xfdev,type=volume"],
    "customizations": {"vscode": {"extensions": ["a.b"], "settings": {"x": 1}}},
}

THEIRS = """// Made by hand.
{
\t"image": "mcr.example.org/python:3", // until we have our own
\t/* people */ "remoteUser": "dev",
\t"customizations": {
\t\t"vscode": {
\t\t\t"extensions": ["c.d", /* ours, too */ "a.b"],
\t\t\t"settings": { "editor.rulers": [100], }, // trailing comma
\t\t},
\t},
\t"features": {},
}
"""


def test_foreign_keys_and_comments_stay() -> None:
    text = devcontainer.merged(THEIRS, OURS)
    assert comments(text) == comments(THEIRS)
    assert parse(text) == {
        "remoteUser": "dev",
        "customizations": {"vscode": {"extensions": ["c.d", "a.b"], "settings": {"editor.rulers": [100], "x": 1}}},
        "features": {},
        "build": {"dockerfile": "Dockerfile", "context": ".."},
        "mounts": OURS["mounts"],
    }
    for line in ('\t/* people */ "remoteUser": "dev",', '\t\t\t"extensions": ["c.d", /* ours, too */ "a.b"],'):
        assert line in text.splitlines()
    assert devcontainer.merged(text, OURS) == text
    assert devcontainer.replaced(parse(THEIRS), parse(text)) == ["image"]


@given(documents(OBJECTS), OBJECTS)
def test_a_merge_says_both_and_keeps_all_comments(document: tuple[str, Any, list[str]], ours: dict[str, Any]) -> None:
    text, theirs, said = document
    if "build" in ours and "dockerComposeFile" in theirs:
        return
    new = devcontainer.merged(text, ours)
    assert comments(new) == said
    assert same(parse(new), devcontainer.united(theirs, ours))
    assert devcontainer.merged(new, ours) == new
    assert_contains(parse(new), ours)
    for key, value in theirs.items():
        if key not in ours and not ("build" in ours and key in ("image", "dockerFile", "context")):
            assert same(parse(new)[key], value)


def assert_contains(value: Any, ours: Any) -> None:
    """Independently of ``united``: everything of ours is in there."""
    if isinstance(ours, dict):
        for key, entry in ours.items():
            assert_contains(value[key], entry)
    elif isinstance(ours, list):
        assert all(any(same(one, entry) for one in value) for entry in ours)
    else:
        assert same(value, ours)


@pytest.mark.parametrize("old", ['"image": "x"', '"dockerFile": "Dockerfile.dev", "context": "."'])
def test_what_else_makes_a_container_gives_way(old: str) -> None:
    text = devcontainer.merged(f'{{ {old}, "name": "n" }}', OURS)
    assert set(parse(text)) == {"name", *OURS}


def test_a_stage_of_another_dockerfile_is_none_of_ours() -> None:
    text = '{"build": {"dockerfile": "../Dockerfile.dev", "target": "dev", "args": {"A": "1"}}}'
    assert parse(devcontainer.merged(text, OURS))["build"] == {**OURS["build"], "args": {"A": "1"}}
    text = '{"build": {"dockerfile": "Dockerfile", "target": "dev"}}'
    assert parse(devcontainer.merged(text, OURS))["build"]["target"] == "dev"


def test_docker_compose_is_refused() -> None:
    with pytest.raises(FilesInTheWay, match="docker compose") as caught:
        devcontainer.merged('{"dockerComposeFile": "c.yml", "service": "dev"}', OURS, ".devcontainer/devcontainer.json")
    assert "take dockerComposeFile out" in caught.value.hint


@pytest.mark.parametrize(
    "theirs",
    [
        "source=/mine,target=/var/cache/xfdev,type=bind",
        "type=bind,src=/mine,dst=/var/cache/xfdev/",
        {"source": "/mine", "target": "/var/cache/xfdev", "type": "bind"},
    ],
)
def test_nothing_is_mounted_twice_at_one_place(theirs: Any) -> None:
    """Docker refuses to start such a container."""
    merge = devcontainer.united({"mounts": [theirs, "source=a,target=/b"]}, OURS)
    assert merge["mounts"] == [theirs, "source=a,target=/b"]


def test_what_a_merge_took_away() -> None:
    old = {"name": "a", "n": {"x": 1, "y": [1], "z": [1]}, "gone": None, "same": True}
    new = {"name": "b", "n": {"x": 1, "y": [1, 2], "z": [2]}, "same": True, "more": 1}
    assert devcontainer.replaced(old, new) == ["name", "n.z", "gone"]


@pytest.mark.parametrize("text", ['{"a": 1', "[]", "", '"name"'])
def test_a_file_that_says_nothing_is_named(text: str) -> None:
    with pytest.raises(UsageError, match=r"^place\.json is ") as caught:
        devcontainer.merged(text, OURS, "place.json")
    assert caught.value.hint


# --- what depends on the machine


@pytest.mark.parametrize(
    ("visible", "runtime", "devices", "expected"),
    [
        (True, True, [], []),
        (True, True, ["nvidia.com/gpu=all"], []),
        (True, False, [], []),
        (True, False, ["intel.com/gpu=0"], []),
        (True, False, ["intel.com/gpu=0", "nvidia.com/gpu=0"], ["--device=nvidia.com/gpu=all"]),
        (False, False, ["nvidia.com/gpu=all"], []),
        (False, False, [], []),
    ],
)
def test_arguments_for_the_gpu(visible: bool, runtime: bool, devices: list[str], expected: list[str]) -> None:
    assert devcontainer.gpu_arguments(visible=visible, runtime=runtime, devices=devices) == expected


@pytest.mark.parametrize(
    ("gitdir", "target"),
    [
        ("/src/main/.git/worktrees/wt", "/src/main/.git"),
        ("../main/.git/worktrees/wt", "/workspaces/main/.git"),
        ("../../far/main/.git/worktrees/wt", "/far/main/.git"),
    ],
)
def test_where_git_finds_the_repository_of_a_worktree(gitdir: str, target: str) -> None:
    source = "/far/main/.git" if "far" in gitdir else "/src/main/.git"
    mount = devcontainer.git_mount(Path("/src/wt"), gitdir, "../..")
    assert mount == f"source={source},target={target},type=bind"


@pytest.mark.parametrize("gitdir", ["/src/a,b/.git/worktrees/wt", "/src/a\udcff/.git/worktrees/wt"])
def test_paths_that_no_mount_can_have(gitdir: str) -> None:
    assert devcontainer.git_mount(Path("/src/wt"), gitdir, "../..") is None


def test_rendered_json_is_plain_text() -> None:
    """Names in other scripts are readable, not escaped."""
    assert json.loads(devcontainer.merged("{}", {"name": "ж"}))["name"] == "ж"
    assert "ж" in devcontainer.merged("{}", {"name": "ж"})
