"""A build that has nothing to do says so before anything is imported; whatever could change that is noticed."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

import support
from support import git
from xfdev import settled, status
from xfdev.commands import apply


@dataclass
class Scene:
    """A checkout in which a build had nothing to do. *words* and *variables* are those of that build."""

    root: Path
    prefix: Path
    tool: support.Xfdev
    variables: dict[str, str]

    @property
    def words(self) -> list[str]:
        return ["build", str(self.root), *self.tool.options]

    @property
    def site(self) -> Path:
        (found,) = (self.prefix / "lib").glob("python*/site-packages")
        return found

    def answer(self, *more: str, **variables: str) -> str | None:
        return settled.answer([*self.words, *more], {**os.environ, **self.variables, **variables}, os.getcwd())

    def build(self) -> dict[str, object]:
        return self.tool("build", self.root).ok()

    def settle(self) -> None:
        """Build until there is nothing to do. What has only just been written is looked at again by the next build."""
        for _ in range(20):
            if not self.build()["compiled"] and self.answer() is not None:
                return
            time.sleep(0.02)
        raise AssertionError("it does not settle")


@pytest.fixture(scope="module")
def template(
    _session_environ: None, counter_template: Path, plain_prefix: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A folder with a built checkout, its environment, and its cache; the environment is the test's own to change."""
    folder = tmp_path_factory.mktemp("settled")
    root = support.copy_tree(counter_template, folder / "counter")
    tool = support.Xfdev({"XFDEV_CACHE": str(folder / "cache")})
    tool("up", root, "--toolchain", "plain").ok()
    return folder


@pytest.fixture
def scene(template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Scene:
    shutil.copytree(template / "cache", tmp_path / "cache")
    root = support.copy_tree(template / "counter", tmp_path / "counter")
    (tmp_path / "bin").mkdir()
    (tmp_path / "config" / "xfdev").mkdir(parents=True)
    own = {
        "XFDEV_CACHE": str(tmp_path / "cache"),
        "XDG_CONFIG_HOME": str(tmp_path / "config"),
        "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}",
        "PYTEST_CURRENT_TEST": "",  # otherwise another one at the test's start
    }
    made = Scene(root, root / ".venv", support.Xfdev(own), own)
    made.settle()
    return made


def edit(path: Path, more: str = "\n") -> None:
    path.write_text(path.read_text() + more)


def stage_submodule(scene: Scene) -> None:
    """The index names another commit; the files stay."""
    commit = git(scene.root / "vendor/tally", "rev-parse", "v2")
    git(scene.root, "update-index", "--cacheinfo", f"160000,{commit},vendor/tally")


def script(path: Path, mode: int = 0o755) -> Path:
    path.write_text('#!/bin/sh\nexec /usr/bin/c++ "$@"\n')
    path.chmod(mode)
    return path


def damage(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def replaced(path: Path) -> None:
    """Another file with the same contents in its place."""
    path.write_bytes(path.read_bytes())


CHANGES: dict[str, Callable[[Scene], object]] = {
    "a unit": lambda s: edit(s.root / "csrc/one.cpp"),
    "a header": lambda s: edit(s.root / "include/shared.h"),
    "a header that is gone": lambda s: (s.root / "include/shared.h").unlink(),
    "a header that shadows another": lambda s: (s.root / "csrc/inner/shared.h").write_text("#define SHARED 5\n"),
    "a link in a folder of headers": lambda s: (s.root / "include/more").symlink_to(s.root / "csrc"),
    "a new unit": lambda s: (s.root / "csrc/four.cpp").write_text("int four;\n"),
    "the build script": lambda s: edit(s.root / "setup.py"),
    "what the build script reads": lambda s: edit(s.root / "csrc/constants.in", "MORE 1\n"),
    "what the build script makes": lambda s: edit(s.root / "csrc/generated.h"),
    "a header of a submodule": lambda s: edit(s.root / "vendor/tally/include/tally.h"),
    "a submodule at another commit": lambda s: git(s.root / "vendor/tally", "checkout", "-q", "v2"),
    "a submodule's recorded commit": stage_submodule,
    "a branch": lambda s: (git(s.root, "rm", "-q", "csrc/two.cpp"), git(s.root, "commit", "-qm", "less")),
    "a library that was linked": lambda s: replaced(next((s.root / "counter").glob("_first*.so"))),
    "a library that is gone": lambda s: next((s.root / "counter").glob("_second*.so")).unlink(),
    "a library of the kept build": lambda s: damage(next((s.root / ".xfdev/build/lib").rglob("*.so"))),
    "the kept build": lambda s: (s.root / ".xfdev/build/manifest.json").unlink(),
    "the note of what is linked": lambda s: (s.root / ".xfdev/linked.json").unlink(),
    "the stamps": lambda s: (s.root / ".xfdev/stamps").unlink(),
    "damaged stamps": lambda s: damage(s.root / ".xfdev/stamps"),
    "what editors read": lambda s: (s.root / ".xfdev/compile_commands.json").unlink(),
    "settings of the checkout": lambda s: (s.root / "xfdev.toml").write_text("jobs = 1\n"),
    "settings of the user": lambda s: Path(s.variables["XDG_CONFIG_HOME"], "xfdev/config.toml").touch(),
    "a compiler that is found first": lambda s: script(s.root.parent / "bin/c++"),
    "the environment": lambda s: edit(s.prefix / "xfdev/environment.json", " "),
    "the environment's Python": lambda s: (
        (s.prefix / "bin/python").unlink(), (s.prefix / "bin/python").symlink_to("/bin/true")
    ),
    "a torch": lambda s: ((s.site / "torch").mkdir(), (s.site / "torch/version.py").write_text("__version__ = '2'")),
    "the editable install": lambda s: next(s.site.glob("counter-*.dist-info/METADATA")).unlink(),
    "where it leads": lambda s: edit(next(s.site.glob("__editable__.counter*.pth"))),
    "another install of the project": lambda s: (s.site / "counter-2.0.dist-info").mkdir(),
    "what looks at imports": lambda s: edit(s.site / "_xfdev_import_counter.py"),
    "another environment": lambda s: s.prefix.rename(s.prefix.with_name("other")),
    "another checkout at the path": lambda s: (
        s.root.rename(s.root.with_name("old")), support.copy_tree(s.root.with_name("old"), s.root)
    ),
}  # fmt: skip


@pytest.mark.parametrize("what", CHANGES)
def test_a_change_is_noticed(scene: Scene, what: str) -> None:
    assert scene.answer() == "nothing to compile: the last build here"
    CHANGES[what](scene)
    assert scene.answer() is None


@pytest.mark.parametrize(
    ("name", "value"),
    [("CFLAGS", "-O3"), ("COUNTER_FLAGS", "-DX"), ("CXX", "g++"), ("XFDEV_ARCH", "9.0"), ("CUDA_VISIBLE_DEVICES", "0")],
)
def test_another_variable_is_noticed(scene: Scene, name: str, value: str) -> None:
    assert scene.answer() is not None
    assert scene.answer(**{name: value}) is None


def test_other_words_and_folders_are_noticed(scene: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert scene.answer("--jobs", "2") is None
    assert scene.answer("--only", "one.cpp") is None
    for word in ("--json", "--verbose", "-v"):
        assert scene.answer(word) is None, "those say more than one line"
    for word in ("--quiet", "-q"):
        assert scene.answer(word) == ""
    environ = {**os.environ, **scene.variables}
    assert settled.answer(["plan", str(scene.root)], environ, os.getcwd()) is None
    monkeypatch.chdir(tmp_path)
    assert scene.answer() is None, "variables with relative paths mean something else here"


def test_a_compiler_on_the_path_that_becomes_one(scene: Scene, tmp_path: Path) -> None:
    script(tmp_path / "bin/c++", 0o644)
    scene.settle()
    (tmp_path / "bin/c++").chmod(0o755)
    assert scene.answer() is None


def test_a_compiler_that_is_replaced(scene: Scene, tmp_path: Path) -> None:
    compiler = script(tmp_path / "bin/c++")
    time.sleep(0.05)
    scene.settle()
    edit(compiler, "# another\n")
    assert scene.answer() is None


def test_files_that_are_only_touched_are_read(scene: Scene) -> None:
    for path in (scene.root / "csrc").glob("*.cpp"):
        replaced(path)
    assert scene.answer() is not None


def test_gpus_that_come_and_go(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(settled, "gpus", lambda: "nvidia0")
    assert scene.answer() is None


def test_the_traces_of_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """Which they are is the driver's to say; that none has changed is seen by these, and by the machine's start."""
    monkeypatch.setattr(settled, "_names", lambda folder: [])
    assert settled.gpus() == ""
    there = {"/dev": ["null", "nvidia0", "nvidiactl"], "/proc/driver/nvidia/gpus": ["0000:01:00.0"]}
    monkeypatch.setattr(settled, "_names", lambda folder: there[folder])
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    assert settled.gpus().startswith("nvidia0 nvidiactl 0000:01:00.0")
    assert settled.gpus().endswith(boot)


def test_a_note_is_good_for_a_day(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    now = time.time()
    for seconds, good in ((3600, True), (90_000, False), (-3600, False)):
        monkeypatch.setattr(settled.time, "time", lambda then=now + seconds: then)
        assert (scene.answer() is not None) is good, seconds


def test_a_note_that_is_damaged_says_nothing(scene: Scene) -> None:
    note = scene.root / settled.NOTE
    whole = note.read_bytes()
    for cut in [*range(0, 400, 7), *range(400, len(whole), 97)]:
        note.write_bytes(whole[:cut])
        assert scene.answer() is None, cut
    for place in range(0, len(whole), 53):
        note.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        scene.answer()  # the hour of the day may differ: it does not fail
    note.write_bytes(os.urandom(5000))
    assert scene.answer() is None


def test_a_note_of_another_user_says_nothing(scene: Scene) -> None:
    if os.geteuid() != 0:
        support.missing("only root can give a file away")
    os.chown(scene.root / settled.NOTE, 12345, -1)
    assert scene.answer() is None


def test_a_build_that_fails_leaves_no_note(scene: Scene) -> None:
    edit(scene.root / "csrc/one.cpp", "nonsense;\n")
    assert scene.tool("build", scene.root).json["error"] == "CompileFailed"
    assert scene.answer() is None
    git(scene.root, "checkout", "-q", "csrc/one.cpp")
    assert scene.answer() is None


def test_packaging_metadata(scene: Scene) -> None:
    (scene.root / "README.md").write_text("# More\n")
    edit(scene.root / "setup.py", 'open("README.md").read()\n')
    scene.settle()
    edit(scene.root / "README.md")
    assert scene.answer() is None


def test_what_changes_during_a_build_is_not_noted(
    scene: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiler = script(tmp_path / "bin/c++")
    time.sleep(0.05)
    scene.settle()
    whole = apply.bring_up_to_date

    def meanwhile(*words: Any, **more: Any) -> Any:
        edit(compiler, "# another\n")
        return whole(*words, **more)

    with monkeypatch.context() as patch:
        patch.setattr(apply, "bring_up_to_date", meanwhile)
        scene.build()
    assert scene.answer() is None, "what was compiled is not what this compiler would make"
    time.sleep(0.05)
    assert scene.build()["compiled"], "nor is it for the next build"
    assert scene.answer() is not None


def test_linked_from_a_bundle(scene: Scene) -> None:
    bundle = scene.tool("prebuild", scene.root).ok()["bundle"]
    shutil.rmtree(scene.root / ".xfdev")
    scene.settle()
    assert scene.answer() == f"nothing to compile: bundle {bundle[:12]}"
    for name in ("xfdev.lock",):
        (scene.root / name).touch()
        assert scene.answer() is None, "a lock file may not name it"
        (scene.root / name).unlink()
    assert scene.answer() is not None
    shutil.rmtree(Path(scene.variables["XFDEV_CACHE"]) / "store" / "bundles" / bundle)
    assert scene.answer() is None


def test_linked_from_a_bundle_where_signatures_count(scene: Scene, tmp_path: Path) -> None:
    scene.tool("prebuild", scene.root).ok()
    shutil.rmtree(scene.root / ".xfdev")
    (tmp_path / "key.pub").write_text("no key")
    scene.tool.variables["XFDEV_SIGNATURES"] = scene.variables["XFDEV_SIGNATURES"] = "optional"
    scene.tool.variables["XFDEV_KEYS"] = scene.variables["XFDEV_KEYS"] = str(tmp_path / "key.pub")
    scene.tool("build", scene.root)
    assert scene.answer() is None


def test_what_a_containers_terminals_say(scene: Scene, tmp_path: Path) -> None:
    scene.tool.variables["XFDEV_STATUS"] = scene.variables["XFDEV_STATUS"] = str(tmp_path)
    scene.settle()
    status.todo(scene.variables, scene.root, ["something waits"])
    assert scene.answer() is None, "a build ends it"
    scene.build()
    assert scene.answer() is not None


# --- the process


def run(scene: Scene, *words: str, cwd: Path | None = None, **more: object) -> subprocess.CompletedProcess[str]:
    argv = [sys.executable, "-X", "importtime", "-m", "xfdev", *words]
    environ = {**os.environ, **scene.variables}
    given = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, **more}
    return subprocess.run(argv, cwd=cwd, env=environ, check=False, **given)  # type: ignore[call-overload,no-any-return]


def imported(done: subprocess.CompletedProcess[str]) -> set[str]:
    return {line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if line.startswith("import time:")}


def test_the_whole_process(scene: Scene) -> None:
    for folder in (scene.root, scene.root / "csrc"):
        for _ in range(2):
            done = run(scene, "build", cwd=folder)
            assert done.returncode == 0
            assert done.stdout.startswith("nothing to compile: the last build here, ")
        assert not imported(done) & {"argparse", "json", "xfdev.cli", "xfdev.options"}, "it went the whole way"
        assert run(scene, "build", "--quiet", cwd=folder).stdout == ""
    whole = run(scene, "build", "--json", cwd=scene.root)
    assert json.loads(whole.stdout)["verdict"] == "reuse"
    assert "xfdev.cli" in imported(whole)


def test_a_reader_that_has_gone(scene: Scene) -> None:
    run(scene, "build", cwd=scene.root)
    near, far = os.pipe()
    os.close(near)
    done = run(scene, "build", cwd=scene.root, stdout=far)
    os.close(far)
    assert done.returncode == 0
    assert "Traceback" not in done.stderr
    assert "xfdev.cli" not in imported(done)


def test_a_folder_that_has_gone(scene: Scene, tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    code = "import os, sys; os.rmdir(os.getcwd()); from xfdev.start import main; sys.exit(main())"
    argv = [sys.executable, "-c", code, "build"]
    done = subprocess.run(argv, cwd=gone, env={**os.environ, **scene.variables}, capture_output=True, text=True)
    assert done.returncode not in (0, 70), done.stderr
    assert "Traceback" not in done.stderr
