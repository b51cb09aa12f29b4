"""``xfdev nightly`` for real: a builder, a registry, an upstream that moves, compilers in containers. The image is
small: Debian, a compiler, xfdev, and an environment without torch; the project is ``counter``."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Any

import pytest

import registrykit
import support
from engine import Engine
from support import git
from xfdev.nightly import lease
from xfdev.nightly.shelf import Shelf
from xfdev.stores.reference import reference

ROOT = Path(__file__).parents[2]
#: How often a night is killed at a random moment, and where the moments start: read before the tests' protection takes
#: the variables away.
KILLS = int(os.environ.get("XFDEV_NIGHT_KILLS", "1"))
SEED = os.environ.get("XFDEV_SEED") or str(time.time_ns())

DOCKERFILE = """\
ARG BASE_IMAGE
FROM ${BASE_IMAGE}
ARG DEBIAN_FRONTEND=noninteractive
RUN --mount=type=bind,source=.devcontainer/private.sh,target=/run/private.sh \\
    --mount=type=secret,id=ca --mount=type=secret,id=apt <<'EOF'
set -eu
. /run/private.sh
apt_get update
apt_get install -y --no-install-recommends ca-certificates g++ git python3-dev python3-venv
rm -rf /var/lib/apt/lists/* /var/cache/apt/*.bin /var/cache/debconf/* /var/cache/ldconfig/aux-cache /var/log/*
timeless /
EOF
COPY .devcontainer/requirements/xfdev.txt /opt/xfdev.txt
COPY pyproject.toml README.md LICENSE /tmp/xfdev/
COPY src /tmp/xfdev/src
RUN --mount=type=bind,source=.devcontainer/private.sh,target=/run/private.sh \\
    --mount=type=secret,id=ca --mount=type=secret,id=pip <<'EOF'
set -eu
. /run/private.sh
python3 -m venv /opt/xfdev
pip_install /opt/xfdev/bin/python /opt/xfdev.txt '=='
/opt/xfdev/bin/pip install -q --no-index --no-deps --no-build-isolation --no-cache-dir /tmp/xfdev
ln -s /opt/xfdev/bin/xfdev /usr/local/bin/xfdev
finished
EOF
ARG LOCK
COPY .devcontainer/${LOCK} /opt/toolchain.txt
RUN --mount=type=bind,source=.devcontainer/private.sh,target=/run/private.sh \\
    --mount=type=secret,id=ca --mount=type=secret,id=pip <<'EOF'
set -eu
. /run/private.sh
(umask 0; python3 -m venv /opt/venv)
pip_install /opt/venv/bin/python /opt/toolchain.txt '=='
(umask 0; xfdev image environment /opt/venv --toolchain plain)
settle /opt/venv
finished
EOF
ENV PATH=/opt/venv/xfdev/bin:/opt/venv/bin:${PATH} VIRTUAL_ENV=/opt/venv XFDEV_VENV=/opt/venv
CMD ["bash"]
"""

CONFIG = {
    "build": {
        "dockerfile": "Dockerfile",
        "context": "..",
        "options": [
            *("--secret=id=ca,env=XFDEV_BUILD_CA", "--secret=id=pip,env=XFDEV_BUILD_PIP_CONF"),
            *("--secret=id=apt,env=XFDEV_BUILD_APT", "--output=type=docker,compression=zstd"),
        ],
    }
}

#: The project cannot be used with what comes after this version, as others cannot with a new torch.
IMPORTS = """
from importlib.metadata import version
assert version("iniconfig") == "2.0.0", "counter does not work with iniconfig " + version("iniconfig")
"""


@dataclass
class Site:
    """An upstream, the folder of the images, and the registry that the nights go to."""

    engine: Engine
    folder: Path
    upstream: Path
    registry: str = ""
    """Another one than the engine's."""

    @property
    def image(self) -> str:
        return f"{self.registry or self.engine.registry}/{self.engine.name('night')}"

    @property
    def config(self) -> Path:
        return self.folder / "nightly.toml"

    def write(self, *, extra: str = "iniconfig==2.0.0", more: str = "") -> None:
        tools = ["setuptools==80.9.0", "wheel==0.45.1", "packaging==25.0", "ninja==1.13.0"]
        self.config.write_text(f"""\
repository = "file://{self.upstream}"
branch = "main"
image = "{self.image}"
watch = [".devcontainer", "src", "pyproject.toml", "README.md", "LICENSE"]
history = 3
{more}

[[variant]]
name = "plain"
base = "{self.engine.base12}"
python = "3.11"
lock = ".devcontainer/plain.txt"
requirements = {json.dumps([*tools, "iniconfig==2.0.0"])}
args = {{ LOCK = "plain.txt" }}

[[variant]]
name = "extra"
base = "{self.engine.base12}"
python = "3.11"
lock = ".devcontainer/extra.txt"
requirements = {json.dumps([*tools, extra, "pluggy==1.5.0"])}
args = {{ LOCK = "extra.txt" }}
""")

    def env(self, cache: str = "cache") -> dict[str, str]:
        return {
            **self.engine.env,
            **support.own_variables(self.folder.parent),
            "XFDEV_CACHE": str(self.folder.parent / cache),
        }

    def start(self, *words: str | Path, cache: str = "cache") -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "xfdev", "nightly", str(self.config), *map(str, words), "--json"],
            env=self.env(cache), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
            start_new_session=True,
        )  # fmt: skip

    def run(self, *words: str | Path, code: int = 0, cache: str = "cache", timeout: float = 580) -> dict[str, Any]:
        process = self.start(*words, cache=cache)
        out, err = process.communicate(timeout=timeout)
        assert process.returncode == code, f"{out[-3000:]}\n{err[-6000:]}"
        answer: dict[str, Any] = json.loads(out)
        return answer

    def commit(self, changes: Mapping[str, str]) -> str:
        """A commit of upstream's that appends to files."""
        for name, text in changes.items():
            path = self.upstream / name
            path.write_text((path.read_text() if path.exists() else "") + text)
        git(self.upstream, "add", "-A")
        git(self.upstream, "-c", "user.name=t", "-c", "user.email=t@example.org", "commit", "-q", "-m", "more")
        return git(self.upstream, "rev-parse", "HEAD")

    @property
    def shelf(self) -> Shelf:
        return Shelf(reference(self.image), self.env())

    def everything(self) -> dict[str, str | None]:
        """All tags of the registry's two repositories, and what they lead to."""
        found = {}
        for name in (self.image, f"{self.image}-bundles"):
            shelf = Shelf(reference(name), self.env())
            found.update({f"{name}:{tag}": shelf.digest(tag) for tag in shelf.tags()})
        return found


@pytest.fixture(scope="module")
def site(engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> Site:
    base = tmp_path_factory.mktemp("night")
    folder, upstream = base / "images", base / "upstream" / "counter"
    (folder / ".devcontainer/requirements").mkdir(parents=True)
    own = ROOT / "src/xfdev/resources/devcontainer"
    shutil.copy2(own / "private.sh", folder / ".devcontainer")
    shutil.copy2(own / "requirements/xfdev.txt", folder / ".devcontainer/requirements")
    skip = shutil.ignore_patterns("__pycache__", "*.egg-info")
    shutil.copytree(ROOT / "src", folder / "src", ignore=skip)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy2(ROOT / name, folder)
    for name in ("plain", "extra"):
        (folder / f".devcontainer/{name}.txt").write_text("# toolchain: plain\n")
    (folder / ".devcontainer/Dockerfile").write_text(DOCKERFILE)
    (folder / ".devcontainer/devcontainer.json").write_text(json.dumps(CONFIG))
    shutil.copytree(support.PROJECTS / "counter", upstream, ignore=shutil.ignore_patterns(*support._LEFTOVERS))
    (upstream / ".gitignore").write_text("*.so\nbuild/\n*.egg-info\ncsrc/generated.h\n")
    git(upstream, "init", "-q", "-b", "main")
    made = Site(engine, folder, upstream)
    made.commit({"counter/__init__.py": IMPORTS})
    made.write()
    return made


@pytest.fixture(scope="module")
def first(site: Site) -> dict[str, Any]:
    """The first night."""
    return site.run()


def test_a_night_is_what_latest_is(site: Site, first: dict[str, Any]) -> None:
    record = first["record"]
    night = record["night"]
    assert night.startswith("nightly-2")
    assert {row["cell"].partition("/")[0]: row["state"] for row in first["cells"]} == {
        "plain": "passed",
        "extra": "passed",
    }
    steps = {step["name"]: step for step in first["cells"][0]["steps"]}
    assert all(step["ok"] for step in steps.values())
    assert {"compile", "link", "import and operators", "doctor", "push the image"} <= {*steps}
    assert any(name.startswith("edit csrc/") for name in steps)
    tags = {*site.shelf.tags()}
    assert {"latest", night, f"{night}-plain", f"{night}-extra", "plain", "extra"} <= tags
    assert site.shelf.digest("latest") == site.shelf.digest(night) == first["published"]
    assert site.shelf.published() == json.loads(json.dumps(record))
    assert "iniconfig none -> 2.0.0" in record["packages"]["plain"]
    assert record["images"]["extra"]["bytes"] > 30_000_000

    # What people do with it: the default by one name, another one by digest, a bundle by its reference.
    docker = site.engine.docker
    docker("pull", "-q", f"{site.image}:latest")
    run = ("run", "--rm", "--name", site.engine.name("latest"), f"{site.image}:latest")
    assert docker(*run, "pip", "list").stdout.count("iniconfig") == 1
    assert "pluggy" not in docker(*run, "pip", "list").stdout
    other = record["images"]["extra"]["reference"]
    assert "pluggy" in docker("run", "--rm", "--name", site.engine.name("extra"), other, "pip", "list").stdout
    pulled = support.Xfdev(site.env("user"))("bundle", "pull", record["bundles"][0]["reference"]).ok()
    assert pulled["new"] == [record["bundles"][0]["id"]]


def test_nothing_changed_and_nothing_is_sent(site: Site, first: dict[str, Any]) -> None:
    before = site.everything()
    said = site.run()
    assert said["todo"] == "nothing"
    assert site.everything() == before


def test_upstream_moves_and_images_stay(site: Site, first: dict[str, Any], tmp_path: Path) -> None:
    known = site.run()["record"]
    commit = site.commit({"csrc/one.cpp": '\nextern "C" int of_the_second_night() { return 2; }\n'})
    planned = site.run("--plan")
    assert planned["todo"] == "build"
    assert planned["reasons"] == [f"upstream {known['facts']['commits'][0][:12]} -> {commit[:12]}"]
    said = site.run("--page", tmp_path / "site")
    record = said["record"]
    assert record["night"] != known["night"]
    assert site.shelf.published() == json.loads(json.dumps(record))
    for name in ("plain", "extra"):
        assert record["images"][name]["digest"] == known["images"][name]["digest"]
        assert record["images"][name]["new_bytes"] == 0
        assert site.shelf.digest(f"{record['night']}-{name}") == site.shelf.digest(name)
    assert {entry["commit"] for entry in record["bundles"]} == {commit}
    assert [entry["night"] for entry in record["history"]][-2:] == [known["night"], record["night"]]
    latest = record["statistics"]["commits"][0]
    assert (latest["commit"], latest["verdict"], latest["units"]) == (commit, "partial", ["csrc/one.cpp"])
    assert json.loads((tmp_path / "site/nightly.json").read_text())["night"] == record["night"]


def test_what_breaks_a_variant_leaves_latest(site: Site, first: dict[str, Any]) -> None:
    before = site.shelf.digest("latest")
    site.write(extra="iniconfig>=2.1,<2.2")
    try:
        said = site.run(code=38)
        assert "extra: iniconfig 2.0.0 -> 2.1." in " ".join(said["reasons"])
        failed = {row["cell"]: row for row in said["cells"] if row["state"] == "failed"}
        assert [*failed] == ["extra"]
        assert "counter does not work with iniconfig 2.1" in failed["extra"]["error"]
        assert site.shelf.digest("latest") == before
        tags = site.shelf.tags()
        assert f"{said['night']}-extra" not in tags, "what was not proved has no name"
        assert said["night"] not in tags
        # Somebody mends it: the other variant is not built again.
        again = site.run("--plan")
        assert "plain" not in again["waiting"]
    finally:
        site.write()
    assert site.run()["todo"] == "nothing"


def test_killed_in_the_middle_while_another_waits_and_finished_by_the_next(site: Site, first: dict[str, Any]) -> None:
    commit = site.commit({"csrc/two.cpp": '\nextern "C" int of_the_third_night() { return 3; }\n'})
    (site.folder / ".devcontainer/marker").write_text("another recipe")
    before = site.shelf.digest("latest")
    known = {*site.shelf.tags()}
    process = site.start()
    try:
        deadline = time.monotonic() + 120
        night = ""
        while not night:
            assert time.monotonic() < deadline, "no cell was finished"
            assert process.poll() is None, process.communicate()
            notes = [tag for tag in {*site.shelf.tags()} - known if f"{commit[:12]}_" in tag]
            night = notes[0].partition("_")[0] if notes else ""
            time.sleep(0.05)
        busy = site.run(code=23, cache="another")
        assert f"process {process.pid} on " in busy["message"]
        assert process.poll() is None, "it has finished before it could be killed"
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    assert site.shelf.digest("latest") == before
    done = [note for tag in site.shelf.tags() if tag.startswith(f"{night}_") and (note := site.shelf.note(tag))]
    assert done
    said = site.run(cache="fresh")  # as from another machine, which has nothing
    assert said["night"] == night
    rows = {row["cell"]: row for row in said["cells"]}
    for note in done:
        assert note["ok"], note
        assert rows[note["cell"]]["seconds"] == note["seconds"], "it was done already"
    assert site.shelf.digest("latest") == said["published"] != before
    assert site.run()["todo"] == "nothing"


def test_killed_at_random_with_its_registry_and_finished_by_the_next(
    site: Site, first: dict[str, Any], tmp_path: Path
) -> None:
    """Whatever is killed when: `latest` is the night before, or the whole new one, and the next run finishes it."""
    random = Random(SEED)
    server = registrykit.Server(tmp_path)
    own = replace(site, registry=server.host)
    try:
        own.write()
        started = time.monotonic()
        known = own.run(cache="random")["record"]
        lasts = time.monotonic() - started
        for number in range(KILLS):
            told = f"XFDEV_SEED={SEED}, kill {number + 1}"
            commit = own.commit({"csrc/two.cpp": f'\nextern "C" int at_random_{number}() {{ return {number}; }}\n'})
            process = own.start(cache="random")
            try:
                process.communicate(timeout=random.uniform(0.3, lasts))
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)
                process.communicate()
            if number % 2 == 0:
                server.kill()
                server.start()
            now = own.shelf.published()
            assert now is not None, told
            assert now["night"] == known["night"] or now["facts"]["commits"][0] == commit, told
            lives_up_to(own, now, told)
            said = own.run(cache=random.choice(["random", f"fresh{number}"]))
            known = said["record"] if said["todo"] != "nothing" else now
            assert known["facts"]["commits"][0] == commit, told
            assert own.shelf.published() == json.loads(json.dumps(known)), told
            lives_up_to(own, known, told)
            lasts = max(5.0, lasts / 2)  # a night whose images stay is shorter
        assert own.run(cache="random")["todo"] == "nothing"
    finally:
        server.end()
        site.write()


def lives_up_to(site: Site, record: Mapping[str, Any], told: str) -> None:
    """What `latest` names is all there, and passed."""
    assert site.shelf.digest("latest") == site.shelf.digest(record["night"]), told
    for image in record["images"].values():
        assert site.shelf.document(image["digest"]) is not None, told
    bundles = Shelf(reference(f"{site.image}-bundles"), site.env())
    for bundle in record["bundles"]:
        assert bundles.document(bundle["reference"].rpartition("@")[2]) is not None, told


def test_in_jobs_of_their_own_as_ci_does_and_old_nights_go(site: Site, first: dict[str, Any]) -> None:
    old = site.run()["record"]
    named = {tag: digest for tag, digest in site.everything().items() if digest and "_" not in tag}
    digest = old["images"]["extra"]["digest"]
    (site.folder / "xfdev.lock").write_text(json.dumps({"image": f"{site.image}@{digest}"}))
    (site.folder / ".devcontainer/marker").write_text("yet another recipe")
    site.commit({"csrc/three.cpp": "\n// nothing\n"})
    site.write(more='keep = 1\nlocks = ["xfdev.lock"]')
    begun = site.run("--begin", cache="job-1")
    assert begun["todo"] == "build"
    early = site.run("--publish", code=38, cache="job-2")
    assert len(early["failed"]) == 4
    for number, cell in enumerate(("plain", "extra", "plain/none", "extra/none")):
        done = site.run("--cell", cell, cache=f"job-{number + 3}")
        assert next(row["state"] for row in done["cells"] if row["cell"].startswith(cell)) == "passed"
        assert site.shelf.published() == json.loads(json.dumps(old)), "nothing is published yet"
    said = site.run("--publish", cache="job-9")
    assert said["night"] == begun["night"]
    assert old["night"] in said["pruned"]
    assert site.shelf.digest("latest") == said["published"]
    tags = {*site.shelf.tags()}
    assert not [tag for tag in tags if tag.startswith(old["night"]) and named.get(f"{site.image}:{tag}") != digest]
    assert site.shelf.document(digest) is not None, "a lock names it"
    site.engine.docker("pull", "-q", f"{site.image}:latest")
    assert site.run()["todo"] == "nothing"
    assert lease.holder(site.shelf.note(lease.TAG), time.time()) == ""
