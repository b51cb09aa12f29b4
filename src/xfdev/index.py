"""Releases from the user's package index.

pip itself asks the index, so that its whole configuration counts: indexes, find-links, certificates, proxies,
netrc, keyring, constraints. What went wrong is read from pip's log.
"""

from __future__ import annotations

import errno
import os
import re
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from packaging.version import InvalidVersion, Version

from xfdev import files, run
from xfdev.errors import (
    CommandFailed,
    NotAnExtensionProject,
    RequirementNotFound,
    SourceUnreachable,
    XfdevError,
)

_STUB = Path(__file__).parent / "resources" / "sdist_backend"

_FETCH = re.compile(r"Could not fetch URL (\S+): (.*) - skipping")
_DURING_DOWNLOAD = re.compile(
    r"HTTP error \d+ while getting|Max retries exceeded|Read timed out|Connection (?:aborted|reset)|"
    r"IncompleteRead|ConnectTimeout|NameResolutionError|CERTIFICATE_VERIFY_FAILED"
)
_NO_MATCH = re.compile(r"No matching distribution found for|Could not find a version that satisfies")
_VERSIONS = re.compile(r"from versions: ([^)]*)\)")
_NEEDS_PYTHON = re.compile(r"Ignored the following versions that require a different python version: (.*)")
_NO_METADATA = re.compile(r"metadata-generation-failed|MetadataGenerationFailed|BackendUnavailable|Cannot import '")
_STAMP = re.compile(r"^\d{4}-\d\d-\d\dT[\d:,]+ ?", re.MULTILINE)


def download_sdist(requirement: str, folder: Path) -> Path:
    """Put the source release that *requirement* names into *folder*; return the archive. No code of it runs.

    Raises RequirementNotFound, SourceUnreachable, NotAnExtensionProject (it does not build with setuptools).
    """
    options = ["--no-binary", ":all:", "--no-build-isolation", "--use-pep517"]
    # pip asks the build backend for the metadata: ours is found first and copies PKG-INFO.
    path = os.pathsep.join(filter(None, [str(_STUB), os.environ.get("PYTHONPATH", "")]))
    return _download(requirement, folder, [], options, {"PYTHONPATH": path})


def download_wheel(requirement: str, folder: Path, python: Path | None = None) -> Path:
    """Put the wheel for *requirement* that fits *python* (ours when None) into *folder*; return it."""
    interpreter = [] if python is None else ["--python", str(python)]
    return _download(requirement, folder, interpreter, ["--only-binary", ":all:"], {})


def _download(
    requirement: str,
    folder: Path,
    interpreter: Sequence[str],
    options: Sequence[str],
    extra: Mapping[str, str],
) -> Path:
    with files.explained(str(folder)):
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".download-", dir=folder) as scratch:
            log, got = Path(scratch, "pip.log"), Path(scratch, "got")
            got.mkdir()
            # --retries: a silent index fails within one more time-out, not five. The time-out is the user's.
            command = [sys.executable, "-m", "pip", *interpreter, "download", "--quiet", "--no-input"]
            command += ["--no-deps", "--retries", "1", "--log", str(log), "--dest", str(got), *options]
            # pip's guard against installing outside an environment: nothing is installed here.
            environment = {**os.environ, **extra, "PIP_REQUIRE_VIRTUALENV": "0"}
            # pip stays in the user's folder, as find-links may be relative to it; modules there are not imported.
            environment |= {"PYTHONSAFEPATH": "1", "PYTHONUTF8": "1"}
            done = run.capture([*command, "--", requirement], env=environment, check=False)
            found = sorted(got.iterdir())
            if done.ok and len(found) == 1:
                target = folder / found[0].name
                found[0].replace(target)
                return target
            said = log.read_text("utf-8", "replace") if log.exists() else done.stderr
            if "No space left on device" in said:
                raise OSError(errno.ENOSPC, "no space left", str(folder))
            raise explain(requirement, said)


def explain(requirement: str, log: str) -> XfdevError:
    """The error for what pip wrote into its *log* when it could not download *requirement*. Pure."""
    log = _STAMP.sub("", log)
    failed = _unanswered(log)
    no_match = _NO_MATCH.search(log)
    if failed and (no_match or _DURING_DOWNLOAD.search(log)):
        return _unreachable(requirement, *failed, log)
    if no_match:
        return _not_found(requirement, log)
    if _NO_METADATA.search(log):
        return NotAnExtensionProject(
            f"the source release of {requirement} has no metadata that can be read without building it",
            why="it does not build with setuptools, or its archive lacks PKG-INFO",
            hint="give a git URL or a folder with its sources instead",
            details=log,
        )
    if "No module named pip" in log:
        return CommandFailed(
            f"{sys.executable} has no pip",
            why="xfdev asks the package index through the pip of its own environment",
            hint=f"{sys.executable} -m ensurepip",
        )
    lines = [line for line in log.splitlines() if line.startswith("ERROR: ")] or log.strip().splitlines()[-1:]
    last = lines[0].removeprefix("ERROR: ") if lines else "it said nothing"
    return CommandFailed(
        f"pip could not download {requirement}: {last}",
        why="its configuration may forbid it: constraints, hashes, an index that demands a login",
        hint="python -m pip config list",
        details=log,
    )


def _unanswered(log: str) -> tuple[str, str] | None:
    """The first URL that was not answered, and why; a 404 is an answer: the index has no such project."""
    for url, reason in _FETCH.findall(log):
        if not reason.startswith(("404 ", "410 ")):
            return url, reason
    if found := _DURING_DOWNLOAD.search(log):
        start, end = log.rfind("\n", 0, found.start()) + 1, log.find("\n", found.end())
        line = log[start : None if end < 0 else end].strip().removeprefix("ERROR: ")
        url = re.search(r"https?://[^\s'\"()]+", line)
        return (url.group() if url else "the package index"), line
    return None


def _unreachable(requirement: str, url: str, reason: str, log: str) -> XfdevError:
    if re.match(r"40[13] |HTTP error 40[137]", reason):
        return SourceUnreachable(
            f"{url} refused to give {requirement}: {reason}",
            why="this index wants a login, or yours may not read this project",
            hint="python -m pip config debug shows the configuration; logins come from netrc or keyring",
            details=log,
        )
    cause = re.search(r"Caused by (\w+)\((.*)\)\)?$", reason)
    short = cause.group(2).rsplit(">: ", 1)[-1].strip("'\"()") if cause else reason
    return SourceUnreachable(
        f"{url} does not answer, so {requirement} was not downloaded: {short}",
        why="no network, or the proxy or the certificate authority of this network is not set",
        hint="set HTTPS_PROXY and PIP_CERT, or another index: python -m pip config set global.index-url URL",
        details=log,
    )


def _not_found(requirement: str, log: str) -> XfdevError:
    versions = _newest(_VERSIONS.findall(log))
    if versions:
        why = f"the newest versions there are {', '.join(versions)}"
    elif "No binaries permitted" in log and _offers_wheels(requirement, log):
        why = "it has wheels only, no source release"
    elif needs := _NEEDS_PYTHON.search(log):
        why = f"its versions need another Python: {needs.group(1)[:200]}"
    elif "Ignoring indexes:" in log:
        why = "no index was asked, because PIP_NO_INDEX (or no-index in pip's configuration) is set"
    else:
        why = "the name is misspelt, or it is on an index that pip is not configured for"
    return RequirementNotFound(
        f"no package index has {requirement}",
        why=why,
        hint="check the name and the version; python -m pip config list shows which indexes are asked",
        details=log,
    )


def _offers_wheels(requirement: str, log: str) -> bool:
    """Whether a wheel of that very project was passed over (find-links folders list other projects, too)."""
    name = re.sub(r"[-_.]+", "[-_.]+", re.split(r"[^\w.-]", requirement, maxsplit=1)[0])
    return re.search(rf"No binaries permitted.*/{name}-[^/]*\.whl", log, re.IGNORECASE) is not None


def _newest(lists: Sequence[str], count: int = 5) -> list[str]:
    """The *count* newest of pip's comma-separated versions, newest first; 'none' is none."""
    found: set[Version] = set()
    for word in re.split(r",\s*", ", ".join(lists)):
        try:
            found.add(Version(word))
        except InvalidVersion:
            continue
    releases = {version for version in found if not version.is_prerelease} or found
    return [str(version) for version in sorted(releases, reverse=True)[:count]]
