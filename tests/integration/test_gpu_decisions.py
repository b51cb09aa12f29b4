"""A GPU decides what is linked and what is compiled: real bundles of a small project, and an nvidia-smi that shows the
GPU that a test asks for. No GPU is needed; what a real driver does with such code, tools/gpu_proof.py shows."""

from __future__ import annotations

import os
import shutil
from argparse import Namespace
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

import support
from xfdev import fatbin, gpu, nvml
from xfdev.commands import session
from xfdev.nvml import Answer

Shown = Callable[..., None]


class World:
    """One checkout of the project, the environment, and a store with bundles for some archs."""

    def __init__(self, folder: Path, prefix: Path) -> None:
        self.prefix = prefix
        self.root = folder / "kernels"
        shutil.copytree(support.PROJECTS / "kernels", self.root)
        support.git(self.root, "init", "-q")
        support.git(self.root, "add", "-A")
        support.git(self.root, "commit", "-q", "-m", "all")
        self.store = folder / "store"
        self.cache = folder / "cache"

    def __call__(self, verb: str, *words: str, **variables: str) -> support.Said:
        # The environment may have been made for an arch; `auto` is to look for the GPUs here all the same.
        said = support.Xfdev({"XFDEV_CACHE": str(self.cache), "TORCH_CUDA_ARCH_LIST": "auto", **variables})
        return said(verb, self.root, "--venv", str(self.prefix), *words)

    def forget(self, *keep: str) -> None:
        """Leave of all that was built only the bundles for the arch lists *keep*."""
        self("unlink")
        shutil.rmtree(self.root / ".xfdev", ignore_errors=True)
        shutil.rmtree(self.cache / "store", ignore_errors=True)
        for name in keep:
            shutil.copytree(self.store / name, self.cache / "store", dirs_exist_ok=True)

    def machine_code(self) -> frozenset[str]:
        (path,) = (self.root / "kernels").glob("_C*.so")
        return fatbin.read(path).common_sass


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, cuda_prefix: Path) -> Iterator[World]:
    made = World(tmp_path_factory.mktemp("gpu"), cuda_prefix)
    for archs in ("8.0", "8.0+PTX", "9.0"):
        made.forget()
        made("prebuild", "--arch", archs).ok()
        shutil.copytree(made.cache / "store", made.store / archs)
    yield made
    made.forget()


@pytest.fixture
def shown(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Shown:
    """A function that gives this machine the GPUs of these capabilities, as nvidia-smi tells."""
    for name in ("_MODULE", "_WSL"):
        monkeypatch.setattr(gpu, name, tmp_path / name)
    monkeypatch.setattr(nvml, "ask", lambda: Answer(problem="no library"))
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")

    def make(*capabilities: str, driver: str = "580.95.05") -> None:
        rows = [
            f"{at}, a GPU, {capability}, GPU-{at}, 8192 MiB, [N/A], {driver}"
            for at, capability in enumerate(capabilities)
        ]
        program = tmp_path / "nvidia-smi"
        program.write_text("#!/bin/sh\n" + "\n".join(f"echo '{row}'" for row in rows) + "\n")
        program.chmod(0o755)

    return make


def plan(world: World, *words: str, **variables: str) -> dict[str, Any]:
    return world("plan", *words, **variables).ok()


def test_the_bundle_with_code_for_this_gpu_is_linked(world: World, shown: Shown) -> None:
    world.forget("8.0", "9.0")
    for capability, arch in (("9.0", "9.0"), ("8.0", "8.0"), ("8.6", "8.0")):
        shown(capability)
        assert world("link").ok()["runs"] == {capability: "native"}
        assert world.machine_code() == {arch}
        assert plan(world)["notes"] == []


def test_a_bundle_without_code_for_this_gpu_is_not(world: World, shown: Shown) -> None:
    world.forget("8.0", "9.0")
    shown("12.0")
    said = plan(world)
    assert (said["verdict"], said["missing_archs"]) == ("full", ["12.0"])
    assert any("no code for 12.0 (Blackwell: RTX 50xx" in line and "costs about" in line for line in said["lines"])
    refused = world("link")
    assert refused.code == 27
    assert not list((world.root / "kernels").glob("_C*.so"))


def test_code_that_the_driver_has_to_compile_is_linked_and_said(world: World, shown: Shown) -> None:
    world.forget("8.0+PTX")
    shown("9.0")
    said = world("link").ok()
    assert said["runs"] == {"9.0": "jit"}
    assert "first start is slow" in said["notes"][0]
    # With machine code at hand, that is better, whatever is linked already.
    shutil.copytree(world.store / "9.0", world.cache / "store", dirs_exist_ok=True)
    assert world("link").ok()["runs"] == {"9.0": "native"}
    assert world.machine_code() == {"9.0"}


def test_a_driver_that_does_not_know_the_ptx(world: World, shown: Shown) -> None:
    world.forget("8.0+PTX")
    shown("9.0", driver="575.57.08")
    said = plan(world)
    assert said["verdict"] == "full"
    (refused,) = said["refused"]
    assert "driver 575.57.08 does not know PTX 9.0" in refused["reasons"][0]
    assert "driver 580.65.06 or newer does" in refused["reasons"][0]


def test_several_gpus_need_code_for_each(world: World, shown: Shown) -> None:
    world.forget("9.0")
    shown("9.0", "8.0")
    assert plan(world)["missing_archs"] == ["8.0"]
    assert plan(world, CUDA_VISIBLE_DEVICES="GPU-0")["verdict"] == "reuse"
    assert plan(world, CUDA_VISIBLE_DEVICES="GPU-1")["missing_archs"] == ["8.0"]


def test_a_variable_that_leaves_out_the_gpu_here(world: World, shown: Shown) -> None:
    """As in an image that was made for other machines: nobody edits a file for the GPU that is here."""
    world.forget("8.0")
    shown("9.0")
    said = plan(world, TORCH_CUDA_ARCH_LIST="8.0")
    assert said["toolchain"]["arch"] == "8.0;9.0"
    assert said["verdict"] == "full"
    assert "leaves out the GPU here (9.0)" in said["notes"][0]
    # The command line is taken at its word.
    said = plan(world, "--arch", "8.0")
    assert (said["verdict"], said["toolchain"]["arch"]) == ("reuse", "8.0")
    assert "does not run on the GPU here" in said["notes"][0]


def test_what_is_compiled_when_nobody_names_an_arch(world: World, shown: Shown) -> None:
    world.forget()
    shown("9.0")
    world("build").ok()
    assert world.machine_code() == {"9.0"}
    assert plan(world)["verdict"] == "reuse"
    assert plan(world, "--arch", "auto")["verdict"] == "reuse"
    assert plan(world)["toolchain"]["arch"] == "9.0"
    (found,) = support.Xfdev()("arch", world.root).ok()["libraries"]
    assert found["runs"][0]["how"] == "native"


def test_without_a_gpu_and_without_an_arch_any_bundle_serves(world: World, shown: Shown) -> None:
    world.forget("9.0")
    shown()
    assert plan(world)["verdict"] == "reuse"
    world.forget()
    assert world("build").code == 17


@pytest.mark.parametrize(
    ("capabilities", "words", "expected"),
    [
        (["9.0"], {}, "90-real"),
        (["9.0", "8.0"], {}, "80-real;90-real"),
        (["9.0"], {"arch": "8.0+PTX"}, "80"),
        ([], {}, None),
    ],
)
def test_builds_that_read_another_variable(
    world: World, shown: Shown, capabilities: list[str], words: dict[str, str], expected: str | None
) -> None:
    shown(*capabilities)
    args = Namespace(path=str(world.root), venv=str(world.prefix), **words)
    opened = session.open_session(args, {**os.environ, "XFDEV_CACHE": str(world.cache), "TORCH_CUDA_ARCH_LIST": "auto"})
    assert opened.environ.get("CUDAARCHS") == expected
    assert "CUDAARCHS" not in opened.toolchain.variables
