"""The doctor and a real container engine."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

import support
from engine import Engine
from xfdev.doctor.examine import judge
from xfdev.doctor.facts import Engine as Seen
from xfdev.doctor.facts import Facts, Gpus, Machine, Made, Probe, Unseen
from xfdev.doctor.look import engine as look
from xfdev.doctor.look.ask import Ask
from xfdev.doctor.registry import chosen
from xfdev.doctor.wanted import Wanted, wanted

ENGINE = ("engine-installed", "engine-running", "engine-version", "buildx", "image-store", "engine-disk",
          "engine-memory")  # fmt: skip
SETTINGS = ("DOCKER_HOST", "DOCKER_CONFIG", "PATH", "HOME")


def findings(folder: Path, environ: Mapping[str, str], *words: str) -> dict[str, Any]:
    own = {name: environ[name] for name in SETTINGS if name in environ}
    said = support.Xfdev(own)("doctor", folder, *words)
    return {entry["id"]: entry for entry in said.json["checks"]}


def asked(engine: Engine, tmp_path: Path, image: str) -> Ask:
    return Ask(tmp_path, tmp_path, engine.env, tmp_path, Made(""), image=image, seconds=60)


def test_engine_as_the_tests_have_it(engine: Engine, tmp_path: Path) -> None:
    found = findings(tmp_path, engine.env, *(word for id_ in ENGINE for word in ("--only", id_)))
    version = engine.docker("version", "--format", "{{.Server.Version}}").stdout.strip()
    assert found["engine-running"]["evidence"] == f"docker {version} answers"
    statuses = {name: found[name]["status"] for name in ENGINE}
    assert {statuses.pop("engine-disk"), statuses.pop("engine-memory")} <= {"ok", "warning", "error"}
    kept = engine.docker("info", "--format", "{{json .DriverStatus}}").stdout
    assert statuses.pop("image-store") == ("ok" if "containerd.snapshotter" in kept else "warning")
    assert set(statuses.values()) == {"ok"}


def test_container_is_run_to_look(engine: Engine, tmp_path: Path) -> None:
    """Of an engine that is not of this machine only a container can tell what room there is."""
    ask = asked(engine, tmp_path, engine.base13)
    before = engine.docker("ps", "-aq").stdout
    here = look.look(ask)
    assert here.running
    assert here.memory > 0
    away = {Seen: Seen("docker", here.client, here.server, local=False), Gpus: Gpus(), Machine: Machine()}
    probe = look.probe(ask, away.__getitem__)
    assert probe.free is not None
    assert probe.free > 0
    folders = [free for _, free in here.places]
    assert not folders or min(abs(probe.free - free) for free in folders) < 5e9, "it is the disk of the images"
    assert engine.docker("ps", "-aq").stdout == before, "the container is gone"


def test_gpu_that_the_engine_cannot_give(engine: Engine, tmp_path: Path) -> None:
    if "nvidia" in engine.docker("info", "--format", "{{json .Runtimes}}").stdout:
        pytest.skip("this engine can give a GPU")
    ask = asked(engine, tmp_path, engine.base13)
    areas: dict[type, Any] = {
        Seen: look.look(ask), Gpus: Gpus(("NVIDIA H100 (9.0)",), True, "580.95.05"), Machine: Machine(),
        Wanted: wanted(),
    }  # fmt: skip
    areas[Probe] = look.probe(ask, areas.__getitem__)
    assert not areas[Probe].started
    (check,) = chosen(["gpu-in-container"])
    found = judge(check, Facts(areas), network=False)
    assert found.status == "error"
    assert "--gpus all: " in found.evidence
    assert "nvidia-container-toolkit" in found.fix


def test_image_that_is_not_there(engine: Engine, tmp_path: Path) -> None:
    ask = asked(engine, tmp_path, engine.pushed("nobody-made-this"))
    areas: dict[type, Any] = {Seen: look.look(ask), Gpus: Gpus(("a GPU",), True), Machine: Machine()}
    probe = look.probe(ask, areas.__getitem__)
    assert not probe.started
    assert "no such image" in probe.said.lower() or "unable to find image" in probe.said.lower(), probe.said
    areas[Gpus] = Gpus()
    with pytest.raises(Unseen, match="no GPU"):
        look.probe(ask, areas.__getitem__)


def test_engine_that_this_user_may_not_talk_to(engine: Engine, tmp_path: Path) -> None:
    host = engine.env.get("DOCKER_HOST", "unix:///var/run/docker.sock")
    if os.geteuid() != 0 or not host.startswith("unix://"):
        support.missing("root and a socket of this machine are needed to make one")
    socket = tmp_path / "closed.sock"
    socket.touch()  # a file that is no socket: whoever connects is refused
    env = {**engine.env, "DOCKER_HOST": f"unix://{socket}"}
    found = findings(tmp_path, env, "--only", "engine-running")["engine-running"]
    assert found["status"] == "error"
    assert str(socket) in found["evidence"]


def test_registry_of_the_tests(engine: Engine, tmp_path: Path) -> None:
    words = ("--network", "--image", engine.base13, "--only", "registry", "--only", "registry-login")
    found = findings(tmp_path, {**engine.env, "DOCKER_CONFIG": str(tmp_path)}, *words)
    if engine.base13.startswith(engine.registry):
        assert {entry["status"] for entry in found.values()} == {"ok"}, found
