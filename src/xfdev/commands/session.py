"""What every verb that works on a checkout starts from: facts gathered once, candidates for the plan."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from xfdev import arch as archs
from xfdev import (
    arch_variables,
    compat,
    gpu,
    gpu_families,
    inputs,
    limits,
    link,
    on_import,
    options,
    plan,
    profile,
    project,
    targets,
    toolchain,
    venv,
    workspace,
)
from xfdev.bundle import Manifest, Places
from xfdev.checkout import Checkout, open_checkout
from xfdev.commands.candidates import Candidates
from xfdev.errors import BadEnvironment, UnknownArch, XfdevError
from xfdev.files import locked
from xfdev.stores.local import LocalStore

_LOCK_WAIT = 10.0


@dataclass(frozen=True)
class Session:
    """One checkout, its environment, and this machine."""

    checkout: Checkout
    profile: profile.Profile
    environment: venv.Environment
    toolchain: toolchain.Toolchain
    arch: tuple[archs.Arch, ...]
    """What is compiled for."""
    asked: str
    """Who asked for these archs, "" where they are those of the GPUs here."""
    added: tuple[archs.Arch, ...]
    """Those of them that nobody asked for, and that the GPUs here need."""
    gpus: gpu.Found
    environ: Mapping[str, str]
    options: options.Options
    store: LocalStore
    opened: int = 0
    """When the checkout had not been looked at yet, by the clock of its file system, in nanoseconds."""

    @property
    def root(self) -> Path:
        return self.checkout.root

    @cached_property
    def places(self) -> Places:
        return workspace.places_of(self.checkout, self.environment, *workspace.python_places(self.environment))

    @cached_property
    def cpus(self) -> int:
        found = limits.cpus(self.environ)
        return min(found, self.options.jobs) if self.options.jobs else found

    @property
    def compiles(self) -> bool:
        """Whether this environment can compile the units of its kind."""
        return self.toolchain.cxx is not None and (not self.toolchain.has_cuda or self.toolchain.nvcc is not None)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the checkout's lock: one xfdev at a time changes it."""
        link.state_folder(self.root)
        with locked(self.root / ".xfdev" / "lock", str(self.root), wait=_LOCK_WAIT):
            link.state_folder(self.root)  # the one before may have been `unlink`, which takes the folder with it
            yield

    def variables(self, manifest: Manifest) -> dict[str, str]:
        """Those variables that *manifest*'s build watched and that are set now, with placeholders for paths."""
        return {
            name: self.places.abstract(self.environ[name])
            for name in sorted({*manifest.watched, *self.profile.variables})
            if name in self.environ and name not in self.profile.names_of_archs
        }

    @property
    def devices(self) -> tuple[archs.Arch, ...]:
        """What the outputs have to run on: the GPUs here, unless other archs were asked for."""
        return self.arch if self.asked else self.gpus.archs

    @property
    def machine(self) -> compat.Machine:
        return compat.Machine(self.gpus.archs, self.gpus.driver, self.gpus.cuda)

    def candidate(self, label: str, manifest: Manifest, bundle: str | None) -> plan.Candidate:
        runs = plan.outcomes(manifest, self.devices, self.machine)
        return plan.Candidate(
            label=label,
            manifest=manifest,
            changes=inputs.compare(manifest, self.checkout, self.places),
            mismatches=plan.mismatches(manifest, self.toolchain, self.variables(manifest), runs),
            bundle=bundle,
            outcomes=runs,
            elsewhere=manifest.elsewhere(self.places) if bundle is not None else (),
        )

    @property
    def guess(self) -> plan.Guess:
        return plan.Guess(**self.profile.guess)

    @cached_property
    def candidates(self) -> Candidates:
        return Candidates(self)

    @cached_property
    def release_version(self) -> str | None:
        return project.release_version(self.root, self.profile)

    def plan(self) -> plan.Plan:
        found = list(self.candidates.all())
        decided = plan.decide(
            found,
            unavailable=self.candidates.unavailable,
            compiles=self.compiles,
            cpus=self.cpus,
            recipe=workspace.last_recipe(self.root),
            cuda=self.toolchain.has_cuda,
            guess=self.guess,
        )
        decided = replace(decided, refused=(*decided.refused, *self.candidates.refused))
        return replace(decided, notes=(*decided.notes, *self._about_archs())) if self.asked else decided

    def _about_archs(self) -> Iterator[str]:
        """What is to be said about archs that were asked for and GPUs that are here."""
        here, what = archs.canonical(self.gpus.archs), archs.canonical(self.arch)
        if self.added:
            more = archs.canonical(self.added)
            yield f"{self.asked} leaves out the GPU here ({here}): {more} is added; --arch takes exactly what it says"
        elif targets.unserved(self.gpus.archs, self.arch):
            yield f"{self.asked} asks for {what}: that does not run on the GPU here ({here})"


def resolve_options(args: Any, root: Path | None, environ: Mapping[str, str]) -> options.Options:
    given = {name: getattr(args, name, None) for name in options.names()}
    return options.resolve(given, environ, options.config_files(root, environ))


def with_cache(chosen: options.Options, environ: Mapping[str, str]) -> dict[str, str]:
    """*environ* with the cache folder that the options name."""
    return {**environ, "XFDEV_CACHE": str(Path(chosen.cache).absolute())} if chosen.cache else dict(environ)


def local_store(environ: Mapping[str, str]) -> LocalStore:
    return LocalStore(venv.cache_folder(environ) / "store")


def open_session(args: Any, environ: Mapping[str, str], *, for_here: bool = True) -> Session:
    """The session for ``args.path``. Raises what its parts raise, and BadEnvironment where there is none yet.

    *for_here*: what is compiled has to run on this machine, whatever else it has to run on.
    """
    checkout = open_checkout(Path(args.path), environ)
    project.check_project(checkout.root)
    chosen = resolve_options(args, checkout.root, environ)
    environ = with_cache(chosen, environ)
    prefix = checkout.root / (chosen.venv or ".venv")
    environment = venv.read(prefix)
    if environment is None:
        raise BadEnvironment(
            f"there is no finished environment in {prefix}",
            why="xfdev up makes it, with the torch and the compilers that fit",
            hint=f"xfdev up {args.path}",
        )
    return session_for(checkout, environment, chosen, environ, for_here=for_here)


def session_for(
    checkout: Checkout,
    environment: venv.Environment,
    chosen: options.Options,
    environ: Mapping[str, str],
    *,
    for_here: bool = True,
) -> Session:
    """The session of a checkout in a finished environment. Raises BadEnvironment where its torch was swapped."""
    venv.check_torch(environment)
    facts = profile.of_checkout(checkout.root)
    torch = toolchain.torch_in(environment.site_packages)
    cuda = torch.cuda if torch is not None else None
    gpus = gpu.detect(environ) if cuda else gpu.Found()
    known = targets.compilable(cuda, environment.site_packages)
    arch, asked = targets.resolve_arch(environment, chosen, environ, gpus.archs, known)
    added: tuple[archs.Arch, ...] = ()
    if for_here and asked and asked != targets.OPTION:
        # A variable may have come with an image that was made for other machines: here it has to run, too.
        added = tuple(
            {gpu_families.best(device, known) or device for device in targets.unserved(gpus.archs, arch)} - {*arch}
        )
        arch = tuple(sorted({*arch, *added}))
    with suppress(XfdevError):  # a plan of a checkout that cannot be written does without
        link.state_folder(checkout.root)
    opened = on_import.moment(checkout.root)
    env = environment.environ(environ)
    env["XFDEV_IMPORT"] = "off"  # a build script that imports its project must not start another build
    env["CCACHE_DIR"] = str(venv.cache_folder(environ) / "ccache")
    for name in facts.names_of_archs:  # an environment that was made for an arch sets them to that one
        env.pop(name, None)
    if cuda and arch:
        env["TORCH_CUDA_ARCH_LIST"] = archs.canonical(arch)
        with suppress(UnknownArch):  # the project cannot be compiled for it: said when something has to be compiled
            env.update(arch_variables.translated(arch, facts.arch_variables))
    found = toolchain.probe(
        site_packages=environment.site_packages,
        python=environment.python,
        cuda_home=Path(environment.cuda_home) if environment.cuda_home else None,
        arch=arch,
        environ=env,
        watched=[name for name in facts.variables if name not in facts.names_of_archs],
        memory=venv.tools_memory(environ),
    )
    store = local_store(environ)
    return Session(checkout, facts, environment, found, arch, asked, added, gpus, env, chosen, store, opened)
