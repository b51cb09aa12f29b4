"""Folders with a ``.devcontainer``, as users have them: this repository as cloned, and a fork of the project in it."""

from __future__ import annotations

import os
import shlex
import shutil
import struct
import subprocess
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import engine as engines
from support import git
from xfdev import devcontainer, sources

ROOT = Path(__file__).parents[2]
PROJECT = "xformers"

#: Programs of which one run is a compile: what gcc, clang and nvcc start for it, and they themselves.
COMPILERS = frozenset({"cc1", "cc1plus", "cicc", "ptxas", "cudafe++", "nvcc", "fatbinary", "clang", "ninja"})


def release(folder: Path, requirement: str) -> Path:
    """The sources of a release, as a git repository with one commit."""
    return sources.obtain(sources.parse(requirement, folder), folder / "fork", submodules=(), cwd=folder)


def commit(checkout: Path, message: str) -> None:
    git(checkout, "add", "-A")
    git(checkout, "-c", "user.name=t", "-c", "user.email=t@example.com", "commit", "-q", "-m", message)


def this_repository(target: Path) -> Path:
    """A clone of this repository as it is now, uncommitted edits included."""
    listed = git(ROOT, "ls-files", "-z", "--cached", "--others", "--exclude-standard")
    names = [name for name in listed.split("\0") if name and (ROOT / name).is_file()]
    for name in names:
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, target / name)
    git(target, "init", "-q")
    commit(target, "start")
    return target


def edited(workspace: Path, changes: Mapping[str, Any]) -> Path:
    """Set keys in a workspace's devcontainer.json, as its user would in an editor."""
    file = workspace / ".devcontainer/devcontainer.json"
    file.write_text(devcontainer.merged(file.read_text(), changes))
    return workspace


def wheels() -> list[str]:
    """The folders of wheels that no index has, as words for ``docker build``."""
    done = subprocess.run(["python3", "-m", "pip", "config", "list"], stdout=subprocess.PIPE, text=True, check=False)
    for line in done.stdout.splitlines():
        key, _, value = line.partition("=")
        for folder in value.strip("'").split() if key.endswith("find-links") else ():
            if Path(folder).is_dir():
                return [f"--build-context=wheels={folder}"]
    return []


@contextmanager
def counted(folder: Path) -> Iterator[Counter[str]]:
    """Count the programs that end on this machine meanwhile, in containers too, by the kernel's process accounting.

    Needs root. The names of programs are those of their files, cut after 15 letters.
    """
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    place = folder / "accounting"
    place.touch()
    found: Counter[str] = Counter()
    if libc.acct(os.fsencode(place)):
        raise OSError(ctypes.get_errno(), "process accounting")
    try:
        yield found
    finally:
        libc.acct(None)
        data = place.read_bytes()
        for start in range(0, len(data) - 63, 64):  # struct acct_v3 of linux/acct.h
            (name,) = struct.unpack_from("16s", data, start + 48)
            found[name.split(b"\0")[0].decode(errors="replace")] += 1


def compilers(found: Counter[str]) -> dict[str, int]:
    return {name: number for name, number in found.items() if name in COMPILERS}


class Inside:
    """A running dev container."""

    def __init__(self, engine: engines.Engine, answer: Mapping[str, Any]) -> None:
        self.engine, self.answer = engine, answer
        self.id, self.user, self.folder = answer["containerId"], answer["remoteUser"], answer["remoteWorkspaceFolder"]

    def run(self, command: str, *, check: bool = True, cwd: str = "") -> subprocess.CompletedProcess[str]:
        place = f"{self.folder}/{cwd}" if cwd else self.folder
        return self.engine.docker(
            "exec", "-u", self.user, "-w", place, self.id, "bash", "-c", command, check=check
        )  # fmt: skip

    def prompt(self) -> str:
        """What a new terminal shows up to its first prompt."""
        line = "bash -i -c 'eval \"$PROMPT_COMMAND\"' 2>/dev/null"
        return self.engine.docker("exec", "-u", self.user, "-w", self.folder, self.id, "sh", "-c", line).stdout

    def python(self, code: str, cwd: str = PROJECT) -> str:
        return self.run(f"python -c {shlex.quote(code)}", cwd=cwd).stdout.strip()
