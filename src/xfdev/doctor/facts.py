"""What the doctor's areas tell, as plain values, so that a test can say them too."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from xfdev.arch import Arch

T = TypeVar("T")


class Unseen(Exception):
    """A fact that cannot be had here; says why."""


@dataclass(frozen=True)
class Facts:
    """The areas that were asked, by their class; an area that could not be seen is the reason why."""

    areas: Mapping[type, Any]

    def get(self, area: type[T]) -> T:
        """What *area* told. Raises Unseen."""
        found = self.areas.get(area)
        if isinstance(found, area):
            return found
        raise found if isinstance(found, Unseen) else Unseen(f"{area.__name__.lower()} was not looked at")

    def find(self, area: type[T]) -> T | None:
        """What *area* told, or None."""
        found = self.areas.get(area)
        return found if isinstance(found, area) else None


@dataclass(frozen=True)
class Machine:
    """*container* names the engine that this runs in, "" on a host. *limit* is the memory that containers and cgroups
    allow, None where there is no limit; *memory* what is left of it or of the machine now; *platform* as uname has it.
    """

    container: str = ""
    wsl: bool = False
    uid: int = 1000
    gid: int = 1000
    memory: int = 0
    total: int = 0
    limit: int | None = None
    platform: str = "x86_64"


@dataclass(frozen=True)
class Disk:
    """*device* tells file systems apart; *inodes* is None where the file system does not count them."""

    what: str
    path: str
    device: int
    free: int
    inodes: int | None = None


@dataclass(frozen=True)
class Disks:
    disks: tuple[Disk, ...]


@dataclass(frozen=True)
class Engine:
    """A container engine: *program* is ``docker``, ``podman`` or "" where neither is installed.

    *local* says that it runs on this very machine, not in a virtual one or far away; *named* that a variable says where
    it is; *slow* that it was given up on. *places* are the folders of its images here, with what is free there; *specs*
    are CDI files with the driver that each was written for.
    """

    program: str = ""
    client: str = ""
    server: str = ""
    said: str = ""
    slow: bool = False
    named: bool = False
    buildx: str | None = None
    desktop: bool = False
    local: bool = True
    containerd_store: bool = False
    places: tuple[tuple[str, int], ...] = ()
    memory: int = 0
    nvidia_runtime: bool = False
    specs: tuple[tuple[str, str | None], ...] = ()
    skew: float | None = None

    @property
    def running(self) -> bool:
        return bool(self.server)


@dataclass(frozen=True)
class Probe:
    """A container that was run: *words* are the arguments that give it a GPU, *said* why it did not start."""

    image: str
    words: tuple[str, ...] = ()
    started: bool = True
    said: str = ""
    gpus: tuple[str, ...] = ()
    free: int | None = None


@dataclass(frozen=True)
class Gpus:
    """*devices* as ``NVIDIA H100 (9.0)``, *archs* their capabilities alone; *cuda* is the newest CUDA that the
    driver brings; *traces* says that there is something of a driver or a GPU at all."""

    devices: tuple[str, ...] = ()
    traces: bool = False
    driver: str | None = None
    cuda: str | None = None
    notes: tuple[str, ...] = ()
    archs: tuple[Arch, ...] = ()


@dataclass(frozen=True)
class Compiler:
    """A host compiler: *kind* is ``gcc``, ``clang`` or "" for one of another name; *script*: it starts another."""

    path: str
    version: str
    kind: str
    script: bool = False


@dataclass(frozen=True)
class Chain:
    """An environment and what compiles in it.

    *state* is ``none``, ``foreign`` (xfdev did not make it), ``unfinished``, ``broken`` (its Python does not run) or
    ``finished``. *recorded* is the torch that it was made with, *torch* what lies there, *distributions* the versions
    that pip sees, *pinned* what its constraint says, *elsewhere* another torch that is found before it. *compiler* is
    that of C++, which torch checks unless it is told not to (*unchecked*), *device_compiler* the one that nvcc takes
    where that is another. *linker* is a faster one than the default, "" for none. *gcc*, *clang* and *driver* are the
    limits of that CUDA, None where its release is not known.
    """

    prefix: str = ""
    state: str = "none"
    toolchain: str = ""
    recorded: str = ""
    torch: str | None = None
    distributions: tuple[str, ...] = ()
    pinned: str | None = None
    elsewhere: tuple[str, ...] = ()
    cuda: str | None = None
    nvcc: str | None = None
    compiler: Compiler | None = None
    device_compiler: Compiler | None = None
    named: str | None = None
    linker: str = ""
    unsupported_allowed: bool = False
    unchecked: bool = False
    gcc: int | None = None
    clang: int | None = None
    driver: str | None = None


@dataclass(frozen=True)
class Lock:
    """*age* in seconds; *held* by a process that has it open; *identity* tells whether it is still this very file."""

    path: str
    age: float
    held: bool
    identity: tuple[int, ...] = ()


@dataclass(frozen=True)
class Tree:
    """A checkout: *git* is ``tree``, ``none``, ``refused``, or ``failed`` where git itself does not work.

    *submodules* are those that a compile needs, each with git's mark: ``-`` not checked out, ``+`` at another commit,
    ``U`` in a conflict. *repository* is where a worktree's lies, *mounted* whether its dev container gets that.
    """

    root: str
    git: str = "tree"
    said: str = ""
    submodules: tuple[tuple[str, str], ...] = ()
    worktree: bool = False
    repository: str = ""
    repository_there: bool = True
    configured: bool = False
    mounted: bool = True
    commit_age: float | None = None
    locks: tuple[Lock, ...] = ()


@dataclass(frozen=True)
class Mount:
    """The file system of the checkout, and what it did in a short test; *said* where the test could not be made."""

    path: str
    system: str
    point: str = "/"
    read_only: bool = False
    files: float | None = None
    speed: float | None = None
    skew: float | None = None
    said: str = ""


@dataclass(frozen=True)
class Owners:
    """Whose the checkout's files are: of *looked*, those that are not *owner*'s, and those that cannot be written."""

    path: str
    uid: int
    gid: int
    owner: int
    looked: int
    foreign: int = 0
    closed: int = 0
    example: str = ""


@dataclass(frozen=True)
class Caches:
    """Name, folder, bytes, and whether that is all (or the time was up)."""

    sizes: tuple[tuple[str, str, int, bool], ...]


@dataclass(frozen=True)
class Settings:
    """Proxies (variable, value without its password), who else knows of them, and certificates that are set."""

    proxies: tuple[tuple[str, str], ...] = ()
    engine_proxy: bool = False
    certificates: tuple[tuple[str, str, bool], ...] = ()
    build_ca: bool = False


@dataclass(frozen=True)
class Login:
    """How the engine logs in to *registry*: *helper* is a program's name, *there* whether it is installed."""

    registry: str = ""
    image: str = ""
    config: str = ""
    helper: str = ""
    there: bool = True
    known: bool = False
    said: str = ""


@dataclass(frozen=True)
class Index:
    """The package index, asked for one page. *public* says that its certificate leads to a public authority, *trusted*
    that this machine accepts it; both None without TLS. *skew* is its clock against ours."""

    url: str
    status: int | None = None
    said: str = ""
    issuer: str = ""
    public: bool | None = None
    trusted: bool | None = None
    skew: float | None = None
    seconds: float = 0.0
    proxy: str = ""


@dataclass(frozen=True)
class Registry:
    """A container registry, asked for ``/v2/``, and, as *pull*, for the image without a login."""

    host: str
    status: int | None = None
    pull: int | None = None
    said: str = ""


@dataclass(frozen=True)
class Made:
    """What is known of the environment without a look at its packages; all empty where there is none."""

    prefix: str
    state: str = "none"
    toolchain: str = ""
    recorded: str = ""
    python: str = ""
    cuda_home: str | None = None
    environ: Mapping[str, str] = field(default_factory=dict)
