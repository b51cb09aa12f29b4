"""The doctor's checks: each one made to say everything that it can say, by facts that are given."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from xfdev import arch
from xfdev.doctor import report
from xfdev.doctor.compare import judge_memory, judge_room
from xfdev.doctor.examine import ASK, areas_of, gather, judge
from xfdev.doctor.facts import (
    Caches,
    Chain,
    Compiler,
    Disk,
    Disks,
    Engine,
    Facts,
    Gpus,
    Index,
    Lock,
    Login,
    Machine,
    Mount,
    Owners,
    Probe,
    Registry,
    Settings,
    Tree,
    Unseen,
)
from xfdev.doctor.finding import Finding, Repair, error, numbers, ok, warning
from xfdev.doctor.look.host_compiler import any_compiler_allowed, compiler_kind, unchecked
from xfdev.doctor.registry import CHECKS, NETWORK, Check, chosen
from xfdev.doctor.wanted import Wanted, wanted
from xfdev.doctor.words import size, span
from xfdev.errors import UsageError

GB = 10**9
HOST, INSIDE, WSL = Machine(), Machine(container="docker"), Machine(wsl=True)
NONE = Engine()
DOCKER = Engine(
    "docker", "28.2.2", "28.2.2", buildx="0.24.0", containerd_store=True, places=(("/var/lib/docker", 200 * GB),),
    memory=32 * GB, nvidia_runtime=True,
)  # fmt: skip
STOPPED = Engine("docker", "28.2.2", said="Cannot connect to the Docker daemon", buildx="0.24.0")
DESKTOP = replace(DOCKER, desktop=True, local=False, places=())
PODMAN = Engine("podman", "5.2.0", "5.2.0", memory=32 * GB, places=(("/home/u/.local", 200 * GB),))
H100 = Gpus(("NVIDIA H100 (9.0)",), True, "580.95.05", "13.0", archs=arch.parse("9.0"))
V100 = replace(H100, devices=("Tesla V100 (7.0)",), archs=arch.parse("7.0"))
RTX50 = replace(H100, devices=("NVIDIA GeForce RTX 5090 (12.0)",), archs=arch.parse("12.0"))
DRIVER_ONLY = Gpus((), True, "580.95.05", "13.0")
NO_GPU = Gpus(notes=("no NVIDIA driver",))
SEEN = Probe("img", ("--gpus", "all"), gpus=("GPU 0: NVIDIA H100",), free=200 * GB)
CHAIN = Chain(
    "/src/.venv", "finished", "cu130", "2.14.1+cu130", "2.14.1+cu130", ("2.14.1",), "2.14.1", (), "13.0", "13.0.88",
    Compiler("/usr/bin/g++-14", "14.2.0", "gcc"), linker="mold", gcc=15, clang=20, driver="580.65.06",
)  # fmt: skip
NO_CHAIN = Chain("/src/.venv")
PLAIN = Chain("/src/.venv", "finished", "plain", compiler=Compiler("/usr/bin/g++-14", "14.2.0", "gcc"))
TREE = Tree("/src")
LOCK = Lock("/src/.git/index.lock", 7200.0, False, (1, 2, 3, 4))
MOUNT = Mount("/src", "ext4", files=9000.0, speed=2e9, skew=0.0)
OWNERS = Owners("/src", 1000, 1000, 1000, 400)
INDEX = Index("https://pypi.org/simple/", 200, issuer="Public CA", public=True, trusted=True, skew=0.2, seconds=0.3)
LOGIN = Login("registry.example.com", "registry.example.com/a/b:c", "/home/u/.docker/config.json")
PROXIES = (("https_proxy", "http://proxy:3128"), ("HTTPS_PROXY", "http://proxy:3128"))


def disks(free: int, **more: Any) -> Disks:
    return Disks(tuple(Disk(what, f"/{what}", 1, free, **more) for what in ("checkout", "environment", "cache")))


#: For each check: a verdict, words of the evidence or the fix, and the areas it is judged by.
CASES: list[tuple[str, str, str, tuple[Any, ...]]] = [
    ("engine-installed", "ok", "docker 28.2.2", (DOCKER, HOST)),
    ("engine-installed", "warning", "neither docker nor podman", (NONE, HOST)),
    ("engine-installed", "warning", "starts docker", (PODMAN, HOST)),
    ("engine-installed", "not-applicable", "ask on its host", (NONE, INSIDE)),
    ("engine-running", "ok", "28.2.2 answers", (DOCKER, HOST)),
    ("engine-running", "ok", "Docker Desktop", (DESKTOP, HOST)),
    ("engine-running", "error", "systemctl start docker", (STOPPED, HOST)),
    ("engine-running", "error", "WSL integration", (STOPPED, WSL)),
    ("engine-running", "error", "usermod -aG docker", (replace(STOPPED, said="permission denied while"), HOST)),
    ("engine-running", "error", "DOCKER_HOST", (replace(STOPPED, named=True), INSIDE)),
    ("engine-running", "error", "podman info", (Engine("podman", said="cannot"), HOST)),
    ("engine-running", "warning", "Cannot connect", (STOPPED, INSIDE)),
    ("engine-running", "warning", "waits longer", (replace(STOPPED, slow=True), HOST)),
    ("engine-running", "not-applicable", "no container engine", (NONE, HOST)),
    ("engine-version", "ok", "23.0.0 or newer", (DOCKER, HOST)),
    ("engine-version", "error", "20.10.24+dfsg1 is older", (replace(DOCKER, server="20.10.24+dfsg1"), HOST)),
    ("engine-version", "error", "update podman", (replace(PODMAN, server="3.4.4"), HOST)),
    ("engine-version", "unknown", "'dev'", (replace(DOCKER, server="dev"), HOST)),
    ("engine-version", "unknown", "does not answer", (STOPPED, HOST)),
    ("engine-version", "not-applicable", "inside a docker container", (STOPPED, INSIDE)),
    ("engine-version", "not-applicable", "no container engine", (NONE, HOST)),
    ("buildx", "ok", "0.24.0", (DOCKER, HOST)),
    ("buildx", "error", "docker-buildx-plugin", (replace(DOCKER, buildx=None), HOST)),
    ("buildx", "not-applicable", "podman builds without", (PODMAN, HOST)),
    ("image-store", "ok", "by containerd", (DOCKER, HOST)),
    ("image-store", "warning", "containerd-snapshotter", (replace(DOCKER, containerd_store=False), HOST)),
    ("image-store", "warning", "Settings, General", (replace(DESKTOP, containerd_store=False), HOST)),
    ("image-store", "not-applicable", "its own", (PODMAN, HOST)),
    ("image-store", "unknown", "does not answer", (STOPPED, HOST)),
    ("engine-disk", "ok", "/var/lib/docker: 200 GB free", (DOCKER, HOST)),
    ("engine-disk", "ok", "where images live", (DESKTOP, HOST, SEEN)),
    ("engine-disk", "error", "docker system prune", (replace(DOCKER, places=(("/d", 2 * GB), ("/e", 90 * GB))), HOST)),
    ("engine-disk", "error", "Docker Desktop", (DESKTOP, HOST, replace(SEEN, free=GB))),
    ("engine-disk", "warning", "two images do not fit", (replace(DOCKER, places=(("/d", 12 * GB),)), HOST)),
    ("engine-disk", "unknown", "a virtual one", (DESKTOP, HOST)),
    ("engine-disk", "not-applicable", "no container engine", (NONE, HOST)),
    ("engine-memory", "ok", "32 GB", (DOCKER, HOST)),
    ("engine-memory", "warning", "--jobs 1", (replace(DOCKER, memory=4 * GB), HOST)),
    ("engine-memory", "warning", "Settings, Resources", (replace(DESKTOP, memory=2 * GB), HOST)),
    ("engine-memory", "warning", ".wslconfig", (replace(DESKTOP, memory=4 * GB), WSL)),
    ("engine-memory", "unknown", "does not say", (replace(DOCKER, memory=0), HOST)),
    ("engine-memory", "not-applicable", "no container engine", (NONE, HOST)),
    ("gpu", "ok", "NVIDIA H100 (9.0); driver 580.95.05", (H100, HOST)),
    ("gpu", "warning", "no GPU is seen", (DRIVER_ONLY, HOST)),
    ("gpu", "warning", "libraries", (Gpus((), True, notes=("its libraries are not here",)), INSIDE)),
    ("gpu", "not-applicable", "no NVIDIA GPU", (NO_GPU, HOST)),
    ("gpu-in-container", "ok", "--gpus all: GPU 0: NVIDIA H100", (DOCKER, H100, HOST, SEEN)),
    ("gpu-in-container", "ok", "this is a container", (NONE, H100, INSIDE)),
    ("gpu-in-container", "error", "starts and sees no GPU", (DOCKER, H100, HOST, replace(SEEN, gpus=()))),
    (
        "gpu-in-container", "error", "install nvidia-container-toolkit",
        (replace(DOCKER, nvidia_runtime=False), H100, HOST,
         replace(SEEN, started=False, gpus=(), said="could not select device driver")),
    ),
    ("gpu-in-container", "error", "cdi generate", (PODMAN, H100, HOST, Probe("i", started=False, said="unresolvable"))),
    ("gpu-in-container", "not-applicable", "no GPU here", (DOCKER, NO_GPU, HOST)),
    ("gpu-in-container", "not-applicable", "asked there", (STOPPED, NO_GPU, INSIDE)),
    ("gpu-in-container", "not-applicable", "no container engine", (NONE, H100, HOST)),
    ("gpu-in-container", "unknown", "does not answer", (STOPPED, H100, HOST)),
    ("gpu-in-container", "unknown", "not known here", (DESKTOP, NO_GPU, HOST, replace(SEEN, gpus=()))),
    ("cdi", "ok", "/etc/cdi/n.yaml", (replace(DOCKER, specs=(("/etc/cdi/n.yaml", "580.95.05"),)), H100, HOST)),
    ("cdi", "warning", "written for driver 570", (replace(DOCKER, specs=(("/etc/n", "570.1.1"),)), H100, HOST)),
    ("cdi", "error", "written for driver 570", (replace(PODMAN, specs=(("/etc/n", "570.1.1"),)), H100, HOST)),
    ("cdi", "error", "no CDI file describes the GPU to podman", (PODMAN, H100, HOST)),
    ("cdi", "warning", "no CDI file", (replace(DOCKER, nvidia_runtime=False), H100, HOST)),
    ("cdi", "unknown", "for which driver", (replace(DOCKER, specs=(("/etc/n", None),)), H100, HOST)),
    ("cdi", "not-applicable", "no GPU", (DOCKER, NO_GPU, HOST)),
    ("cdi", "not-applicable", "has the runtime nvidia", (DOCKER, H100, HOST)),
    ("cdi", "not-applicable", "inside a container", (NONE, H100, INSIDE)),
    ("driver-cuda", "ok", "needs 580.65.06", (H100, CHAIN)),
    ("driver-cuda", "error", "older than 580.65.06", (replace(H100, driver="570.86.10"), CHAIN)),
    ("driver-cuda", "warning", "PTX of 13.2", (H100, replace(CHAIN, cuda="13.2"))),
    ("driver-cuda", "unknown", "not known to this xfdev", (H100, replace(CHAIN, cuda="19.0", driver=None))),
    ("driver-cuda", "unknown", "does not tell", (replace(H100, driver=None), CHAIN)),
    ("driver-cuda", "not-applicable", "no NVIDIA driver", (NO_GPU, CHAIN)),
    ("driver-cuda", "not-applicable", "no environment with CUDA", (H100, NO_CHAIN)),
    ("environment", "ok", "toolchain cu130", (CHAIN,)),
    ("environment", "warning", "unfinished", (replace(CHAIN, state="unfinished"),)),
    ("environment", "error", "Python does not run", (replace(CHAIN, state="broken"),)),
    ("environment", "not-applicable", "none yet", (NO_CHAIN,)),
    ("environment", "not-applicable", "not of xfdev", (replace(NO_CHAIN, state="foreign"),)),
    ("torch", "ok", "once, and pinned", (CHAIN,)),
    ("torch", "error", "made with 2.14.1+cu130, now 2.11.0+cpu", (replace(CHAIN, torch="2.11.0+cpu"),)),
    ("torch", "error", "now none", (replace(CHAIN, torch=None),)),
    ("torch", "error", "not one torch but 2", (replace(CHAIN, distributions=("2.11.0", "2.14.1")),)),
    ("torch", "error", "takes it for 2.11.0", (replace(CHAIN, distributions=("2.11.0",)),)),
    ("torch", "error", "unset PYTHONPATH", (replace(CHAIN, elsewhere=("/opt/torch",)),)),
    ("torch", "warning", "nothing keeps torch", (replace(CHAIN, pinned=None),)),
    ("torch", "not-applicable", "no torch", (PLAIN,)),
    ("torch", "not-applicable", "no finished environment", (NO_CHAIN,)),
    ("nvcc-torch", "ok", "nvcc 13.0.88", (CHAIN,)),
    ("nvcc-torch", "warning", "newer driver than torch", (replace(CHAIN, nvcc="13.2.20"),)),
    ("nvcc-torch", "warning", "nothing can be compiled", (replace(CHAIN, nvcc=None),)),
    ("nvcc-torch", "error", "torch refuses", (replace(CHAIN, nvcc="12.8.93"),)),
    ("nvcc-torch", "not-applicable", "no CUDA", (PLAIN,)),
    ("nvcc-torch", "not-applicable", "no finished environment", (NO_CHAIN,)),
    ("gpu-code", "ok", "torch's wheel for CUDA 13.0, and nvcc", (H100, CHAIN, HOST)),
    ("gpu-code", "ok", "CUDA 13.0: code", (H100, replace(CHAIN, nvcc=None), HOST)),
    ("gpu-code", "error", "no machine code for 7.0", (V100, CHAIN, HOST)),
    ("gpu-code", "error", "nothing that it compiles runs there", (V100, CHAIN, HOST)),
    ("gpu-code", "warning", "CUDA 12.8 was the first", (RTX50, replace(CHAIN, cuda="13.0", nvcc="12.6.85"), HOST)),
    ("gpu-code", "not-applicable", "no GPU", (NO_GPU, CHAIN, HOST)),
    ("gpu-code", "not-applicable", "no environment with CUDA", (H100, PLAIN, HOST)),
    ("host-compiler", "ok", "gcc up to 15", (CHAIN,)),
    ("host-compiler", "ok", "no nvcc to fit", (PLAIN,)),
    (
        "host-compiler", "warning", "/g++ is a script",
        (replace(CHAIN, compiler=Compiler("/g++", "13.3", "gcc", script=True)),),
    ),
    ("host-compiler", "error", "CXX=g++-15 CC=gcc-15", (replace(CHAIN, compiler=Compiler("/g++", "16.1", "gcc")),)),
    ("host-compiler", "error", "CXX=clang++-20", (replace(CHAIN, compiler=Compiler("/clang++", "22.0", "clang")),)),
    ("linker", "ok", "mold links", (CHAIN,)),
    ("linker", "not-applicable", "nothing is linked", (PLAIN,)),
    ("linker", "warning", "install mold", (replace(CHAIN, linker=""),)),
    ("host-compiler", "error", "CXX is 'g++-99'", (replace(CHAIN, compiler=None, named="g++-99"),)),
    ("host-compiler", "warning", "no C++ compiler", (replace(CHAIN, compiler=None),)),
    (
        "host-compiler", "warning", "allow-unsupported",
        (replace(CHAIN, compiler=Compiler("/g++", "16.1", "gcc"), unsupported_allowed=True),),
    ),
    ("host-compiler", "error", "/gcc 16.1", (replace(CHAIN, device_compiler=Compiler("/gcc", "16.1", "gcc")),)),
    ("host-compiler", "ok", "no nvcc", (replace(CHAIN, nvcc=None, device_compiler=Compiler("/gcc", "99", "gcc")),)),
    (
        "host-compiler", "warning", "/g++ 16.1",
        (replace(CHAIN, compiler=Compiler("/g++", "16.1", "gcc"), unchecked=True,
                 device_compiler=Compiler("/gcc-14", "14.2", "gcc")),),
    ),
    ("host-compiler", "unknown", "neither gcc nor clang", (replace(CHAIN, compiler=Compiler("/icpx", "2025", "")),)),
    ("host-compiler", "unknown", "not known to this xfdev", (replace(CHAIN, nvcc="19.0.1", gcc=None),)),
    ("host-compiler", "not-applicable", "no finished environment", (replace(CHAIN, state="unfinished"),)),
    ("git-ownership", "ok", "git works in /src", (TREE,)),
    ("git-ownership", "error", "safe.directory /src", (replace(TREE, git="refused"),)),
    ("git-ownership", "not-applicable", "not in a git", (replace(TREE, git="none"),)),
    ("git-ownership", "unknown", "git is not installed", (replace(TREE, git="failed", said="git is not installed"),)),
    ("submodules", "ok", "third_party/a", (replace(TREE, submodules=(("third_party/a", " "),)),)),
    ("submodules", "warning", "--init --depth 1 -- a", (replace(TREE, submodules=(("a", "-"), ("b", " "))),)),
    ("submodules", "warning", "if that is not meant", (replace(TREE, submodules=(("a", "+"),)),)),
    ("submodules", "error", "merge conflict", (replace(TREE, submodules=(("a", "U"),)),)),
    ("submodules", "unknown", "refuses", (replace(TREE, git="refused"),)),
    ("submodules", "not-applicable", "needs none", (TREE,)),
    ("submodules", "not-applicable", "not in a git", (replace(TREE, git="none"),)),
    ("worktree", "ok", "a worktree of /r/.git", (replace(TREE, worktree=True, repository="/r/.git"),)),
    (
        "worktree", "warning", "xfdev init /src",
        (replace(TREE, worktree=True, repository="/r/.git", configured=True, mounted=False),),
    ),
    (
        "worktree", "error", "is not here",
        (replace(TREE, git="none", worktree=True, repository="/r/.git", repository_there=False),),
    ),
    ("worktree", "not-applicable", "a plain clone", (TREE,)),
    ("worktree", "unknown", "it broke", (replace(TREE, git="failed", said="it broke"),)),
    ("stale-locks", "ok", "none", (TREE,)),
    ("stale-locks", "ok", "in use", (replace(TREE, locks=(replace(LOCK, held=True),)),)),
    ("stale-locks", "ok", "in use", (replace(TREE, locks=(replace(LOCK, age=60.0),)),)),
    ("stale-locks", "warning", "rm /src/.git/index.lock", (replace(TREE, locks=(LOCK,)),)),
    ("mount", "ok", "ext4, 9000 files/s, 2.0 GB/s", (MOUNT, HOST)),
    ("mount", "ok", "(shared", (replace(MOUNT, system="virtiofs"), HOST)),
    ("mount", "warning", "into Linux", (replace(MOUNT, system="9p", files=210.0), WSL)),
    ("mount", "warning", "on a volume", (replace(MOUNT, system="fuse.grpcfuse", files=300.0), HOST)),
    ("mount", "warning", "faster disk", (replace(MOUNT, speed=4e6), HOST)),
    ("mount", "error", "remount,rw", (replace(MOUNT, read_only=True), HOST)),
    ("mount", "unknown", "Permission denied", (Mount("/src", "ext4", said="Permission denied"), HOST)),
    ("clock-files", "ok", "within 0.1 s", (MOUNT,)),
    ("clock-files", "warning", "60 min ahead of", (replace(MOUNT, skew=3605.0),)),
    ("clock-files", "warning", "behind", (replace(MOUNT, skew=-30.0),)),
    ("clock-files", "unknown", "no file could be written", (replace(MOUNT, skew=None, said="full"),)),
    ("file-owners", "ok", "all this user's", (OWNERS, TREE)),
    ("file-owners", "ok", "user 1000's", (replace(OWNERS, uid=0), TREE)),
    ("file-owners", "warning", "sudo chown -R 1000 /src", (replace(OWNERS, foreign=3, example="/src/a"), TREE)),
    ("file-owners", "error", "sudo chown -R 1000:1000 /src", (replace(OWNERS, closed=2, example="/src/a"), TREE)),
    ("file-owners", "not-applicable", "not in a git", (replace(OWNERS, foreign=3), replace(TREE, git="none"))),
    ("file-owners", "unknown", "could not be read", (replace(OWNERS, looked=0), TREE)),
    ("memory", "ok", "20 GB available of 32 GB", (Machine(memory=20 * GB, total=32 * GB),)),
    ("memory", "warning", "--jobs 1", (Machine(memory=4 * GB, total=32 * GB),)),
    ("memory", "warning", "--memory", (Machine(memory=2 * GB, total=32 * GB, limit=2 * GB),)),
    ("memory", "warning", ".wslconfig", (Machine(memory=4 * GB, total=8 * GB, wsl=True),)),
    ("memory", "unknown", "does not say", (Machine(),)),
    ("disk", "ok", "100 GB free", (disks(100 * GB), CHAIN)),
    ("disk", "warning", "9.5 GB are wanted", (disks(8 * GB), NO_CHAIN)),
    ("disk", "ok", "8.0 GB free", (disks(8 * GB), CHAIN)),
    ("disk", "warning", "only 10 more files", (disks(100 * GB, inodes=10), CHAIN)),
    ("disk", "error", "next to nothing", (disks(10**6), CHAIN)),
    ("disk", "unknown", "no file system", (Disks(()), CHAIN)),
    ("caches", "ok", "pip 1.0 GB", (Caches((("pip", "/c", GB, True),)),)),
    ("caches", "warning", "at least 30 GB", (Caches((("pip", "/c", 30 * GB, False),)),)),
    ("caches", "unknown", "no time", (Caches((("pip", "/c", GB, False),)),)),
    ("caches", "not-applicable", "none yet", (Caches(()),)),
    ("clock", "ok", "the package index agrees", (DOCKER, TREE, INDEX)),
    ("clock", "ok", "the container engine agrees", (replace(DESKTOP, skew=0.1), TREE)),
    ("clock", "warning", "40 s behind", (DOCKER, TREE, replace(INDEX, skew=-40.0))),
    ("clock", "warning", "in the future", (DOCKER, replace(TREE, commit_age=-86400.0 * 3))),
    ("clock", "error", "62 min ahead of", (replace(DESKTOP, skew=3700.0), TREE, INDEX)),
    ("clock", "error", "index is 400 days", (NONE, TREE, replace(INDEX, skew=400 * 86400.0))),
    ("clock", "unknown", "nothing here to compare with", (replace(DOCKER, skew=0.0), replace(TREE, commit_age=9.0))),
    ("proxy", "ok", "none is set", (Settings(), DOCKER)),
    ("proxy", "ok", "https_proxy=http://proxy:3128", (Settings(PROXIES, engine_proxy=True), DOCKER)),
    ("proxy", "ok", "https_proxy", (Settings(PROXIES), NONE)),
    ("proxy", "warning", "containers do not get it", (Settings(PROXIES), DOCKER)),
    ("proxy", "warning", "programs take one or the other", (Settings((*PROXIES[:1], ("HTTPS_PROXY", "x"))), NONE)),
    ("proxy", "warning", "is no URL", (Settings((("http_proxy", "proxy:3128"),)), NONE)),
    ("certificates", "ok", "PIP_CERT", (Settings(certificates=(("PIP_CERT", "/ca.pem", True),)),)),
    ("certificates", "error", "unset PIP_CERT", (Settings(certificates=(("PIP_CERT", "/ca.pem", False),)),)),
    ("certificates", "not-applicable", "no variable", (Settings(),)),
    ("registry-login", "ok", "logged in", (replace(LOGIN, known=True),)),
    ("registry-login", "ok", "without a login", (LOGIN, Registry("registry.example.com", 401, 200))),
    ("registry-login", "warning", "docker login registry.example.com", (LOGIN, Registry("r", 401, 401))),
    ("registry-login", "error", "docker-credential-x", (replace(LOGIN, helper="x", there=False),)),
    ("registry-login", "unknown", "--network tells", (LOGIN,)),
    ("registry-login", "unknown", "locked", (replace(LOGIN, helper="x", said="it is locked"),)),
    ("registry-login", "not-applicable", "no image", (Login(),)),
    ("tls", "ok", "a public certificate", (INDEX, Settings())),
    ("tls", "ok", "given to image builds", (replace(INDEX, public=False), Settings(build_ca=True))),
    ("tls", "warning", "XFDEV_BUILD_CA", (replace(INDEX, public=False), Settings())),
    ("tls", "error", "PIP_CERT", (replace(INDEX, public=False, trusted=False, status=None), Settings())),
    ("tls", "not-applicable", "not asked by TLS", (Index("http://mirror/simple/", 200), Settings())),
    ("tls", "unknown", "not reached", (Index("https://mirror/simple/", said="refused"), Settings())),
    ("tls", "unknown", "whether", (replace(INDEX, public=None), Settings())),
    ("package-index", "ok", "answers", (INDEX,)),
    ("package-index", "error", "its name is not known", (Index("https://x/", said="its name is not known"),)),
    ("package-index", "error", "wants a login", (replace(INDEX, status=401),)),
    ("package-index", "error", "the proxy wants a login", (replace(INDEX, status=407),)),
    ("package-index", "warning", "HTTP 503", (replace(INDEX, status=503),)),
    ("registry", "ok", "asks for a login", (LOGIN, Registry("r", 401))),
    ("registry", "error", "refused", (LOGIN, Registry("r", said="refused"))),
    ("registry", "warning", "HTTP 404", (LOGIN, Registry("r", 404))),
    ("registry", "not-applicable", "no image", (Login(),)),
    ("registry", "unknown", "was not looked at", (LOGIN,)),
]  # fmt: skip


def facts(*areas: Any) -> Facts:
    return Facts({Wanted: wanted(), **{type(area): area for area in areas}})


def check(name: str) -> Check:
    (found,) = chosen([name])
    return found


@pytest.mark.parametrize(("name", "status", "words", "areas"), CASES, ids=[f"{c[0]}-{c[1]}" for c in CASES])
def test_verdict(name: str, status: str, words: str, areas: tuple[Any, ...]) -> None:
    found = judge(check(name), facts(*areas), network=True)
    assert found.status == status, found
    assert words in f"{found.evidence} {found.fix}"
    assert bool(found.fix) == (status in ("warning", "error")) or status == "unknown", "a fix goes with what is wrong"


@pytest.mark.parametrize("one", CHECKS, ids=lambda one: one.id)
def test_every_verdict_that_a_check_can_give_is_given(one: Check) -> None:
    given = {status for name, status, _, _ in CASES if name == one.id}
    assert given - {"unknown"} == set(one.says)


@pytest.mark.parametrize("one", CHECKS, ids=lambda one: one.id)
def test_without_facts_nothing_is_ok(one: Check) -> None:
    assert judge(one, facts(), network=True).status == "unknown"
    reason = Facts({area: Unseen("the reason") for area in one.needs} | {Wanted: wanted()})
    found = judge(one, reason, network=True)
    assert found.status == "unknown"
    assert "the reason" in found.evidence or one.id == "clock"


@pytest.mark.parametrize("one", CHECKS, ids=lambda one: one.id)
def test_a_check_asks_for_the_areas_that_it_names(one: Check) -> None:
    """One that it does not name would not be looked at, and the check would never be more than unknown."""
    asked: set[type] = set()

    class Watched(Facts):
        def get(self, area: type) -> Any:  # type: ignore[override]
            asked.add(area)
            return super().get(area)

        def find(self, area: type) -> Any:  # type: ignore[override]
            asked.add(area)
            return super().find(area)

    for name, _, _, areas in CASES:
        if name == one.id:
            judge(one, Watched(facts(*areas).areas), network=True)
    # The disks are judged by the environment where there is one to see, and so on: find() may go without.
    assert asked - {Wanted} <= set(one.needs)


def test_ids() -> None:
    ids = [one.id for one in CHECKS]
    assert len(set(ids)) == len(ids) >= 30
    assert all(id_ == id_.lower().replace("_", "-").replace(" ", "-") for id_ in ids)
    with pytest.raises(UsageError, match="torch"):
        chosen(["trch"])
    assert [one.id for one in chosen(["disk", "gpu"])] == ["gpu", "disk"]


def test_only_checks_that_say_so_repair() -> None:
    able = set()
    for name, _, _, areas in CASES:
        found = judge(check(name), facts(*areas), network=True)
        if found.repairs:
            able.add(name)
            assert all(str(repair) in found.fix for repair in found.repairs), "what is done is what is shown"
    assert able == {one.id for one in CHECKS if one.safe} == {"git-ownership", "submodules", "stale-locks"}


# --- gathering


def test_a_crash_of_a_check_is_unknown() -> None:
    def broken(_: Facts) -> Finding:
        raise ZeroDivisionError("division by zero")

    found = judge(replace(CHECKS[0], judge=broken), facts(), network=True)
    assert found.status == "unknown"
    assert "ZeroDivisionError: division by zero" in found.evidence


def looked(**found: Callable[..., Any]) -> dict[type, Any]:
    return {{"engine": Engine, "gpus": Gpus, "probe": Probe}[name]: look for name, look in found.items()}


def test_an_area_that_fails_leaves_the_others() -> None:
    def crash(wait: object) -> Engine:
        raise RuntimeError("oops")

    known = gather(looked(engine=crash, gpus=lambda wait: H100), [Engine, Gpus], seconds=5, given={})
    assert known.get(Gpus) is H100
    with pytest.raises(Unseen, match="RuntimeError: oops"):
        known.get(Engine)
    assert known.find(Engine) is None


def test_an_area_that_hangs_is_unseen() -> None:
    started = time.monotonic()
    known = gather(
        looked(engine=lambda wait: time.sleep(30), gpus=lambda wait: H100), [Engine, Gpus], seconds=0.3, given={}
    )
    assert time.monotonic() - started < 5
    assert known.get(Gpus) is H100
    with pytest.raises(Unseen, match=r"not seen within 0\.3 s"):
        known.get(Engine)


def test_an_area_waits_for_another() -> None:
    def probe(wait: Callable[[type], Any]) -> Probe:
        return Probe(wait(Engine).server)

    known = gather(looked(engine=lambda wait: DOCKER, probe=probe), [Probe], seconds=5, given={})
    assert known.get(Probe).image == "28.2.2"
    none = gather(looked(probe=probe), [Probe], seconds=0.5, given={})
    with pytest.raises(Unseen, match="engine was not seen"):
        none.get(Probe)


def test_the_network_is_not_used_unasked() -> None:
    assert not set(areas_of(CHECKS, network=False)) & set(NETWORK)
    assert set(NETWORK) <= set(areas_of(CHECKS, network=True))
    for one in CHECKS:
        if one.network:
            found = judge(one, facts(INDEX, LOGIN, Settings(), Registry("r", 200)), network=False)
            assert (found.status, found.evidence) == ("unknown", ASK)


# --- what is shown

FOUND = [
    (CHECKS[0], ok("docker 28")),
    (CHECKS[1], error("it does not answer", "start it")),
    (CHECKS[2], warning("old", "update it")),
    (CHECKS[7], Finding("not-applicable", "no GPU")),
    (CHECKS[-1], Finding("unknown", ASK)),
]


def test_lines() -> None:
    assert report.lines(FOUND, verbose=False) == [
        "engine",
        "  ok      engine-installed  docker 28",
        "  ERROR   engine-running    it does not answer",
        "                            do: start it",
        "  warning engine-version    old",
        "                            do: update it",
        "1 more with --network",
        "1 error, 1 warning, 1 unknown, 1 ok, 1 do not apply",
    ]
    every = report.lines(FOUND, verbose=True)
    assert "  -       gpu               no GPU" in every
    assert f"  ?       registry          {ASK}" in every
    assert report.count([(CHECKS[0], ok(""))]) == "0 errors, 0 warnings, 1 ok"


def test_json() -> None:
    (one,) = (check for check in CHECKS if check.id == "git-ownership")
    assert report.as_json(one, error("e", "f", Repair(("git", "a b")))) == {
        "id": "git-ownership", "group": "checkout", "status": "error", "evidence": "e", "fix": "f",
        "safe_fix": ["git 'a b'"],
    }  # fmt: skip


# --- small parts


def test_comparisons() -> None:
    assert numbers("28.2.2-rc.1") == (28, 2, 2)
    assert numbers("26.1.5+dfsg1") == (26, 1, 5)
    assert numbers("v0.13.1") == (0, 13, 1)
    assert numbers("580.95.05") > numbers("580.65.06")
    assert numbers("dev") == ()
    assert [compiler_kind(name) for name in ("g++", "x86_64-linux-gnu-g++-12", "clang++-18", "gcc", "icpx", "c++")] == [
        "gcc", "gcc", "clang", "gcc", "", "",
    ]  # fmt: skip
    assert any_compiler_allowed({"NVCC_APPEND_FLAGS": "-O2 -allow-unsupported-compiler"})
    assert not any_compiler_allowed({"NVCC_APPEND_FLAGS": "-O2"})
    assert not unchecked({})
    assert unchecked({"TORCH_DONT_CHECK_COMPILER_ABI": "1"})
    assert judge_room("/", 10, least=20, enough=30, what="x").status == "error"
    assert judge_room("/", 25, least=20, enough=30, what="x").status == "warning"
    assert judge_room("/", 30, least=20, enough=30, what="x").status == "ok"
    assert [judge_memory(left, 100).status for left in (0, 99, 100)] == ["unknown", "warning", "ok"]


def test_words() -> None:
    assert [size(count) for count in (0, 999, 1500, 68e9, 1.26e9, 3.1e12)] == [
        "0 bytes", "999 bytes", "2 kB", "68 GB", "1.3 GB", "3100 GB",
    ]  # fmt: skip
    assert [span(seconds) for seconds in (0.25, -42, 600, 7300, 400 * 86400)] == [
        "0.2 s", "42 s", "10 min", "2 h", "400 days",
    ]  # fmt: skip


def test_thresholds_have_a_source() -> None:
    lines = (Path(report.__file__).parents[1] / "resources" / "doctor.toml").read_text().splitlines()
    assert sum(line.startswith("#") for line in lines) >= 15
    assert wanted().memory_least < wanted().memory_enough
    assert wanted().environment_least < wanted().environment
