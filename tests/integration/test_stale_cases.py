"""The ways to a stale binary that random edits seldom take, each played out on its own.

A scenario changes the checkout and yields; after each change xfdev's word and work is held against a clean build
(``World.check``). Every scenario must change what a clean build gives, or it would prove nothing.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import differ
import support
from differ import World

Scenario = Callable[[World], Iterator[None]]
SCENARIOS: dict[str, Scenario] = {}


def scenario(function: Scenario) -> Scenario:
    SCENARIOS[function.__name__] = function
    return function


@pytest.mark.parametrize("name", SCENARIOS)
def test_scenario(lab: differ.Lab, name: str) -> None:
    world = lab.world()
    world.check("build")
    results = [lab.truths.of(world.root, world.variables).results]
    for _ in SCENARIOS[name](world):
        world.check("build")
        results.append(lab.truths.of(world.root, world.variables).results)
    assert len({str(result) for result in results}) > 1, "no change of behaviour: this scenario proves nothing"


def write(w: World, name: str, text: str) -> Path:
    path = w.root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def in_setup(w: World, before: str, after: str) -> None:
    path = w.root / "setup.py"
    text = path.read_text()
    assert before in text
    path.write_text(text.replace(before, after, 1))


# Headers that take the place of others.


@scenario
def a_header_in_a_folder_searched_earlier(w: World) -> Iterator[None]:
    path = write(w, "include/deep.h", "#define DEEP 50\n")
    yield
    path.unlink()
    yield
    write(w, "csrc/inner/tally.h", "#define TALLY 51\n")
    yield
    write(w, "include/tally.h", "#define TALLY 52\n")
    yield
    write(w, "include/sub/part.h", "#define PART 53\n")
    yield


@scenario
def a_header_beside_the_file_that_includes_it(w: World) -> Iterator[None]:
    path = write(w, "csrc/shared.h", "#define SHARED 50\n")
    yield
    path.unlink()
    yield
    write(w, "csrc/inner/shared.h", "#define SHARED 51\n")
    yield
    write(w, "csrc/sub/part.h", "#define PART 52\n")
    yield


@scenario
def a_header_named_like_one_of_the_system(w: World) -> Iterator[None]:
    path = write(w, "vendor/tally/include/stdint.h", "#include_next <stdint.h>\n#define EXTRA 5\n")
    yield
    path.unlink()
    yield


@scenario
def a_header_of_the_system_with_a_long_name(w: World) -> Iterator[None]:
    write(w, "csrc/three.cpp", "#include <experimental/bits/../../cstdlib>\n" + (w.root / "csrc/three.cpp").read_text())
    yield
    write(w, "include/bits/std_abs.h", "#include_next <bits/std_abs.h>\n#define EXTRA 6\n")
    yield


@scenario
def a_header_that_is_asked_for_and_read(w: World) -> Iterator[None]:
    for spot in ("csrc/optional.h", "include/optional.h", "vendor/tally/include/optional.h"):
        path = write(w, spot, "#define OPTIONAL 5\n")
        yield
        path.unlink()
        yield


@scenario
def a_header_that_is_asked_for_and_never_read(w: World) -> Iterator[None]:
    for _ in range(2):  # the second time all objects are in the compiler cache
        path = write(w, "csrc/inner/marker.h", "")
        yield
        path.unlink()
        yield


@scenario
def a_name_asked_for_that_a_macro_makes(w: World) -> Iterator[None]:
    text = (w.root / "csrc/two.cpp").read_text()
    write(
        w,
        "csrc/two.cpp",
        '#define WHICH "optional.h"\n' + text.replace('__has_include("optional.h")', "__has_include(WHICH)"),
    )
    yield
    write(w, "include/optional.h", "#define OPTIONAL 5\n")
    yield


@scenario
def a_parent_folder_in_the_name(w: World) -> Iterator[None]:
    (w.root / "csrc/common.h").unlink()
    write(w, "common.h", "#define COMMON 8\n")  # include/../common.h
    yield
    write(w, "csrc/common.h", "#define COMMON 9\n")  # beside wins
    yield


@scenario
def a_parent_folder_in_a_name_that_a_macro_makes(w: World) -> Iterator[None]:
    path = w.root / "csrc/inner/second.cpp"
    path.write_text(path.read_text().replace('#include "../common.h"', '#define WHERE "../common.h"\n#include WHERE'))
    (w.root / "csrc/common.h").unlink()
    write(w, "common.h", "#define COMMON 8\n")
    yield
    write(w, "csrc/common.h", "#define COMMON 9\n")
    yield


@scenario
def a_neighbour_that_another_version_of_a_header_takes(w: World) -> Iterator[None]:
    """The object of the first step is in the compiler cache, and everything it was made from is there again at the
    last; but a file that lay beside it harmlessly meanwhile is now taken."""
    deep = w.root / "csrc/inner/deep.h"
    write(w, "csrc/one.cpp", '#include "shared.h"\n#include "deep.h"\nextern "C" int one() { return SHARED + DEEP; }\n')
    deep.write_text('#include "shared.h"\n#define DEEP 5\n')
    yield
    deep.write_text("#define DEEP 5\n")
    write(w, "csrc/inner/shared.h", "#undef SHARED\n#define SHARED 70\n")
    yield
    deep.write_text('#include "shared.h"\n#define DEEP 5\n')
    yield


@scenario
def a_folder_that_a_variable_names(w: World) -> Iterator[None]:
    w.variables["CPATH"] = f"{w.root}/extra"
    yield
    path = write(w, "extra/optional.h", "#define OPTIONAL 5\n")
    yield
    path.unlink()
    yield
    write(w, "extra/stdint.h", "#include_next <stdint.h>\n#define EXTRA 5\n")
    yield


@scenario
def a_relative_and_an_empty_entry_of_a_variable(w: World) -> Iterator[None]:
    w.variables["CPATH"] = "extra"
    write(w, "extra/optional.h", "#define OPTIONAL 5\n")
    yield
    w.variables["CPATH"] = ":/nonexistent"  # empty: the folder the compiler runs in
    write(w, "optional.h", "#define OPTIONAL 6\n")
    yield
    write(w, "optional.h", "#define OPTIONAL 7\n")
    yield


@scenario
def a_header_behind_a_link_to_a_folder(w: World) -> Iterator[None]:
    (w.root / "csrc/inner").rename(w.root / "inside")
    (w.root / "csrc/inner").symlink_to("../inside")
    yield
    write(w, "inside/tally.h", "#define TALLY 30\n")
    yield
    (w.root / "elsewhere").mkdir()
    (w.root / "include/sub").symlink_to("../elsewhere")
    yield
    write(w, "elsewhere/part.h", "#define PART 31\n")
    yield


@scenario
def a_link_whose_target_comes_and_goes(w: World) -> Iterator[None]:
    (w.root / "include/optional.h").symlink_to("../elsewhere/optional.h")
    (w.root / "csrc/four.cpp").symlink_to("../elsewhere/four.cc")
    (w.root / "csrc/four.cpp").unlink()
    yield
    path = write(w, "elsewhere/optional.h", "#define OPTIONAL 5\n")
    yield
    path.unlink()
    yield


@scenario
def links_that_lead_to_each_other(w: World) -> Iterator[None]:
    (w.root / "include/a").mkdir()
    (w.root / "include/a/b").symlink_to("..")
    (w.root / "include/self").symlink_to(".")
    write(w, "include/tally.h", "#define TALLY 5\n")
    yield


# What the build script depends on.


@scenario
def two_libraries_with_a_source_in_common(w: World) -> Iterator[None]:
    third = 'Extension("counter._third", ["csrc/inner/second.cpp"], include_dirs=include, extra_compile_args=%s),\n'
    in_setup(w, "    ext_modules=[\n", "    ext_modules=[\n        " + third % '[*flags, "-Dsecond=four", "-w"]')
    yield
    write(w, "csrc/common.h", "#define COMMON 7\n")
    yield
    in_setup(w, '"-Dsecond=four"', '"-Dsecond=three"')
    yield


@scenario
def a_library_in_the_checkout(w: World) -> Iterator[None]:
    source = write(w, "prebuilt/value.c", "int value(void) { return 3; }\n")

    def make(value: int, how: str) -> None:
        source.write_text(f"int value(void) {{ return {value}; }}\n")
        subprocess.run(["cc", "-fPIC", "-c", source, "-o", source.with_suffix(".o")], check=True)
        if how == "archive":
            archive = source.with_name("libvalue.a")
            subprocess.run(["ar", "rcs", archive, source.with_suffix(".o")], check=True)

    make(3, "object")
    in_setup(
        w,
        "extra_compile_args=flags),\n        Ext",
        'extra_compile_args=flags,\n            extra_objects=["prebuilt/value.o"]),\n        Ext',
    )
    write(w, "csrc/one.cpp", 'extern "C" int value(void);\nextern "C" int one() { return value(); }\n')
    yield
    make(4, "object")
    yield
    in_setup(w, 'extra_objects=["prebuilt/value.o"]', 'library_dirs=["prebuilt"], libraries=["value"]')
    make(5, "archive")
    yield
    make(6, "archive")
    yield


@scenario
def a_file_whose_existence_the_script_asks_for(w: World) -> Iterator[None]:
    in_setup(w, "include = [", 'if os.path.exists("csrc/fast.txt"):\n    flags.append("-DEXTRA=7")\ninclude = [')
    yield
    path = write(w, "csrc/fast.txt", "")
    yield
    path.unlink()
    yield
    text = (w.root / "setup.py").read_text()
    asks = 'from pathlib import Path\nif Path("csrc", "fast.txt").is_file():'
    write(w, "setup.py", text.replace('if os.path.exists("csrc/fast.txt"):', asks))
    yield
    write(w, "csrc/fast.txt", "")
    yield


@scenario
def a_module_of_the_script_with_bytecode(w: World) -> Iterator[None]:
    path = write(w, "helper.py", 'FLAG = "-DEXTRA=3"\n')
    in_setup(w, "include = [", "import helper\nflags.append(helper.FLAG)\ninclude = [")
    subprocess.run([sys.executable, "-c", "import helper"], cwd=w.root, check=True)
    subprocess.run([w.truths.interpreter, "-c", "import helper"], cwd=w.root, check=True)
    yield
    stat = path.stat()
    path.write_text('FLAG = "-DEXTRA=4"\n')
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    yield


@scenario
def a_file_loaded_as_a_module_with_bytecode(w: World) -> Iterator[None]:
    path = write(w, "tools/helper.py", 'FLAG = "-DEXTRA=3"\n')
    loads = (
        "import importlib.util\nspec = importlib.util.spec_from_file_location('helper', 'tools/helper.py')\n"
        "helper = importlib.util.module_from_spec(spec)\nspec.loader.exec_module(helper)\n"
    )
    in_setup(w, "include = [", f"{loads}flags.append(helper.FLAG)\ninclude = [")
    subprocess.run([w.truths.interpreter, "-c", loads], cwd=w.root, check=True)
    assert list(w.root.glob("tools/__pycache__/helper.*"))
    yield
    stat = path.stat()
    path.write_text('FLAG = "-DEXTRA=4"\n')
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    yield


@scenario
def a_generated_header_that_is_edited_deleted_or_tracked(w: World) -> Iterator[None]:
    path = write(w, "csrc/generated.h", "#define GENERATED 99\n")
    yield
    path.unlink()
    write(w, "include/shared.h", "#define SHARED 8\n")
    yield
    support.git(w.root, "add", "-f", "csrc/generated.h")
    support.git(w.root, "commit", "-q", "-m", "tracked")
    write(w, "csrc/constants.in", "GENERATED 5\n")
    yield
    support.git(w.root, "checkout", "--", "csrc/generated.h")
    yield
    support.git(w.root, "checkout", "--", ".")
    yield


@scenario
def a_file_that_the_assembler_reads(w: World) -> Iterator[None]:
    data = write(w, "csrc/table.bin", "A")
    text = (
        f'asm(".section .rodata\\ntable: .incbin \\"{w.root}/csrc/table.bin\\"\\n.previous");\n'
        'extern "C" const char table[] __asm__("table");\nextern "C" int one() { return table[0]; }\n'
    )
    write(w, "csrc/one.cpp", text)
    yield
    data.write_text("B")
    yield


@scenario
def sources_that_come_and_go(w: World) -> Iterator[None]:
    path = write(w, "csrc/four.cpp", 'extern "C" int four() { return 4; }\n')
    yield
    path.rename(w.root / "csrc/vier.cpp")
    (w.root / "csrc/three.cpp").unlink()
    yield
    (w.root / "csrc/vier.cpp").unlink()
    yield


@scenario
def a_build_script_that_changes(w: World) -> Iterator[None]:
    in_setup(w, "include = [", 'flags.append("-DEXTRA=3")\ninclude = [')
    yield
    in_setup(w, '"include", "csrc/inner"', '"csrc/inner", "include"')
    write(w, "csrc/inner/tally.h", "#define TALLY 3\n")
    yield
    write(w, "csrc/constants.in", "GENERATED 4\n")
    yield


@scenario
def libraries_and_objects_that_others_wrote(w: World) -> Iterator[None]:
    write(w, "csrc/constants.in", "GENERATED 4\n")
    yield
    first = next((w.root / "counter").glob("_first.*.so"))
    second = next((w.root / "counter").glob("_second.*.so"))
    first.write_bytes(second.read_bytes())
    yield
    second.unlink()
    kept = next((w.root / ".xfdev/build/lib").rglob("_first.*.so"))
    kept.write_bytes(kept.read_bytes()[:1000])
    yield
    objects = w.root / ".xfdev/build/temp/csrc"
    if (objects / "three.o").exists():
        (objects / "one.o").write_bytes((objects / "three.o").read_bytes())
    write(w, "vendor/tally/include/tally.h", "#define TALLY 4\n")
    yield


# What git says, and does not say.


@scenario
def files_that_git_was_told_not_to_look_at(w: World) -> Iterator[None]:
    for flag in ("assume-unchanged", "skip-worktree"):
        support.git(w.root, "update-index", f"--{flag}", "include/shared.h")
        write(w, "include/shared.h", f"#define SHARED {len(flag)}\n")
        yield
        support.git(w.root, "update-index", f"--no-{flag}", "include/shared.h")
    support.git(w.root / "vendor/tally", "update-index", "--assume-unchanged", "include/tally.h")
    write(w, "vendor/tally/include/tally.h", "#define TALLY 33\n")
    yield


@scenario
def an_edit_within_the_second_of_git_add(w: World) -> Iterator[None]:
    """git compares whole seconds: the same size, the same mtime and the same second of change are unmodified."""
    path = w.root / "include/shared.h"
    os.utime(path, (1_000_000_000, 1_000_000_000))
    time.sleep(1.02 - time.time() % 1)
    path.chmod(0o644)
    os.utime(path, (1_000_000_000, 1_000_000_000))
    support.git(w.root, "add", "-A")
    path.write_text(path.read_text().replace("SHARED 1", "SHARED 2"))
    os.utime(path, (1_000_000_000, 1_000_000_000))
    assert support.git(w.root, "diff-files", "--name-only") == ""  # so it is
    yield


@scenario
def what_lies_in_a_submodule(w: World) -> Iterator[None]:
    path = write(w, "vendor/tally/include/optional.h", "#define OPTIONAL 5\n")  # untracked
    yield
    path.unlink()
    (w.root / ".git/modules/vendor/tally/info/exclude").write_text("*.h\n")
    yield
    write(w, "vendor/tally/include/optional.h", "#define OPTIONAL 6\n")  # ignored
    yield
    support.git(w.root / "vendor/tally", "checkout", "-q", "-f", "v3")
    yield


@scenario
def a_submodule_that_is_not_checked_out(w: World) -> Iterator[None]:
    support.git(w.root, "submodule", "--quiet", "deinit", "-f", "vendor/tally")
    yield  # the recorded commit stands for it
    write(w, "vendor/tally/include/tally.h", "#define TALLY 44\n")
    yield  # somebody put files there


@scenario
def a_submodule_that_is_not_checked_out_when_its_unit_changed(w: World) -> Iterator[None]:
    support.git(w.root, "submodule", "--quiet", "deinit", "-f", "vendor/tally")
    path = w.root / "csrc/two.cpp"
    path.write_text(path.read_text().replace("* 10", "* 11"))
    yield


@scenario
def contents_that_git_stores_otherwise(w: World) -> Iterator[None]:
    """A filter that is set up outside of what git tracks: the index tells the stored form, not what is on disk."""
    write(w, ".git/info/exclude", ".gitattributes\n")
    write(w, ".gitattributes", "*.h filter=twice\n")
    support.git(w.root, "config", "filter.twice.clean", "sed s/SHARED.*/SHARED/")
    support.git(w.root, "add", "--renormalize", ".")
    support.git(w.root, "commit", "-q", "-m", "filtered")
    yield
    write(w, "include/shared.h", "#pragma once\n#define SHARED 6\n")
    support.git(w.root, "add", "-A")
    yield
    write(w, "include/shared.h", "#pragma once\n#define SHARED 7\n")
    support.git(w.root, "add", "-A")
    yield


# Edits while a build runs.


def compiler_that(w: World, when: str, does: str) -> None:
    """A compiler that does something in the checkout after it compiled the source *when*."""
    wrapper = w.root.parent / "slow-c++"
    wrapper.write_text(f'#!/bin/sh\nc++ "$@" || exit $?\ncase "$*" in *" -c "*{when}*) cd {w.root}; {does};; esac\n')
    wrapper.chmod(0o755)
    w.variables["CXX"] = str(wrapper)


def built_then_checked(w: World) -> None:
    """Build while the compiler edits, then say whether what is planned is still right; the edits are over."""
    w.run("build")
    w.note_objects(None)
    (w.root.parent / "slow-c++").write_text('#!/bin/sh\nexec c++ "$@"\n')
    w.check("build")


def test_a_header_that_comes_while_it_is_compiled(lab: differ.Lab) -> None:
    w = lab.world()
    compiler_that(w, "two.cpp", "echo '#define TALLY 9' > include/tally.h")
    built_then_checked(w)
    assert lab.truths.of(w.root, w.variables).results["_first.two"] == 90


def test_a_header_that_is_moved_there_while_it_is_compiled(lab: differ.Lab) -> None:
    w = lab.world()
    write(w, "stock/tally.h", "#define TALLY 9\n")
    compiler_that(w, "two.cpp", "mv stock/tally.h include/tally.h")
    built_then_checked(w)
    assert lab.truths.of(w.root, w.variables).results["_first.two"] == 90


def test_a_header_that_changes_while_it_is_compiled(lab: differ.Lab) -> None:
    w = lab.world()
    compiler_that(w, "one.cpp", "echo '#define SHARED 9' > include/shared.h; touch -d 2001-01-01 include/shared.h")
    built_then_checked(w)
    assert lab.truths.of(w.root, w.variables).results["_first.one"] == 12


def test_a_header_that_changes_between_the_plan_and_the_compile(
    lab: differ.Lab, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Asking a build script takes seconds; what git was asked before that is old by then."""
    import xfdev.configure

    w = lab.world()
    w.check("build")
    ask = xfdev.configure.configure

    def slow(*args: object) -> object:
        write(w, "include/shared.h", "#pragma once\n#define SHARED 6\n")
        return ask(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(xfdev.configure, "configure", slow)
    write(w, "csrc/four.cpp", 'extern "C" int four() { return 4; }\n')
    w.run("build").ok()
    w.note_objects(None)
    monkeypatch.setattr(xfdev.configure, "configure", ask)
    w.check("build")
    support.git(w.root, "checkout", "--", "include/shared.h")
    w.check("build")


def test_a_file_with_a_time_in_the_future_is_not_compiled_for_ever(lab: differ.Lab) -> None:
    w = lab.world()
    write(w, "include/shared.h", "#define SHARED 5\n")
    later = time.time() + 86400
    os.utime(w.root / "include/shared.h", (later, later))
    w.check("build")
    assert w.run("plan").ok()["verdict"] == "reuse"
