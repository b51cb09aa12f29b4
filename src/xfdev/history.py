"""What one commit after another would have cost those who had the commit before compiled. Pure: facts in, verdict out.

A bundle tells, for the commit that it was made from, what each unit read. For another commit that holds as far as its
units are the same files; of a unit that the bundle does not know, the text of its includes tells what it may read,
which is more than it does. So a verdict may name too many units, and never too few of those that the bundle knows.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

from xfdev import plan, shadows
from xfdev.bundle import Manifest, Unit
from xfdev.trees import Tree

#: Suffixes of what is compiled, as setuptools and torch's build_ext know them.
_COMPILED = (".c", ".cc", ".cpp", ".cxx", ".cu")
_ROOT = "/checkout"


@dataclass(frozen=True)
class Step:
    """What a commit costs after the one before. *units* are compiled, of *total*; *known* says whether the bundle at
    hand knows all of them, *seconds* what they take."""

    verdict: plan.Verdict
    units: Mapping[str, tuple[str, ...]]
    total: int
    seconds: float
    reasons: tuple[str, ...]
    known: bool


@dataclass(frozen=True)
class Change:
    """What differs between two trees."""

    edited: frozenset[str]
    came: frozenset[str]
    went: frozenset[str]
    moved: frozenset[str]
    """Submodules that are at another commit, that came, or that went."""

    def why(self, path: str) -> str:
        return f"{path} is new" if path in self.came else f"{path} is gone" if path in self.went else f"{path} changed"

    @property
    def contents(self) -> frozenset[str]:
        return self.edited | self.went


def change(before: Tree, after: Tree) -> Change:
    old, new = before.files, after.files
    modules = {*before.submodules, *after.submodules}
    return Change(
        frozenset(path for path in old.keys() & new.keys() if old[path] != new[path]),
        frozenset(new.keys() - old.keys()),
        frozenset(old.keys() - new.keys()),
        frozenset(path for path in modules if before.submodules.get(path) != after.submodules.get(path)),
    )


def step(
    manifest: Manifest,
    before: Tree,
    after: Tree,
    includes: Callable[[], Mapping[str, Sequence[str]]],
    cpus: int,
) -> Step:
    """What *after* costs those who have *before* compiled. *includes* tells what each file of *before* includes; it is
    asked only for units that *manifest* does not know. *cpus* is how many compile at once."""
    differ = change(before, after)
    here, strange = _units(manifest, before), _strange(manifest, before)
    coming = [path for path in _strange(manifest, after) if path in differ.came]
    coming += [unit.source for unit in manifest.units if unit.source in differ.came]
    everything = [*here, *(Unit(path, "", ()) for path in {*strange, *coming} if path in after.files)]
    total, known = len(everything), not strange and not coming
    scripts = _scripts(manifest, before, after, differ)
    if scripts:
        seconds = plan.predict(everything, cpus)[0] + (manifest.link_seconds or 1.0)
        names = {unit.source: scripts[:1] for unit in everything}
        return Step("full", names, total, round(seconds, 2), scripts, known)
    affected: dict[str, tuple[str, ...]] = {}
    for unit in here:
        if reasons := _reasons(unit, manifest, differ):
            affected[unit.source] = reasons
    if strange and (differ.contents or differ.moved or differ.came):
        reach = _Reach(includes(), before)
        for path in strange:
            if reasons := reach.reasons(path, differ):
                affected[path] = reasons
    affected = {path: reasons for path, reasons in affected.items() if path in after.files}
    affected |= {path: (f"{path} is new",) for path in coming}
    linked = tuple(differ.why(path) for path in manifest.scripts.linked if path in differ.contents | differ.came)
    reasons = (*linked, *_listed(manifest, before, after, differ))
    if not affected and not reasons:
        return Step("reuse", {}, total, 0.0, (), known)
    times = [unit for unit in everything if unit.source in affected]
    seconds = plan.predict(times, cpus)[0] + (manifest.link_seconds or 1.0)
    every = tuple(dict.fromkeys([*reasons, *(reason for found in affected.values() for reason in found)]))
    return Step("partial", affected, total, round(seconds, 2), every, known)


def counts(steps: Iterable[Step]) -> dict[str, int]:
    """How many of *steps* had each verdict."""
    found = dict.fromkeys(("reuse", "partial", "full"), 0)
    for entry in steps:
        found[entry.verdict] += 1
    return found


def _units(manifest: Manifest, tree: Tree) -> list[Unit]:
    """The units of the bundle that *tree* has, too."""
    return [unit for unit in manifest.units if unit.source in tree.files or _below(unit.source, tree.submodules)]


def _strange(manifest: Manifest, tree: Tree) -> list[str]:
    """What *tree* would compile and the bundle does not know: sources that the build script looks for by pattern.

    A pattern also finds what is compiled for other machines. That can be told from what the bundle was made of: none
    of the files that the very same patterns had found became a unit.
    """
    patterns = [entry["pattern"] for entry in manifest.scripts.globs]
    matches = [frozenset(entry["matches"]) for entry in manifest.scripts.globs]
    units = {unit.source for unit in manifest.units}
    kinds: dict[frozenset[int], bool] = {}
    for path in frozenset().union(*matches):
        kind = frozenset(index for index, found in enumerate(matches) if path in found)
        kinds[kind] = kinds.get(kind, False) or path in units
    found = []
    for path in sorted(tree.files):
        if path in units or not path.endswith(_COMPILED):
            continue
        if any(path in match for match in matches):
            continue  # it was there when the bundle was made, and no unit
        kind = frozenset(index for index, text in enumerate(patterns) if _pattern(text).fullmatch(path))
        if kind and kinds.get(kind, True):
            found.append(path)
    return found


@cache
def _pattern(text: str) -> re.Pattern[str]:
    """What ``glob.glob(text, recursive=True)`` finds."""
    parts = []
    for part in text.split("/"):
        if part == "**":
            parts.append("(?:[^/]+/)*")
        else:
            words = re.escape(part).replace(r"\*", "[^/]*").replace(r"\?", "[^/]")
            parts.append(re.sub(r"\\\[(.*?)\\\]", r"[\1]", words) + "/")
    return re.compile("".join(parts).removesuffix("/"))


def _scripts(manifest: Manifest, before: Tree, after: Tree, differ: Change) -> tuple[str, ...]:
    """What makes the build script run anew: then nothing of the commit before is taken."""
    scripts = manifest.scripts
    generated = {*scripts.generated}
    touched = differ.contents | differ.came
    reasons = [differ.why(path) for path in scripts.files if path in touched]
    reasons += [f"submodule {place} moved" for path in scripts.files if (place := _below(path, differ.moved))]
    for folder in scripts.listings:
        if not _below(folder + "/", {*before.submodules}):
            other = _names(before, folder) ^ _names(after, folder)
            reasons += [f"{folder}/{name} came or went" for name in sorted(other - shadows.NOT_SOURCES)]
    for path in scripts.asked:
        if path not in generated and _exists(before, path) != _exists(after, path):
            reasons.append(f"{path} came or went")
    return tuple(dict.fromkeys(reasons))


def _listed(manifest: Manifest, before: Tree, after: Tree, differ: Change) -> list[str]:
    """Files that came to a pattern of the build script, or went from it."""
    generated = {*manifest.scripts.generated}
    patterns = [_pattern(entry["pattern"]) for entry in manifest.scripts.globs]
    other = (differ.came | differ.went) - generated
    return [differ.why(path) for path in sorted(other) if any(pattern.fullmatch(path) for pattern in patterns)]


def _names(tree: Tree, folder: str) -> set[str]:
    start = "" if folder in ("", ".") else folder.rstrip("/") + "/"
    return {path[len(start) :].partition("/")[0] for path in (*tree.files, *tree.submodules) if path.startswith(start)}


def _exists(tree: Tree, path: str) -> bool:
    return (
        path in tree.files
        or path in tree.submodules
        or bool(_below(path, tree.submodules))
        or any(name.startswith(path + "/") for name in (*tree.files, *tree.submodules))
    )


def _below(path: str, folders: Iterable[str]) -> str:
    """That of *folders* in which *path* lies, "" for none."""
    return next((folder for folder in folders if path.startswith(folder + "/")), "")


def _reasons(unit: Unit, manifest: Manifest, differ: Change) -> tuple[str, ...]:
    """Why a unit that the bundle knows would be compiled again; as ``inputs.compare`` has it for a working tree."""
    if unit.inputs is None:
        return ("not compiled yet",)
    inputs = {*unit.inputs, unit.source}
    reasons = [differ.why(path) for path in sorted(inputs & differ.contents)]
    reasons += [f"submodule {place} moved" for path in inputs if (place := _below(path, differ.moved))]
    came = [path for path in sorted(differ.came) if path not in unit.beside and _searched(path, manifest)]
    if unit.opaque and (differ.contents or came):
        reasons.append("it reads files that no dependency file lists")
    reasons += [
        f"{path} is gone, and may have been asked for" for path in sorted(differ.went.intersection(unit.beside))
    ]
    if came:
        probes = frozenset({*unit.probes, *manifest.names})
        scan = shadows.Scan(probes, frozenset(f"{_ROOT}/{path}" for path in unit.exact), unit.opaque)
        folders = [folder.replace("%{checkout}", _ROOT) for folder in unit.search]
        taken = shadows.find([f"{_ROOT}/{path}" for path in inputs], folders, [f"{_ROOT}/{p}" for p in came], scan)
        reasons += [f"{path[len(_ROOT) + 1 :]} is new and may be taken for a header" for path in taken]
    return tuple(dict.fromkeys(reasons))


def _searched(path: str, manifest: Manifest) -> bool:
    return any(root == "." or path.startswith(root + "/") for root in manifest.roots)


class _Reach:
    """What files of a tree may read, by the text of their includes: every file that ends as the name says."""

    def __init__(self, includes: Mapping[str, Sequence[str]], tree: Tree) -> None:
        self._includes = includes
        self._submodules = bool(tree.submodules)
        self._by_name: dict[str, list[str]] = {}
        for path in tree.files:
            self._by_name.setdefault(path.rpartition("/")[2], []).append(path)
        self._known: dict[str, tuple[frozenset[str], bool]] = {}

    def reasons(self, source: str, differ: Change) -> tuple[str, ...]:
        read, outside = self._closure(source)
        reasons = [differ.why(path) for path in sorted(read & differ.contents)]
        asked = {name.rpartition("/")[2] for path in read for name in self._includes.get(path, ())}
        reasons += [
            f"{path} is new and may be taken for a header"
            for path in sorted(differ.came)
            if path.rpartition("/")[2] in asked
        ]
        if outside and differ.moved:
            reasons += [f"submodule {place} moved" for place in sorted(differ.moved)]
        return tuple(reasons)

    def _closure(self, source: str) -> tuple[frozenset[str], bool]:
        """All that *source* may read, and whether something of it is not in this tree."""
        if source not in self._known:
            seen, outside, stack = {source}, False, [source]
            while stack:
                for name in self._includes.get(stack.pop(), ()):
                    plain = re.sub(r"^(?:\.\.?/)+", "", name)
                    candidates = self._by_name.get(plain.rpartition("/")[2], ())
                    found = [path for path in candidates if path == plain or path.endswith("/" + plain)]
                    outside = outside or not found
                    stack += [path for path in found if path not in seen]
                    seen.update(found)
            self._known[source] = (frozenset(seen), outside)
        return self._known[source]
