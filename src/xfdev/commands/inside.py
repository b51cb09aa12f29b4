"""A container in which an image is proved: checkouts that it can see, and verbs of xfdev's run in it."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from xfdev import profile, sources
from xfdev import run as running
from xfdev.console import console
from xfdev.errors import CheckFailed, UsageError, XfdevError
from xfdev.nightly.decide import SHORT
from xfdev.stores.local import LocalStore

#: As long as a job of a hosted runner; what takes longer has stopped.
_WITHIN = 6 * 3600.0


@dataclass
class Inside:
    """A running container; *folder* of this machine is its ``/workspaces``."""

    name: str
    folder: Path
    repository: str
    environ: Mapping[str, str]
    made: list[Path] = field(default_factory=list)

    @property
    def store(self) -> LocalStore:
        return LocalStore(self.folder / "cache" / "store")

    def host(self, path: str) -> Path:
        return self.folder / Path(path).relative_to("/workspaces")

    def checkout(self, commit: str, which: str) -> str:
        """A fresh checkout of upstream with the submodules that a compile wants; its path in the container."""
        source = sources.parse(f"{self.repository}@{commit}", self.folder)
        if not isinstance(source, sources.GitUrl):
            raise UsageError(f"{self.repository} is no git URL", hint="for example https://host/owner/name.git")
        # Cells of one variant may be done at the same time; they share the cache, and nothing else.
        below = f"{self.name.rpartition('-')[2]}-{which}"
        place = self.folder / below / source.name
        shutil.rmtree(place.parent, ignore_errors=True)
        place.parent.mkdir(parents=True)
        facts = next((p for p in profile.profiles().values() if p.repository == self.repository), None)
        modules = facts.submodules if facts else ()
        with console.step(f"  checking out {commit[:SHORT]}"):
            sources.obtain(source, place, submodules=modules, cwd=self.folder)
        self.made.append(place.parent)
        return f"/workspaces/{below}/{source.name}"

    def xfdev(self, verb: str, path: str, *words: str) -> dict[str, Any]:
        """Run a verb of xfdev's in the container; its answer. Raises CheckFailed where it fails, saying why."""
        command = ["docker", "exec", "--workdir", path, self.name, "xfdev", verb, path, *words, "--json"]
        done = running.capture(command, env=self.environ, check=False, timeout=_WITHIN)
        try:
            said = json.loads(done.stdout)
        except ValueError:
            said = {}
        if done.returncode:
            reason = said.get("message") or "; ".join(said.get("problems", ()) or said.get("lines", ())[:2])
            # What Docker itself has to say about it is on stdout.
            last = (done.stderr.strip() or done.stdout.strip() or "it said nothing").splitlines()[-1]
            raise CheckFailed(
                f"xfdev {verb} failed: {reason or last}", why=str(said.get("why", "")), details=done.stderr
            )
        return dict(said)


@contextmanager
def container(
    image: str, name: str, folder: Path, repository: str, environ: Mapping[str, str], run: Sequence[str]
) -> Iterator[Inside]:
    """A container of *image* that waits for commands, as the user whose files it works on; *run* is what ``docker run``
    gets on top. One of the same *name*, of a nightly that was killed, is removed."""
    folder = folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)

    def docker(*words: str | Path, check: bool = True) -> str:
        return running.capture(["docker", *words], env=environ, check=check).stdout

    docker("rm", "-f", name, check=False)
    docker(
        "run", "--detach", "--rm", "--init", "--name", name, "--user", f"{os.getuid()}:{os.getgid()}",
        "--env", "HOME=/tmp", "--env", "XFDEV_CACHE=/workspaces/cache", "--env", "XFDEV_STATUS=",
        "--mount", f"type=bind,source={folder},target=/workspaces", *run,
        "--entrypoint", "sleep", image, str(int(_WITHIN)),
    )  # fmt: skip
    inside = Inside(name, folder, repository, environ)
    try:
        yield inside
    finally:
        with suppress(XfdevError):
            docker("rm", "-f", name, check=False)
        for place in inside.made:
            shutil.rmtree(place, ignore_errors=True)
