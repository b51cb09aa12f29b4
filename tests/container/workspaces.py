"""Folders with a ``.devcontainer``, as users have them: this repository as cloned, and a fork of the project in it."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import struct
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import engine as engines
from support import git
from xfdev import devcontainer, sources

ROOT = Path(__file__).parents[2]
PROJECT = "xformers"

#: Programs of which one run is a compile: what gcc and nvcc start for it (they themselves also run to tell their
#: version), clang, and ninja.
COMPILERS = frozenset({"cc1", "cc1plus", "cicc", "ptxas", "cudafe++", "fatbinary", "clang", "ninja"})

#: What every process in a container, and of an image that is built, descends from.
ENGINE = frozenset({"dockerd", "containerd", "containerd-shim"})


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
    """Count the programs that end meanwhile and that these tests or the engine started, in containers too, by the
    kernel's process accounting: other tests may compile beside them.

    Needs root. The names of programs are those of their files, cut after 15 letters.
    """
    import ctypes

    libc = ctypes.CDLL(None, use_errno=True)
    place = folder / "accounting"
    place.write_bytes(b"")  # the kernel appends
    found: Counter[str] = Counter()
    if libc.acct(os.fsencode(place)):
        raise OSError(ctypes.get_errno(), "process accounting")
    try:
        yield found
    finally:
        libc.acct(None)
        data = place.read_bytes()
        ended = [record(data[start : start + 64]) for start in range(0, len(data) - 63, 64)]
        parents = {**running(), **{pid: (parent, name) for pid, parent, name in ended}}
        found.update(name for pid, _, name in ended if ours(pid, parents))


def record(data: bytes) -> tuple[int, int, str]:
    """A process that has ended: its number, its parent's, its program (``struct acct_v3`` of linux/acct.h)."""
    pid, parent = struct.unpack_from("II", data, 16)
    return pid, parent, data[48:64].split(b"\0")[0].decode(errors="replace")


def running() -> dict[int, tuple[int, str]]:
    """Every process there is: its parent and its program."""
    found = {}
    for place in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # it has ended
            pid, _, rest = place.read_text().partition(" (")
            name, _, fields = rest.rpartition(") ")
            found[int(pid)] = (int(fields.split()[1]), name)
    return found


def ours(pid: int, parents: Mapping[int, tuple[int, str]]) -> bool:
    """Whether a process descends from these tests or from the engine."""
    seen = set()
    while pid in parents and pid not in seen:
        seen.add(pid)
        parent, name = parents[pid]
        if pid == os.getpid() or name in ENGINE:
            return True
        pid = parent
    return False


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


def with_a_kernel_of_its_own(release: Path, fork: Path, unit: str) -> Path:
    """A fork of *release* in which *unit* was changed."""
    git(release.parent, "clone", "-q", str(release), str(fork))
    (fork / unit).write_text((fork / unit).read_text() + '\nextern "C" int of_the_fork() { return 1; }\n')
    commit(fork, "a kernel")
    return fork


@dataclass(frozen=True)
class Variant:
    """One variant of this repository's image: what its users set, and what they do with it."""

    engine: engines.Engine
    base: str
    requirement: str
    variables: Mapping[str, str]
    options: list[str] = field(default_factory=list)

    def env(self, image: str, **more: str) -> dict[str, str]:
        # The volume of caches has the user's name; the checkouts of these tests belong to root. No registry but that
        # of the tests is asked.
        user = {"XFDEV_USER": "root", "USER": self.engine.name("user"), "XFDEV_STORES": ""}
        return {**self.engine.env, **user, **self.variables, "XFDEV_IMAGE": image, **more}

    def xfdev(self, *words: str | Path, image: str = "", **more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(Path(sys.executable).parent / "xfdev"), *map(str, words)],
            env=self.env(image or self.engine.pushed("dev"), **more),
            stdin=subprocess.DEVNULL, capture_output=True, text=True,
        )  # fmt: skip

    def workspace(self, parent: Path, word: str, fork: Path | None, *, name: str | None = None) -> Path:
        """A clone of this repository whose devcontainer.json names a base image, and *fork*, that can be had here."""
        folder = this_repository(parent / name if name else self.engine.folder(parent, word))
        inside = f"file:///workspaces/{folder.name}/{PROJECT}.git"
        if fork is not None:
            git(parent, "clone", "-q", "--bare", str(fork), str(folder / f"{PROJECT}.git"))
        return edited(
            folder,
            {
                "build": {
                    "args": {"BASE_IMAGE": self.base, "XFORMERS_FIRST_BUILD_URL": self.requirement},
                    "options": self.options,
                },
                "remoteEnv": {"XFORMERS_FORK_URL": inside},
            },
        )

    def opened(
        self, folder: Path, image: str, *words: str, through: tuple[str, ...] = (), **more: str
    ) -> tuple[dict[str, Any], str]:
        """``devcontainer up``: its answer and what it said. *through* runs it, another user's shell for example."""
        done = subprocess.run(
            [*through, "devcontainer", "up", "--workspace-folder", str(folder), *words],
            env=self.env(image, **more), stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=900,
        )  # fmt: skip
        answer: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
        return answer, done.stderr

    def up(self, folder: Path, image: str, *words: str, through: tuple[str, ...] = (), **more: str) -> Inside:
        answer, said = self.opened(folder, image, *words, through=through, **more)
        assert answer["outcome"] == "success", f"{answer}\n{said[-5000:]}"
        return Inside(self.engine, answer)

    def fails(self, folder: Path, image: str, **more: str) -> tuple[Inside, str]:
        """A container whose post-create fails; it stays."""
        answer, said = self.opened(folder, image, **more)
        assert answer["outcome"] == "error", answer
        user = more.get("XFDEV_USER", "root")
        return Inside(
            self.engine, {**answer, "remoteUser": user, "remoteWorkspaceFolder": f"/workspaces/{folder.name}"}
        ), said

    def from_an_opened_image_to_an_edit_and_back(
        self, folder: Path, image: str, unit: str, scratch: Path
    ) -> tuple[Inside, Counter[str]]:
        """What a developer does on the first day, each step checked: open, edit Python on the host, edit *unit*, build,
        throw the container away and make it anew. Returns the last one, and the programs that the build ran."""
        with counted(scratch) as programs:
            inside = self.up(folder, image)
        assert programs["git"], "nothing was counted"
        assert not compilers(programs), programs
        # Nothing of the image was made again: neither Debian's packages nor Python's were installed.
        assert not programs["dpkg"], programs
        assert not programs["pip"], programs
        said = inside.prompt()
        assert f"ready: {PROJECT}" in said, said
        assert "reuse:" in said, said
        assert "0 units compiled" in said, said
        assert inside.python(f"import {PROJECT}; print({PROJECT}.__file__)").startswith("/workspaces/")

        init = folder / PROJECT / PROJECT / "__init__.py"
        init.write_text(init.read_text() + "\nedited_on_the_host = 7\n")
        assert inside.python(f"import {PROJECT}; print({PROJECT}.edited_on_the_host)") == "7"

        source = folder / PROJECT / unit
        source.write_text(source.read_text() + '\nextern "C" int edited_unit() { return 7; }\n')
        with counted(scratch) as built_by:
            built = json.loads(inside.run("xfdev build --json", cwd=PROJECT).stdout)
        assert built["compiled"] == [unit], built

        with counted(scratch) as programs:
            inside = self.up(folder, image, "--remove-existing-container")
        assert not compilers(programs), programs
        said = inside.prompt()
        assert "the last build here" in said, said
        assert "0 units compiled" in said, said
        loaded = f"import ctypes, glob, os, torch, {PROJECT}, {PROJECT}.ops; "
        loaded += f"so = glob.glob(os.path.dirname({PROJECT}.__file__) + '/_C*.so')[0]; "
        assert inside.python(loaded + "print(ctypes.CDLL(so).edited_unit())") == "7"
        return inside, built_by

    def publish(self, folder: Path, tag: str) -> str:
        """Build the image of *folder* and push it, then delete all that this machine has of it."""
        name = self.engine.pushed("dev")
        built = self.xfdev("image", "build", folder, "--tag", f"{name}:{tag}", "--push")
        assert built.returncode == 0, built.stderr[-5000:]
        self.forget()
        return name

    def forget(self) -> None:
        """Delete everything that this machine has of the image."""
        listed = self.engine.docker("image", "ls", "--format", "{{.Repository}}:{{.Tag}}").stdout.split()
        for name in listed:
            if self.engine.name("") in name or f"vsc-{self.engine.name('')}" in name:
                self.engine.docker("image", "rm", "-f", name, check=False)
        self.engine.docker("builder", "prune", "--all", "--force")
