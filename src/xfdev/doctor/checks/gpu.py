"""The GPU, its driver, and whether containers get it."""

from __future__ import annotations

from xfdev import compat
from xfdev.doctor.compare import judge_driver
from xfdev.doctor.facts import Chain, Engine, Facts, Gpus, Machine, Probe, Unseen
from xfdev.doctor.finding import Finding, error, not_applicable, ok, unknown, warning

_TOOLKIT = "https://docs.nvidia.com/datacenter/cloud-native/container-toolkit/latest/install-guide.html"
_DESCRIBE = "sudo nvidia-ctk cdi generate --output=/etc/cdi/nvidia.yaml"


def gpu(facts: Facts) -> Finding:
    gpus, machine = facts.get(Gpus), facts.get(Machine)
    if gpus.devices:
        driver = f"driver {gpus.driver}" if gpus.driver else "driver of unknown version"
        return ok(f"{', '.join(gpus.devices)}; {driver}")
    if gpus.driver is not None:
        fix = "nvidia-smi shows why; is CUDA_VISIBLE_DEVICES set? In a container: start it again with --gpus all"
        return warning("; ".join((f"driver {gpus.driver}, and no GPU is seen", *gpus.notes)), fix)
    if gpus.traces:
        fix = "nvidia-smi shows why; a driver and libraries of different versions need a restart of the machine"
        return warning("; ".join(gpus.notes) or "something of a driver is here, and no GPU is seen", fix)
    where = f" in this {machine.container} container" if machine.container else ""
    return not_applicable(f"no NVIDIA GPU or driver is seen{where}")


def in_container(facts: Facts) -> Finding:
    engine, gpus, machine = facts.get(Engine), facts.get(Gpus), facts.get(Machine)
    if machine.container and not engine.running and not engine.named:
        if gpus.devices:
            return ok(f"this is a container, and it sees {', '.join(gpus.devices)}")
        return not_applicable("this is a container without a GPU; whether its host has one is asked there")
    if not engine.program:
        return not_applicable("no container engine is installed")
    if not engine.running:
        raise Unseen(f"{engine.program} does not answer")
    if not gpus.devices and engine.local:
        return not_applicable("no GPU here to give to a container")
    probe = facts.get(Probe)
    how = " ".join(probe.words) or "without a GPU"
    if probe.gpus:
        return ok(f"{how}: {', '.join(probe.gpus)} in a container of {probe.image}")
    if not gpus.devices and not engine.local:
        # Of a virtual or a far machine nobody knows whether it has one.
        said = probe.said or "the container sees none"
        return unknown(f"{how}: {said}; whether the engine's machine has a GPU is not known here")
    if engine.program == "podman":
        fix = _DESCRIBE
    elif not engine.nvidia_runtime:
        fix = f"install nvidia-container-toolkit ({_TOOLKIT}), then sudo nvidia-ctk runtime configure && sudo systemctl restart docker"  # noqa: E501
    else:
        fix = "sudo nvidia-ctk runtime configure --runtime=docker && sudo systemctl restart docker"
    if probe.started:
        return error(f"{how}: the container starts and sees no GPU", fix)
    return error(f"{how}: {probe.said}", fix)


def cdi(facts: Facts) -> Finding:
    engine, gpus, machine = facts.get(Engine), facts.get(Gpus), facts.get(Machine)
    if not gpus.devices:
        return not_applicable("no GPU here")
    if machine.container or not engine.program:
        return not_applicable("inside a container" if machine.container else "no container engine is installed")
    served = engine.program == "docker" and engine.nvidia_runtime
    if not engine.specs:
        if served:
            return not_applicable("docker has the runtime nvidia, and no CDI file is there")
        fix = f"install nvidia-container-toolkit ({_TOOLKIT}), then {_DESCRIBE}"
        said = f"no CDI file describes the GPU to {engine.program}"
        return error(said, fix) if engine.program == "podman" else warning(said, fix)
    stale = [(path, driver) for path, driver in engine.specs if driver and gpus.driver and driver != gpus.driver]
    if stale:
        path, driver = stale[0]
        said = f"{path} was written for driver {driver}, running is {gpus.driver}: libraries it names are gone"
        fix = f"sudo nvidia-ctk cdi generate --output={path}"
        return warning(said, fix) if served else error(said, fix)
    paths = ", ".join(path for path, _ in engine.specs)
    if any(driver is None for _, driver in engine.specs) or gpus.driver is None:
        return unknown(f"{paths}: for which driver is not said there")
    return ok(f"{paths}, for the driver that runs")


def driver(facts: Facts) -> Finding:
    gpus, chain = facts.get(Gpus), facts.get(Chain)
    return judge_driver(gpus.driver, gpus.cuda, chain.cuda, chain.driver, seen=bool(gpus.devices))


def code(facts: Facts) -> Finding:
    """Whether nvcc can compile for the GPUs that are here, and torch's own wheel runs on them."""
    gpus, chain, machine = facts.get(Gpus), facts.get(Chain), facts.get(Machine)
    if not gpus.devices:
        return not_applicable("no GPU here")
    if chain.cuda is None:
        return not_applicable("no environment with CUDA here")
    gaps = compat.torch_gaps(chain.cuda, machine.platform, gpus.archs)
    gaps += compat.nvcc_gaps(chain.nvcc, gpus.archs) if chain.nvcc else []
    if gaps:
        worst = max(gaps, key=lambda gap: gap.grave)
        return (error if worst.grave else warning)("; ".join(gap.text for gap in gaps), worst.hint)
    return ok(f"torch's wheel for CUDA {chain.cuda}{', and nvcc' if chain.nvcc else ''}: code for each of them")
