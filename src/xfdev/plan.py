"""The verdict: what of the bundles at hand serves a checkout. Pure: facts in, verdict out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from xfdev import compat
from xfdev.arch import Arch
from xfdev.bundle import Manifest, Unit
from xfdev.inputs import Changes
from xfdev.toolchain import Toolchain

Verdict = Literal["reuse", "partial", "full"]


@dataclass(frozen=True)
class Guess:
    """What a unit takes that nobody has compiled yet; a project's profile may know better. The default is for one that
    reads torch's headers (measured: 8 s to 71 s, 0.5 to 3 GB)."""

    seconds: float = 30.0
    peak: int = 2_000_000_000


@dataclass(frozen=True)
class Mismatch:
    """A fact in which a bundle and a toolchain differ. *links*: the outputs may be linked in spite of it."""

    name: str
    have: str
    want: str
    links: bool

    def __str__(self) -> str:
        return f"{self.name} is {self.have or 'not there'}, bundle {self.want}"


@dataclass(frozen=True)
class Candidate:
    """A bundle, or the checkout's own last build (*bundle* None), compared with the checkout and the toolchain."""

    label: str
    manifest: Manifest
    changes: Changes
    mismatches: tuple[Mismatch, ...]
    bundle: str | None = None
    outcomes: tuple[compat.Outcome, ...] = ()
    """How its code runs on each GPU that it has to run on."""
    elsewhere: tuple[str, ...] = ()
    """What lay at another path when a bundle was made: its objects are in the compiler cache under other keys."""
    finished: bool = True
    """Whether there are outputs to link; else there are but objects."""

    @property
    def by_jit(self) -> bool:
        """Whether some GPU has to wait for the driver to compile it."""
        return any(outcome.how == "jit" for outcome in self.outcomes)


@dataclass(frozen=True)
class Refusal:
    label: str
    reasons: tuple[str, ...]


@dataclass(frozen=True)
class Plan:
    """What will happen. *affected* maps sources to reasons; *seconds* is the predicted time (None: nobody knows),
    *peak* the predicted bytes of memory; *refused* tells why each nearer bundle does not serve."""

    verdict: Verdict
    candidate: Candidate | None
    affected: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    total: int | None = None
    reasons: tuple[str, ...] = ()
    refused: tuple[Refusal, ...] = ()
    seconds: float | None = None
    peak: int | None = None
    reconfigure: bool = False
    """Whether the project's build script has to run: the recipe at hand is not that of this checkout."""
    missing: tuple[str, ...] = ()
    """The archs for which no bundle had code, although it had all else."""
    notes: tuple[str, ...] = ()
    """What a person should know about it: code that starts slowly, a GPU that is left out, a driver that is old."""


def mismatches(
    manifest: Manifest,
    toolchain: Toolchain,
    variables: Mapping[str, str],
    runs: Sequence[compat.Outcome],
) -> tuple[Mismatch, ...]:
    """Every fact by which *manifest*'s outputs do not fit *toolchain*, or are not what it would produce.

    *variables* are those of ``manifest.watched`` that are set now, with placeholders for paths; *runs* tells how the
    outputs run on each GPU that they must run on, as ``outcomes`` has it.
    """
    found = [*_load(manifest, toolchain), *_devices(manifest, runs)]
    for name in sorted({*manifest.variables, *variables}):
        have, want = variables.get(name), manifest.variables.get(name)
        if have != want:
            found.append(Mismatch(f"variable {name}", have or "unset", f"has {want or 'it unset'}", False))
    if manifest.kind == "build":
        found += _compile(manifest, toolchain)
    return tuple(found)


def _load(manifest: Manifest, toolchain: Toolchain) -> list[Mismatch]:
    needs, facts, found = manifest.needs, toolchain.facts, []
    machine = facts["platform"].partition("-")[2]
    if needs.machine and needs.machine != machine:
        found.append(Mismatch("machine", machine, f"is for {needs.machine}", False))
    if needs.glibc and facts["glibc"] and _numbers(facts["glibc"]) < _numbers(needs.glibc):
        found.append(Mismatch("glibc", facts["glibc"], f"needs >= {needs.glibc}", False))
    if needs.python not in ("any", "abi3", facts["python"]):
        found.append(Mismatch("Python", facts["python"], f"needs {needs.python}", False))
    have = facts.get("torch", "")
    if needs.torch.startswith(">="):
        if not have or _numbers(have) < _numbers(needs.torch[2:]):
            found.append(Mismatch("torch", have, f"needs {needs.torch}", False))
    elif needs.torch and needs.torch[2:] != (have if "+" in needs.torch else have.partition("+")[0]):
        found.append(Mismatch("torch", have, f"needs {needs.torch[2:]}", False))
    cuda = facts.get("cuda", "").partition(".")[0]
    if needs.cuda is not None and cuda != needs.cuda:
        found.append(Mismatch("CUDA", cuda, f"needs {needs.cuda}", False))
    built_with_cuda = "cuda" in manifest.facts and bool(manifest.facts.get("arch"))
    if manifest.kind == "build" and "arch" in facts and not built_with_cuda and needs.cuda is None:
        found.append(Mismatch("arch", facts["arch"], "has no CUDA code", False))
    return found


def outcomes(manifest: Manifest, devices: Sequence[Arch], machine: compat.Machine) -> tuple[compat.Outcome, ...]:
    """How *manifest*'s outputs run on each of *devices*; () where they have no device code at all."""
    needs = manifest.needs
    if not needs.sass and not needs.ptx:
        return ()
    code = compat.code_of(needs.sass, needs.ptx, needs.isa, needs.cuda)
    return tuple(compat.outcome(code, device, machine) for device in devices)


def _devices(manifest: Manifest, found: Sequence[compat.Outcome]) -> list[Mismatch]:
    """GPUs that need other code. A driver that is too old for any code of this CUDA is no fault of a bundle's."""
    needs = manifest.needs
    has = ", ".join(sorted({*needs.sass, *(f"{name} PTX" for name in needs.ptx)}))
    return [
        Mismatch("arch", outcome.device.capability, f"has code for {has} only", False)
        if outcome.because == "arch"
        else Mismatch("arch", outcome.device.capability, f"does not run there: {outcome.why}", False)
        for outcome in found
        if outcome.because in ("arch", "ptx")
    ]


def _compile(manifest: Manifest, toolchain: Toolchain) -> list[Mismatch]:
    """Facts of the compile. One that this environment lacks (it has no nvcc, say) cannot differ."""
    found = []
    for name in ("nvcc", "host compiler"):
        have, want = toolchain.facts.get(name), manifest.facts.get(name)
        if have and want and have != want:
            found.append(Mismatch(name, have, f"was compiled with {want}", False))
    for name in ("torch", "torch commit", "arch", "python"):
        have, want = toolchain.facts.get(name), manifest.facts.get(name)
        if have and want and have != want:
            # The outputs were found to load, or have code for more; but units compiled now would differ from them.
            found.append(Mismatch(name, have, f"was compiled with {want}", True))
    return found


def _numbers(version: str) -> tuple[int, ...]:
    public = version.partition("+")[0]
    return tuple(int(part) for part in public.split(".") if part.isdigit())


def decide(
    candidates: Sequence[Candidate],
    *,
    compiles: bool,
    cpus: int,
    recipe: Manifest | None = None,
    cuda: bool = False,
    unavailable: Sequence[Refusal] = (),
    guess: Guess = Guess(),
) -> Plan:
    """The nearest candidate that serves: one to link as it is, else the one with the least to compile.

    *compiles*: whether this environment has the compilers that the candidates' units need; *recipe*: what the build
    script told last, for the size of a full compile, which is another with and without *cuda*; *unavailable*: what
    might have served and could not be looked at; *guess* is for units that nobody has timed.
    """
    refused: list[Refusal] = []
    partial: list[Plan] = []
    slow: Plan | None = None
    for candidate in candidates:
        changes = candidate.changes
        blocking = tuple(str(item) for item in candidate.mismatches if not item.links)
        if blocking:
            refused.append(Refusal(candidate.label, blocking))
            continue
        units = candidate.manifest.units
        if not changes.native and candidate.finished:
            notes = tuple(str(entry) for entry in candidate.outcomes if entry.how == "jit" or entry.because)
            plan = Plan("reuse", candidate, total=len(units) or None, refused=tuple(refused), seconds=0.0, notes=notes)
            if not candidate.by_jit:
                return plan
            slow = slow or plan  # it runs, if slowly at first; another one may have machine code
            continue
        differing = tuple(str(item) for item in candidate.mismatches)
        if candidate.manifest.kind == "release" or changes.scripts or differing or not compiles:
            why = (*changes.scripts, *changes.sources, *_flat(changes.units), *differing)
            refused.append(Refusal(candidate.label, why))
            continue
        reasons = _affected(candidate)
        affected = [unit for unit in units if unit.source in reasons]
        seconds, peak = predict(affected, cpus, guess)
        partial.append(
            Plan(
                "partial",
                candidate,
                affected=reasons,
                total=len(units),
                reasons=(*changes.sources, *_flat(reasons)),
                seconds=seconds + (candidate.manifest.link_seconds or 1.0),
                peak=peak,
                reconfigure=bool(changes.sources) or changes.remake or not candidate.manifest.units,
            )
        )
    if slow is not None:
        return slow
    refused += unavailable
    if partial:
        best = min(partial, key=lambda plan: plan.seconds or 0.0)
        return replace(best, refused=tuple(refused))
    return _full(candidates, refused, cpus, recipe, cuda, guess)


def _affected(candidate: Candidate) -> Mapping[str, tuple[str, ...]]:
    """The units to compile, with their reasons. What a checkout keeps of its own build is no matter of any cache."""
    changed = candidate.changes.units
    if candidate.bundle is None or not candidate.elsewhere:
        return changed
    where = " and ".join(candidate.elsewhere)
    why = f"{where} had another path when {candidate.label} was made: its objects are not found in the cache"
    return {unit.source: (*changed.get(unit.source, ()), why) for unit in candidate.manifest.units}


def _full(
    candidates: Sequence[Candidate],
    refused: Sequence[Refusal],
    cpus: int,
    recipe: Manifest | None,
    cuda: bool,
    guess: Guess,
) -> Plan:
    # Any recipe of this project tells how much there is to compile, if not exactly what.
    made = [c.manifest for c in candidates if c.manifest.kind == "build" and c.manifest.units]
    known = next((m for m in made if ("cuda" in m.facts) == cuda), recipe)
    reasons = tuple(dict.fromkeys(f"{entry.label}: {entry.reasons[0]}" for entry in refused if entry.reasons))
    missing = _missing(candidates)
    if known is None:
        return Plan("full", None, reasons=reasons or ("nothing was compiled for it yet",), refused=tuple(refused),
                    reconfigure=True, missing=missing)  # fmt: skip
    seconds, peak = predict(known.units, cpus, guess)
    return Plan("full", None, total=len(known.units), reasons=reasons, refused=tuple(refused), seconds=seconds,
                peak=peak, reconfigure=True, missing=missing)  # fmt: skip


def _missing(candidates: Sequence[Candidate]) -> tuple[str, ...]:
    """The archs that alone kept a candidate from being linked."""
    found = []
    for candidate in candidates:
        blocking = [item for item in candidate.mismatches if not item.links]
        if blocking and all(item.name == "arch" for item in blocking) and not candidate.changes.native:
            found += [item.have for item in blocking]
    return tuple(dict.fromkeys(found))


def _flat(units: Mapping[str, tuple[str, ...]]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(reason for reasons in units.values() for reason in reasons))


def predict(units: Sequence[Unit], cpus: int, guess: Guess = Guess()) -> tuple[float, int]:
    """Seconds and peak bytes that compiling *units* on *cpus* CPUs takes, from what they took before, else *guess*."""
    known = [unit.seconds for unit in units if unit.seconds]
    typical = sorted(known)[len(known) // 2] if known else guess.seconds
    times = [unit.seconds or typical for unit in units]
    if not times:
        return 0.0, 0
    peaks = sorted((unit.peak or guess.peak for unit in units), reverse=True)
    return max(sum(times) / max(cpus, 1), max(times)), sum(peaks[: max(cpus, 1)])
