"""What is so now: upstream's newest commits, the newest versions that are allowed, tonight's base images."""

from __future__ import annotations

import hashlib
import json
import re
import sys
import tempfile
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from xfdev import run
from xfdev.checkout import git_environ
from xfdev.console import console
from xfdev.errors import CommandFailed, NoSuchPath, RequirementNotFound, SourceUnreachable
from xfdev.files import sha256_of
from xfdev.index import explain
from xfdev.nightly.decide import Facts, VariantFacts
from xfdev.nightly.settings import Settings, Variant
from xfdev.nightly.shelf import Shelf
from xfdev.stores.reference import reference
from xfdev.trees import Repository

_GIT_WITHIN = 120.0
_PIP_WITHIN = 900.0
_AT_ONCE = 4


def facts(settings: Settings, mirror: Path, environ: Mapping[str, str]) -> tuple[Facts, dict[str, str]]:
    """What is so now, and the lock of each variant. *mirror* is where a clone of upstream is kept, if one is needed.

    Raises SourceUnreachable, RequirementNotFound, StoreUnreachable, NoSuchPath.
    """
    # They wait more than they compute, so all at once.
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        newest = pool.submit(upstream, settings, mirror, environ)
        asked = {variant.name: pool.submit(_variant, settings, variant, environ) for variant in settings.variants}
        found = {name: answer.result() for name, answer in asked.items()}
        commits = newest.result()
    ours = {variant.lock for variant in settings.variants if variant.lock}
    made = recipe(settings.place / settings.folder, settings.watch, ours)
    so = {name: entry[0] for name, entry in found.items()}
    return Facts(commits, made, so), {name: entry[1] for name, entry in found.items()}


def _variant(settings: Settings, variant: Variant, environ: Mapping[str, str]) -> tuple[VariantFacts, str]:
    lies = _as_it_lies(settings, variant)
    lock = resolved(variant, lies, environ) if variant.requirements else lies
    stands_on = base(variant.base, environ) if variant.base else ""
    return VariantFacts(stands_on, versions(lock), hashlib.sha256(lock.encode()).hexdigest()), lock


def upstream(settings: Settings, mirror: Path, environ: Mapping[str, str]) -> tuple[str, ...]:
    """Upstream's newest commits, as many as are wanted, the newest first."""
    env = git_environ(environ)
    ref = settings.branch if settings.branch == "HEAD" else f"refs/heads/{settings.branch}"
    words = ["git", "ls-remote", "--exit-code", settings.repository, ref]
    said = run.capture(words, env=env, timeout=_GIT_WITHIN, check=False)
    if said.returncode == 2:
        raise RequirementNotFound(f"{settings.repository} has no branch {settings.branch}", details=said.stderr)
    if not said.ok:
        raise SourceUnreachable(
            f"{settings.repository} does not answer",
            why="the network, or no such repository",
            hint=f"git ls-remote {settings.repository} says which",
            details=said.stderr,
        )
    newest = said.stdout.split()[0]
    if settings.commits == 1:
        return (newest,)
    known = mirrored(settings, mirror, newest, env).commits(newest, settings.commits)
    return tuple(commit.id for commit in known)


def mirrored(settings: Settings, mirror: Path, commit: str, environ: Mapping[str, str]) -> Repository:
    """A bare clone of upstream that has *commit*."""
    env = git_environ(environ)
    if not (mirror / "HEAD").exists():
        mirror.parent.mkdir(parents=True, exist_ok=True)
        with console.step(f"cloning {settings.repository}"):
            run.capture(["git", "clone", "-q", "--bare", settings.repository, mirror], env=env)
    found = Repository(mirror, environ)
    if not found.holds(commit, ""):
        run.capture(["git", "-C", mirror, "fetch", "-q", settings.repository, "+refs/heads/*:refs/heads/*"], env=env)
    return found


def base(name: str, environ: Mapping[str, str]) -> str:
    """An image's name with the digest that its tag has now."""
    place = reference(name)
    if place.version.startswith("sha256:"):
        return name
    found = Shelf(place, environ).digest(place.version or "latest")
    if found is None:
        raise RequirementNotFound(f"there is no image {name}", hint="it is the base of a variant in nightly.toml")
    return f"{name}@{found}"


def resolved(variant: Variant, before: str, environ: Mapping[str, str]) -> str:
    """The newest versions that a variant's requirements allow, as lines with hashes; pip finds them, so that its
    whole configuration counts. Nothing is installed. *before* is the lock as it lies: its options stay."""
    options = [word for line in before.splitlines() if line.startswith("--") for word in line.split()]
    with (
        tempfile.TemporaryDirectory(prefix="xfdev-nightly-") as folder,
        console.step(f"{variant.name}: newest versions"),
    ):
        log = Path(folder, "pip.log")
        words = [
            # --retries: a silent index fails within one more time-out, not five.
            *(sys.executable, "-m", "pip", "install", "--quiet", "--no-input", "--dry-run", "--ignore-installed"),
            *("--retries", "1"),
            *("--report", "-", "--target", str(Path(folder, "nowhere")), "--only-binary", ":all:", "--log", str(log)),
            *("--implementation", "cp", "--python-version", variant.python),
            *(word for name in _platforms(variant.platform) for word in ("--platform", name)),
        ]
        env = {**environ, "PIP_REQUIRE_VIRTUALENV": "0", "PYTHONSAFEPATH": "1", "PYTHONUTF8": "1"}
        done = run.capture([*words, *options, "--", *variant.requirements], env=env, check=False, timeout=_PIP_WITHIN)
        if not done.ok:
            said = log.read_text("utf-8", "replace") if log.exists() else done.stderr
            raise explain(", ".join(variant.requirements), said)
        return lock(json.loads(done.stdout), before)


def _platforms(name: str) -> list[str]:
    """*name* and the older ones whose wheels it takes (PEP 600)."""
    match = re.fullmatch(r"manylinux_2_(\d+)_(\w+)", name)
    if match is None:
        return [name]
    machine = match[2]
    found = [f"manylinux_2_{minor}_{machine}" for minor in range(int(match[1]), 16, -1)]
    return [*found, f"manylinux2014_{machine}", f"linux_{machine}"]


def lock(report: Mapping[str, Any], before: str) -> str:
    """The lock that a report of pip's tells, with the comments and options of the one before. Pure.

    Raises CommandFailed for a package without a hash.
    """
    lines = []
    for entry in report.get("install", ()):
        name, version = entry["metadata"]["name"], entry["metadata"]["version"]
        about = entry["download_info"].get("archive_info") or {}
        found = (about.get("hashes") or {}).get("sha256") or str(about.get("hash", "")).partition("sha256=")[2]
        if not found:
            raise CommandFailed(f"pip told no hash of {name} {version}", why="it is no file of an index")
        lines.append(f"{re.sub(r'[-_.]+', '-', name).lower()}=={version} --hash=sha256:{found}")
    head = [line for line in before.splitlines() if line.startswith(("#", "--"))]
    return "\n".join([*head, *sorted(lines)]) + "\n"


def versions(text: str) -> dict[str, str]:
    """The packages of a lock and their versions."""
    return dict(sorted(re.findall(r"^([A-Za-z0-9._-]+)==([^\s;]+)", text, re.MULTILINE)))


def _as_it_lies(settings: Settings, variant: Variant) -> str:
    if not variant.lock:
        return ""
    path = settings.place / settings.folder / variant.lock
    try:
        return path.read_text()
    except OSError as error:
        raise NoSuchPath(f"{path} cannot be read", why=f"it is the lock of {variant.name}") from error


def recipe(folder: Path, watch: tuple[str, ...], locks: set[str]) -> str:
    """A digest of the files below *folder* that make the images, locks left out. Raises NoSuchPath."""
    found = {}
    for name in watch:
        place = folder / name
        if not place.exists():
            raise NoSuchPath(f"{place} does not exist", why="nightly.toml says to watch it")
        for path in sorted(place.rglob("*")) if place.is_dir() else [place]:
            below = path.relative_to(folder).as_posix()
            if path.is_file() and below not in locks and "__pycache__" not in path.parts:
                mode = "x" if path.stat().st_mode & 0o100 else "-"
                found[below] = mode + hashlib.sha256(path.read_bytes()).hexdigest()
    return sha256_of(found)
