"""Bad input: every failure says what failed, why, and what to do next, has an exit code of its own, and leaves
nothing half-done."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from faultkit import (
    BEHAVIOUR,
    Scene,
    compiler,
    copy_of,
    edit,
    environment_of,
    kill_group,
    missing,
    processes_with,
    read_only,
    small_disk,
    tree,
    wait_for,
)
from support import open_to_others
from xfdev import errors
from xfdev.bundle import Manifest, from_bytes
from xfdev.stores.local import LocalStore

NOBODY = 65534


@pytest.fixture
def scene(tmp_path: Path, plain_prefix: Path) -> Scene:
    return Scene(tmp_path, plain_prefix)


def steady(text: str) -> str:
    """*text* with what differs from one run to the next replaced: curl counts the milliseconds it tried."""
    return re.sub(r"\b\d+ ms\b", "N ms", text)


def refused(
    scene: Scene, error: type[errors.XfdevError], *words: str | Path, cwd: Path | None = None, **variables: str
) -> dict[str, Any]:
    """Run a command that has to fail with *error*, in all three ways of output; returns what --json says."""
    plain = scene.process(*words, cwd=cwd, **variables)
    assert plain.status == error.exit_code, plain.stderr + plain.stdout
    assert plain.stdout == ""
    assert "Traceback" not in plain.stderr
    lines = plain.stderr[plain.stderr.index("error: ") :].strip().splitlines()
    assert 2 <= len(lines) <= 3, plain.stderr
    assert lines[-1].startswith("  do: "), plain.stderr
    assert lines[1].startswith(("  why: ", "  do: ")), plain.stderr
    verbose = scene.xfdev(*words, "--verbose", cwd=cwd, **variables)
    assert verbose.status == error.exit_code
    assert steady(lines[0]) in steady(verbose.stderr)
    assert "xfdev/cli.py" not in verbose.stderr, "our own traceback"
    machine = scene.xfdev(*words, "--json", cwd=cwd, **variables)
    assert machine.status == error.exit_code
    assert "error: " not in machine.stderr
    said = machine.json
    assert said["exit_code"] == error.exit_code
    assert said["error"] == error.__name__
    assert steady(said["message"]) == steady(lines[0]).removeprefix("error: ")
    assert said["hint"] == lines[-1].removeprefix("  do: ")
    return said


# --- what is given is no checkout


def test_path_that_does_not_exist(scene: Scene) -> None:
    before = tree(scene.folder)
    for verb in ("plan", "build", "link", "check", "unlink", "prebuild"):
        assert scene.xfdev(verb, "/nowhere/at/all").status == 10
    refused(scene, errors.NoSuchPath, "build", scene.folder / "nowhere")
    refused(scene, errors.NoSuchPath, "up", "./nowhere")
    assert tree(scene.folder) == before


def test_folder_without_git(scene: Scene) -> None:
    folder = scene.folder / "plain-folder"
    folder.mkdir()
    (folder / "setup.py").write_text("from setuptools import setup; setup()")
    before = tree(scene.folder)
    for verb in ("plan", "build", "up"):
        said = refused(scene, errors.NotAGitTree, verb, folder)
        assert "git" in said["hint"]
    assert tree(scene.folder) == before


@pytest.mark.parametrize(
    "files",
    [
        {"README.md": "only words"},
        {"pyproject.toml": '[build-system]\nrequires = ["hatchling"]\nbuild-backend = "hatchling.build"\n'},
        {
            "pyproject.toml": '[build-system]\nrequires = ["scikit-build-core"]\nbuild-backend = "x"\n',
            "CMakeLists.txt": "",
        },
    ],
    ids=["no build script", "hatchling", "scikit-build"],
)
def test_checkout_of_another_kind(scene: Scene, files: dict[str, str]) -> None:
    root = scene.folder / "other"
    root.mkdir()
    for name, text in files.items():
        (root / name).write_text(text)
    scene.git(root, "init", "-q")
    scene.commit(root)
    before = tree(scene.folder, beside=())
    refused(scene, errors.NotAnExtensionProject, "build", root, "--venv", scene.prefix)
    refused(scene, errors.NotAnExtensionProject, "up", root, "--toolchain", "plain")
    after = tree(scene.folder, beside=())
    assert {path for path in after if "/.git/" not in path} == {path for path in before if "/.git/" not in path}
    assert not (root / ".venv").exists()
    assert not (root / ".xfdev").exists()


def test_pure_python_project(scene: Scene) -> None:
    root = scene.folder / "pure"
    (root / "pure").mkdir(parents=True)
    (root / "pure" / "__init__.py").write_text("")
    (root / "setup.py").write_text("from setuptools import setup\nsetup(name='pure', version='1', packages=['pure'])")
    scene.git(root, "init", "-q")
    scene.commit(root)
    before = tree(root)
    said = refused(scene, errors.NotAnExtensionProject, "build", root, "--venv", scene.prefix)
    assert "no native extension" in said["message"]
    assert tree(root) == before
    assert scene.git(root, "status", "--porcelain") == ""


def test_url_that_does_not_answer(scene: Scene) -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        port = server.getsockname()[1]  # nobody listens on it, and nobody else gets it while it is bound
        before = tree(scene.folder)
        said = refused(scene, errors.SourceUnreachable, "up", f"http://127.0.0.1:{port}/a/b.git")
    assert str(port) in said["message"]
    assert tree(scene.folder) == before


def test_requirement_that_nobody_has(scene: Scene) -> None:
    links = scene.folder / "links"
    links.mkdir()
    before = tree(scene.folder)
    variables = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(links), "PIP_EXTRA_INDEX_URL": ""}
    said = refused(scene, errors.RequirementNotFound, "up", "no-such-thing==1.0", **variables)
    assert "no-such-thing==1.0" in said["message"]
    assert "PIP_NO_INDEX" in said["why"]
    assert tree(scene.folder) == before


@pytest.mark.parametrize("words", [("frobnicate",), ("build", "--frobnicate"), ("bundle",), ("up",), ()])
def test_command_line_that_makes_no_sense(scene: Scene, words: tuple[str, ...]) -> None:
    before = tree(scene.folder)
    ended = scene.xfdev(*words)
    assert ended.status == 2
    assert ended.stderr.startswith("error: ")
    assert "--help" in ended.stderr
    assert scene.xfdev(*words, "--json").json["exit_code"] == 2
    assert tree(scene.folder) == before


# --- what the machine lacks


def tools_without(folder: Path, *names: str) -> str:
    """A PATH with everything this machine has but *names*."""
    folder.mkdir()
    for place in os.environ["PATH"].split(os.pathsep):
        with suppress(OSError):
            for program in sorted(Path(place).iterdir()):
                link = folder / program.name
                if not any(re.fullmatch(name, program.name) for name in names) and not link.is_symlink():
                    link.symlink_to(program)
    return str(folder)


def test_no_compiler_on_path(scene: Scene) -> None:
    root = scene.checkout()
    before = tree(root)
    path = tools_without(scene.folder / "tools", r"(.*-)?(c\+\+|g\+\+|clang\+\+)(-\d+)?")
    said = refused(scene, errors.NoCompiler, "build", root, "--venv", scene.prefix, PATH=path)
    assert "PATH has no c++" in said["why"]
    assert tree(root) == before
    assert not (root / ".xfdev" / "build" / "manifest.json").exists()


def test_compiler_that_is_not_there(scene: Scene) -> None:
    root = scene.checkout()
    before = tree(root)
    said = refused(scene, errors.NoCompiler, "build", root, "--venv", scene.prefix, CXX="/opt/nothing/g++")
    assert "/opt/nothing/g++" in said["why"]
    assert tree(root) == before


def cuda_environment(scene: Scene, *, nvcc: str | None = None, archs: str = "") -> Path:
    """An environment that says it has torch for CUDA 12.8; *nvcc* what its ``--list-gpu-code`` prints."""
    prefix = copy_of(scene.prefix, scene.folder / "cuda" / ".venv")
    known = dict(environment_of(prefix))
    site = prefix / "lib" / f"python{known['python']}" / "site-packages"
    (site / "torch" / "utils").mkdir(parents=True)
    (site / "torch" / "version.py").write_text("__version__ = '2.10.0+cu128'\ncuda = '12.8'\ngit_version = 'abc'\n")
    if archs:
        (site / "torch" / "utils" / "cpp_extension.py").write_text(f"supported_arches = [{archs}]\n")
    home = None
    if nvcc is not None:
        home = scene.folder / "cuda-tree"
        (home / "bin").mkdir(parents=True)
        script = home / "bin" / "nvcc"
        script.write_text(f"#!/bin/sh\ncase $1 in --version) echo V12.8.93;; *) echo {nvcc};; esac\n")
        script.chmod(0o755)
    known.update(toolchain="cu128", torch="2.10.0+cu128", cuda_home=str(home) if home else None)
    (prefix / "xfdev" / "environment.json").write_text(json.dumps(known))
    return prefix


def test_cuda_arch_without_nvcc(scene: Scene) -> None:
    root, prefix = scene.checkout(), cuda_environment(scene)
    before = tree(root)
    said = refused(scene, errors.NoNvcc, "build", root, "--venv", prefix, "--arch", "9.0")
    assert "cu128" in said["message"]
    assert "CUDA 12.8" in said["why"]
    assert "--toolchain cu130" in said["hint"]
    assert tree(root) == before


def test_arch_that_torch_does_not_know(scene: Scene) -> None:
    root, prefix = scene.checkout(), cuda_environment(scene, nvcc="sm_80 sm_90 sm_100", archs="'8.0', '9.0', '9.0a'")
    before = tree(root)
    said = refused(scene, errors.UnknownArch, "build", root, "--venv", prefix, "--arch", "10.0")
    assert "torch" in said["message"]
    assert "10.0" in said["message"]
    assert "8.0, 9.0, 9.0a" in said["why"]
    assert tree(root) == before


def test_arch_that_nvcc_does_not_know(scene: Scene) -> None:
    root, prefix = scene.checkout(), cuda_environment(scene, nvcc="sm_80 sm_90", archs="'8.0', '9.0', '12.0'")
    said = refused(scene, errors.UnknownArch, "build", root, "--venv", prefix, "--arch", "8.0;12.0")
    assert "nvcc" in said["message"]
    assert "12.0" in said["message"]


def test_no_arch_and_no_gpu(scene: Scene) -> None:
    root, prefix = scene.checkout(), cuda_environment(scene, nvcc="sm_80", archs="'8.0'")
    path = tools_without(scene.folder / "tools", "nvidia-smi")
    said = refused(scene, errors.UnknownArch, "build", root, "--venv", prefix, PATH=path)
    assert "--arch" in said["hint"]


@pytest.mark.parametrize("arch", ["banana", "sm_90", "9", "9.0b", "8.0;;9.0+ptx", "90"])
def test_malformed_arch(scene: Scene, arch: str) -> None:
    root = scene.checkout()
    before = tree(root)
    for verb in ("plan", "build"):
        ended = scene.xfdev(verb, root, "--venv", scene.prefix, "--arch", arch)
        assert ended.status == errors.UnknownArch.exit_code, ended.stderr
        assert "is not a CUDA arch" in ended.stderr
    if arch == "banana":
        refused(scene, errors.UnknownArch, "build", root, "--venv", scene.prefix, "--arch", arch)
        refused(scene, errors.UnknownArch, "up", root, "--arch", arch)
    assert tree(root) == before
    assert not (root / ".venv").exists()


def test_submodule_that_cannot_be_fetched(scene: Scene) -> None:
    root = scene.checkout()
    scene.git(root, "rm", "-rq", "--cached", "vendor/tally")
    shutil.rmtree(root / "vendor" / "tally")
    (root / "vendor" / "tally").mkdir()
    (root / ".gitmodules").write_text(
        '[submodule "vendor/tally"]\n\tpath = vendor/tally\n\turl = http://127.0.0.1:9/tally.git\n'
    )
    head = scene.git(root, "rev-parse", "HEAD").strip()
    scene.git(root, "update-index", "--add", "--cacheinfo", f"160000,{head},vendor/tally")
    scene.git(root, "add", ".gitmodules")
    scene.git(root, "commit", "-qm", "a submodule")
    before = tree(root)
    said = refused(scene, errors.MissingSubmodule, "build", root, "--venv", scene.prefix)
    assert "vendor/tally" in said["message"]
    assert f"git -C {root} submodule update --init" in said["hint"]
    assert tree(root) == before
    assert scene.git(root, "status", "--porcelain") == ""


# --- whose checkout it is, and whether it can be written


def test_checkout_of_another_user(scene: Scene) -> None:
    if os.geteuid() != 0:
        missing("only root can give a checkout away")
    root = scene.checkout()
    for folder, names, files in os.walk(root):
        for name in (*names, *files, ""):
            os.chown(Path(folder, name), NOBODY, NOBODY)
    before = tree(root, beside=())
    said = refused(scene, errors.DubiousOwnership, "build", root, "--venv", scene.prefix)
    assert f"safe.directory {root}" in said["hint"]
    assert tree(root, beside=()) == before
    command = shlex.split(said["hint"].partition(": ")[2])
    subprocess.run(command, env=scene.environ, check=True)
    assert scene.xfdev("plan", root, "--venv", scene.prefix).status == 0, "the hint does not help"


def test_read_only_checkout(scene: Scene) -> None:
    root = scene.checkout()
    before = tree(root, beside=())
    with read_only(root):
        plan = scene.good("plan", root, "--venv", scene.prefix)
        assert plan["verdict"] == "full"
        said = refused(scene, errors.ReadOnlyCheckout, "build", root, "--venv", scene.prefix)
        assert str(root) in said["message"]
        refused(scene, errors.ReadOnlyCheckout, "up", root, "--toolchain", "plain")
    assert tree(root, beside=()) == before


def test_read_only_checkout_that_is_linked_already(scene: Scene) -> None:
    root = scene.checkout()
    scene.build(root)
    with read_only(root):
        assert scene.good("plan", root, "--venv", scene.prefix)["verdict"] == "reuse"
        assert scene.good("check", root, "--venv", scene.prefix)["problems"] == []
        assert scene.xfdev("unlink", root, "--venv", scene.prefix).status == errors.ReadOnlyCheckout.exit_code
    assert scene.behaviour(root) == BEHAVIOUR


def test_checkout_that_only_root_can_write(scene: Scene) -> None:
    if os.geteuid() != 0:
        missing("only root can become another user")
    root = scene.checkout()
    scene.environ["GIT_CONFIG_KEY_2"], scene.environ["GIT_CONFIG_VALUE_2"] = "safe.directory", "*"
    prefix = scene.prefix
    open_to_others(root)
    open_to_others(prefix)
    argv = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", sys.executable, "-m", "xfdev"]
    if shutil.which("setpriv") is None:
        missing("there is no setpriv")
    argv += ["build", str(root), "--venv", str(prefix), "--json"]
    done = subprocess.run(argv, cwd="/", env=scene.environ, capture_output=True, text=True)
    assert done.returncode == errors.ReadOnlyCheckout.exit_code, done.stderr + done.stdout
    assert "Permission denied" in json.loads(done.stdout)["message"]
    assert not (root / ".xfdev").exists()


# --- full disks


def test_disk_of_the_store_is_full(scene: Scene) -> None:
    root = scene.checkout()
    with small_disk(scene.folder / "cache", 0.06) as cache:
        (cache / "filler").write_bytes(b"x" * 20_000)
        said = refused(scene, errors.DiskFull, "prebuild", root, "--venv", scene.prefix)
        assert str(cache) in said["message"]
        assert scene.bundles() == []
        assert list((scene.store / "tmp").iterdir()) == []
    scene.build(root)
    assert scene.behaviour(root) == BEHAVIOUR
    scene.assert_tidy(root)


@pytest.mark.parametrize("kilobytes", [8, 90])
def test_disk_of_the_checkout_is_full(scene: Scene, kilobytes: int) -> None:
    with small_disk(scene.folder / "disk", 4) as disk:
        root = scene.checkout(into=disk)
        filler = disk / "filler"
        used = shutil.disk_usage(disk).free - kilobytes * 1024
        filler.write_bytes(b"x" * used)
        # What is written when the disk is full differs between two runs: no comparison of their words.
        for way in ((), ("--verbose",), ("--json",)):
            ended = scene.xfdev("build", root, "--venv", scene.prefix, *way)
            assert ended.status == errors.DiskFull.exit_code, ended.stderr
            assert "space" in ended.stderr + ended.stdout
            assert f"no space left while writing {disk}" in ended.stderr + ended.stdout
        assert scene.git(root, "status", "--porcelain") == ""
        filler.unlink()
        scene.build(root)
        assert scene.behaviour(root) == BEHAVIOUR
        scene.assert_tidy(root)


def test_disk_of_the_environment_is_full(scene: Scene) -> None:
    root = scene.checkout()
    with small_disk(scene.folder / "disk", 6) as disk:
        prefix = disk / ".venv"
        ended = scene.xfdev("up", root, "--toolchain", "plain", "--venv", prefix, "--json")
        assert ended.status == errors.DiskFull.exit_code, ended.stdout + ended.stderr
        assert str(prefix) in ended.json["message"]
        assert not (prefix / "xfdev" / "environment.json").exists()
        assert scene.xfdev("plan", root, "--venv", prefix).status == errors.BadEnvironment.exit_code
    scene.assert_tidy(root)


# --- bundles


@pytest.fixture
def stored(scene: Scene) -> tuple[Path, Path]:
    """A built checkout that has lost its own build, so that only the bundle serves it, and that bundle's folder."""
    root = scene.checkout()
    name = scene.good("prebuild", root, "--venv", scene.prefix)["bundle"]
    shutil.rmtree(root / ".xfdev")
    for path in root.rglob("*.so"):
        path.unlink()
    return root, scene.store / "bundles" / name


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.chmod(0o644)
    path.write_bytes(data)


def first(folder: Path) -> Path:
    return min(path for path in folder.rglob("*") if path.is_file() and path.name != "CACHEDIR.TAG")


def add_foreign(bundle: Path) -> None:
    (bundle / "outputs" / "counter" / "evil.so").write_bytes(b"\x7fELF")


DAMAGE: dict[str, tuple[Callable[[Path], None], str]] = {
    "manifest flipped": (lambda bundle: flip(bundle / "manifest.json"), "its manifest is not the one"),
    "manifest cut": (lambda bundle: os.truncate(bundle / "manifest.json", 100), "its manifest is not the one"),
    "manifest gone": (lambda bundle: (bundle / "manifest.json").unlink(), "is not in"),
    "output flipped": (lambda bundle: flip(first(bundle / "outputs")), "is not what it was"),
    "output gone": (lambda bundle: first(bundle / "outputs").unlink(), "is missing"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_damaged_bundle_is_never_linked(scene: Scene, stored: tuple[Path, Path], damage: str) -> None:
    root, bundle = stored
    harm, says = DAMAGE[damage]
    harm(bundle)
    said = scene.xfdev("bundle", "verify", "--json")
    assert said.status == errors.BadBundle.exit_code
    assert says in said.json["bad"][bundle.name]
    linked = scene.xfdev("link", root, "--venv", scene.prefix)
    assert linked.status == errors.NothingFits.exit_code, linked.stderr
    assert bundle.name[:12] in linked.stderr
    assert says in linked.stderr
    assert not list(root.rglob("*.so"))
    built = scene.build(root)
    assert len(built["compiled"]) + len(built["restored"]) == 4
    assert scene.behaviour(root) == BEHAVIOUR
    scene.assert_tidy(root)
    removed = scene.good("bundle", "verify", "--remove")["bad"]
    assert list(removed) in ([], [bundle.name]), "a new bundle is not whole"
    scene.assert_store_is_whole()
    assert len(scene.bundles()) == 1


@pytest.mark.parametrize(
    "harm",
    [lambda bundle: flip(first(bundle / "objects")), lambda bundle: first(bundle / "objects").unlink()],
    ids=["flipped", "gone"],
)
def test_damaged_objects_are_not_used(scene: Scene, stored: tuple[Path, Path], harm: Callable[[Path], None]) -> None:
    root, bundle = stored
    harm(bundle)
    assert scene.xfdev("bundle", "verify").status == errors.BadBundle.exit_code
    shutil.rmtree(scene.folder / "cache" / "ccache")  # so that nothing but the bundle has objects
    edit(root / "include" / "shared.h", "SHARED 1", "SHARED 6")
    built = scene.build(root)
    assert len(built["compiled"]) == 4
    assert scene.behaviour(root) == {**BEHAVIOUR, "_first.one": 9, "_second.second": 605}


def test_file_that_does_not_belong_to_a_bundle(scene: Scene, stored: tuple[Path, Path]) -> None:
    root, bundle = stored
    add_foreign(bundle)
    said = scene.xfdev("bundle", "verify", "--json")
    assert said.status == errors.BadBundle.exit_code
    assert "outputs/counter/evil.so" in said.json["bad"][bundle.name]
    scene.good("link", root, "--venv", scene.prefix)
    assert not (root / "counter" / "evil.so").exists()
    assert scene.behaviour(root) == BEHAVIOUR


def plant(scene: Scene, bundle: Path, manifest: Manifest) -> Path:
    """A bundle whose name is right for a *manifest* that somebody wrote by hand."""
    target = bundle.parent / manifest.id
    shutil.copytree(bundle, target)
    (target / "manifest.json").chmod(0o644)
    (target / "manifest.json").write_bytes(manifest.to_bytes())
    shutil.rmtree(bundle)
    return target


def traversing(manifest: Manifest, where: str) -> Manifest:
    name, output = next(iter(manifest.outputs.items()))
    match where:
        case "place":
            return replace(manifest, outputs={**manifest.outputs, name: replace(output, place="../../evil.so")})
        case "unit":
            return manifest.with_units((replace(manifest.units[0], object="../../../evil.o"), *manifest.units[1:]))
        case _:
            return replace(manifest, metadata={**manifest.metadata, "../evil.pth": "import evil"})


@pytest.mark.parametrize(
    "where",
    ["place", "unit", "metadata"],  # test_bundle.py has all of them
)
def test_bundle_that_leaves_its_folder(scene: Scene, stored: tuple[Path, Path], where: str) -> None:
    root, bundle = stored
    manifest = traversing(from_bytes((bundle / "manifest.json").read_bytes(), bundle), where)
    planted = plant(scene, bundle, manifest)
    before = tree(scene.folder, beside=("home", "cache"))
    linked = scene.xfdev("link", root, "--venv", scene.prefix)
    assert linked.status == errors.NothingFits.exit_code, linked.stderr
    assert "leaves its folder" in linked.stderr
    assert planted.name[:12] in linked.stderr
    after = tree(scene.folder, beside=("home", "cache"))
    assert {path for path in set(after) ^ set(before) if "/.xfdev/" not in path} == set()
    said = scene.xfdev("bundle", "verify", "--json").json
    assert "leaves its folder" in said["bad"][planted.name]
    scene.build(root)
    assert scene.behaviour(root) == BEHAVIOUR
    assert not list(scene.folder.rglob("*evil*"))


def test_bundle_of_another_machine(scene: Scene, stored: tuple[Path, Path]) -> None:
    root, bundle = stored
    manifest = from_bytes((bundle / "manifest.json").read_bytes(), bundle)
    plant(scene, bundle, replace(manifest, needs=replace(manifest.needs, machine="aarch64")))
    linked = scene.xfdev("link", root, "--venv", scene.prefix)
    assert linked.status == errors.NothingFits.exit_code
    assert "is for aarch64" in scene.xfdev("plan", root, "--venv", scene.prefix).stdout
    scene.build(root)
    assert scene.behaviour(root) == BEHAVIOUR


def test_folder_in_the_store_that_is_no_bundle(scene: Scene, stored: tuple[Path, Path]) -> None:
    root, bundle = stored
    strange = bundle.parent / ("f" * 64)
    strange.mkdir()
    (strange / "summary.json").write_text('{"project": "counter", "size": "big"}')
    (bundle.parent / "README").write_text("not a bundle")
    assert scene.good("link", root, "--venv", scene.prefix)["bundle"] == bundle.name
    assert scene.xfdev("bundle", "list").status == 0
    assert scene.xfdev("bundle", "verify").status == errors.BadBundle.exit_code


def test_bundle_that_is_not_there(scene: Scene, stored: tuple[Path, Path]) -> None:
    said = refused(scene, errors.BadBundle, "bundle", "show", "ffff")
    assert "ffff" in said["message"]


def test_nothing_can_be_linked(scene: Scene) -> None:
    root = scene.checkout()
    before = tree(root)
    said = refused(scene, errors.NothingFits, "link", root, "--venv", scene.prefix)
    assert f"xfdev build {root}" in said["hint"]
    assert tree(root) == before


# --- configuration and environment


def test_option_with_a_typing_error(scene: Scene) -> None:
    root = scene.checkout()
    (root / "xfdev.toml").write_text("job = 2\n")
    said = refused(scene, errors.UsageError, "build", root)
    assert "'jobs'" in said["message"]
    assert str(root / "xfdev.toml") in said["message"]
    (root / "xfdev.toml").write_text("jobs = 'many'\n")
    refused(scene, errors.UsageError, "plan", root)
    (root / "xfdev.toml").write_text("jobs = = 2\n")
    refused(scene, errors.UsageError, "plan", root)
    (root / "xfdev.toml").unlink()
    refused(scene, errors.UsageError, "plan", root, XFDEV_JOBS="0")
    refused(scene, errors.UsageError, "up", root, "--toolchain", "cu999")
    assert not (root / ".venv").exists()


@pytest.mark.parametrize("text", ["", "{", "[]", '{"toolchain": 1}', '{"prefix": "/", "evil": 1}', None])
def test_damaged_environment(scene: Scene, text: str | None) -> None:
    root = scene.checkout()
    prefix = scene.folder / "own" / ".venv"
    place = prefix / "xfdev" / "environment.json"
    place.parent.mkdir(parents=True)
    if text is None:
        known = environment_of(scene.prefix)
        text = json.dumps({**known, "variables": ["A", "B"]})
    place.write_text(text)
    before = tree(root)
    if text == "{":
        said = refused(scene, errors.BadEnvironment, "build", root, "--venv", prefix)
        assert "xfdev up" in said["hint"]
    for verb in ("plan", "build", "link", "check"):
        assert scene.xfdev(verb, root, "--venv", prefix).status == errors.BadEnvironment.exit_code
    assert tree(root) == before


def test_environment_that_is_not_ours(scene: Scene) -> None:
    root = scene.checkout()
    other = root / ".venv"
    (other / "bin").mkdir(parents=True)
    (other / "bin" / "mine").write_text("precious")
    said = refused(scene, errors.BadEnvironment, "up", root, "--toolchain", "plain")
    assert "--venv" in said["hint"]
    assert (other / "bin" / "mine").read_text() == "precious"


def test_torch_was_swapped(scene: Scene) -> None:
    root, prefix = scene.checkout(), cuda_environment(scene)
    version = next(prefix.glob("lib/python*/site-packages/torch/version.py"))
    version.write_text("__version__ = '2.14.1+cu130'\ncuda = '13.0'\n")
    before = tree(root)
    for verb in ("plan", "build", "link"):
        ended = scene.xfdev(verb, root, "--venv", prefix, "--json")
        assert ended.status == errors.BadEnvironment.exit_code
    said = refused(scene, errors.BadEnvironment, "build", root, "--venv", prefix)
    assert "2.10.0+cu128" in said["message"]
    assert "2.14.1+cu130" in said["message"]
    version.unlink()
    refused(scene, errors.BadEnvironment, "plan", root, "--venv", prefix)
    assert tree(root) == before


# --- the project's own build


BROKEN = {
    "syntax": ("import setuptools\nsetup((\n", "SyntaxError"),
    "exception": ("import os\n\ndef helper():\n    raise KeyError('NOT_SET')\n\nhelper()\n", "setup.py:4: KeyError"),
    "exit": ("import sys\nsys.exit('this project needs a moon')\n", "this project needs a moon"),
    "quiet exit": ("import sys\nsys.exit(0)\n", "ended with exit status 0"),
    "no setup": ("print('hello')\n", "did not call setup()"),
    "talkative": ("print('word ' * 200_000)\nraise SystemExit('too much')\n", "too much"),
    "missing import": ("import torch_but_not_really\n", "setup.py:1: ModuleNotFoundError"),
    "dies": ("import os, signal\nos.kill(os.getpid(), signal.SIGSEGV)\n", "-11"),
}


@pytest.mark.parametrize("how", BROKEN)
def test_broken_build_script(scene: Scene, how: str) -> None:
    root = scene.checkout()
    text, says = BROKEN[how]
    (root / "setup.py").write_text(text)
    before = tree(root)
    words = ("build", root, "--venv", scene.prefix)
    if how == "exception":  # all ways of output are the same for all of them
        said = refused(scene, errors.ConfigureFailed, *words)
        assert "Traceback" in said["details"]
    ended = scene.xfdev(*words, "--json")
    assert ended.status == errors.ConfigureFailed.exit_code
    said = ended.json
    assert says in said["message"] + said["why"]
    assert len(said["message"]) < 1000
    assert "--verbose" in said["hint"]
    assert tree(root) == before
    if how == "quiet exit":
        scene.git(root, "checkout", "-q", "setup.py")
        scene.build(root)
        assert scene.behaviour(root) == BEHAVIOUR


def test_unit_that_does_not_compile(scene: Scene) -> None:
    root = scene.checkout()
    edit(root / "csrc" / "two.cpp", "return TALLY", "return TALY")
    scene_before = tree(root)
    ended = scene.xfdev("build", root, "--venv", scene.prefix)
    assert ended.status == errors.CompileFailed.exit_code
    assert re.search(r"csrc/two\.cpp:7:\d+: error: .*TALY", ended.stderr)
    assert "ninja" not in ended.stderr
    assert not list((root / "counter").glob("*.so"))
    after = tree(root)
    assert set(after) ^ set(scene_before) <= {"csrc/generated.h"}
    command = re.search(r"do: (xfdev build .*) compiles this one again", ended.stderr)
    assert command, ended.stderr
    words = shlex.split(command[1])[1:]
    assert "csrc/two.cpp" in words
    again = scene.xfdev(*words, cwd=Path("/"))
    assert again.status == errors.CompileFailed.exit_code
    assert "TALY" in again.stderr
    verbose = scene.xfdev("build", root, "--venv", scene.prefix, "--verbose")
    assert "$ " in verbose.stderr
    machine = scene.xfdev("build", root, "--venv", scene.prefix, "--json").json
    assert machine["exit_code"] == errors.CompileFailed.exit_code
    assert "TALY" in machine["message"]
    edit(root / "csrc" / "two.cpp", "return TALY", "return TALLY")
    only = scene.good(*words, cwd=Path("/"))
    assert only["compiled"] + only["restored"] == ["csrc/two.cpp"]
    scene.build(root)
    assert scene.behaviour(root) == BEHAVIOUR


def test_failed_compile_leaves_what_was_linked(scene: Scene) -> None:
    root = scene.checkout()
    scene.build(root)
    edit(root / "csrc" / "two.cpp", "return TALLY", "return TALY")
    ended = scene.xfdev("build", root, "--venv", scene.prefix)
    assert ended.status == errors.CompileFailed.exit_code
    assert scene.behaviour(root) == BEHAVIOUR
    said = scene.xfdev("check", root, "--venv", scene.prefix, "--json")
    assert said.status == errors.CheckFailed.exit_code
    edit(root / "csrc" / "two.cpp", "return TALY", "return 1 + TALLY")
    scene.build(root)
    assert scene.behaviour(root) == {**BEHAVIOUR, "_first.two": 71}
    assert scene.good("check", root, "--venv", scene.prefix)["problems"] == []


def test_library_that_does_not_link(scene: Scene) -> None:
    root = scene.checkout()
    edit(
        root / "setup.py",
        'Extension("counter._second", [',
        'Extension("counter._second", libraries=["nonesuch"], sources=[',
    )
    said = refused(scene, errors.CompileFailed, "build", root, "--venv", scene.prefix)
    assert "_second" in said["message"]
    assert "nonesuch" in said["message"]
    assert not list((root / "counter").glob("*.so"))
    scene.git(root, "checkout", "-q", "setup.py")
    scene.build(root)
    assert scene.behaviour(root) == BEHAVIOUR
    scene.assert_tidy(root)


def test_unit_that_is_not_there(scene: Scene) -> None:
    root = scene.checkout()
    said = refused(scene, errors.NothingFits, "build", root, "--venv", scene.prefix, "--only", "four.cpp")
    assert "csrc/two.cpp" in said["hint"]


def test_module_that_does_not_import(scene: Scene) -> None:
    root = scene.checkout()
    scene.build(root)
    (root / "counter" / "__init__.py").write_text("import nothing_like_this\n")
    ended = scene.xfdev("check", root, "--venv", scene.prefix, "--json")
    assert ended.status == errors.CheckFailed.exit_code
    assert any("nothing_like_this" in problem for problem in ended.json["problems"])
    (root / "counter" / "__init__.py").write_text("import os, signal\nos.kill(os.getpid(), signal.SIGABRT)\n")
    ended = scene.xfdev("check", root, "--venv", scene.prefix, "--json")
    assert ended.status == errors.CheckFailed.exit_code
    assert any("died" in problem for problem in ended.json["problems"])


# --- Ctrl-C


@pytest.mark.parametrize("as_json", [False, True])
def test_interrupt_while_compiling(scene: Scene, as_json: bool) -> None:
    root = scene.checkout()
    marks = scene.folder / "marks"
    marks.mkdir()
    slow = compiler(
        scene.folder,
        f'case "$*" in *" -c "*two.cpp*) touch {marks}/two; exec sleep 60;; esac\n'
        f'c++ "$@" && case "$*" in *" -c "*one.cpp*) touch {marks}/one;; esac',
    )
    words = ["build", root, "--venv", scene.prefix, *(["--json"] if as_json else [])]
    process = scene.start(*words, CC=slow, CXX=slow)
    wait_for(lambda: (marks / "one").exists() and (marks / "two").exists())
    kill_group(process, signal.SIGINT)
    stdout, stderr = process.communicate(timeout=20)
    assert process.returncode == 130, stderr
    assert "Traceback" not in stderr
    if as_json:
        assert json.loads(stdout)["exit_code"] == 130
    else:
        assert "interrupted" in stderr
    assert processes_with(str(root / ".xfdev")) == []
    assert not list((root / "counter").glob("*.so"))
    assert not (root / ".xfdev" / "build" / "temp" / "csrc" / "two.o").exists()
    scene.build(root)
    assert scene.behaviour(root) == BEHAVIOUR
    scene.assert_tidy(root)


# --- a store and its bundles, without a command line


def test_put_refuses_what_the_manifest_does_not_say(scene: Scene, stored: tuple[Path, Path]) -> None:
    _, bundle = stored
    manifest = from_bytes((bundle / "manifest.json").read_bytes(), bundle)
    outputs = {name: bundle / "outputs" / name for name in manifest.outputs}
    name = next(iter(outputs))
    other = scene.folder / "other.so"
    other.write_bytes(b"something else")
    store = LocalStore(scene.folder / "second")
    with pytest.raises(errors.BadBundle):
        store.put(manifest, {**outputs, name: other}, bundle / "objects")
    assert store.ids() == []
    assert list((store.folder / "tmp").iterdir()) == []
    assert store.put(manifest, outputs, bundle / "objects") == bundle.name
    store.verify(bundle.name)
