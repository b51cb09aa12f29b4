"""Two nights of this repository's own images, with xFormers as upstream, for real: what is published, what a user of it
gets, and what the second night adds.

Upstream's history is a release and an edit of a kernel. A quarter of an hour and 20 GB: part of ``make test-long``. No
GPU is needed; to ``xfdev`` in the container a program tells of one.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

import workspaces
from engine import Engine
from support import git
from test_cuda_container import SMI
from test_dev_container import served
from test_nightly_container import Site
from workspaces import PROJECT, Variant

RELEASE = "xformers==0.0.35"
UNIT = "xformers/csrc/sparse24/meta_utils.cu"
ARCH = "9.0"
#: What a night with the same torch may make a user fetch of each image.
MOST_NEW = 30_000_000


def replaced(text: str, **values: str) -> str:
    for key, value in values.items():
        text, number = re.subn(rf'(?m)^{key} = ".*"$', f'{key} = "{value}"', text)
        assert number == 1, key
    return text


def settings(site: Site, repository: str) -> str:
    """This repository's nightly.toml, for what can be had here."""
    head, cu130, cpu = site.config.read_text().split("[[variant]]")
    head = replaced(head, repository=repository, image=site.image)
    head = re.sub(r"(?m)^history = .*$", "history = 2", head)
    cu130 = replaced(cu130, base=site.engine.base13, python="3.13")
    cu130 = re.sub(r"(?m)^archs = .*$", f'archs = ["{ARCH}"]', cu130)
    # A wheel of torch without CUDA for this Python is what machines that run these tests have.
    cpu = replaced(cpu, base=site.engine.base12, python="3.11")
    # The locks as they are.
    parts = [re.sub(r"(?ms)^requirements = \[.*?^\]\n", "", part) for part in (head, cu130, cpu)]
    return "[[variant]]".join(parts)


@pytest.fixture(scope="module")
def site(engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    base = tmp_path_factory.mktemp("night")
    upstream = base / "served" / PROJECT
    upstream.parent.mkdir()
    shutil.move(workspaces.release(base, RELEASE), upstream)
    git(upstream, "branch", "-q", "-M", "main")
    (base / "images").mkdir()
    folder = workspaces.this_repository(base / "images")
    workspaces.edited(folder, {"build": {"options": workspaces.wheels()}})
    made = Site(engine, folder, upstream)
    with served(engine, upstream.parent) as server:
        made.config.write_text(settings(made, f"{server}/{PROJECT}/.git"))
        yield made


def test_two_nights_and_who_takes_them(site: Site, tmp_path: Path) -> None:
    first = site.run(timeout=3000)
    cells = {row["cell"].rpartition("/")[0] or row["cell"]: row for row in first["cells"]}
    assert {name: row["state"] for name, row in cells.items()} == dict.fromkeys(
        ("cu130", f"cu130/{ARCH}", "cpu", "cpu/none"), "passed"
    )
    for name in ("cu130", "cpu"):
        steps = {step["name"]: step["ok"] for step in cells[name]["steps"]}
        assert all(steps.values()), steps
        assert {"compile", "link", "import and operators", "import after the edit", "doctor"} <= {*steps}
        assert any(name.startswith("edit xformers/csrc/") for name in steps), steps
    known = first["record"]
    assert site.run()["todo"] == "nothing"

    commit = site.commit({UNIT: '\nextern "C" int of_the_second_night() { return 2; }\n'})
    second = site.run("--page", tmp_path / "site", timeout=3000)["record"]
    for name in ("cu130", "cpu"):
        assert second["images"][name]["new_bytes"] <= MOST_NEW, second["images"]
    assert second["images"]["cu130"]["digest"] == known["images"]["cu130"]["digest"]
    latest = second["statistics"]["commits"][0]
    assert (latest["commit"], latest["verdict"], latest["units"]) == (commit, "partial", [UNIT])
    assert {entry["commit"] for entry in second["bundles"]} == {commit}
    sizes = {name: (entry["bytes"], entry["new_bytes"]) for name, entry in second["images"].items()}
    print(f"images, in all and new in the second night: {sizes}")

    # A user's fork, the published image, a GPU: no bundle is in the image, one is beside it.
    variant = Variant(site.engine, site.engine.base13, "", {"TORCH_CUDA_ARCH_LIST": ""})
    folder = variant.workspace(tmp_path, "user", site.upstream)
    smi = folder / "nvidia-smi"
    smi.write_text(SMI.format(capability=ARCH))
    smi.chmod(0o755)
    # The host's network: the registry listens on this machine only.
    runs = ["--network=host", "--volume", f"{smi}:/usr/local/bin/nvidia-smi:ro"]
    workspaces.edited(folder, {"runArgs": runs})
    variant.forget()
    with workspaces.counted(tmp_path) as programs:
        inside = variant.up(folder, site.image, XFDEV_STORES=f"{site.image}-bundles")
    assert not workspaces.compilers(programs), programs
    said = inside.prompt()
    assert "reuse: reused bundle" in said, said
    assert "0 units compiled" in said, said
