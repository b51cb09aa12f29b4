"""A night's names in a real registry: cut short at every request, read at every moment, two writers, old ones deleted.

The images are a few bytes; what builds them is in tests/container/test_nightly_container.py."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import registrykit
from xfdev.commands import cells, nights
from xfdev.errors import Busy, StoreUnreachable
from xfdev.nightly import decide, lease, publish, settings
from xfdev.nightly.shelf import Shelf
from xfdev.stores.artifact import EMPTY, EMPTY_TYPE, MANIFEST_TYPE, digest_of
from xfdev.stores.reference import reference

CHOSEN = settings.parse(
    {
        "repository": "https://example.org/p.git",
        "image": "localhost:1/team/dev",
        "history": 0,
        "variant": [{"name": "big", "archs": ["9.0"]}, {"name": "small"}],
    },
    Path("/nowhere/nightly.toml"),
)


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with registrykit.real(tmp_path_factory.mktemp("registry")) as host:
        yield host


def shelf_of(host: str, name: str) -> Shelf:
    return Shelf(reference(f"{host}/{name}"), dict(os.environ))


def image(shelf: Shelf, words: str) -> dict[str, Any]:
    """An image of one layer with *words* in it; what a cell tells of it."""
    layer = words.encode()
    for blob in (EMPTY, layer):
        shelf._put_blob(blob)
    data = publish.canonical({
        "schemaVersion": 2, "mediaType": MANIFEST_TYPE,
        "config": {"mediaType": EMPTY_TYPE, "digest": digest_of(EMPTY), "size": len(EMPTY)},
        "layers": [{"mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": digest_of(layer),
                    "size": len(layer)}],
    })  # fmt: skip
    digest = shelf.put(digest_of(data), data, MANIFEST_TYPE)
    return {"digest": digest, "reference": f"{shelf}@{digest}", "bytes": len(layer), "new_bytes": len(layer),
            "layers": [digest_of(layer)]}  # fmt: skip


def facts_of(day: int) -> decide.Facts:
    so = {name: decide.VariantFacts("base", {"torch": f"2.{day}"}, f"lock {day}") for name in ("big", "small")}
    return decide.Facts((f"{day:040x}",), "recipe", so)


def made(shelf: Shelf, day: int) -> tuple[decide.Decision, dict[str, dict[str, Any]]]:
    """A night of which only the names are missing."""
    chosen = dataclasses.replace(CHOSEN, image=str(shelf))
    found = decide.cells(chosen, facts_of(day))
    done: dict[str, dict[str, Any]] = {}
    night = f"nightly-202601{day:02}-{day:012x}"
    for cell in found:
        about = {"ok": True, "key": cell.key, "night": night, "seconds": 1.0}
        if cell.commit:
            digest = digest_of(cell.key.encode())
            reference_of = f"{chosen.bundles}@{digest}"
            more = {"bundle": {"id": cell.key, "digest": digest, "reference": reference_of, "bytes": 1, "units": 1}}
        else:
            more = {"image": image(shelf, f"{cell.variant} of {day}")}
        done[cell.key] = {**about, **more}
    return decide.Decision("publish", night, decide.identity(found), found, reasons=(f"day {day}",)), done


def published(shelf: Shelf, day: int, decision: decide.Decision, done: dict[str, dict[str, Any]]) -> str:
    work = cells.Work(
        dataclasses.replace(CHOSEN, image=str(shelf)), shelf, decision.night, facts_of(day).variants, {}, ("c",),
        Path("/nowhere"), {}, shelf.published(),
    )  # fmt: skip
    return nights.publish(decision, facts_of(day), work, done)[1]


def whole(shelf: Shelf) -> str | None:
    """The night behind ``latest``, everything that it leads to having been read."""
    found = shelf.document("latest")
    if found is None:
        return None
    # Read once: what is asked for again may have moved meanwhile.
    record = shelf.note(publish.record_of(found[0]) or "")
    assert record is not None
    for entry in json.loads(found[0])["manifests"]:
        inner = shelf.document(entry["digest"])
        assert inner is not None
        for layer in json.loads(inner[0])["layers"]:
            shelf.blob(layer["digest"])
    listed = {entry["digest"] for entry in json.loads(found[0])["manifests"]}
    assert {entry["digest"] for entry in record["images"].values()} <= listed
    return str(record["night"])


def test_cut_short_at_every_request_and_finished(registry: str) -> None:
    writes = 0
    outcomes = set()
    for cut in range(100):
        name = f"cut-{cut}"
        straight = shelf_of(registry, name)
        first, done_first = made(straight, 1)
        published(straight, 1, first, done_first)
        second, done = made(straight, 2)
        count = 0

        def rule(request: registrykit.Request, cut: int = cut) -> registrykit.Act | None:
            nonlocal count
            if request.method in ("PUT", "POST", "PATCH"):
                count += 1
                if count > cut:
                    return registrykit.status(403)
            return None

        with registrykit.before(registry) as proxy:
            proxy.rule = rule
            try:
                published(shelf_of(proxy.host, name), 2, second, done)
            except StoreUnreachable:
                night = whole(straight)
                assert night in (first.night, second.night)
                outcomes.add(night)
            else:
                writes = count
                break
        again = published(straight, 2, second, done)
        assert whole(straight) == second.night
        assert straight.digest("latest") == straight.digest(second.night) == again
        for variant in ("big", "small"):
            wanted = done[next(c.key for c in first.cells + second.cells if c.variant == variant and c.key in done)]
            assert straight.digest(variant) == wanted["image"]["digest"]
    assert writes >= 8, "it was never cut short"
    assert outcomes == {first.night, second.night}, "before and after the one request that counts"


def test_readers_see_one_night_or_the_other(registry: str) -> None:
    shelf = shelf_of(registry, "read")
    one, two = made(shelf, 1), made(shelf, 2)
    published(shelf, 1, *one)
    seen: list[str | None] = []
    done = threading.Event()

    def reads() -> None:
        mine = shelf_of(registry, "read")
        while not done.is_set():
            seen.append(whole(mine))

    thread = threading.Thread(target=reads)
    thread.start()
    try:
        for _ in range(5):
            published(shelf, 2, *two)
            published(shelf, 1, *one)
    finally:
        done.set()
        thread.join()
    assert {*seen} <= {one[0].night, two[0].night}
    assert len(seen) > 3


def test_the_record_comes_back(registry: str) -> None:
    shelf = shelf_of(registry, "record")
    assert shelf.published() is None
    assert shelf.tags() == []
    decision, done = made(shelf, 3)
    published(shelf, 3, decision, done)
    record = shelf.published()
    assert record is not None
    assert record["id"] == decision.id
    names = {name: shelf.digest(name) for name in record["names"]}
    known: dict[str, Any] = {"pending": None, "outcomes": {}, "tags": shelf.tags(), "today": "20260104"}
    chosen = dataclasses.replace(CHOSEN, image=str(shelf))
    assert decide.decide(chosen, facts_of(3), published=record, names=names, **known).todo == "nothing"
    shelf.put("small", *(shelf.document(record["images"]["big"]["digest"]) or (b"", "")))
    names = {name: shelf.digest(name) for name in record["names"]}
    assert decide.decide(chosen, facts_of(3), published=record, names=names, **known).todo == "finish"
    nights.move(shelf, record["names"])
    assert shelf.digest("small") == record["names"]["small"]


def test_what_another_program_pushed_is_no_night(registry: str) -> None:
    shelf = shelf_of(registry, "foreign")
    entry = image(shelf, "somebody's")
    shelf.put("latest", *(shelf.document(entry["digest"]) or (b"", "")))
    assert shelf.published() is None
    assert shelf.note("latest") is None
    assert shelf.note("nowhere") is None


def test_old_nights_are_deleted_but_not_what_a_lock_names(registry: str, tmp_path: Path) -> None:
    shelf = shelf_of(registry, "prune")
    digests = {}
    for day in range(1, 6):
        decision, done = made(shelf, day)
        published(shelf, day, decision, done)
        digests[day] = {outcome["image"]["digest"] for outcome in done.values() if "image" in outcome}
    named = min(digests[1])
    (tmp_path / "xfdev.lock").write_text(f'image = "{shelf}@{named}"\n')
    chosen = dataclasses.replace(CHOSEN, image=str(shelf), keep=2, locks=("xfdev.lock",), place=tmp_path,
                                 bundles=f"{shelf}-bundles")  # fmt: skip
    gone = nights.prune(shelf, chosen, "nightly-20260105-000000000005", dict(os.environ))
    assert [night[8:16] for night in gone] == ["20260103", "20260102", "20260101"]
    assert shelf.document(named) is not None
    assert whole(shelf) == "nightly-20260105-000000000005"
    tags = shelf.tags()
    assert not [tag for tag in tags if tag.startswith(("nightly-20260102", "nightly-20260103"))]
    assert [tag for tag in tags if tag.startswith("nightly-20260104")]
    (tmp_path / "xfdev.lock").unlink()
    with pytest.raises(FileNotFoundError):
        nights.prune(shelf, dataclasses.replace(chosen, keep=1), "x", dict(os.environ))


def test_a_lease_names_its_holder(registry: str) -> None:
    """Another process, on this machine."""
    shelf = shelf_of(registry, "lease")
    code = (
        "import os, sys; from xfdev.nightly import lease; from xfdev.nightly.shelf import Shelf; "
        "from xfdev.stores.reference import reference\n"
        f"with lease.held(Shelf(reference('{shelf}'), dict(os.environ)), sys.argv[1]):\n"
        "    print('held', flush=True); sys.stdin.read()\n"
    )

    def other(cell: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-c", code, cell], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        return process

    process = other("")
    with pytest.raises(Busy, match=f"process {process.pid} on "), lease.held(shelf):
        raise AssertionError
    with pytest.raises(Busy), lease.held(shelf, "big"):
        raise AssertionError
    with lease.held(shelf, take_over=True):
        pass
    process.kill()
    process.communicate()
    with lease.held(shelf):  # its process is gone, so it is free at once
        pass
    process = other("big/9.0")
    with lease.held(shelf, "small"):  # cells may be worked on at the same time
        pass
    with pytest.raises(Busy), lease.held(shelf, "big/9.0"):
        raise AssertionError
    with pytest.raises(Busy), lease.held(shelf):
        raise AssertionError
    process.communicate("")  # it ends in its own time, and says so
    assert lease.holder(shelf.note(f"{lease.TAG}-big-9.0"), time.time()) == ""
    with lease.held(shelf):
        pass


def test_of_two_in_the_same_moment_one_goes_on(registry: str) -> None:
    shelf = shelf_of(registry, "race")
    code = (
        "import os, sys; from xfdev.nightly import lease; from xfdev.nightly.shelf import Shelf; "
        "from xfdev.stores.reference import reference; from xfdev.errors import Busy\n"
        "try:\n"
        f"    with lease.held(Shelf(reference('{shelf}'), dict(os.environ))):\n"
        "        print('held', flush=True); sys.stdin.read()\n"
        "except Busy: print('busy', flush=True)\n"
    )
    processes = [
        subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    try:
        said = []
        for process in processes:
            assert process.stdout is not None
            said.append(process.stdout.readline().strip())
        assert sorted(said) == ["busy", "held"]
    finally:
        for process in processes:
            process.communicate("")
