"""What a nightly decides, keeps and sends: from facts alone, no registry is asked."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

from xfdev.errors import UsageError
from xfdev.nightly import ask, decide, lease, prune, publish, settings
from xfdev.nightly.decide import Facts, VariantFacts

COMMIT, OTHER = "a" * 40, "b" * 40
CHOSEN = settings.parse(
    {
        "repository": "https://example.org/project.git",
        "image": "registry.example.org/team/dev",
        "variant": [
            {"name": "cuda", "archs": ["8.0", "9.0"], "args": {"TOOLCHAIN": "cuda"}},
            {"name": "cpu", "args": {"SOURCE": "{repository}@{commit}"}},
        ],
    },
    Path("/somewhere/nightly.toml"),
)
FACTS = Facts(
    (COMMIT,),
    "recipe",
    {
        "cuda": VariantFacts("debian@sha256:1", {"torch": "2.14.1", "numpy": "2.0"}, "lock-cuda"),
        "cpu": VariantFacts("debian@sha256:1", {"torch": "2.13.0"}, "lock-cpu"),
    },
)


def changed(facts: Facts, variant: str, **more: Any) -> Facts:
    return replace(facts, variants={**facts.variants, variant: replace(facts.variants[variant], **more)})


def good(found: tuple[decide.Cell, ...]) -> dict[str, dict[str, Any]]:
    return {cell.key: {"ok": True, "key": cell.key} for cell in found}


def night(facts: Facts = FACTS, name: str = "nightly-20260101-aaaaaaaaaaaa") -> dict[str, Any]:
    """The record of a published night, as it comes back from the registry."""
    found = decide.cells(CHOSEN, facts)
    record = {
        "night": name, "id": decide.identity(found), "facts": asdict(facts), "cells": good(found),
        "names": {"cuda": "sha256:c", "cpu": "sha256:d"},
    }  # fmt: skip
    back: dict[str, Any] = json.loads(json.dumps(record))
    return back


RIGHT = {"cuda": "sha256:c", "cpu": "sha256:d"}


def decided(facts: Facts = FACTS, **more: Any) -> decide.Decision:
    given: dict[str, Any] = {
        "published": None, "pending": None, "outcomes": {}, "names": RIGHT, "tags": (), "today": "20260102",
    }  # fmt: skip
    return decide.decide(CHOSEN, facts, **{**given, **more})


def names(cells: tuple[decide.Cell, ...]) -> list[str]:
    return [cell.name for cell in cells]


def test_the_first_night_builds_everything() -> None:
    found = decided()
    assert found.todo == "build"
    assert found.night == "nightly-20260102-aaaaaaaaaaaa"
    short = "a" * 12
    assert names(found.waiting) == ["cuda", f"cuda/8.0/{short}", f"cuda/9.0/{short}", "cpu", f"cpu/none/{short}"]
    assert found.reasons == ("nothing was published yet",)


def test_nothing_changed_is_nothing_to_do() -> None:
    assert decided(published=night()).todo == "nothing"


def test_names_that_were_left_behind_are_moved() -> None:
    found = decided(published=night(), names={**RIGHT, "cpu": "sha256:old"})
    assert (found.todo, found.reasons) == ("finish", ("cpu is not moved yet",))


def test_a_new_commit_leaves_an_image_that_does_not_hold_it() -> None:
    found = decided(replace(FACTS, commits=(OTHER,)), published=night())
    short = "b" * 12
    assert names(found.waiting) == [f"cuda/8.0/{short}", f"cuda/9.0/{short}", "cpu", f"cpu/none/{short}"]
    assert found.reasons == ("upstream aaaaaaaaaaaa -> bbbbbbbbbbbb",)


def test_a_commit_that_was_built_before_is_not_built_again() -> None:
    found = decided(replace(FACTS, commits=(OTHER, COMMIT)), published=night())
    waiting = names(found.waiting)
    assert f"cuda/8.0/{'b' * 12}" in waiting
    assert f"cuda/8.0/{'a' * 12}" not in waiting
    assert f"cpu/none/{'a' * 12}" in waiting, "its image is another"


@pytest.mark.parametrize(
    ("facts", "reason"),
    [
        (changed(FACTS, "cuda", packages={"torch": "2.14.2"}, lock="x"), "cuda: torch 2.14.1 -> 2.14.2"),
        (changed(FACTS, "cuda", base="debian@sha256:2"), "cuda: another base image"),
        (changed(FACTS, "cuda", lock="x"), "cuda: other files of the same versions"),
        (replace(FACTS, recipe="x"), "the image's own files changed"),
    ],
)
def test_whatever_makes_an_image_makes_it_and_its_bundles_anew(facts: Facts, reason: str) -> None:
    found = decided(facts, published=night())
    assert reason in found.reasons
    short = "a" * 12
    assert {"cuda", f"cuda/8.0/{short}", f"cuda/9.0/{short}"} <= {*names(found.waiting)}
    assert ("cpu" in names(found.waiting)) == (facts.recipe == "x")


def test_an_interrupted_night_goes_on_under_its_name() -> None:
    found = decide.cells(CHOSEN, FACTS)
    pending = {"night": "nightly-20260101-aaaaaaaaaaaa", "id": decide.identity(found)}
    half = good(found[:2])
    on = decided(pending=pending, outcomes=half, today="20260103")
    assert on.night == "nightly-20260101-aaaaaaaaaaaa"
    assert on.waiting == found[2:]
    assert decided(pending=pending, outcomes=good(found)).todo == "publish"


def test_a_cell_that_failed_waits_again() -> None:
    found = decide.cells(CHOSEN, FACTS)
    outcomes = {**good(found), found[1].key: {"ok": False}}
    on = decided(outcomes=outcomes)
    assert on.todo == "build"
    assert on.waiting == (found[1],)


def test_a_night_never_takes_the_name_of_another() -> None:
    taken = ["nightly-20260102-aaaaaaaaaaaa-cuda", "nightly-20260102-aaaaaaaaaaaa.2_record"]
    assert decided(tags=taken).night == "nightly-20260102-aaaaaaaaaaaa.3"
    pending = {"night": "nightly-20260102-aaaaaaaaaaaa", "id": "another"}
    assert decided(pending=pending).night == "nightly-20260102-aaaaaaaaaaaa.2"


def test_cells_by_name() -> None:
    found = decide.cells(CHOSEN, FACTS)
    short = "a" * 12
    assert names(tuple(c for c in found if c.chosen_by(["cuda"]))) == ["cuda"]
    assert names(tuple(c for c in found if c.chosen_by(["cuda/9.0"]))) == [f"cuda/9.0/{short}"]
    assert names(tuple(c for c in found if c.chosen_by([f"cpu/none/{short}"]))) == [f"cpu/none/{short}"]
    assert not [c for c in found if c.chosen_by(["cuda/9"])]


TAGS = {
    "latest": "sha256:i3", "cuda": "sha256:c2", "nightly-pending": "sha256:p",
    "nightly-20260101-aaaaaaaaaaaa": "sha256:i1", "nightly-20260101-aaaaaaaaaaaa-cuda": "sha256:c1",
    "nightly-20260101-aaaaaaaaaaaa_0123": "sha256:n1", "nightly-20260101-aaaaaaaaaaaa-cpu": "sha256:same",
    "nightly-20260102-bbbbbbbbbbbb": "sha256:i2", "nightly-20260102-bbbbbbbbbbbb-cuda": "sha256:c2",
    "nightly-20260103-cccccccccccc": "sha256:i3", "nightly-20260103-cccccccccccc-cpu": "sha256:same",
}  # fmt: skip
CHILDREN = {
    "sha256:i1": ["sha256:m1", "sha256:same", "sha256:r1"], "sha256:c1": ["sha256:m1"],
    "sha256:i2": ["sha256:m2"], "sha256:c2": ["sha256:m2"], "sha256:i3": ["sha256:m2", "sha256:same"],
}  # fmt: skip


def test_old_nights_go_and_what_others_need_stays() -> None:
    gone = prune.old(TAGS, 2, "nightly-20260103-cccccccccccc")
    assert gone == ["nightly-20260101-aaaaaaaaaaaa"]
    doomed = prune.doomed(TAGS, gone, CHILDREN, set())
    assert {*doomed} == {"sha256:i1", "sha256:c1", "sha256:n1", "sha256:m1", "sha256:r1"}
    assert doomed.index("sha256:m1") < doomed.index("sha256:i1"), "the names go last"


def test_what_a_lock_file_names_stays_with_all_that_it_leads_to() -> None:
    digest = "sha256:" + "1" * 64
    tags, children = {**TAGS, "nightly-20260101-aaaaaaaaaaaa-cuda": digest}, {**CHILDREN, digest: ["sha256:m1"]}
    protected = prune.named([f'image = "registry.example.org/dev@{digest}"\n'])
    gone = ["nightly-20260101-aaaaaaaaaaaa"]
    assert not {digest, "sha256:m1"} & {*prune.doomed(tags, gone, children, protected)}
    assert {digest, "sha256:m1"} <= {*prune.doomed(tags, gone, children, set())}


def test_the_newest_are_kept_and_the_current_one_whatever_its_date() -> None:
    tags = [f"nightly-2026010{day}-{'a' * 12}" for day in range(1, 8)]
    assert prune.old(tags, 5, "") == [tags[1], tags[0]]
    assert prune.old(tags, 5, tags[0]) == [tags[1]]
    assert prune.nights([*tags, f"{tags[6]}.2_record", "latest", "nightly-lock"])[0] == f"{tags[6]}.2"


def image(*layers: str) -> tuple[bytes, str]:
    data = publish.canonical({"layers": [{"digest": layer, "size": 10} for layer in layers]})
    return data, publish.MANIFEST_TYPE


def test_an_index_lets_engines_choose_the_default_and_lists_the_rest() -> None:
    attested = publish.canonical({
        "manifests": [
            {"digest": "sha256:img", "platform": {"os": "linux", "architecture": "amd64"}},
            {"digest": "sha256:att", "platform": {"os": "unknown", "architecture": "unknown"}},
        ]
    })  # fmt: skip
    record = publish.note(b"{}", {})
    data = publish.index("n", "cuda", {"cpu": image("x"), "cuda": (attested, publish.INDEX_TYPE)}, record, "amd64")
    entries = json.loads(data)["manifests"]
    assert [entry["platform"]["os"] for entry in entries] == ["linux", "unknown", "unknown", "unknown"]
    assert entries[0]["digest"] == "sha256:img"
    assert entries[2]["annotations"] == {publish.VARIANT: "cpu"}
    assert publish.record_of(data) == entries[3]["digest"]
    assert publish.record_of(attested) is None
    assert publish.record_of(b"[]") is None
    plain = json.loads(publish.index("n", "cpu", {"cpu": image("x")}, record, "arm64"))["manifests"]
    assert plain[0]["platform"] == {"os": "linux", "architecture": "arm64"}


def test_what_somebody_with_the_night_before_fetches() -> None:
    layers = [{"digest": "sha256:a", "size": 100}, {"digest": "sha256:b", "size": 7}]
    assert publish.sizes(layers, ["sha256:a"]) == (107, 7)


def test_the_history_ends_somewhere() -> None:
    lines: list[Mapping[str, Any]] = [{"night": str(number)} for number in range(publish.MOST_HISTORY)]
    assert publish.history({"history": lines}, {"night": "new"})[-1] == {"night": "new"}
    assert len(publish.history({"history": lines}, {"night": "new"})) == publish.MOST_HISTORY
    assert publish.history(None, {"night": "new"}) == [{"night": "new"}]


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ({}, ["no [[variant]]", "repository is missing", "image is missing"]),
        ({"variant": [{"name": "Upper"}]}, ["'Upper' cannot be"]),
        ({"variant": [{"name": "latest"}]}, ["'latest' cannot be"]),
        ({"variant": [{"name": "a", "arch": ["9.0"]}]}, ["no variant 'a': arch", "'archs'?"]),
        ({"variant": [{"name": "a", "archs": "9.0"}], "keep": 0}, ["no list of texts", "keep is no whole number"]),
        ({"variant": [{"name": "a"}, {"name": "a"}], "default": "b"}, ["one name", "none of the variants"]),
        ({"variant": [{"name": "a", "requirements": ["torch"]}]}, ["no lock to write them to"]),
    ],
)
def test_all_that_is_wrong_with_the_settings_is_said(data: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(UsageError) as caught:
        settings.parse(data, Path("nightly.toml"))
    for word in words:
        assert word in str(caught.value)


def test_a_report_of_pips_becomes_a_lock() -> None:
    report = {
        "install": [
            {"metadata": {"name": "B_b", "version": "2"}, "download_info": {"archive_info": {"hash": "sha256=22"}}},
            {"metadata": {"name": "a", "version": "1"},
             "download_info": {"archive_info": {"hashes": {"sha256": "11"}}}},
        ]
    }  # fmt: skip
    before = "# toolchain: cpu\n--extra-index-url https://example.org/whl\na==0 --hash=sha256:00\n"
    made = ask.lock(report, before)
    assert made == (
        "# toolchain: cpu\n--extra-index-url https://example.org/whl\na==1 --hash=sha256:11\nb-b==2 --hash=sha256:22\n"
    )
    assert ask.versions(made) == {"a": "1", "b-b": "2"}


def test_who_holds_a_lease() -> None:
    me = lease.mine(1000.0)
    assert lease.holder(None, 1000.0) == ""
    assert lease.holder({**me, "until": 2000.0}, 1001.0) == "", "this process itself"
    assert lease.holder({**me, "pid": 2**22 + 1, "until": 2000.0}, 1001.0) == "", "no such process here"
    far = {"host": "elsewhere", "boot": "x", "pid": 7, "since": 940.0, "until": 1900.0}
    assert lease.holder(far, 1000.0) == "process 7 on elsewhere, for 1 min 0 s"
    assert lease.holder(far, 1901.0) == "", "nobody renewed it"
    assert lease.holder({**far, "until": 1e12}, 1000.0) == "", "no clock is that wrong"
    assert lease.holder({**me, "pid": 1, "until": 1900.0}, 1001.0).startswith("process 1 on ")
