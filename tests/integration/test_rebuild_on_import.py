"""Importing a linked project after an edit: it is built first, or said to be stale; by many processes at once, too.

``XFDEV_KILLS=200`` kills more often; ``XFDEV_SEED`` repeats the moments of a failed run.
"""

from __future__ import annotations

import json
import os
import random
import subprocess
import time
from dataclasses import replace
from pathlib import Path

import pytest

from faultkit import BEHAVIOUR, Scene, compiler, copy_of, edit, kill_group, processes_with

#: Read before the tests' protection takes the variables away.
KILLS = int(os.environ.get("XFDEV_KILLS", "5"))
SEED = int(os.environ.get("XFDEV_SEED", "0")) or random.SystemRandom().randrange(1, 10**6)
CODE = "import counter, json; print(json.dumps(counter.behaviour()))"


@pytest.fixture
def scene(tmp_path: Path, plain_prefix: Path) -> Scene:
    """With an environment of its own: what is linked last has it."""
    plain = Scene(tmp_path, plain_prefix)
    return replace(plain, prefix=copy_of(plain_prefix, tmp_path / "own" / ".venv"))


def linked(scene: Scene, *words: str) -> Path:
    root = scene.checkout()
    scene.good("link", root, "--venv", scene.prefix, "--build", *words)
    return root


def start(scene: Scene, code: str = CODE, **variables: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [str(scene.prefix / "bin" / "python"), "-c", code],
        cwd=scene.folder,
        env={**scene.environ, **variables},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def imported(scene: Scene, code: str = CODE, **variables: str) -> tuple[int, str, str]:
    process = start(scene, code, **variables)
    out, err = process.communicate(timeout=120)
    return process.returncode, out, err


def behaves(scene: Scene, **variables: str) -> tuple[dict[str, int], str]:
    """What the project does, and what was said on stderr."""
    code, out, err = imported(scene, **variables)
    assert code == 0, err
    found: dict[str, int] = json.loads(out)
    return found, err


def shared(root: Path, value: int) -> dict[str, int]:
    (root / "include" / "shared.h").write_text(f"#pragma once\n#define SHARED {value}\n")
    return {**BEHAVIOUR, "_first.one": value + 3, "_second.second": value * 100 + 5}


# --- without it: a warning


def test_stale_libraries_are_named_once(scene: Scene) -> None:
    root = linked(scene)
    assert behaves(scene) == (BEHAVIOUR, "")
    shared(root, 2)
    twice = f"import counter; del __import__('sys').modules['counter']; {CODE}"
    code, out, err = imported(scene, twice)
    assert (code, json.loads(out)) == (0, BEHAVIOUR), "nothing was built"
    assert err.count("include/shared.h changed") == 1
    assert "<string>:1: UserWarning" in err, "it points at the import"
    assert behaves(scene, XFDEV_IMPORT="off") == (BEHAVIOUR, "")
    scene.build(root)
    assert behaves(scene)[1] == ""


def test_what_is_said_and_what_is_not(scene: Scene) -> None:
    root = linked(scene)
    for path in root.rglob("*.cpp"):
        os.utime(path)  # as after a change of branches, there and back
    (root / "csrc" / "notes.txt").write_text("")
    assert behaves(scene)[1] == "", "nothing of this is compiled"
    (root / "csrc" / "notes.txt").unlink()
    (root / "csrc" / "four.cpp").write_text('extern "C" int four() { return 4; }\n')
    assert "csrc/four.cpp is new" in behaves(scene)[1]
    (root / "csrc" / "four.cpp").rename(root / "csrc" / ".four.cpp.swp")
    assert behaves(scene)[1] == ""
    library = next((root / "counter").glob("_second*.so"))
    library.write_bytes(library.read_bytes())
    assert "was replaced by another build" in behaves(scene)[1]


def test_a_checkout_that_is_first_on_the_path_is_another_one(scene: Scene) -> None:
    root = linked(scene, "--rebuild-on-import")
    shared(root, 2)
    other = scene.folder / "other" / "counter"
    other.mkdir(parents=True)
    (other / "__init__.py").write_text("def behaviour():\n    return {}\n")
    assert behaves(scene, PYTHONPATH=str(other.parent)) == ({}, "")


# --- with it


def test_an_edit_is_built_before_the_import(scene: Scene) -> None:
    root = linked(scene, "--rebuild-on-import")
    assert behaves(scene) == (BEHAVIOUR, "")
    expected = shared(root, 2)
    found, said = behaves(scene)
    assert found == expected
    assert "building, because include/shared.h changed" in said
    assert behaves(scene) == (expected, "")
    expected = shared(root, 3)
    assert behaves(scene, XFDEV_IMPORT_OUTPUT="quiet") == (expected, "")
    (root / "csrc" / "four.cpp").write_text('extern "C" int four() { return 4; }\n')
    assert "csrc/four.cpp is new" in behaves(scene)[1]
    assert behaves(scene)[1] == ""


def test_an_edit_that_does_not_compile(scene: Scene) -> None:
    root = linked(scene, "--rebuild-on-import")
    edit(root / "csrc" / "one.cpp", "return", "return nothing +")
    code = f"try:\n    import counter\nexcept ImportError:\n    pass\n{CODE}"
    status, out, err = imported(scene, code)
    assert (status, out) == (1, ""), "a second try imported what is stale"
    assert "ImportError" in err
    assert "csrc/one.cpp does not compile" in err
    assert "‘nothing’ was not declared" in err or "'nothing' was not declared" in err
    assert "XFDEV_IMPORT=off" in err
    assert err.count("building, because") == 1, "the second try built again, although nothing changed"
    assert behaves(scene, XFDEV_IMPORT="off")[0] == BEHAVIOUR
    edit(root / "csrc" / "one.cpp", "return nothing +", "return 10 *")
    assert behaves(scene)[0] != BEHAVIOUR


def test_it_stays_until_it_is_taken_back(scene: Scene) -> None:
    root = linked(scene, "--rebuild-on-import")
    expected = shared(root, 2)
    scene.build(root)
    scene.good("link", root, "--venv", scene.prefix)
    expected = shared(root, 3)
    assert behaves(scene)[0] == expected
    assert scene.good("link", root, "--venv", scene.prefix, "--no-rebuild-on-import")["on_import"] == "warn"
    shared(root, 4)
    found, said = behaves(scene)
    assert found == expected
    assert "UserWarning" in said
    assert behaves(scene, XFDEV_IMPORT="off")[1] == ""


def test_unlink_takes_it_away(scene: Scene) -> None:
    root = linked(scene, "--rebuild-on-import")
    site = next(scene.prefix.glob("lib/python*/site-packages"))
    behaves(scene)  # leaves bytecode
    assert list(site.glob("_xfdev_import*"))
    scene.good("unlink", root, "--venv", scene.prefix)
    assert [path.name for path in site.rglob("*") if "xfdev_import" in path.name or "counter" in path.name] == []
    assert not (root / ".xfdev").exists()


def counting(scene: Scene, body: str = "") -> tuple[dict[str, str], Path]:
    """Variables with a compiler that notes each unit it compiles, and the file in which it does."""
    log = scene.folder / "compiled"
    log.touch()
    note = f'for word; do case "$word" in *.cpp) basename "$word" >> {log};; esac; done'
    path = compiler(scene.folder, f'case " $* " in *" -c "*) {note}; {body} ;; esac\nexec c++ "$@"')
    return {"CXX": path, "CC": path}, log


def test_four_processes_after_an_edit_build_once(scene: Scene) -> None:
    variables, log = counting(scene, "sleep 1")
    own = replace(scene, environ={**scene.environ, **variables})
    root = linked(own, "--rebuild-on-import")
    for value in (2, 3):
        log.write_text("")
        expected = shared(root, value)
        ended = [process.communicate(timeout=120) for process in [start(own) for _ in range(4)]]
        assert [json.loads(out) for out, _ in ended] == [expected] * 4, ended
        assert sorted(log.read_text().split()) == ["one.cpp", "second.cpp"], "it was built more than once"
        assert sum("building, because" in err for _, err in ended) == 1


def test_four_processes_after_an_edit_that_does_not_compile_fail_once(scene: Scene) -> None:
    variables, log = counting(scene, "sleep 3")
    own = replace(scene, environ={**scene.environ, **variables})
    root = linked(own, "--rebuild-on-import")
    log.write_text("")
    edit(root / "csrc" / "one.cpp", "return", "return nothing +")
    processes = [start(own) for _ in range(4)]
    ended = [process.communicate(timeout=120) for process in processes]
    assert [process.returncode for process in processes] == [1] * 4
    assert all("one.cpp does not compile" in err for _, err in ended)
    assert log.read_text().split() == ["one.cpp"], "a storm of builds"


def test_killed_at_any_moment_while_it_builds(scene: Scene) -> None:
    chance = random.Random(SEED)
    root = linked(scene, "--rebuild-on-import")
    shared(root, 2)
    started = time.monotonic()
    behaves(scene)
    usual = time.monotonic() - started
    struck, number = 0, 2
    while struck < KILLS:
        number += 1
        # Every other time a state that is in the cache: what is in doubt then is not the compile, but the rest.
        expected = shared(root, number if number % 2 else 2)
        process = start(scene)
        moment = chance.uniform(0, usual)
        try:
            process.wait(moment)
            usual = max(usual * 0.9, 0.2)
        except subprocess.TimeoutExpired:
            struck += 1
        if chance.random() < 0.5:
            process.kill()  # what it started goes on
        else:
            kill_group(process)
        where = f"seed {SEED}, state {number}, killed after {moment:.3f} of {usual:.3f} s"
        assert behaves(scene)[0] == expected, where
        process.communicate()
    assert processes_with(str(root / ".xfdev")) == []
