"""What a developer, git, and a build typed by hand do to a checkout. Each edit takes the world and a number that
varies it, and does nothing where it makes no sense at that moment."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

from differ import World

Edit = Callable[[World, int], None]
EDITS: dict[str, Edit] = {}

HEADERS = ("include/shared.h", "csrc/inner/deep.h", "vendor/tally/include/tally.h", "csrc/inner/sub/part.h",
           "csrc/common.h")  # fmt: skip
SOURCES = ("csrc/one.cpp", "csrc/two.cpp", "csrc/three.cpp", "csrc/inner/second.cpp")
#: Where a header of another folder, of the system or one that is only asked for can appear.
SPOTS = (
    "include/deep.h", "include/tally.h", "include/sub/part.h", "csrc/inner/shared.h", "csrc/inner/tally.h",
    "csrc/shared.h", "csrc/deep.h", "csrc/sub/part.h", "csrc/optional.h", "include/optional.h",
    "csrc/inner/optional.h", "vendor/tally/include/optional.h", "vendor/tally/include/shared.h", "include/marker.h",
    "csrc/inner/marker.h", "include/stdint.h", "vendor/tally/include/stdint.h", "include/common.h", "common.h",
    "extra/optional.h", "extra/marker.h", "extra/stdint.h", "csrc/tally.h", "csrc/inner/generated.h",
    "include/generated.h", "csrc/constants.h",
)  # fmt: skip


def edit(function: Edit) -> Edit:
    EDITS[function.__name__] = function
    return function


def write(path: Path, text: str) -> None:
    if path.is_dir() or not os.path.isdir(os.path.dirname(path)):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError:
            return
    if not path.is_dir():
        path.write_text(text)


def header(name: str, value: int) -> str:
    """A header that gives every macro that may be asked of a file of this name another value."""
    stem = os.path.basename(name).partition(".")[0]
    macro = {"shared": "SHARED", "deep": "DEEP", "tally": "TALLY", "optional": "OPTIONAL", "part": "PART",
             "common": "COMMON", "generated": "GENERATED"}.get(stem)  # fmt: skip
    if stem == "stdint":
        return f"#include_next <stdint.h>\n#define EXTRA {value}\n"
    return f"#pragma once\n#define {macro} {value}\n" if macro else f"/* {value} */\n"


def existing(w: World, names: tuple[str, ...], n: int) -> Path | None:
    found = [w.root / name for name in names if (w.root / name).is_file()]
    return found[n % len(found)] if found else None


# Contents.


@edit
def change_header(w: World, n: int) -> None:
    name = HEADERS[n % len(HEADERS)]
    write(w.root / name, header(name, 40 + n))


@edit
def change_source(w: World, n: int) -> None:
    path = existing(w, SOURCES, n)
    if path is not None:
        path.write_text(path.read_text().replace("{ return ", f"{{ return {n} + "))


@edit
def comment(w: World, n: int) -> None:
    path = existing(w, (*SOURCES, *HEADERS), n)
    if path is not None:
        path.write_text(f"// {n}\n" + path.read_text())


@edit
def blank_lines(w: World, n: int) -> None:
    path = existing(w, (*SOURCES, *HEADERS), n)
    if path is not None:
        path.write_text(path.read_text() + "\n" * (n + 1))


@edit
def break_it(w: World, n: int) -> None:
    path = existing(w, (*SOURCES, *HEADERS), n)
    if path is not None:
        path.write_text("#error broken\n" + path.read_text())


@edit
def mend_it(w: World, n: int) -> None:
    for name in (*SOURCES, *HEADERS):
        path = w.root / name
        if path.is_file() and "#error broken\n" in path.read_text():
            path.write_text(path.read_text().replace("#error broken\n", ""))


# Files that come, go and move.


@edit
def new_source(w: World, n: int) -> None:
    write(w.root / "csrc/four.cpp", f'#include "shared.h"\nextern "C" int four() {{ return SHARED * {n}; }}\n')


@edit
def delete_source(w: World, n: int) -> None:
    path = existing(w, ("csrc/four.cpp", "csrc/three.cpp"), n)
    if path is not None:
        path.unlink()


@edit
def rename_source(w: World, n: int) -> None:
    a, b = w.root / "csrc/two.cpp", w.root / "csrc/deux.cpp"
    if a.exists() and not b.exists():
        a.rename(b)
    elif b.exists() and not a.exists():
        b.rename(a)


@edit
def unrelated_file(w: World, n: int) -> None:
    write(w.root / ("csrc/notes.txt", "docs/index.md", "include/unused.h", "top.h")[n % 4], f"// {n}\n")


@edit
def shadow(w: World, n: int) -> None:
    name = SPOTS[n % len(SPOTS)]
    write(w.root / name, header(name, 60 + n))


@edit
def unshadow(w: World, n: int) -> None:
    path = existing(w, SPOTS, n)
    if path is not None:
        path.unlink()


@edit
def delete_header(w: World, n: int) -> None:
    path = existing(w, HEADERS, n)
    if path is not None:
        path.unlink()


@edit
def restore_headers(w: World, n: int) -> None:
    w.git("checkout", "--", ".")


@edit
def include_more(w: World, n: int) -> None:
    """A header includes another one, for which there may be several places."""
    path = existing(w, HEADERS, n)
    if path is not None:
        line = ('#include "shared.h"\n', '#include "deep.h"\n', '#include "tally.h"\n', "#include <stdint.h>\n")[n % 4]
        text = path.read_text()
        path.write_text(text.replace(line, "") if line in text else text + line)


# Links and modes.


@edit
def mode_bits(w: World, n: int) -> None:
    path = existing(w, (*HEADERS, *SOURCES), n)
    if path is not None:
        path.chmod(path.stat().st_mode ^ 0o111)


@edit
def link_header(w: World, n: int) -> None:
    """A header becomes a symbolic link to a copy elsewhere, or a file again."""
    path = w.root / HEADERS[n % 2]
    target = w.root / "elsewhere" / path.name
    if path.is_symlink():
        path.unlink()
        if target.exists():
            shutil.copyfile(target, path)
    elif path.is_file():
        write(target, path.read_text())
        path.unlink()
        path.symlink_to(os.path.relpath(target, path.parent))


@edit
def change_elsewhere(w: World, n: int) -> None:
    name = ("shared.h", "deep.h", "part.h", "tally.h", "optional.h")[n % 5]
    path = w.root / "elsewhere" / name
    if path.exists() and n % 2:
        path.unlink()
    else:
        write(path, header(name, 80 + n))


@edit
def dangling_link(w: World, n: int) -> None:
    """A link whose target may come later."""
    name = ("include/optional.h", "include/deep.h", "csrc/tally.h")[n % 3]
    path = w.root / name
    if not os.path.lexists(path) and path.parent.is_dir():
        path.symlink_to(os.path.relpath(w.root / "elsewhere" / path.name, path.parent))


@edit
def link_folder(w: World, n: int) -> None:
    """A folder becomes a link to a folder, or a folder again."""
    path = w.root / ("csrc/inner", "include", "csrc/inner/sub")[n % 3]
    target = w.root / f"{path.name}_elsewhere"
    if path.is_symlink():
        path.unlink()
        if target.is_dir():
            target.rename(path)
    elif path.is_dir() and not target.exists():
        path.rename(target)
        path.symlink_to(os.path.relpath(target, path.parent))


@edit
def new_linked_folder(w: World, n: int) -> None:
    """``include/sub`` or ``csrc/sub`` leads to a folder in which headers come and go."""
    path = w.root / ("include/sub", "csrc/sub")[n % 2]
    if path.is_symlink():
        path.unlink()
    elif not path.exists() and path.parent.is_dir():
        (w.root / "elsewhere").mkdir(exist_ok=True)
        path.symlink_to(os.path.relpath(w.root / "elsewhere", path.parent))


# Line endings.


@edit
def line_endings(w: World, n: int) -> None:
    path = existing(w, (*HEADERS, *SOURCES, "csrc/constants.in"), n)
    if path is not None:
        data = path.read_bytes()
        path.write_bytes(data.replace(b"\r\n", b"\n") if b"\r\n" in data else data.replace(b"\n", b"\r\n"))


@edit
def autocrlf(w: World, n: int) -> None:
    w.git("config", "core.autocrlf", ("true", "input", "false")[n % 3])
    if n % 2:
        path = existing(w, HEADERS, n)
        if path is not None:
            path.unlink()
            w.git("checkout", "--", ".")


@edit
def attributes(w: World, n: int) -> None:
    path = w.root / (".gitattributes", "csrc/.gitattributes")[n % 2]
    if path.exists():
        path.unlink()
    else:
        path.write_text("*.h text eol=crlf\n*.in text\n")
    if n % 3 == 0:
        w.git("add", "--renormalize", ".")


# Variables.


@edit
def variable(w: World, n: int) -> None:
    choices = {
        "COUNTER_FLAGS": ("-DEXTRA=2", "-DEXTRA=3", "-DSHARED=9"),
        "CFLAGS": ("-DEXTRA=4", "-Iextra", f"-I{w.root}/extra"),
        "CPPFLAGS": ("-DEXTRA=5", "-Iextra", "-DOPTIONAL=1"),
        "CPATH": (f"{w.root}/extra", "extra", f"{w.root}/elsewhere:{w.root}/extra"),
        "CPLUS_INCLUDE_PATH": (f"{w.root}/extra", "/nonexistent", f"{w.root}/elsewhere"),
    }
    name = list(choices)[n % len(choices)]
    value = choices[name][n % 3]
    if w.variables.get(name) == value:
        del w.variables[name]
    else:
        w.variables[name] = value


@edit
def no_variables(w: World, n: int) -> None:
    w.variables.clear()


# The build script and what it makes.


_SETUP = (
    ('flags = ["-O1"', 'flags = ["-O0"'),
    ('"-std=c++17"', '"-std=c++17", "-DEXTRA=11"'),
    ('include = ["include", "csrc/inner"', 'include = ["csrc/inner", "include"'),
    ('sorted(glob.glob("csrc/*.cpp"))', 'sorted(p for p in glob.glob("csrc/*.cpp") if "three" not in p)'),
    (
        "    ext_modules=[\n",
        '    ext_modules=[\n        Extension("counter._third", ["csrc/inner/second.cpp"], include_dirs=include,\n'
        '            extra_compile_args=[*flags, "-USHARED", "-DDEEP_TOO"], define_macros=[("COMMON", "9")]),\n',
    ),
    (
        "    ext_modules=[\n",
        '    ext_modules=[\n        Extension("counter._fourth", ["csrc/inner/second.cpp"], include_dirs=include,\n'
        '            extra_compile_args=[*flags, "-Dsecond=four"]),\n',
    ),
    ("import glob\n", "# a comment\nimport glob\n"),
    ("import glob\n", 'import glob\n\nraise SystemExit("broken on purpose")\n'),
)


@edit
def setup_py(w: World, n: int) -> None:
    path = w.root / "setup.py"
    text = path.read_text()
    before, after = _SETUP[n % len(_SETUP)]
    if after in text:
        path.write_text(text.replace(after, before, 1))
    elif before in text:
        path.write_text(text.replace(before, after, 1))


@edit
def constants(w: World, n: int) -> None:
    write(w.root / "csrc/constants.in", f"GENERATED {n}\n" + ("DEEP 77\n" if n % 4 == 3 else ""))


@edit
def generated_header(w: World, n: int) -> None:
    path = w.root / "csrc/generated.h"
    if n % 3 == 0:
        path.unlink(missing_ok=True)
    elif n % 3 == 1:
        write(path, f"#pragma once\n#define GENERATED {90 + n}\n")
    else:
        w.git("add", "-f", "csrc/generated.h")


# The submodule.


@edit
def submodule_commit(w: World, n: int) -> None:
    w.git("checkout", "-q", "-f", f"v{n % 3 + 1}", inside="vendor/tally")
    if n % 2:
        w.git("add", "vendor/tally")


@edit
def submodule_gone(w: World, n: int) -> None:
    w.git("submodule", "deinit", "-f", "vendor/tally")
    if n % 3 == 2:  # filled by hand
        write(w.root / "vendor/tally/include/tally.h", header("tally.h", 20 + n))


@edit
def submodule_back(w: World, n: int) -> None:
    folder = w.root / "vendor/tally"
    if folder.is_dir() and not (folder / ".git").exists():
        shutil.rmtree(folder)
        folder.mkdir()
    w.git("submodule", "update", "--init", "-f", "vendor/tally")


# git.


@edit
def switch_branch(w: World, n: int) -> None:
    w.git("checkout", "-q", *(("-f",) if n % 2 else ("-m",)), "other" if n % 4 < 2 else "main")
    if n % 3 == 0:
        w.git("submodule", "update", "vendor/tally")


@edit
def commit(w: World, n: int) -> None:
    w.git("add", "-A")
    w.git("commit", "-q", "-m", f"work {n}")


@edit
def stage(w: World, n: int) -> None:
    w.git("add", *(("-A",) if n % 2 else ("-N", ".")))


@edit
def stash(w: World, n: int) -> None:
    w.git("stash", *(("pop",) if n % 3 == 0 else ("-q", "-u") if n % 3 == 1 else ("-q",)))


@edit
def assume_unchanged(w: World, n: int) -> None:
    name = HEADERS[n % 2]
    flag = ("--assume-unchanged", "--skip-worktree", "--no-assume-unchanged", "--no-skip-worktree")[n % 4]
    w.git("update-index", flag, name)
    if n % 4 < 2:
        change_header(w, n % 2 + n // 4 * len(HEADERS))


@edit
def conflict(w: World, n: int) -> None:
    w.git("commit", "-q", "-a", "-m", "mine")
    w.git("merge", "-q", "other")
    if n % 2:
        w.git("checkout", "--ours", ".")


# Times.


@edit
def old_times(w: World, n: int) -> None:
    path = existing(w, (*HEADERS, *SOURCES), n)
    if path is not None:
        os.utime(path, (1_000_000_000, 1_000_000_000))
        if n % 2:
            w.git("add", "-u")


@edit
def future_times(w: World, n: int) -> None:
    path = existing(w, (*HEADERS, *SOURCES, "setup.py"), n)
    if path is not None:
        later = time.time() + 86400 * (n + 1)
        os.utime(path, (later, later))


@edit
def sly_edit(w: World, n: int) -> None:
    """Other bytes of the same size, with the old times."""
    path = existing(w, HEADERS, n)
    if path is not None:
        stat = path.stat()
        data = bytearray(path.read_bytes())
        for index, byte in enumerate(data):
            if byte in b"123456789" and not (index and chr(data[index - 1]).isalnum()):
                data[index] = ord("1") + (byte - ord("1") + 1 + n) % 9
        with path.open("r+b") as stream:
            stream.write(data)
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))


# xfdev and other builds.


@edit
def xfdev_link(w: World, n: int) -> None:
    w.run("link")


@edit
def xfdev_build(w: World, n: int) -> None:
    known = w.bundles()
    if w.run("build").code == 0:
        new = w.bundles() - known
        if w.manifest() is not None:
            w.note_objects(next(iter(new)) if len(new) == 1 else None)


@edit
def xfdev_prebuild(w: World, n: int) -> None:
    said = w.run("prebuild")
    if said.code == 0:
        w.note_objects(said.json["bundle"])


@edit
def xfdev_unlink(w: World, n: int) -> None:
    w.run("unlink")


@edit
def xfdev_only(w: World, n: int) -> None:
    w.run("build", "--only", SOURCES[n % 4])


@edit
def lose_objects(w: World, n: int) -> None:
    objects = sorted((w.root / ".xfdev/build").rglob("*.o"))
    if not objects:
        return
    path = objects[n % len(objects)]
    if n % 3 == 0:
        path.unlink()
    elif n % 3 == 1:
        with path.open("r+b") as stream:
            stream.truncate(100)
    else:
        shutil.rmtree(w.root / ".xfdev/build", ignore_errors=True)


@edit
def foreign_library(w: World, n: int) -> None:
    libraries = sorted((w.root / "counter").glob("*.so")) + sorted((w.root / ".xfdev/build").rglob("*.so"))
    if not libraries:
        return
    path = libraries[n % len(libraries)]
    if n % 3 == 0:
        path.unlink()
    elif n % 3 == 1:
        path.unlink()
        subprocess.run(
            ["c++", "-shared", "-fPIC", "-x", "c++", "-", "-o", str(path)],
            input=f'extern "C" int one() {{ return {1000 + n}; }}',
            text=True,
            check=True,
        )
    else:
        with path.open("r+b") as stream:
            stream.truncate(64)


@edit
def build_by_hand(w: World, n: int) -> None:
    subprocess.run(
        [str(w.truths.interpreter), "setup.py", "build_ext", "--inplace", *(("--force",) if n % 2 else ())],
        cwd=w.root,
        env={**os.environ, **w.xfdev.variables, **w.variables},
        capture_output=True,
    )
