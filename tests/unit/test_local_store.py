"""The store in a folder: whole bundles or none, checked on every read."""

from __future__ import annotations

import hashlib
import os
import time
from dataclasses import replace
from pathlib import Path

import pytest

from xfdev.bundle import Manifest, Output
from xfdev.commands import bundle as command
from xfdev.errors import BadBundle, DiskFull, UsageError
from xfdev.stores.local import LocalStore


def made(folder: Path, name: str = "p", size: int = 100, created: int = 1) -> tuple[Manifest, dict[str, Path], Path]:
    """A manifest, its output files and its folder of objects."""
    folder.mkdir(parents=True, exist_ok=True)
    data = name.encode() * size
    library = folder / f"{name}.so"
    library.write_bytes(data)
    objects = folder / f"{name}-objects"
    (objects / "ab").mkdir(parents=True, exist_ok=True)
    (objects / "ab" / "c").write_bytes(b"object")
    manifest = Manifest(
        project=name,
        version="1",
        kind="build",
        facts={"torch": "2.14.1", "arch": "9.0", "cuda": "13.0"},
        outputs={"pkg/_C.so": Output("pkg/_C.so", hashlib.sha256(data).hexdigest(), len(data), 0o755)},
        objects={"ab/c": hashlib.sha256(b"object").hexdigest()},
        origin={"created": str(created)},
    )
    return manifest, {"pkg/_C.so": library}, objects


@pytest.fixture
def store(tmp_path: Path) -> LocalStore:
    return LocalStore(tmp_path / "store")


def test_reading_an_empty_store_makes_nothing(store: LocalStore) -> None:
    assert store.ids() == []
    assert list(store.summaries()) == []
    assert store.prune(max_size=0, now=time.time()) == []
    with pytest.raises(BadBundle):
        store.resolve("ab")
    with pytest.raises(BadBundle):
        store.manifest("a" * 64)
    assert not store.folder.exists()


def test_put_and_read(store: LocalStore, tmp_path: Path) -> None:
    manifest, outputs, objects = made(tmp_path)
    name = store.put(manifest, outputs, objects)
    assert name == manifest.id
    assert store.ids() == [name]
    assert store.manifest(name) == manifest
    assert store.output(name, "pkg/_C.so").read_bytes() == outputs["pkg/_C.so"].read_bytes()
    found = store.objects(name, manifest)
    assert found is not None
    assert (found / "ab" / "c").read_bytes() == b"object"
    store.verify(name)
    assert (store.folder / "CACHEDIR.TAG").read_text().startswith("Signature: 8a477f597d28d172789f06886806bc55")
    assert store.put(manifest, {}, None) == name, "it is there already; nothing is read"


def test_bundle_is_a_copy_that_nobody_writes_by_accident(store: LocalStore, tmp_path: Path) -> None:
    manifest, outputs, objects = made(tmp_path)
    name = store.put(manifest, outputs, objects)
    outputs["pkg/_C.so"].write_bytes(b"rebuilt")
    store.verify(name)
    assert store.output(name, "pkg/_C.so").stat().st_mode & 0o222 == 0


def test_output_that_changed_meanwhile(store: LocalStore, tmp_path: Path) -> None:
    manifest, outputs, objects = made(tmp_path)
    outputs["pkg/_C.so"].write_bytes(b"other")
    with pytest.raises(BadBundle, match="changed while it was stored"):
        store.put(manifest, outputs, objects)
    assert store.ids() == []
    assert list((store.folder / "tmp").iterdir()) == []


def test_disk_that_fills_up_leaves_no_half_bundle(
    store: LocalStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    manifest, outputs, objects = made(tmp_path)

    def full(*args: object, **kwargs: object) -> None:
        raise OSError(28, "No space left on device")

    for place in ("shutil.copy2", "os.fsync"):
        with monkeypatch.context() as patch:
            patch.setattr(place, full)
            with pytest.raises(DiskFull):
                store.put(manifest, outputs, objects)
        assert store.ids() == []
        assert list((store.folder / "tmp").iterdir()) == []
    store.verify(store.put(manifest, outputs, objects))


def test_resolve(store: LocalStore, tmp_path: Path) -> None:
    names = [store.put(*made(tmp_path, f"p{number}")) for number in range(20)]
    for name in names:
        assert store.resolve(name) == name
    first = {name[0] for name in names if sum(other[0] == name[0] for other in names) > 1}
    with pytest.raises(UsageError, match="bundles start with"):
        store.resolve(first.pop())
    for wrong in ("", "zz", names[0] + "0", "../"):
        with pytest.raises(BadBundle):
            store.resolve(wrong)


def test_summaries_newest_first(store: LocalStore, tmp_path: Path) -> None:
    for created in (2, 3, 1):
        store.put(*made(tmp_path, f"p{created}", created=created))
    found = list(store.summaries())
    assert [summary.project for summary in found] == ["p3", "p2", "p1"]
    assert (found[0].torch, found[0].arch, found[0].cuda, found[0].size) == ("2.14.1", "9.0", "13.0", 200)


def test_damaged_summary_is_made_from_the_manifest(store: LocalStore, tmp_path: Path) -> None:
    name = store.put(*made(tmp_path))
    summary = store.folder / "bundles" / name / "summary.json"
    for damage in ("", "[]", "{"):
        summary.write_text(damage)
        assert [entry.project for entry in store.summaries()] == ["p"]
    summary.unlink()
    assert [entry.project for entry in store.summaries()] == ["p"]
    (store.folder / "bundles" / name / "used").unlink()
    assert [entry.used for entry in store.summaries()] == [0.0]


def test_what_is_no_bundle_is_passed_over(store: LocalStore, tmp_path: Path) -> None:
    name = store.put(*made(tmp_path))
    (store.folder / "bundles" / "README").write_text("x")
    (store.folder / "bundles" / ("e" * 64)).mkdir()
    assert [entry.id for entry in store.summaries()] == [name]


@pytest.mark.parametrize(
    ("place", "data", "says"),
    [
        ("manifest.json", b"{}", "corrupted"),
        ("outputs/pkg/_C.so", b"", "corrupted"),
        ("outputs/pkg/_C.so", None, "truncated"),
        ("objects/ab/c", b"objecs", "corrupted"),
        ("objects/ab/c", None, "truncated"),
        ("manifest.json", None, "is not in"),
        ("outputs/extra", b"x", "foreign file: outputs/extra"),
        ("extra", b"x", "foreign file: extra"),
    ],
)
def test_verify_names_the_damage(store: LocalStore, tmp_path: Path, place: str, data: bytes | None, says: str) -> None:
    name = store.put(*made(tmp_path))
    path = store.folder / "bundles" / name / place
    if path.exists():
        path.chmod(0o644)
    path.unlink() if data is None else path.write_bytes(data)
    with pytest.raises(BadBundle, match=says) as caught:
        store.verify(name)
    assert name[:12] in str(caught.value)
    store.remove(name)
    assert store.ids() == []


def test_link_out_of_the_bundle_is_foreign(store: LocalStore, tmp_path: Path) -> None:
    name = store.put(*made(tmp_path))
    (store.folder / "bundles" / name / "outputs" / "link").symlink_to("/etc/passwd")
    with pytest.raises(BadBundle, match="foreign"):
        store.verify(name)


def test_damaged_objects_are_not_offered(store: LocalStore, tmp_path: Path) -> None:
    manifest, outputs, objects = made(tmp_path)
    name = store.put(manifest, outputs, objects)
    path = store.folder / "bundles" / name / "objects" / "ab" / "c"
    path.chmod(0o644)
    path.write_bytes(b"objecs")
    assert store.objects(name, manifest) is None
    path.unlink()
    assert store.objects(name, manifest) is None
    assert store.objects(name, replace(manifest, objects={})) is None


def test_prune_by_age_and_size(store: LocalStore, tmp_path: Path) -> None:
    now = 1_000_000.0
    names = {}
    for number in range(4):
        name = store.put(*made(tmp_path, f"p{number}", size=500))
        names[f"p{number}"] = name
        os.utime(store.folder / "bundles" / name / "used", (now - number * 1000, now - number * 1000))
    assert [entry.project for entry in store.prune(max_age=2500, now=now)] == ["p3"]
    assert [entry.project for entry in store.prune(max_size=2500, now=now)] == ["p2"]
    assert store.prune(max_size=2500, max_age=2500, now=now) == []
    assert set(store.ids()) == {names["p0"], names["p1"]}
    store.use(names["p1"])
    assert [entry.project for entry in store.prune(max_size=1000, now=now)] == ["p0"]
    assert list((store.folder / "tmp").iterdir()) == []


def test_prune_keeps_its_hands_off_a_folder_that_is_not_ours(tmp_path: Path) -> None:
    other = tmp_path / "other"
    (other / "bundles" / ("a" * 64)).mkdir(parents=True)
    (other / "bundles" / ("a" * 64) / "summary.json").write_text("{}")
    assert LocalStore(other).prune(max_size=0, now=time.time()) == []
    assert (other / "bundles" / ("a" * 64)).exists()


def test_only_old_halves_are_swept(store: LocalStore, tmp_path: Path) -> None:
    store.put(*made(tmp_path, "a"))
    half, old = store.folder / "tmp" / "put-half", store.folder / "tmp" / "put-old"
    half.mkdir()
    old.mkdir()
    (old / "x").write_text("x")
    os.utime(old, (1, 1))
    store.put(*made(tmp_path, "b"))
    assert half.exists()
    assert not old.exists()


def test_remove_of_what_is_gone(store: LocalStore, tmp_path: Path) -> None:
    name = store.put(*made(tmp_path))
    store.remove(name)
    store.remove(name)
    assert store.ids() == []
    assert list((store.folder / "tmp").iterdir()) == []


@pytest.mark.parametrize(
    ("text", "value"),
    [("500MB", 500_000_000), ("2GB", 2_000_000_000), ("1.5 GB", 1_500_000_000), ("7", 7), ("3k", 3000)],
)
def test_sizes(text: str, value: int) -> None:
    assert command.parse_size(text) == value


@pytest.mark.parametrize(
    ("text", "value"), [("12h", 43200), ("30d", 2592000), ("1.5m", 90), ("45 s", 45), ("1w", 604800)]
)
def test_ages(text: str, value: float) -> None:
    assert command.parse_age(text) == value


@pytest.mark.parametrize("text", ["", "big", "-1GB", "GB", "1 PB", "1e9"])
def test_what_is_no_size(text: str) -> None:
    with pytest.raises(UsageError):
        command.parse_size(text)


@pytest.mark.parametrize("text", ["", "old", "30", "-1d", "1y"])
def test_what_is_no_age(text: str) -> None:
    with pytest.raises(UsageError):
        command.parse_age(text)
