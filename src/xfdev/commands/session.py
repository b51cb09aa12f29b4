"""What every verb that works on a checkout starts from: facts gathered once, candidates for the plan."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from xfdev import arch as archs
from xfdev import gpu, inputs, limits, link, options, plan, profile, toolchain, venv, workspace
from xfdev.bundle import Manifest, Places
from xfdev.checkout import Checkout, open_checkout
from xfdev.console import console
from xfdev.errors import BadBundle, BadEnvironment, NotAnExtensionProject, XfdevError
from xfdev.files import locked, read_json, write_json
from xfdev.stores.local import LocalStore, Summary

_CANDIDATES = 6  # bundles compared in full, the most alike first
_ASK_AGAIN_AFTER = 3600.0  # seconds until a release that no index had is asked for again
_LOCK_WAIT = 10.0


@dataclass(frozen=True)
class Session:
    """One checkout, its environment, and this machine."""

    checkout: Checkout
    profile: profile.Profile
    environment: venv.Environment
    toolchain: toolchain.Toolchain
    arch: tuple[archs.Arch, ...]
    environ: Mapping[str, str]
    options: options.Options
    store: LocalStore

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
            if name in self.environ and name != "TORCH_CUDA_ARCH_LIST"
        }

    def candidate(self, label: str, manifest: Manifest, bundle: str | None) -> plan.Candidate:
        return plan.Candidate(
            label=label,
            manifest=manifest,
            changes=inputs.compare(manifest, self.checkout, self.places),
            mismatches=plan.mismatches(manifest, self.toolchain, self.variables(manifest), self.arch),
            bundle=bundle,
        )

    def candidates(self) -> Iterator[plan.Candidate]:
        """What could serve this checkout, the nearest first; ends after one that can be linked as it is."""
        kept = workspace.kept_build(self.root)
        if kept is not None and all((self.root / workspace.LIB / name).is_file() for name in kept.outputs):
            candidate = self.candidate("the last build here", kept, None)
            yield candidate
            if _serves(candidate):
                return
        for summary in self._alike():
            label = f"bundle {summary.id[:12]}" if summary.kind == "build" else f"release {summary.version}"
            try:
                candidate = self.candidate(label, self.store.manifest(summary.id), summary.id)
            except BadBundle as error:
                console.warning(f"{error}; it is left out")
                continue
            yield candidate
            if _serves(candidate):
                return
        released = self._release()
        if released is not None:
            yield released

    def _alike(self) -> list[Summary]:
        project = _normal(project_name(self.root, self.profile))
        linked = (link.read_linked(self.root) or {}).get("bundle")
        facts = self.toolchain.facts

        def distance(summary: Summary) -> tuple[bool, ...]:
            return (
                summary.id != linked,
                summary.cuda.partition(".")[0] != facts.get("cuda", "").partition(".")[0],
                summary.torch != facts.get("torch"),
                summary.arch != facts.get("arch", ""),
            )

        same = [summary for summary in self.store.summaries() if _normal(summary.project) == project]
        return sorted(same, key=distance)[:_CANDIDATES]

    def _release(self) -> plan.Candidate | None:
        """The official wheel of the release this checkout descends from, where the store does not have it yet."""
        version = self.release_version
        if version is None or not self.profile.native or self.profile.distribution is None:
            return None
        if any(summary.kind == "release" and summary.version == version for summary in self.store.summaries()):
            return None  # it was among the candidates
        missed = self.store.folder / "missed" / f"{self.profile.distribution}-{version}.json"
        earlier = read_json(missed)
        if isinstance(earlier, dict) and time.time() - earlier.get("when", 0) < _ASK_AGAIN_AFTER:
            return None
        from xfdev.stores import release

        try:
            with release.scratch() as folder, console.step(f"looking at the official wheel {version}"):
                manifest, outputs = release.fetch(self.profile, version, Path(folder), self.environment.interpreter)
                name = self.store.put(manifest, {key: outputs / key for key in manifest.outputs}, None)
        except XfdevError as error:
            console.info(f"no official wheel for {version}: {error}")
            try:
                missed.parent.mkdir(parents=True, exist_ok=True)
                write_json(missed, {"when": time.time(), "reason": str(error)})
            except (OSError, XfdevError):
                console.debug(f"{missed} cannot be written")
            return None
        return self.candidate(f"release {version}", manifest, name)

    @cached_property
    def release_version(self) -> str | None:
        return release_version(self.root, self.profile)

    def plan(self) -> plan.Plan:
        return plan.decide(
            list(self.candidates()),
            compiles=self.compiles,
            cpus=self.cpus,
            recipe=workspace.last_recipe(self.root),
            cuda=self.toolchain.has_cuda,
        )


def _serves(candidate: plan.Candidate) -> bool:
    return not candidate.changes.native and all(item.links for item in candidate.mismatches)


def release_version(root: Path, facts: profile.Profile) -> str | None:
    """The release that a checkout descends from, as its version file says."""
    if facts.version_file is None:
        return None
    try:
        return (root / facts.version_file).read_text().strip().splitlines()[0]
    except (OSError, IndexError):
        return None


def project_name(root: Path, facts: profile.Profile) -> str:
    """The distribution's name, without running its build script."""
    if facts.distribution is not None:
        return facts.distribution
    for name, pattern in (
        ("pyproject.toml", r'^name\s*=\s*"([^"]+)"'),
        ("setup.cfg", r"^name\s*=\s*(\S+)"),
        ("PKG-INFO", r"^Name: (\S+)"),
        ("setup.py", r"""\bname\s*=\s*["']([^"']+)["']"""),
    ):
        try:
            match = re.search(pattern, (root / name).read_text(errors="replace"), re.MULTILINE)
        except OSError:
            continue
        if match:
            return match[1]
    return root.name


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def check_project(root: Path) -> None:
    """Raise NotAnExtensionProject for a checkout that setuptools does not build."""
    if (root / "setup.py").exists():
        return
    project = root / "pyproject.toml"
    text = project.read_text(errors="replace") if project.exists() else ""
    if "ext-modules" in text and "setuptools" in text:
        return
    raise NotAnExtensionProject(
        f"{root} is not an extension project",
        why="it has no setup.py, and no pyproject.toml with ext-modules for setuptools",
        hint="give the folder that has one; a pure Python project needs only pip install -e .",
    )


def resolve_options(args: Any, root: Path | None, environ: Mapping[str, str]) -> options.Options:
    given = {name: getattr(args, name, None) for name in options.names()}
    return options.resolve(given, environ, options.config_files(root, environ))


def with_cache(chosen: options.Options, environ: Mapping[str, str]) -> dict[str, str]:
    """*environ* with the cache folder that the options name."""
    return {**environ, "XFDEV_CACHE": str(Path(chosen.cache).absolute())} if chosen.cache else dict(environ)


def local_store(environ: Mapping[str, str]) -> LocalStore:
    return LocalStore(venv.cache_folder(environ) / "store")


def open_session(args: Any, environ: Mapping[str, str]) -> Session:
    """The session for ``args.path``. Raises what its parts raise, and BadEnvironment where there is none yet."""
    checkout = open_checkout(Path(args.path), environ)
    check_project(checkout.root)
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
    return session_for(checkout, environment, chosen, environ)


def session_for(
    checkout: Checkout, environment: venv.Environment, chosen: options.Options, environ: Mapping[str, str]
) -> Session:
    """The session of a checkout in a finished environment. Raises BadEnvironment where its torch was swapped."""
    venv.check_torch(environment)
    facts = profile.of_checkout(checkout.root)
    arch = resolve_arch(environment, chosen, environ)
    with suppress(XfdevError):  # a plan of a checkout that cannot be written does without
        link.state_folder(checkout.root)
    env = environment.environ(environ)
    env["CCACHE_DIR"] = str(venv.cache_folder(environ) / "ccache")
    env.pop("TORCH_CUDA_ARCH_LIST", None)
    torch = toolchain.torch_in(environment.site_packages)
    if torch is not None and torch.cuda is not None and arch:
        env["TORCH_CUDA_ARCH_LIST"] = archs.canonical(arch)
    found = toolchain.probe(
        site_packages=environment.site_packages,
        python=environment.python,
        cuda_home=Path(environment.cuda_home) if environment.cuda_home else None,
        arch=arch,
        environ=env,
        watched=facts.variables,
        memory=venv.tools_memory(environ),
    )
    return Session(checkout, facts, environment, found, arch, env, chosen, local_store(environ))


def resolve_arch(
    environment: venv.Environment, chosen: options.Options, environ: Mapping[str, str]
) -> tuple[archs.Arch, ...]:
    """The archs to compile for and to run on, from the first of: option, variable, environment, GPUs."""
    for text in (chosen.arch, environ.get("TORCH_CUDA_ARCH_LIST"), environment.arch):
        if text:
            return archs.parse(text)
    return gpu.visible_archs(environ)
