"""All checks."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from difflib import get_close_matches

from xfdev.doctor import facts as areas
from xfdev.doctor.checks import checkout, engine, gpu, machine, network, toolchain
from xfdev.doctor.facts import Facts
from xfdev.doctor.finding import Finding, Status
from xfdev.errors import UsageError


@dataclass(frozen=True)
class Check:
    """*needs* are the areas it is judged by; *says* the verdicts it can give beside ``unknown``, which all can.

    *network*: it is made with ``--network`` only. *safe* is what ``--fix`` does for it, in words, "" for nothing.
    """

    id: str
    group: str
    looks_at: str
    judge: Callable[[Facts], Finding]
    needs: tuple[type, ...]
    says: tuple[Status, ...]
    network: bool = False
    safe: str = ""


_ALL: tuple[Status, ...] = ("ok", "not-applicable", "warning", "error")
_BAD: tuple[Status, ...] = ("ok", "not-applicable", "error")
_MILD: tuple[Status, ...] = ("ok", "not-applicable", "warning")

_M, _E, _P, _G, _C = areas.Machine, areas.Engine, areas.Probe, areas.Gpus, areas.Chain

CHECKS = (
    Check("engine-installed", "engine", "Docker or Podman is installed", engine.installed, (_E, _M), _MILD),
    Check("engine-running", "engine", "it answers this user", engine.running, (_E, _M), _ALL),
    Check("engine-version", "engine", "it is new enough for the image's Dockerfile", engine.version, (_E, _M), _BAD),
    Check("buildx", "engine", "`docker buildx`, which builds the image, is there", engine.buildx, (_E, _M), _BAD),
    Check("image-store", "engine", "images are kept by containerd", engine.store, (_E, _M), _MILD),
    Check("engine-disk", "engine", "room where images live, in a virtual machine too", engine.disk, (_E, _M, _P), _ALL),
    Check("engine-memory", "engine", "memory of the engine's machine, virtual or not", engine.memory, (_E, _M), _MILD),
    Check("gpu", "gpu", "GPUs and their driver, by NVML or nvidia-smi", gpu.gpu, (_G, _M), _MILD),
    Check(
        "gpu-in-container", "gpu", "a container that is run now really sees the GPU",
        gpu.in_container, (_E, _G, _M, _P), _BAD,
    ),
    Check("cdi", "gpu", "CDI files describe the GPU, for the driver that runs", gpu.cdi, (_E, _G, _M), _ALL),
    Check("driver-cuda", "gpu", "the driver is new enough for torch's CUDA", gpu.driver, (_G, _C), _ALL),
    Check("gpu-code", "gpu", "torch's wheel and nvcc know the GPUs that are here", gpu.code, (_G, _C, _M), _ALL),
    Check("environment", "toolchain", "the environment is finished, and its Python runs", toolchain.environment, (_C,),
          _ALL),
    Check("torch", "toolchain", "torch is there once, unswapped and pinned", toolchain.torch, (_C,), _ALL),
    Check("nvcc-torch", "toolchain", "nvcc is of torch's CUDA", toolchain.nvcc, (_C,), _ALL),
    Check("host-compiler", "toolchain", "nvcc takes the C++ compiler", toolchain.host_compiler, (_C,), _ALL),
    Check("linker", "toolchain", "a faster linker than the default is there", toolchain.linker, (_C,), _MILD),
    Check(
        "git-ownership", "checkout", "git works in the checkout", checkout.ownership, (areas.Tree,), _BAD,
        safe="tells git to trust this one folder (safe.directory)",
    ),
    Check(
        "submodules", "checkout", "those that a compile needs are checked out", checkout.submodules, (areas.Tree,),
        _ALL, safe="checks out those that are missing",
    ),
    Check("worktree", "checkout", "a worktree's repository is there, in its container too", checkout.worktree,
          (areas.Tree,), _ALL),
    Check(
        "stale-locks", "checkout", "no lock of git or torch is left by a process that is gone", checkout.locks,
        (areas.Tree,), ("ok", "warning"), safe="removes a lock that nobody has open and that is half an hour old",
    ),
    Check("mount", "checkout", "its file system, and what that does in a short test", checkout.mount,
          (areas.Mount, _M), ("ok", "warning", "error")),
    Check("clock-files", "checkout", "files written now have the time of now", checkout.clock_files, (areas.Mount,),
          ("ok", "warning")),
    Check("file-owners", "checkout", "its files are one user's, and can be written", checkout.owners,
          (areas.Owners, areas.Tree), _ALL),
    Check("memory", "machine", "memory that is left, inside all limits", machine.memory, (_M,),
          ("ok", "warning")),
    Check("disk", "machine", "room for the checkout, the environment, the cache and temporary files", machine.disk,
          (areas.Disks, _C), ("ok", "warning", "error")),
    Check("caches", "machine", "how large the caches are", machine.caches, (areas.Caches,), _MILD),
    Check("clock", "machine", "this machine's clock, against the engine's, git's and (--network) the index's",
          machine.clock, (_E, areas.Tree, areas.Index), ("ok", "warning", "error")),
    Check("proxy", "network", "proxies are set alike for all programs and containers", network.proxy,
          (areas.Settings, _E), ("ok", "warning")),
    Check("certificates", "network", "certificates that variables name are there", network.certificates,
          (areas.Settings,), _BAD),
    Check("registry-login", "network", "the image can be pulled: a login, a helper that is there, or none needed",
          network.login, (areas.Login, areas.Registry), _ALL),
    Check("tls", "network", "who signed the package index's certificate, and who trusts that", network.tls,
          (areas.Index, areas.Settings), _ALL, network=True),
    Check("package-index", "network", "pip's package index answers", network.index, (areas.Index,),
          ("ok", "warning", "error"), network=True),
    Check("registry", "network", "the registry that images come from answers", network.registry,
          (areas.Login, areas.Registry), _ALL, network=True),
)  # fmt: skip


def chosen(ids: Iterable[str]) -> tuple[Check, ...]:
    """The checks named *ids*, all where none is named. Raises UsageError for one that is not there."""
    wanted = list(ids)
    known = {check.id: check for check in CHECKS}
    for name in wanted:
        if name not in known:
            near = get_close_matches(name, known, n=1)
            raise UsageError(
                f"there is no check {name!r}" + (f"; {near[0]}?" if near else ""), hint="xfdev doctor --list shows all"
            )
    return tuple(check for check in CHECKS if check.id in wanted) if wanted else CHECKS


#: Areas that only a run with ``--network`` looks at.
NETWORK = (areas.Index, areas.Registry)
