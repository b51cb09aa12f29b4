"""``xfdev up --engine container``: the dev container of a folder, without an editor."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from xfdev import container, lockfile
from xfdev import run as running
from xfdev.console import console, duration
from xfdev.errors import CommandFailed, NoEngine, NoSuchPath

_ANSWERS_WITHIN = 10.0

#: Where the Container Device Interface has its specifications (SPEC.md of cncf-tags/container-device-interface).
CDI_FOLDERS = ("/etc/cdi", "/var/run/cdi")


def answers(environ: Mapping[str, str], program: str = "docker") -> bool:
    """Whether an engine is there and answers: *program* is ``docker`` or ``podman``."""
    if shutil.which(program, path=environ.get("PATH")) is None:
        return False
    try:
        return running.capture([program, "version"], env=environ, timeout=_ANSWERS_WITHIN, check=False).ok
    except CommandFailed:
        return False


def require(environ: Mapping[str, str], program: str = "docker") -> None:
    """Raise NoEngine where no engine answers."""
    if not answers(environ, program):
        raise NoEngine(
            f"no {program.capitalize()} engine answers",
            why="none is installed, it is not running, or this user may not talk to it",
            hint=f"{program} version says which; xfdev up --engine venv works without one",
        )


def up(root: Path, environ: Mapping[str, str], program: str = "docker") -> Mapping[str, Any]:
    """Bring up the container of *root*, and what its configuration runs in it; one that is there is used again.

    With Podman the devcontainer CLI is not asked: it passes options on that Podman does not take. Raises NoSuchPath
    where there is no configuration, NoEngine where nothing answers, CommandFailed for a step that failed.
    """
    started = time.monotonic()
    root = root.resolve()
    file = find(root)
    require(environ, program)
    environ = with_user(root, environ, program)
    if program == "docker" and shutil.which("devcontainer", path=environ.get("PATH")):
        name, user, workspace = _by_cli(root, environ)
    else:
        name, user, workspace = _by_engine(root, file, environ, program)
    seconds = time.monotonic() - started
    enter = shlex.join([program, "exec", "-it", "-u", user, "-w", workspace, name[:12], "bash"])
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


def with_user(root: Path, environ: Mapping[str, str], program: str = "docker") -> dict[str, str]:
    """For a folder of root's, the container's user has to be root as well; it never takes that number by itself. So it
    is with Podman of a user who is not root: the folder's owner is the container's root."""
    rootless = program == "podman" and os.geteuid() != 0
    roots = root.stat().st_uid == 0 or rootless
    return {**environ, "XFDEV_USER": "root"} if roots and "XFDEV_USER" not in environ else dict(environ)


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


def _by_engine(root: Path, file: Path, environ: Mapping[str, str], program: str) -> tuple[str, str, str]:
    config = container.read(file, root, file.read_text(), environ)

    def words(docker: Sequence[str]) -> list[str]:
        return container.for_podman(docker) if program == "podman" else list(docker)

    def ask(*docker: str) -> str:
        return running.capture(words(["docker", *docker]), env=environ).stdout

    known = ask("ps", "-aq", "--no-trunc", *(w for label in config.labels for w in ("--filter", f"label={label}")))
    if known.split():
        ask("start", known.split()[0])
        return known.split()[0], config.user, config.workspace
    lock = lockfile.read(lockfile.place(root, None)) or lockfile.Lock()
    locked = {entry.reference: entry.digest for entry in lock.images}
    image = container.pinned(str(config.data.get("image") or config.tag), locked)
    if "image" not in config.data:
        with console.step("building the image"):
            sources = [container.pinned(reference, locked) for reference in container.caches(config)]
            asked = container.build_words(config, tags=[image], cache_from=sources, more=["--load"])
            built = running.live(words(asked), env=environ)
        if built:
            raise CommandFailed("the image cannot be built", hint="the lines above say why; then run it again")
    gpus = container.wants_gpu(config) and (
        cdi(CDI_FOLDERS) if program == "podman" else "nvidia" in ask("info", "-f", "{{json .Runtimes}}")
    )
    name = ask(*container.run_words(config, image, gpus=gpus)[1:]).strip()
    try:
        if config.user != "root" and os.getuid():
            line = container.adopt_user(config.user, os.getuid(), os.getgid())
            ask(*container.exec_words(config, name, line, user="root")[1:])
        for key in ("onCreateCommand", "updateContentCommand", "postCreateCommand", "postStartCommand"):
            if config.data.get(key):
                with console.step(key):
                    command = words(container.exec_words(config, name, config.data[key]))
                    if running.live(command, env=environ):
                        raise CommandFailed(f"{key} failed", hint=f"{shlex.join(command)}  runs it again")
    except CommandFailed:
        console.info(f"the container stays, to look at: {program} exec -it {name[:12]} bash")
        raise
    return name, config.user, config.workspace


def cdi(folders: Sequence[str]) -> bool:
    """Whether some file in *folders* describes NVIDIA's GPUs for containers."""
    found = False
    for folder in folders:
        for path in Path(folder).glob("*.[jy]*"):
            with suppress(OSError):
                found = found or "nvidia.com/gpu" in path.read_text(errors="replace")
    return found
