"""What could serve a checkout: the last build here, bundles of the local store and of others, the official wheel."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from xfdev import link, plan, project, workspace
from xfdev.bundle import Manifest
from xfdev.commands.trusting import Trust
from xfdev.console import console
from xfdev.errors import BadBundle, StoreUnreachable, XfdevError
from xfdev.files import read_json, write_json
from xfdev.stores.local import LocalStore, Summary

if TYPE_CHECKING:
    from xfdev.commands.session import Session
    from xfdev.stores.afar import Afar

_MOST = 6  # bundles compared in full, the most alike first
_ASK_AGAIN_AFTER = 3600.0  # seconds until a release that no index had is asked for again


class Candidates:
    """The candidates for *session*'s checkout."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self._refused: dict[str, str] = {}
        self.unavailable: tuple[plan.Refusal, ...] = ()
        """The official wheel, where it would have been asked for next and cannot be had."""

    @cached_property
    def trust(self) -> Trust:
        return Trust(self.session.options, self.session.root, self.session.store)

    @property
    def refused(self) -> tuple[plan.Refusal, ...]:
        """The bundles that were not looked at, because they are not trusted."""
        afar = self.afar.refused if "afar" in self.__dict__ else []
        found = dict([*((f"bundle {name[:12]}", why) for name, why in self._refused.items()), *afar])
        return tuple(plan.Refusal(label, (why,)) for label, why in found.items())

    def _is_refused(self, bundle: str) -> bool:
        if bundle not in self._refused and (objection := self.trust.of_local(bundle)):
            self._refused[bundle] = objection
        return bundle in self._refused

    def all(self) -> Iterator[plan.Candidate]:
        """What could serve this checkout, the nearest first; ends after one that can be linked as it is, unless the
        driver would have to compile it: there may be one with machine code."""
        served = False
        kept = workspace.kept_build(self.session.root)
        if kept is not None and all((self.session.root / workspace.LIB / name).is_file() for name in kept.outputs):
            candidate = self.session.candidate("the last build here", kept, None)
            yield candidate
            served = _serves(candidate)
            if served and not candidate.by_jit:
                return
        elif kept is None and (unfinished := workspace.unfinished_build(self.session.root)) is not None:
            yield self._unfinished(*unfinished)
        for summary in self._alike():
            if self._is_refused(summary.id):
                continue
            label = f"bundle {summary.id[:12]}" if summary.kind == "build" else f"release {summary.version}"
            try:
                candidate = self.session.candidate(label, self.session.store.manifest(summary.id), summary.id)
            except BadBundle as error:
                console.warning(f"{error}; it is left out")
                continue
            yield candidate
            served = served or _serves(candidate)
            if _serves(candidate) and not candidate.by_jit:
                return
        if self.session.options.stores:
            for candidate in self._afar():
                yield candidate
                served = served or _serves(candidate)
                if _serves(candidate) and not candidate.by_jit:
                    return
        released = None if served else self._release()
        if released is not None:
            yield released

    def _unfinished(self, manifest: Manifest, lost: frozenset[str]) -> plan.Candidate:
        candidate = self.session.candidate("the unfinished build here", manifest, None)
        units = dict.fromkeys(sorted(lost), ("not compiled yet",)) | dict(candidate.changes.units)
        return replace(candidate, changes=replace(candidate.changes, units=units), finished=False)

    def _afar(self) -> Iterator[plan.Candidate]:
        """What the configured stores have for such an environment."""
        from xfdev.stores import artifact

        facts = self.session.toolchain.facts
        commit = self.session.checkout.commit or "none"
        here = [entry for entry in self.session.store.summaries() if entry.id not in self._refused]

        def distance(entry: artifact.Entry) -> tuple[bool, ...]:
            return (
                entry.label("commit") != commit,
                entry.label("torch") != facts.get("torch", ""),
                entry.label("arch") != facts.get("arch", ""),
            )

        tag = artifact.tag(
            project.project_name(self.session.root, self.session.profile),
            facts["platform"].partition("-")[2],
            facts.get("cuda", "").partition(".")[0],
        )
        known = {entry.id for entry in here} | {entry.content for entry in here if entry.content}
        for offer in self.afar.offers(tag, distance, known):
            try:
                yield self.session.candidate(f"bundle {offer.id[:12]} of {offer.store}", offer.manifest, offer.id)
            except (TypeError, ValueError, KeyError, AttributeError) as error:
                # Whoever wrote it, it was not xfdev: a field has a value of a kind that nobody expects.
                self.afar.refuse(offer.store, BadBundle(f"{offer.store} has a manifest that makes no sense: {error!r}"))

    @cached_property
    def afar(self) -> Afar:
        from xfdev.stores import afar

        places = afar.repositories(self.session.options.stores or ())
        store = self.session.store
        return afar.Afar(places, self.session.environ, store, self.trust.of_store, self.trust.locked)

    def from_afar(self, bundle: str) -> bool:
        """Whether a configured store has a bundle, as far as is known."""
        return bool(self.session.options.stores) and self.afar.knows(bundle)

    def bring(self, bundle: str, *, objects: bool = False) -> None:
        """Have a candidate's bundle in the local store. Raises StoreUnreachable or BadBundle.

        Compiler-cache entries that cannot be had are no reason to fail: units compile without them.
        """
        here = bundle in self.session.store.ids()
        if here and not (objects and self.session.store.lacks_objects(bundle)):
            return
        if not self.from_afar(bundle):
            return  # it was here a moment ago; whoever reads it says that it is gone
        try:
            self.afar.bring(bundle, objects=objects)
        except (StoreUnreachable, BadBundle):
            if not here:
                raise

    def _alike(self) -> list[Summary]:
        self.trust.check()
        name = project.normal(project.project_name(self.session.root, self.session.profile))
        linked = (link.read_linked(self.session.root) or {}).get("bundle")
        facts = self.session.toolchain.facts

        def distance(summary: Summary) -> tuple[bool, ...]:
            return (
                summary.id != linked,
                summary.cuda.partition(".")[0] != facts.get("cuda", "").partition(".")[0],
                summary.torch != facts.get("torch"),
                summary.arch != facts.get("arch", ""),
            )

        same = [summary for summary in self.session.store.summaries() if project.normal(summary.project) == name]
        return sorted(same, key=distance)[:_MOST]

    def _release(self) -> plan.Candidate | None:
        """The official wheel of the release this checkout descends from, where the store does not have it yet."""
        version = self.session.release_version
        if version is None or not self.session.profile.native or self.session.profile.distribution is None:
            return None
        if any(summary.kind == "release" and summary.version == version for summary in self.session.store.summaries()):
            return None  # it was among the candidates
        label = f"release {version}"
        missed = missed_releases(self.session.store) / f"{self.session.profile.distribution}-{version}.json"
        earlier = read_json(missed)
        if isinstance(earlier, dict) and 0 <= time.time() - earlier.get("when", 0) < _ASK_AGAIN_AFTER:
            self.unavailable = (plan.Refusal(label, (str(earlier.get("reason")),)),)
            return None
        from xfdev.stores import release

        try:
            with release.scratch() as folder, console.step(f"looking at the official wheel {version}"):
                manifest, outputs = release.fetch(
                    self.session.profile, version, Path(folder), self.session.environment.interpreter
                )
                name = self.session.store.put(manifest, {key: outputs / key for key in manifest.outputs}, None)
        except XfdevError as error:
            self.unavailable = (plan.Refusal(label, (str(error),)),)
            try:
                missed.parent.mkdir(parents=True, exist_ok=True)
                write_json(missed, {"when": time.time(), "reason": str(error)})
            except (OSError, XfdevError):
                console.debug(f"{missed} cannot be written")
            return None
        return self.session.candidate(label, manifest, name)


def missed_releases(store: LocalStore) -> Path:
    """Where it is written down which releases no index had, so that not every command asks again."""
    return store.folder / "missed"


def _serves(candidate: plan.Candidate) -> bool:
    return candidate.finished and not candidate.changes.native and all(item.links for item in candidate.mismatches)
