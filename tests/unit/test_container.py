"""A dev container from its devcontainer.json, with plain Docker: which words are run."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from xfdev import container
from xfdev.errors import UsageError

ROOT = Path("/src/my project")


def config(data: dict[str, Any], **environ: str) -> container.Config:
    file = ROOT / ".devcontainer/devcontainer.json"
    return container.read(file, ROOT, "// a comment\n" + json.dumps(data), environ)


@pytest.mark.parametrize(
    ("text", "environ", "expected"),
    [
        ("${localEnv:GPU:true}", {}, "true"),
        ("${localEnv:GPU:true}", {"GPU": "false"}, "false"),
        ("${localEnv:GPU:true}", {"GPU": ""}, ""),  # set and empty is set
        ("${localEnv:IMAGE}:cu130", {"IMAGE": "r/x"}, "r/x:cu130"),
        ("${localEnv:IMAGE:host/x:tag}", {}, "host/x"),  # the default ends at the colon, as for the CLI
        ("${localWorkspaceFolderBasename}", {}, "my project"),
        ("${containerWorkspaceFolder}/x", {}, "/workspaces/my project/x"),
        ("${containerEnv:PATH}", {}, "${containerEnv:PATH}"),
    ],
)
def test_variables(text: str, environ: dict[str, str], expected: str) -> None:
    assert config({"name": text}, **environ).data["name"] == expected


def test_build_takes_what_the_file_says_and_what_is_given_on_top() -> None:
    build = {
        "dockerfile": "Dockerfile", "context": "..", "args": {"GPU": "true", "A": "1"}, "target": "dev",
        "cacheFrom": "r/x:cu130", "options": ["--secret=id=ca,env=CA"],
    }  # fmt: skip
    words = container.build_words(config({"build": build}), tags=["t:1"], args={"GPU": "false"}, more=["--load"])
    assert words[:5] == ["docker", "buildx", "build", "-f", f"{ROOT}/.devcontainer/Dockerfile"]
    assert words[-1] == str(ROOT)
    for pair in (["--tag", "t:1"], ["--build-arg", "GPU=false"], ["--build-arg", "A=1"], ["--cache-from", "r/x:cu130"]):
        assert any(words[index : index + 2] == pair for index in range(len(words))), pair
    assert "GPU=true" not in words
    assert "--secret=id=ca,env=CA" in words
    assert words[words.index("--target") :][:2] == ["--target", "dev"]


def test_what_is_published_is_not_kept_here_as_well() -> None:
    build = {"dockerfile": "Dockerfile", "options": ["--output=type=docker,compression=zstd", "--secret=id=ca,env=CA"]}
    here = container.build_words(config({"build": build}), tags=["t:1"], more=["--load"])
    assert "--output=type=docker,compression=zstd" in here
    words = container.publish_words(push=True, contexts=[], cache_to=None, sbom=None, provenance=True)
    published = container.build_words(config({"build": build}), tags=["t:1"], more=words)
    assert [word for word in published if "type=docker" in word] == []
    assert "--secret=id=ca,env=CA" in published


def test_run_mounts_the_folder_and_what_the_file_names() -> None:
    data = {
        "image": "x", "mounts": ["source=cache,target=/c,type=volume", {"source": "a", "target": "/b", "type": "bind"}],
        "containerEnv": {"A": "1"}, "runArgs": ["--shm-size=1g"], "hostRequirements": {"gpu": "optional"},
    }  # fmt: skip
    one = config(data)
    words = container.run_words(one, "x", gpus=True)
    assert f"type=bind,source={ROOT},target=/workspaces/my project" in words
    assert "source=cache,target=/c,type=volume" in words
    assert "type=bind,source=a,target=/b" in words
    assert words[words.index("--gpus") + 1] == "all"
    assert f"devcontainer.local_folder={ROOT}" in words
    assert container.wants_gpu(one)
    assert "--gpus" not in container.run_words(one, "x", gpus=False)
    assert "--privileged" not in words


def test_commands_are_run_as_the_user_with_the_variables_of_the_file() -> None:
    one = config({"remoteUser": "vscode", "remoteEnv": {"FORK": "u", "GONE": None}})
    assert container.exec_words(one, "id", "sh x.sh") == [
        "docker", "exec", "--user", "vscode", "--workdir", "/workspaces/my project", "--env", "FORK=u", "id",
        "/bin/sh", "-c", "sh x.sh",
    ]  # fmt: skip
    assert container.exec_words(one, "id", ["a", "b c"])[-2:] == ["a", "b c"]


def test_the_same_folder_has_the_same_labels_and_another_one_others() -> None:
    other = container.read(Path("/o/.devcontainer.json"), Path("/o"), "{}", {})
    assert config({}).tag == config({"name": "x"}).tag != other.tag
    assert config({}).labels != other.labels


@pytest.mark.parametrize("key", ["dockerComposeFile", "features"])
def test_what_only_the_cli_can_do_is_said(key: str) -> None:
    with pytest.raises(UsageError, match=key) as caught:
        config({key: {"x": {}}})
    assert "devcontainers/cli" in caught.value.hint


def test_damaged_file() -> None:
    with pytest.raises(UsageError, match="cannot be read"):
        container.read(ROOT / "x.json", ROOT, '{"a": ', {})


@pytest.mark.parametrize("push", [True, False])
def test_what_is_published_carries_its_cache(push: bool) -> None:
    words = container.publish_words(push=push, contexts=["wheels=/w"], cache_to=None, sbom=None, provenance=True)
    assert ("--load" in words) is not push
    assert "type=inline" in words
    assert words[:2] == ["--build-context", "wheels=/w"]
    assert any("compression=zstd" in word for word in words) is push
    apart = container.publish_words(push=push, contexts=[], cache_to="r/x:cache", sbom="gen", provenance=False)
    assert any(word.startswith("type=registry,ref=r/x:cache,mode=max") for word in apart)
    assert "type=sbom,generator=gen" in apart
    assert apart[-2:] == ["--provenance", "false"]


def test_build_arguments_as_docker_takes_them() -> None:
    given = container.build_args(["A=1=2", "B", "C=", "D"], {"B": "from here", "C": "not this"})
    assert given == {"A": "1=2", "B": "from here", "C": "", "D": ""}


def test_podman_builds_without_what_only_buildkit_takes() -> None:
    build = {
        "dockerfile": "Dockerfile", "cacheFrom": ["r/x:cu130", "r/x:cpu"],
        "options": ["--output=type=docker,compression=zstd", "--secret=id=ca,env=CA"],
    }  # fmt: skip
    words = container.for_podman(container.build_words(config({"build": build}), tags=["t:1"], more=["--load"]))
    assert words == [
        *("podman", "build", "-f", f"{ROOT}/.devcontainer/Dockerfile"),
        *("--tag", "t:1", "--secret=id=ca,env=CA", f"{ROOT}/.devcontainer"),
    ]


def test_podman_gives_gpus_by_their_cdi_name() -> None:
    words = container.for_podman(["docker", "run", "--gpus", "all", "--user", "root", "image"])
    assert words == ["podman", "run", "--device", "nvidia.com/gpu=all", "--user", "root", "image"]


def test_an_image_that_is_locked_is_taken_by_its_digest() -> None:
    locked = {"ghcr.io/team/dev:cu130": "sha256:abc"}
    assert container.pinned("ghcr.io/team/dev:cu130", locked) == "ghcr.io/team/dev:cu130@sha256:abc"
    assert container.pinned("ghcr.io/team/dev:cpu", locked) == "ghcr.io/team/dev:cpu"
