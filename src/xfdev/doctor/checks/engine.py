"""The container engine."""

from __future__ import annotations

from xfdev.doctor.facts import Engine, Facts, Machine, Probe, Unseen
from xfdev.doctor.finding import Finding, error, not_applicable, numbers, ok, unknown, warning
from xfdev.doctor.wanted import Wanted
from xfdev.doctor.words import size

_CONTAINERD = (
    'add {"features": {"containerd-snapshotter": true}} to /etc/docker/daemon.json, then sudo systemctl restart docker'
    "; images are fetched anew"
)


def _running(facts: Facts) -> Engine:
    """The engine. Raises Unseen where none answers: then nothing can be said about it."""
    engine = facts.get(Engine)
    if engine.program and not engine.running:
        raise Unseen(f"{engine.program} does not answer")
    return engine


def _absent(facts: Facts) -> Finding | None:
    """What to say where there is no engine to look at."""
    engine, inside = facts.get(Engine), facts.get(Machine).container
    if engine.running or (engine.program and (engine.named or not inside)):
        return None
    return not_applicable(f"inside a {inside} container" if inside else "no container engine is installed")


def installed(facts: Facts) -> Finding:
    engine, machine = facts.get(Engine), facts.get(Machine)
    if engine.program == "docker":
        return ok(f"docker {engine.client}")
    if engine.program:
        return warning(
            f"{engine.program} {engine.client}, no docker: up --engine container starts docker",
            "sudo apt-get install podman-docker, and point DOCKER_HOST to podman's socket; or install Docker",
        )
    if machine.container:
        return not_applicable(f"inside a {machine.container} container: ask on its host")
    return warning(
        "neither docker nor podman is installed",
        "https://docs.docker.com/engine/install/; xfdev up works without, in an environment of this machine",
    )


def running(facts: Facts) -> Finding:
    engine, machine = facts.get(Engine), facts.get(Machine)
    if not engine.program:
        return not_applicable("no container engine is installed")
    if engine.running:
        where = "Docker Desktop, " if engine.desktop else ""
        return ok(f"{where}{engine.program} {engine.server} answers")
    said = engine.said or "it does not answer"
    if engine.slow:
        fix = (
            f"{engine.program} info shows whether it is slow or hangs; xfdev doctor --only engine-running waits longer"
        )
        return warning(said, fix)
    if "permission denied" in said.lower():
        fix = "sudo usermod -aG docker $USER, then log in again"
    elif machine.wsl:
        fix = "start Docker Desktop, and switch on its WSL integration for this distribution"
    elif engine.program == "podman":
        fix = "podman info shows why"
    else:
        fix = "sudo systemctl start docker (or start Docker Desktop); is DOCKER_HOST right?"
    # In a container the engine is of use only to those who mounted its socket, or said where it is.
    return (warning if machine.container and not engine.named else error)(said, fix)


def version(facts: Facts) -> Finding:
    absent = _absent(facts)
    if absent:
        return absent
    engine, wanted = _running(facts), facts.get(Wanted)
    least = wanted.podman if engine.program == "podman" else wanted.docker
    have = numbers(engine.server)
    if not have:
        return unknown(f"{engine.program} calls itself {engine.server!r}")
    if have < numbers(least):
        return error(
            f"{engine.program} {engine.server} is older than {least}",
            f"update it: https://docs.docker.com/engine/install/ ({least} or newer)"
            if engine.program == "docker"
            else f"update podman to {least} or newer",
        )
    return ok(f"{engine.program} {engine.server}, {least} or newer is wanted")


def buildx(facts: Facts) -> Finding:
    absent = _absent(facts)
    if absent:
        return absent
    engine = facts.get(Engine)
    if engine.program != "docker":
        return not_applicable(f"{engine.program} builds without")
    if engine.buildx is None:
        return error("docker has no buildx, which builds the image", "sudo apt-get install docker-buildx-plugin")
    return ok(f"buildx {engine.buildx}")


def store(facts: Facts) -> Finding:
    absent = _absent(facts)
    if absent:
        return absent
    engine = _running(facts)
    if engine.program != "docker":
        return not_applicable(f"{engine.program} has its own")
    if engine.containerd_store:
        return ok("images are kept by containerd")
    fix = "Settings, General: use containerd for pulling and storing images" if engine.desktop else _CONTAINERD
    return warning("images are kept the old way: no attestations, no images for several platforms", fix)


def disk(facts: Facts) -> Finding:
    absent = _absent(facts)
    if absent:
        return absent
    engine, wanted, probe = _running(facts), facts.get(Wanted), facts.find(Probe)
    if engine.local and engine.places:
        place, free = min(engine.places, key=lambda entry: entry[1])
    elif probe is not None and probe.free is not None:
        place, free = "where images live", probe.free
    else:
        return unknown(
            "images live on another machine, or a virtual one, and no container could be run to look",
            f"{engine.program} system df",
        )
    fix = f"{engine.program} system prune; {engine.program} buildx prune" + (
        "; Docker Desktop: Settings, Resources, disk limit" if engine.desktop else ""
    )
    if free < wanted.images_least:
        return error(f"{place}: {size(free)} free, an image takes {size(wanted.images_least)}", fix)
    if free < wanted.images_enough:
        return warning(f"{place}: {size(free)} free, two images do not fit", fix)
    return ok(f"{place}: {size(free)} free")


def memory(facts: Facts) -> Finding:
    absent = _absent(facts)
    if absent:
        return absent
    engine, wanted, machine = _running(facts), facts.get(Wanted), facts.get(Machine)
    if not engine.memory:
        return unknown(f"{engine.program} does not say how much memory it has")
    if engine.memory >= wanted.memory_enough:
        return ok(f"{size(engine.memory)} for containers")
    if machine.wsl:
        fix = "in %UserProfile%\\.wslconfig: [wsl2] and memory=12GB; then wsl --shutdown (WSL takes half by default)"
    elif engine.desktop:
        fix = "Docker Desktop: Settings, Resources, memory limit: 8 GB or more"
    else:
        fix = "compile fewer units at once: xfdev build --jobs 1; or take a bigger machine"
    said = f"{size(engine.memory)} for containers; one CUDA unit takes 3 to 5 GB"
    return warning(said, fix)  # to link takes next to nothing
