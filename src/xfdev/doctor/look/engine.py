"""The container engine: what it says of itself, and what a container says that is run now."""

from __future__ import annotations

import json
import os
import re
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any

from xfdev import run
from xfdev.doctor.facts import Engine, Gpus, Machine, Probe, Unseen
from xfdev.doctor.look.ask import Ask
from xfdev.errors import CommandFailed

_CDI = ("/etc/cdi", "/var/run/cdi")


def look(ask: Ask) -> Engine:
    """Docker, or else Podman."""
    for program, told in (("docker", _docker), ("podman", _podman)):
        if shutil.which(program, path=ask.environ.get("PATH")):
            return told(ask)
    return Engine()


def _docker(ask: Ask) -> Engine:
    named = bool(ask.environ.get("DOCKER_HOST") or ask.environ.get("DOCKER_CONTEXT"))
    started = time.monotonic()
    try:
        argv = ["docker", "info", "--format", "{{json .}}"]
        done = run.capture(argv, env=ask.environ, timeout=ask.seconds, check=False)
    except CommandFailed as error:  # it hangs, or cannot be run
        return Engine("docker", said=str(error), slow=time.monotonic() - started >= ask.seconds, named=named)
    asked = time.time()
    try:
        info = json.loads(done.stdout)
    except ValueError:
        info = {}
    client = info.get("ClientInfo") or {}
    plugins = {entry.get("Name"): entry.get("Version", "") for entry in client.get("Plugins") or ()}
    said = "; ".join(info.get("ServerErrors") or ()) or _last(done.stderr)
    version = str(client.get("Version") or "")
    if not info.get("ServerVersion"):
        said = said or "the engine does not answer"
        return Engine("docker", version, said=said, named=named, buildx=plugins.get("buildx"))
    kept = [value for key, value in info.get("DriverStatus") or () if key == "driver-type"]
    system = str(info.get("OperatingSystem", ""))
    desktop = system == "Docker Desktop"
    containerd = any("containerd.snapshotter" in value for value in kept)
    local = not desktop and info.get("Name") == os.uname().nodename
    places = [info.get("DockerRootDir", "")]
    if containerd:  # by the system's containerd, unless the engine has one of its own
        places.append("/var/lib/containerd")
    return Engine(
        program="docker",
        client=version,
        server=str(info["ServerVersion"]),
        named=named,
        buildx=plugins.get("buildx"),
        desktop=desktop,
        local=local,
        containerd_store=containerd,
        places=_free(places) if local else (),
        memory=int(info.get("MemTotal") or 0),
        nvidia_runtime="nvidia" in (info.get("Runtimes") or {}),
        specs=_specs([*(info.get("CDISpecDirs") or ()), *_CDI]),
        skew=_skew(str(info.get("SystemTime", "")), asked),
    )


def _podman(ask: Ask) -> Engine:
    try:
        argv = ["podman", "info", "--format", "json"]
        done = run.capture(argv, env=ask.environ, timeout=ask.seconds, check=False)
        info = json.loads(done.stdout) if done.ok else {}
    except (CommandFailed, ValueError) as error:
        return Engine("podman", said=str(error))
    version = str((info.get("version") or {}).get("Version", ""))
    host = info.get("host") or {}
    if not version:
        return Engine("podman", said=_last(done.stderr))
    local = not host.get("serviceIsRemote", False)
    places = [(info.get("store") or {}).get("graphRoot", "")]
    return Engine(
        program="podman",
        client=version,
        server=version,
        local=local,
        places=_free(places) if local else (),
        memory=int(host.get("memTotal") or 0),
        specs=_specs(_CDI),
    )


def _last(text: str) -> str:
    lines = text.strip().splitlines()
    return lines[-1].removeprefix("ERROR: ") if lines else ""


def _free(places: list[str]) -> tuple[tuple[str, int], ...]:
    found = []
    for place in dict.fromkeys(filter(None, places)):
        with suppress(OSError):
            found.append((place, shutil.disk_usage(place).free))
    return tuple(found)


def _skew(said: str, now: float) -> float | None:
    """The engine's clock against ours; it writes nanoseconds, which Python before 3.11 does not read."""
    match = re.match(r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d)(\.\d+)?(Z|[+-]\d\d:\d\d)$", said)
    if match is None:
        return None
    zone = "+00:00" if match[3] == "Z" else match[3]
    return datetime.fromisoformat(match[1] + zone).timestamp() + float(match[2] or 0) - now


#: A library of the driver, as CDI files name it.
_DRIVER = re.compile(r"lib(?:cuda|nvidia-ml|nvidia-ptxjitcompiler)\.so\.(\d{3,}\.\d+(?:\.\d+)?)\b")


def _specs(folders: list[str] | tuple[str, ...]) -> tuple[tuple[str, str | None], ...]:
    """The CDI files that describe NVIDIA's GPUs, each with the driver it was written for."""
    found: dict[str, str | None] = {}
    for folder in dict.fromkeys(folders):
        for path in sorted(Path(folder).glob("*.[jy]*")):
            with suppress(OSError):
                text = path.read_text(errors="replace")
                if "nvidia.com/gpu" in text:
                    match = _DRIVER.search(text)
                    found[str(path.resolve())] = match[1] if match else None
    return tuple(found.items())


# --- a container that is run

#: What the container says: what is free where its image lives, its GPUs. WSL has nvidia-smi in a place of its own.
_SCRIPT = (
    "df -Pk / | tail -n 1; echo; PATH=$PATH:/usr/lib/wsl/lib; "
    "if command -v nvidia-smi >/dev/null; then nvidia-smi -L; else ls -d /dev/nvidia[0-9]* /dev/dxg; fi 2>/dev/null; :"
)


def probe(ask: Ask, get: Callable[[type], Any]) -> Probe:
    """Run a container from an image that is here, and have it say what it sees."""
    engine: Engine = get(Engine)
    if not engine.program:
        raise Unseen("no container engine is installed")
    if not engine.running:
        raise Unseen(f"{engine.program} does not answer")
    gpus: Gpus = get(Gpus)
    machine: Machine = get(Machine)
    wanted = bool(gpus.devices) or machine.wsl
    if engine.local and not wanted:
        raise Unseen("there is no GPU to give to a container")
    image = _image(ask, engine.program)
    ways: list[tuple[str, ...]] = [()]
    if wanted or not engine.local:
        by_name = ("--device", "nvidia.com/gpu=all")
        ways = [by_name] if engine.program == "podman" else [("--gpus", "all")]
        if engine.program == "docker" and engine.specs:
            ways = [*ways, by_name] if engine.nvidia_runtime else [by_name, *ways]
    tried = [_try(ask, engine.program, image, words) for words in ways]
    best = next((one for one in tried if one.gpus), None) or next((one for one in tried if one.started), tried[0])
    if best.free is None and not engine.local and ways != [()]:
        plain = _try(ask, engine.program, image, ())
        return Probe(image, best.words, best.started, best.said, best.gpus, plain.free)
    return best


def _image(ask: Ask, program: str) -> str:
    """An image to run: the one that was named, a development environment, or what those start from."""
    from xfdev import devcontainer

    if ask.image:
        return ask.image
    named = ["--filter", "label=dev.xfdev.version", "--format", "{{.ID}}"]
    found = run.capture([program, "images", *named], env=ask.environ, timeout=ask.seconds, check=False).stdout.split()
    if found:
        return found[0]
    base = devcontainer.base_image()
    here = run.capture([program, "image", "inspect", base], env=ask.environ, timeout=ask.seconds, check=False).ok
    if here or ask.network:
        return base
    raise Unseen(f"no image to run a container of: xfdev doctor --image REF, or --network to fetch {base}")


def _try(ask: Ask, program: str, image: str, words: tuple[str, ...]) -> Probe:
    pull = "missing" if ask.network else "never"
    argv = [program, "run", "--rm", "--pull", pull, "--network", "none", *words, "--entrypoint", "/bin/sh"]
    try:
        done = run.capture([*argv, image, "-c", _SCRIPT], env=ask.environ, timeout=ask.seconds, check=False)
    except CommandFailed as error:
        return Probe(image, words, started=False, said=str(error))
    if not done.ok:
        return Probe(image, words, started=False, said=_why(done.stderr))
    disk, _, rest = done.stdout.partition("\n\n")
    fields = disk.split()
    free = int(fields[3]) * 1024 if len(fields) > 3 and fields[3].isdigit() else None
    gpus = tuple(line.split(" (UUID")[0].strip() for line in rest.splitlines() if line.strip())
    return Probe(image, words, gpus=tuple(name for name in gpus if name.startswith(("GPU", "/dev/"))), free=free)


def _why(said: str) -> str:
    """Of what an engine says of a container that did not start, the line that tells why."""
    lines = [line for line in said.strip().splitlines() if line.strip() and not line.startswith("Run 'docker")]
    telling = [line for line in lines if "Error" in line or "error" in line or "unsatisfied" in line]
    return (telling or lines or ["it said nothing"])[-1].removeprefix("docker: ")[:300]
