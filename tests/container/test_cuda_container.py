"""This repository's dev container with CUDA and its compiler, for real: from the registry to an edited kernel.

One image serves all tests; it holds the bundle of one arch. No GPU is needed.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import engine as engines
import workspaces
from support import git
from workspaces import PROJECT, Variant

RELEASE = "xformers==0.0.35"
UNIT = "xformers/csrc/sparse24/meta_utils.cu"
CUTLASS = "third_party/cutlass"
HEADER = "include/cute/algorithm/functional.hpp"  # three of the 13 units include it


@pytest.fixture(scope="module")
def release(engine: engines.Engine, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return workspaces.release(tmp_path_factory.mktemp("release"), RELEASE)


@pytest.fixture(scope="module")
def cuda(engine: engines.Engine) -> Variant:
    return Variant(engine, engine.base13, RELEASE, {"TORCH_CUDA_ARCH_LIST": "9.0"})


@pytest.fixture(scope="module")
def image(cuda: Variant, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The image with CUDA 13, in the registry and nowhere else."""
    return cuda.publish(cuda.workspace(tmp_path_factory.mktemp("image"), "image", None), "cu130")


def test_from_the_registry_to_an_edited_kernel_and_back(
    cuda: Variant, image: str, release: Path, tmp_path: Path
) -> None:
    folder = cuda.workspace(tmp_path, "first", release)
    inside, programs = cuda.from_an_opened_image_to_an_edit_and_back(folder, image, UNIT, tmp_path)
    assert programs["cudafe++"] == 1, programs  # once for each compile of a .cu, whatever the archs
    checked = json.loads(inside.run("xfdev check --json", cwd=PROJECT).stdout)
    assert any("sparse24" in name for name in checked["operators"])


def test_a_fork_whose_submodule_moved_compiles_what_includes_it(
    cuda: Variant, image: str, release: Path, tmp_path: Path
) -> None:
    """The submodule is fetched on demand: the bundle's own files are all there is to compare it with."""
    fork = tmp_path / "fork"
    git(tmp_path, "clone", "-q", str(release), str(fork))
    folder = cuda.workspace(tmp_path, "moved", None)
    workspaces.edited(folder, {"remoteEnv": {"GIT_ALLOW_PROTOCOL": "file"}})  # git takes no submodule from a folder
    module = tmp_path / "cutlass"
    (fork / CUTLASS).rename(module)
    git(module, "init", "-q")
    workspaces.commit(module, "as released")
    git(fork, "rm", "-q", "-r", "--cached", CUTLASS)
    git(fork, "-c", "protocol.file.allow=always", "submodule", "add", "-q", str(module), CUTLASS)
    header = module / HEADER
    header.write_text(header.read_text() + "\n// moved\n")
    workspaces.commit(module, "moved")
    git(fork / CUTLASS, "-c", "protocol.file.allow=always", "pull", "-q", str(module), "HEAD")
    git(
        fork, "config", "-f", ".gitmodules", f"submodule.{CUTLASS}.url", f"file:///workspaces/{folder.name}/cutlass.git"
    )
    workspaces.commit(fork, "a newer cutlass")
    git(tmp_path, "clone", "-q", "--bare", str(fork), str(folder / f"{PROJECT}.git"))
    git(tmp_path, "clone", "-q", "--bare", str(module), str(folder / "cutlass.git"))

    with workspaces.counted(tmp_path) as programs:
        inside = cuda.up(folder, image)
    assert not workspaces.compilers(programs)
    said = inside.prompt()
    assert "partial" in said, said
    planned = json.loads(inside.run("xfdev plan --json", cwd=PROJECT).stdout)
    assert planned["verdict"] == "partial"
    reasons = {reason for reasons in planned["affected"].values() for reason in reasons}
    assert any(HEADER in reason for reason in reasons), reasons
    assert (len(planned["affected"]), planned["units"]) == (3, 13)


#: What ``nvidia-smi --query-gpu=index,name,compute_cap,uuid,memory.total,mig.mode.current,driver_version`` prints.
SMI = """\
#!/bin/sh
echo '0, NVIDIA of test, {capability}, GPU-00000000-0000-0000-0000-000000000000, 81559 MiB, Disabled, 580.95.05'
"""


def test_an_image_made_for_no_arch_takes_the_bundle_of_the_gpu_it_meets(
    cuda: Variant, image: str, release: Path, tmp_path: Path
) -> None:
    """The seed's open problem: nobody looks an arch up, no file is edited. The GPU is a program that tells of one."""
    variables = {"USER": cuda.engine.name("archs")}  # a volume of its own
    cuda.up(cuda.workspace(tmp_path, "known", release), image, **variables)  # 9.0 comes with this image

    folder = cuda.workspace(tmp_path, "auto", release)
    smi = folder / "nvidia-smi"
    smi.write_text(SMI.format(capability="9.0"))
    smi.chmod(0o755)
    workspaces.edited(folder, {"runArgs": ["--volume", f"{smi}:/usr/local/bin/nvidia-smi:ro"]})
    variables["TORCH_CUDA_ARCH_LIST"] = ""
    with workspaces.counted(tmp_path) as programs:
        inside = cuda.up(folder, image, **variables)
    assert not workspaces.compilers(programs)
    assert inside.run("ls -A /opt/bundles").stdout == ""
    said = inside.prompt()
    assert "reuse: reused bundle" in said
    assert "GPU 9.0" in said

    smi.write_text(SMI.format(capability="8.0"))  # the same file, for the mount
    inside = cuda.up(folder, image, "--remove-existing-container", **variables)
    said = inside.prompt()
    assert "would have to be compiled" in said
    assert "8.0" in said
    planned = json.loads(inside.run("xfdev plan --json", cwd=PROJECT).stdout)
    assert planned["verdict"] == "full"
    assert planned["toolchain"]["arch"] == "8.0"
    refused = [reason for entry in planned["refused"] for reason in entry["reasons"]]
    assert any("9.0" in reason for reason in refused), planned["refused"]
