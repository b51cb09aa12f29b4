"""``xfdev up --engine container``: the dev container of a folder, without an editor."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from xfdev import container
from xfdev import run as running
from xfdev.console import console, duration
from xfdev.errors import CommandFailed, NoEngine, NoSuchPath

_ANSWERS_WITHIN = 10.0


def answers(environ: Mapping[str, str]) -> bool:
    """Whether a Docker engine is there and answers."""
    if shutil.which("docker", path=environ.get("PATH")) is None:
        return False
    try:
        return running.capture(
            ["docker", "version", "--format", "{{.Server.Version}}"], env=environ, timeout=_ANSWERS_WITHIN, check=False
        ).ok
    except CommandFailed:
        return False


def require(environ: Mapping[str, str]) -> None:
    """Raise NoEngine where no Docker engine answers."""
    if not answers(environ):
        raise NoEngine(
            "no Docker engine answers",
            why="none is installed, it is not running, or this user may not talk to it",
            hint="docker version says which; xfdev up --engine venv works without one",
        )


def up(root: Path, environ: Mapping[str, str]) -> Mapping[str, Any]:
    """Bring up the container of *root*, and what its configuration runs in it; one that is there is used again.

    Raises NoSuchPath where there is no configuration, NoEngine where nothing answers, CommandFailed for a step that
    failed.
    """
    started = time.monotonic()
    root = root.resolve()
    file = find(root)
    require(environ)
    environ = with_user(root, environ)
    if shutil.which("devcontainer", path=environ.get("PATH")):
        name, user, workspace = _by_cli(root, environ)
    else:
        name, user, workspace = _by_docker(root, file, environ)
    seconds = time.monotonic() - started
    enter = shlex.join(["docker", "exec", "-it", "-u", user, "-w", workspace, name[:12], "bash"])
    return {
        "container": name,
        "workspace": workspace,
        "user": user,
        "elapsed": seconds,
        "lines": [f"container {name[:12]} is up, {duration(seconds)}", f"next: {enter}"],
    }


def config_of(root: Path) -> Path | None:
    """The devcontainer.json of *root*, where the spec has it."""
    names = (".devcontainer/devcontainer.json", ".devcontainer.json")
    return next((root / name for name in names if (root / name).is_file()), None)


def find(root: Path) -> Path:
    """The devcontainer.json of *root*. Raises NoSuchPath."""
    found = config_of(root)
    if found is not None:
        return found
    raise NoSuchPath(
        f"{root} has no .devcontainer/devcontainer.json",
        hint=f"xfdev init {root} writes one; xfdev up --engine venv needs none",
    )


def with_user(root: Path, environ: Mapping[str, str]) -> dict[str, str]:
    """For a folder of root's, the container's user has to be root as well; it never takes that number by itself."""
    owner = root.stat().st_uid
    return {**environ, "XFDEV_USER": "root"} if owner == 0 and "XFDEV_USER" not in environ else dict(environ)


def _by_cli(root: Path, environ: Mapping[str, str]) -> tuple[str, str, str]:
    with console.step("devcontainer up"):
        words = ["devcontainer", "up", "--workspace-folder", str(root)]
        done = running.capture(words, env=environ, check=False, show=not console.quiet)  # minutes, where it builds
    try:
        result = json.loads(done.stdout.strip().splitlines()[-1])
    except (ValueError, IndexError):
        result = {}
    if not done.ok or result.get("outcome") != "success":
        raise CommandFailed(
            f"devcontainer up failed: {result.get('message') or _last(done.stderr)}",
            why="the first line with ERROR above is the cause",
            hint="fix it and run the same command again; finished layers are kept",
            details=done.stderr,
        )
    return result["containerId"], result["remoteUser"], result["remoteWorkspaceFolder"]


def _last(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1] if lines else "it said nothing"


def _by_docker(root: Path, file: Path, environ: Mapping[str, str]) -> tuple[str, str, str]:
    config = container.read(file, root, file.read_text(), environ)
    known = _docker(["ps", "-aq", "--no-trunc", *_filters(config)], environ).split()
    if known:
        _docker(["start", known[0]], environ)
        return known[0], config.user, config.workspace
    image = str(config.data.get("image") or config.tag)
    if "image" not in config.data:
        with console.step("building the image"):
            if running.live(container.build_words(config, tags=[image], more=["--load"]), env=environ):
                raise CommandFailed("the image cannot be built", hint="the lines above say why; then run it again")
    gpus = container.wants_gpu(config) and "nvidia" in _docker(["info", "-f", "{{json .Runtimes}}"], environ)
    name = _run(container.run_words(config, image, gpus=gpus), environ).strip()
    try:
        if config.user != "root" and os.getuid():
            line = container.adopt_user(config.user, os.getuid(), os.getgid())
            _run(container.exec_words(config, name, line, user="root"), environ)
        for key in ("onCreateCommand", "updateContentCommand", "postCreateCommand", "postStartCommand"):
            if config.data.get(key):
                with console.step(key):
                    words = container.exec_words(config, name, config.data[key])
                    if running.live(words, env=environ):
                        raise CommandFailed(f"{key} failed", hint=f"{shlex.join(words)}  runs it again")
    except CommandFailed:
        console.info(f"the container stays, to look at: docker exec -it {name[:12]} bash")
        raise
    return name, config.user, config.workspace


def _filters(config: container.Config) -> list[str]:
    return [word for label in config.labels for word in ("--filter", f"label={label}")]


def _docker(words: Sequence[str], environ: Mapping[str, str]) -> str:
    return _run(["docker", *words], environ)


def _run(words: Sequence[str], environ: Mapping[str, str]) -> str:
    return running.capture(words, env=environ).stdout
