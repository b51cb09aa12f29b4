"""A build that is killed, stopped or fails loses no unit that it has finished, with a compiler that nothing is cached
for; and what it leaves is never linked as it lies there."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Any

import pytest

from faultkit import BEHAVIOUR, Scene, compiler, edit, kill_group, tree, wait_for
from xfdev import errors
from xfdev.bundle import Manifest, Output, Step
from xfdev.files import sha256
from xfdev.workspace import LIB, UNFINISHED, forget_build, unfinished_build

UNITS = {"csrc/one.cpp", "csrc/two.cpp", "csrc/three.cpp", "csrc/inner/second.cpp"}


class Wrapped:
    """A machine whose compiler is a script: two.cpp takes forever and no library links, each while there is a mark."""

    def __init__(self, folder: Path, prefix: Path) -> None:
        self.scene = Scene(folder, prefix)
        self.root = self.scene.checkout()
        self.marks = folder / "marks"
        self.marks.mkdir()
        script = compiler(
            folder,
            f'case "$*" in *" -c "*two.cpp*) [ -e {self.marks}/slow ] && touch {self.marks}/waiting && sleep 60;;\n'
            f'*" -shared "*) [ -e {self.marks}/no-link ] && exit 1;; esac\n'
            'exec c++ "$@"',
        )
        self.scene.environ |= {"CC": script, "CXX": script}

    def mark(self, name: str) -> Path:
        (self.marks / name).touch()
        return self.marks / name

    def plan(self, **variables: str) -> dict[str, Any]:
        return self.scene.good("plan", self.root, "--venv", self.scene.prefix, **variables)

    def build(self, **variables: str) -> dict[str, set[str]]:
        said = self.scene.build(self.root, **variables)
        return {name: set(said[name]) for name in ("compiled", "restored", "kept")}

    def fails(self) -> str:
        ended = self.scene.xfdev("build", self.root, "--venv", self.scene.prefix)
        assert ended.status == errors.CompileFailed.exit_code, ended.stderr
        return ended.stderr

    def break_it(self, unit: str) -> str:
        """Edit a unit so that it does not compile; returns what it was."""
        before = (self.root / unit).read_text()
        (self.root / unit).write_text(before + "\nno c++ at all\n")
        return before

    def tries(self, unit: str) -> None:
        """Edit a unit so that it does not compile, see that, and take it back."""
        before = self.break_it(unit)
        self.fails()
        (self.root / unit).write_text(before)


@pytest.fixture
def wrapped(tmp_path: Path, plain_prefix: Path) -> Wrapped:
    return Wrapped(tmp_path, plain_prefix)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_a_first_compile_goes_on_where_it_was_ended(wrapped: Wrapped, number: signal.Signals) -> None:
    scene, root = wrapped.scene, wrapped.root
    slow = wrapped.mark("slow")
    process = scene.start("build", root, "--venv", scene.prefix, "--jobs", "2")
    wait_for((wrapped.marks / "waiting").exists)
    wait_for(lambda: (found := unfinished_build(root)) is not None and found[1] == {"csrc/two.cpp"})
    kill_group(process, number)
    process.communicate()
    slow.unlink()
    planned = wrapped.plan()
    assert (planned["verdict"], planned["from"]) == ("partial", "the unfinished build here")
    assert planned["affected"] == {"csrc/two.cpp": ["not compiled yet"]}
    refused = scene.xfdev("link", root, "--venv", scene.prefix)
    assert refused.status == errors.NothingFits.exit_code
    assert wrapped.build() == {"compiled": {"csrc/two.cpp"}, "restored": set(), "kept": UNITS - {"csrc/two.cpp"}}
    assert scene.behaviour(root) == BEHAVIOUR
    assert not (root / UNFINISHED).exists()
    # It was a full compile, if in two parts: every checkout of this machine has it.
    other = scene.checkout("other")
    assert scene.good("link", other, "--venv", scene.prefix)["from"].startswith("bundle ")
    assert scene.behaviour(other) == BEHAVIOUR


def test_an_edit_that_does_not_compile_costs_the_others_nothing(wrapped: Wrapped) -> None:
    wrapped.build()
    bundles = wrapped.scene.bundles()
    before = wrapped.break_it("csrc/one.cpp")
    assert "csrc/one.cpp does not compile" in wrapped.fails()
    assert "csrc/one.cpp does not compile" in wrapped.fails()
    planned = wrapped.plan()
    assert planned["affected"] == {"csrc/one.cpp": ["csrc/one.cpp changed"]}
    (wrapped.root / "csrc/one.cpp").write_text(before.replace("SHARED", "1 + SHARED"))
    assert wrapped.build() == {"compiled": {"csrc/one.cpp"}, "restored": set(), "kept": UNITS - {"csrc/one.cpp"}}
    assert wrapped.scene.behaviour(wrapped.root) == {**BEHAVIOUR, "_first.one": 5}
    assert wrapped.scene.bundles() == bundles, "an edit is no bundle"


def test_an_edit_that_is_taken_back_is_linked_from_the_bundle(wrapped: Wrapped) -> None:
    wrapped.build()
    wrapped.tries("csrc/one.cpp")
    assert wrapped.plan()["verdict"] == "reuse"
    wrapped.scene.good("bundle", "prune", "--all")
    planned = wrapped.plan()  # the object was removed before its compile began
    assert (planned["verdict"], planned["affected"]) == ("partial", {"csrc/one.cpp": ["not compiled yet"]})
    assert wrapped.build()["compiled"] == {"csrc/one.cpp"}
    assert wrapped.scene.behaviour(wrapped.root) == BEHAVIOUR


def test_all_compiled_and_not_linked(wrapped: Wrapped) -> None:
    """Nothing differs from what the objects were made of, and there is no library for it."""
    no_link = wrapped.mark("no-link")
    assert "does not link" in wrapped.fails()
    no_link.unlink()
    planned = wrapped.plan()
    assert (planned["verdict"], planned["affected"]) == ("partial", {})
    assert wrapped.build() == {"compiled": set(), "restored": set(), "kept": UNITS}
    assert wrapped.scene.behaviour(wrapped.root) == BEHAVIOUR


def test_what_changed_meanwhile_is_compiled(wrapped: Wrapped) -> None:
    wrapped.build()
    wrapped.tries("csrc/three.cpp")
    edit(wrapped.root / "include/shared.h", "SHARED 1", "SHARED 2")
    assert wrapped.build()["compiled"] == {"csrc/one.cpp", "csrc/inner/second.cpp", "csrc/three.cpp"}
    assert wrapped.scene.behaviour(wrapped.root) == {**BEHAVIOUR, "_first.one": 5, "_second.second": 205}


def test_objects_that_are_not_what_they_were_are_compiled(wrapped: Wrapped) -> None:
    wrapped.build()
    wrapped.tries("csrc/three.cpp")
    edit(wrapped.root / "csrc/one.cpp", "SHARED", "1 + SHARED")
    objects = [wrapped.root / ".xfdev/build" / name for name in tree(wrapped.root / ".xfdev/build") if "two.o" in name]
    assert objects, "nothing is damaged"
    for path in objects:
        path.write_bytes(path.read_bytes()[:-1])
    assert wrapped.build()["compiled"] == {"csrc/one.cpp", "csrc/two.cpp", "csrc/three.cpp"}
    assert wrapped.scene.behaviour(wrapped.root) == {**BEHAVIOUR, "_first.one": 5}


def test_another_compiler_or_other_flags_take_nothing_of_it(wrapped: Wrapped) -> None:
    wrapped.build()
    wrapped.scene.good("bundle", "prune", "--all")
    wrapped.tries("csrc/one.cpp")
    flags = {"CXXFLAGS": "-O2"}
    assert wrapped.plan(**flags)["refused"] == [
        {"label": "the unfinished build here", "reasons": ["variable CXXFLAGS is -O2, bundle has it unset"]}
    ]
    script = Path(wrapped.scene.environ["CXX"])
    script.write_text(script.read_text().replace("exec c++", "exec c++ -DOTHER"))
    planned = wrapped.plan()
    assert planned["verdict"] == "full"
    assert "host compiler" in planned["refused"][0]["reasons"][0]
    assert wrapped.build()["compiled"] == UNITS
    assert wrapped.scene.behaviour(wrapped.root) == BEHAVIOUR


def test_what_the_build_script_wrote_has_to_be_what_it_was(tmp_path: Path) -> None:
    made, library = tmp_path / LIB / "p/made.py", tmp_path / LIB / "p/_c.so"
    made.parent.mkdir(parents=True)
    made.write_text("a = 1")
    library.write_bytes(b"whatever: it is linked anew")
    outputs = {
        "p/made.py": Output("p/made.py", sha256(made), 5, 0o644),
        "p/_c.so": Output("p/_c.so", "0" * 64, 1, 0o755),
    }
    steps = (Step(("c++", "-o", "lib/p/_c.so"), "lib/p/_c.so"),)
    manifest = Manifest("p", "1", "build", outputs=outputs, steps=steps)
    (tmp_path / UNFINISHED).write_bytes(manifest.to_bytes())
    assert unfinished_build(tmp_path) == (manifest, frozenset())
    made.write_text("a = 2")
    assert unfinished_build(tmp_path) is None
    made.write_text("a = 1")
    forget_build(tmp_path)
    assert unfinished_build(tmp_path) is None
