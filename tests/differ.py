"""A checkout that is edited, and the truth about it: a clean build of the same files without xfdev."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import support
from xfdev import settled
from xfdev.stamps import changed

#: What a clean build does not start from.
_NOT_COPIED = shutil.ignore_patterns(".git", ".xfdev", ".venv", "build", "*.so", "__pycache__", "*.egg-info")
#: Errors that say: these sources do not compile.
BROKEN = ("CompileFailed", "ConfigureFailed", "NotAnExtensionProject")

#: What the project ``counter`` does not have, and what makes a stale binary likely: a header asked for and not read,
#: one below a folder, one named with "..", one of the system's.
MORE = {
    "csrc/common.h": "#define COMMON 4\n",
    "csrc/inner/sub/part.h": "#pragma once\n#define PART 6\n",
    "csrc/three.cpp": '#include <stdint.h>\n#include "deep.h"\n#include "sub/part.h"\n'
    "#if __has_include(<marker.h>)\n#define MARK 1000\n#else\n#define MARK 0\n#endif\n"
    '#ifdef EXTRA\nextern "C" int three() { return DEEP + MARK + PART * 10 + EXTRA; }\n'
    '#else\nextern "C" int three() { return DEEP + MARK + PART * 10; }\n#endif\n',
    "csrc/inner/second.cpp": '#include "shared.h"\n#include "deep.h"\n#include "../common.h"\n'
    'extern "C" int second() { return SHARED * 100 + DEEP + COMMON * 1000; }\n',
    "extra/README": "a folder that variables point to\n",
}


def make_template(folder: Path) -> Path:
    """A checkout of the counter with MORE, and a branch ``other`` that differs from ``main``."""
    root = support.make_counter(folder)
    for name, text in MORE.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)
    support.git(root, "add", "-A")
    support.git(root, "commit", "-q", "-m", "more")
    support.git(root, "checkout", "-q", "-b", "other")
    (root / "include" / "shared.h").write_text("#pragma once\n#define SHARED 30\n")
    (root / "include" / "deep.h").write_text("#pragma once\n#define DEEP 31\n")
    support.git(root / "vendor" / "tally", "checkout", "-q", "v2")
    support.git(root, "add", "-A")
    support.git(root, "commit", "-q", "-m", "other")
    support.git(root, "checkout", "-q", "main")
    support.git(root, "submodule", "--quiet", "update")
    return root


@dataclass(frozen=True)
class Truth:
    """What a clean build gives: *said* is empty where it succeeds; *objects* are digests by source."""

    said: str
    results: dict[str, int] = field(default_factory=dict)
    libraries: frozenset[str] = frozenset()
    objects: dict[str, str] = field(default_factory=dict)


@dataclass
class Truths:
    """Clean builds, each made once for the same files and variables."""

    interpreter: Path
    folder: Path
    known: dict[str, Truth] = field(default_factory=dict)
    stripped: dict[str, str] = field(default_factory=dict)
    asked: int = 0

    def of(self, root: Path, variables: dict[str, str]) -> Truth:
        self.asked += 1
        tree = self.folder / "tree"
        shutil.rmtree(tree, ignore_errors=True)
        shutil.copytree(root, tree, symlinks=True, ignore=_NOT_COPIED)
        _fill_submodule(root, tree)
        values = {name: value.replace(str(root), str(tree)) for name, value in variables.items()}
        key = _digest(tree, values)
        if key not in self.known:
            self.known[key] = self._build(tree, values)
        return self.known[key]

    def _build(self, tree: Path, variables: dict[str, str]) -> Truth:
        environ = {**os.environ, **variables, "DIST_EXTRA_CONFIG": "", "CCACHE_DISABLE": "1"}
        words = ["setup.py", "build_ext", "--inplace", "--build-temp", "clean"]
        done = subprocess.run(
            [str(self.interpreter), "-B", *words], cwd=tree, env=environ, capture_output=True, text=True
        )
        if done.returncode:
            return Truth(done.stdout + done.stderr)
        objects = {
            path.relative_to(tree / "clean").with_suffix(".cpp").as_posix(): self.stripped_digest(path)
            for path in (tree / "clean").rglob("*.o")
        }
        libraries = frozenset(path.name for path in (tree / "counter").glob("*.so"))
        return Truth("", support.behaviour(self.interpreter, tree), libraries, objects)

    def stripped_digest(self, path: Path) -> str:
        """The digest of an object without its debug information, which names the folder it was compiled in."""
        raw = hashlib.sha256(path.read_bytes()).hexdigest()
        if raw not in self.stripped:
            target = self.folder / "stripped.o"
            subprocess.run(["objcopy", "--strip-debug", str(path), str(target)], check=True)
            self.stripped[raw] = hashlib.sha256(target.read_bytes()).hexdigest()
        return self.stripped[raw]


def _fill_submodule(root: Path, tree: Path) -> None:
    """A submodule that is not checked out stands for the commit that is recorded."""
    place = tree / "vendor" / "tally"
    if place.is_dir() and any(place.iterdir()):
        return
    recorded = support.git(root, "ls-files", "-s", "vendor/tally").split()
    if recorded and recorded[0] == "160000":
        place.mkdir(parents=True, exist_ok=True)
        data = subprocess.run(
            ["git", "-C", str(root.parent / "tally"), "archive", recorded[1]], capture_output=True, check=True
        ).stdout
        subprocess.run(["tar", "-x", "-C", str(place)], input=data, check=True)


def _digest(tree: Path, variables: dict[str, str]) -> str:
    found = hashlib.sha256(json.dumps(variables, sort_keys=True).encode())
    for folder, names, files in sorted(os.walk(tree)):
        for name in sorted([*files, *(name for name in names if os.path.islink(os.path.join(folder, name)))]):
            path = os.path.join(folder, name)
            if os.path.islink(path):
                content = b"link " + os.readlink(path).encode()
            else:
                with open(path, "rb") as stream:
                    content = stream.read()
            found.update(os.path.relpath(path, tree).encode() + b"\0%d\0" % len(content) + content)
    return found.hexdigest()


@dataclass
class Counts:
    """What the sequences came to. The first two must stay 0."""

    false_reuses: int = 0
    wrong_partials: int = 0
    sequences: int = 0
    steps: int = 0
    reuse: int = 0
    partial: int = 0
    full: int = 0
    broken: int = 0
    compiled: int = 0
    needless: int = 0
    restored: int = 0
    unsettled: int = 0
    clean_builds: int = 0
    settled: int = 0

    def line(self) -> str:
        return (
            f"differential: {self.sequences} sequences, {self.steps} steps "
            f"({self.reuse} reuse, {self.partial} partial, {self.full} full, {self.broken} that do not build): "
            f"{self.false_reuses} false reuses, {self.wrong_partials} wrong partials; in partial builds "
            f"{self.compiled} units compiled, {self.needless} of them to the same object as before, and "
            f"{self.restored} taken from the cache; "
            f"{self.unsettled} builds that were not current afterwards; {self.settled} that would not have looked"
        )


@dataclass
class World:
    """One checkout during one sequence of edits."""

    root: Path
    xfdev: support.Xfdev
    truths: Truths
    counts: Counts
    variables: dict[str, str] = field(default_factory=dict)
    objects: dict[str | None, dict[str, str]] = field(default_factory=dict)
    """Digests of the objects by source, of each bundle and (None) of the last build here."""
    stamped: dict[str, str] = field(default_factory=dict)
    """The variables when something was linked last."""

    def run(self, verb: str, *words: str) -> support.Said:
        self.xfdev.variables.update(self.variables)
        for name in set(self.xfdev.variables) - set(self.variables):
            if name not in ("XFDEV_CACHE", "GIT_CONFIG_GLOBAL"):
                del self.xfdev.variables[name]
        said = self.xfdev(verb, self.root, *words)
        if verb in ("link", "build", "up") and said.code == 0:
            self.stamped = dict(self.variables)
        assert said.code != 70, f"{verb} met a bug in xfdev: {said.json or said.out}"
        return said

    def git(self, *words: str, inside: str = ".") -> str:
        return support.git(self.root / inside, *words, check=False)

    # What the checkout's own build folder holds.

    def manifest(self) -> dict[str, Any] | None:
        try:
            value: dict[str, Any] = json.loads((self.root / ".xfdev/build/manifest.json").read_text())
        except OSError:
            return None
        return value

    def note_objects(self, bundle: str | None) -> dict[str, str]:
        """Remember the objects of a build that just ended, as those of *bundle* and of the last build here."""
        manifest = self.manifest()
        assert manifest is not None
        count = Counter(unit["source"] for unit in manifest["units"])
        found = {
            unit["source"]: self.truths.stripped_digest(self.root / ".xfdev/build" / unit["object"])
            for unit in manifest["units"]
            if count[unit["source"]] == 1  # a clean build keeps one object of a source, even of two libraries
        }
        self.objects[None] = found
        if bundle is not None:
            self.objects[bundle] = found
        return found

    def bundles(self) -> set[str]:
        return set(os.listdir(Path(self.xfdev.variables["XFDEV_CACHE"]) / "store" / "bundles"))

    # One step's verdict against the truth.

    def check(self, finish: str) -> None:
        """Compare what xfdev says and does with the truth. *finish*: ``plan`` (only ask), ``link`` or ``build``."""
        plan = self.run("plan").ok()
        self._check_stamps(plan)
        self._check_settled(plan)
        truth = self.truths.of(self.root, self.variables)
        self.counts.steps += 1
        if truth.said:
            self._check_broken(plan, truth)
            return
        verdict = plan["verdict"]
        setattr(self.counts, verdict, getattr(self.counts, verdict) + 1)
        if verdict == "reuse":
            linked = self.run("link").ok()
            self._check_linked(linked, truth, f"reuse of {plan['from']}", "false_reuses")
            return
        needed = self._needed(plan, truth)
        if verdict == "partial" and not needed <= set(plan["affected"]):
            self.counts.wrong_partials += 1
            raise AssertionError(
                f"partial, but {sorted(needed - set(plan['affected']))} would come out differently; "
                f"affected: {plan['affected']}; from {plan['from']}"
            )
        if finish == "link":
            refused = self.run("link")
            assert refused.json.get("error") == "NothingFits", refused
        elif finish == "build":
            self.build(plan, truth)

    def _check_stamps(self, plan: dict[str, Any]) -> None:
        """What is asked when the project is imported is never content where a plan is not (with the same variables,
        which an import does not look at)."""
        stamps = self.root / settled.STAMPS
        if not stamps.exists() or plan["verdict"] == "reuse" or self.variables != self.stamped:
            return
        found = changed(str(self.root), stamps.read_bytes().decode(errors="surrogateescape"))
        assert found is None or found[0] or found[1], (
            f"{plan['verdict']}, but the stamps say that nothing changed: {plan}"
        )

    def _check_settled(self, plan: dict[str, Any]) -> None:
        """A build that says at once that it has nothing to do says it only where a plan does."""
        words = ["build", str(self.root), *self.xfdev.options]
        said = settled.answer(words, {**os.environ, **self.xfdev.variables}, os.getcwd())
        if said is not None:
            self.counts.settled += 1
            assert plan["verdict"] == "reuse", f"{plan['verdict']}, but a build would say: {said}: {plan}"

    def build(self, plan: dict[str, Any], truth: Truth) -> None:
        before = dict(self.objects.get(plan["bundle"], {}))
        known = self.bundles()
        built = self.run("build").ok()
        new = self.bundles() - known
        after = self.note_objects(next(iter(new)) if len(new) == 1 else None)
        # The plan may have been made for other facts than the build found: it says which it was.
        if plan["verdict"] == "partial":
            same = {name for name, digest in before.items() if after.get(name) == digest}
            self.counts.compiled += len(built["compiled"])
            self.counts.needless += len(same.intersection(built["compiled"]))
            self.counts.restored += len(built["restored"])
        self._check_linked(built, truth, f"{plan['verdict']} from {plan['from']}", "wrong_partials")
        again = self.run("plan").ok()
        if again["verdict"] != "reuse":
            self.counts.unsettled += 1

    def _needed(self, plan: dict[str, Any], truth: Truth) -> set[str]:
        """The units of the candidate whose objects are not those of a clean build."""
        had = self.objects.get(plan["bundle"], {})
        return {source for source, digest in truth.objects.items() if source in had and had[source] != digest}

    def _check_linked(self, said: dict[str, Any], truth: Truth, how: str, counter: str) -> None:
        names = {os.path.basename(place) for place in said["linked"]}
        results = support.behaviour(self.truths.interpreter, self.root)
        stems = {name.partition(".")[0] for name in names}
        # Libraries that somebody typed by hand, of extensions that are none any more, are not ours to remove.
        ours = {name: value for name, value in results.items() if name.partition(".")[0] in stems}
        if names != truth.libraries or ours != truth.results:
            setattr(self.counts, counter, getattr(self.counts, counter) + 1)
            raise AssertionError(
                f"{how}: linked {sorted(names)} give {ours}; a clean build {sorted(truth.libraries)}: {truth.results}"
            )

    def _check_broken(self, plan: dict[str, Any], truth: Truth) -> None:
        """A clean build fails: nothing may be linked as if it were current."""
        self.counts.broken += 1
        if plan["verdict"] == "reuse":
            self.counts.false_reuses += 1
            raise AssertionError(f"reuse of {plan['from']}, but a clean build fails: {truth.said[-600:]}")
        said = self.run("build")
        assert said.json.get("error") in BROKEN, f"a clean build fails, xfdev build says {said}: {truth.said[-600:]}"
        again = self.run("plan").ok()
        if again["verdict"] == "reuse":
            self.counts.false_reuses += 1
            raise AssertionError("reuse after a build that failed")
        checked = self.run("check")
        assert checked.json.get("problems"), f"a clean build fails, xfdev check finds nothing: {checked}"


class Lab:
    """Makes a fresh world for every sequence: a copy of a checkout that is built, with its store and caches."""

    def __init__(self, prefix: Path, folder: Path) -> None:
        self.folder = folder
        self.prefix = prefix
        self.counts = Counts()
        (folder / "truth").mkdir()
        self.truths = Truths(prefix / "bin" / "python", folder / "truth")
        (folder / "template").mkdir()
        self.root = make_template(folder / "template")
        self.cache = folder / "template" / "cache"
        self._first: dict[str | None, dict[str, str]] = {}
        world = self._world(self.root, self.cache)
        bundle = world.run("prebuild").ok()["bundle"]
        self._first[bundle] = world.note_objects(bundle)
        truth = self.truths.of(self.root, {})
        assert self._first[bundle] == truth.objects  # else objects cannot be compared with those of clean builds

    def _world(self, root: Path, cache: Path) -> World:
        tool = support.Xfdev({"XFDEV_CACHE": str(cache)}, ("--venv", str(self.prefix)))
        return World(root, tool, self.truths, self.counts, objects=dict(self._first))

    def world(self) -> World:
        place = self.folder / "now"
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir()
        os.symlink(self.folder / "template" / "tally", place / "tally")
        shutil.copytree(self.cache, place / "cache")
        root = support.copy_tree(self.root, place / "counter")
        shutil.rmtree(root / ".xfdev")
        return self._world(root, place / "cache")
