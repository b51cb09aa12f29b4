"""This repository's images, for real: what takes too long for every run of the tests.

Eight minutes and 12 GB: part of ``make test-long``. No GPU is needed.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import engine as engines
import workspaces
from workspaces import PROJECT, Variant

RELEASE = "xformers==0.0.35"
UNIT = "xformers/csrc/sparse24/meta_utils.cu"


@pytest.fixture(scope="module")
def cuda12(engine: engines.Engine) -> Variant:
    return Variant(engine, engine.base13, RELEASE, {})


def test_the_same_image_is_built_byte_for_byte_with_nothing_of_the_first_at_hand(
    engine: engines.Engine, tmp_path: Path
) -> None:
    cpu = Variant(engine, engine.base12, RELEASE, {"GPU": "false"}, workspaces.wheels())
    name = cpu.publish(cpu.workspace(tmp_path, "one", None), "one")  # which deletes all that this machine has of it
    made = [engine.unpacked(name, "one")]
    # From another folder, in another minute, and no registry to take layers from.
    again = cpu.xfdev(
        "image",
        "build",
        cpu.workspace(tmp_path, "two", None),
        "--tag",
        f"{name}:two",
        "--push",
        image="localhost:1/none",
    )
    assert again.returncode == 0, again.stderr[-5000:]
    made.append(engine.unpacked(name, "two"))
    # In the last one is a bundle, which says when it was made and how long that took.
    assert made[0][:-1] == made[1][:-1]
    assert made[0][-1] != made[1][-1], "the second image was not built anew"


def with_cuda12(workspace: Path) -> Path:
    return workspaces.edited(workspace, {"build": {"args": {"TOOLCHAIN": "cu128"}}})


def test_the_official_wheel_is_in_the_image_and_linked_without_a_network(cuda12: Variant, tmp_path: Path) -> None:
    image = cuda12.publish(with_cuda12(cuda12.workspace(tmp_path, "image", None)), "cu130")  # the tag that is asked
    release = workspaces.release(tmp_path / "release", RELEASE)
    folder = with_cuda12(cuda12.workspace(tmp_path, "first", release))
    workspaces.edited(folder, {"runArgs": ["--network=none"]})
    with workspaces.counted(tmp_path) as programs:
        inside = cuda12.up(folder, image)
    assert not workspaces.compilers(programs), programs
    assert not programs["pip"], programs
    said = inside.prompt()
    assert "torch 2.10.0+cu128, CUDA 12.8" in said, said
    assert "reuse: reused release 0.0.35; 0 units compiled" in said, said
    checked = json.loads(inside.run("xfdev check --json", cwd=PROJECT).stdout)
    assert any("sparse24" in name for name in checked["operators"])

    source = folder / PROJECT / UNIT
    source.write_text(source.read_text() + "\n// edited\n")
    built = inside.run("xfdev build --json", cwd=PROJECT, check=False)
    answer = json.loads(built.stdout)
    assert answer["error"] == "NoNvcc", answer
    assert "cu130" in answer["hint"], answer
