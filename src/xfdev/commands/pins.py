"""The packages of an environment: as a lock file names them, and as pip would lock them now."""

from __future__ import annotations

import os
import re
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from pathlib import Path

from xfdev import lockfile, make_venv, run
from xfdev.console import console
from xfdev.errors import CommandFailed, StaleLock
from xfdev.files import read_json
from xfdev.lockfile import Lock, Wheels
from xfdev.options import Options
from xfdev.profile import ToolchainEntry
from xfdev.venv import Environment

_REPORT_SECONDS = 1800.0


class Pins:
    """What the lock file of the checkout at *root* says of an environment of *entry* with *packages*."""

    def __init__(self, options: Options, root: Path, entry: ToolchainEntry, packages: Sequence[str]) -> None:
        self._options = options
        self._file = lockfile.place(root, options.lock)
        self._entry = entry
        self._wanted = tuple(make_venv.requirements(entry, packages))

    @cached_property
    def _lock(self) -> Lock:
        found = lockfile.read(self._file)
        if found is None and self._options.locked:
            raise lockfile.required(self._file)
        return found or Lock()

    def text(self, python: str) -> str:
        """The packages as pip's requirements with hashes, "" where the lock file has none for them.

        Raises StaleLock where it has to have them, or cannot be read.
        """
        if not self._lock.wheels and not self._options.locked:
            return ""
        name = lockfile.key(self._entry.name, os.uname().machine, python)
        found = self._lock.wheels.get(name)
        if found is None:
            self._stale(f"{self._file} has no packages of {name}")
            return ""
        if found.wanted != self._wanted:
            gone = sorted({*found.wanted} ^ {*self._wanted})
            self._stale(f"{self._file} is older than what {name} is made of: {', '.join(gone)}")
            return ""
        return "".join(f"{package} --hash=sha256:{digest}\n" for package, digest in sorted(found.files.items()))

    def _stale(self, message: str) -> None:
        if self._options.locked:
            raise StaleLock(message, why="locked was asked for", hint="xfdev lock writes it anew; look at what changed")
        console.warning(f"{message}; they come as the package index has them (xfdev lock adds them)")

    def met_by(self, environment: Environment) -> bool:
        """Whether an environment was made of what is locked, or nothing is."""
        wanted = self.text(environment.python)
        if not wanted:
            return True
        with suppress(OSError):
            return (environment.tools / make_venv.PINS).read_text() == wanted
        return False


def resolve(
    environment: Environment, entry: ToolchainEntry, packages: Sequence[str], environ: Mapping[str, str]
) -> Wheels:
    """The packages of *environment* in the versions that it has, with the SHA-256 of the files that pip would install.

    Nothing is installed. Raises CommandFailed.
    """
    wanted = make_venv.requirements(entry, packages)
    with tempfile.TemporaryDirectory(prefix="xfdev-lock-") as scratch:
        constraints, report = Path(scratch, "constraints.txt"), Path(scratch, "report.json")
        constraints.write_text("".join(f"{line}\n" for line in _installed(environment.site_packages)))
        base = [
            sys.executable, "-m", "pip", "--python", str(environment.interpreter), "install", "-q", "--dry-run",
            "--disable-pip-version-check", "--ignore-installed", "--report", str(report), "-c", str(constraints),
        ]  # fmt: skip
        with console.step(f"asking the package index for the files of {environment.toolchain}"):
            done = run.capture([*base, *wanted], env=environ, check=False, timeout=_REPORT_SECONDS)
            if not done.ok and entry.index:
                words = [*base, "--extra-index-url", entry.index, *wanted]
                done = run.capture(words, env=environ, check=False, timeout=_REPORT_SECONDS)
        value = read_json(report) if done.ok else None
    try:
        files = {}
        for item in value["install"]:  # type: ignore[index]
            name = re.sub(r"[-_.]+", "-", item["metadata"]["name"]).lower()
            files[f"{name}=={item['metadata']['version']}"] = item["download_info"]["archive_info"]["hashes"]["sha256"]
    except (KeyError, TypeError) as error:
        last = [line for line in done.stderr.splitlines() if line.startswith("ERROR")][-1:]
        raise CommandFailed(
            "the packages cannot be locked: " + (last[0].removeprefix("ERROR: ") if last else "pip gave no hashes"),
            why="the package index does not answer, or has no more what this environment is made of",
            hint="xfdev lock --no-packages locks the rest",
            details=done.stderr,
        ) from error
    return Wheels(tuple(wanted), files)


def _installed(site: Path) -> list[str]:
    """Name and version of each package in an environment, but those of the checkout itself."""
    found = []
    for path in sorted(site.glob("*.dist-info")):
        name, _, version = path.name.removesuffix(".dist-info").rpartition("-")
        if name and not (path / "direct_url.json").exists():
            found.append(f"{name}=={version}")
    return found
