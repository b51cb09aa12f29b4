"""What is pure of the stores in registries: names, documents, limits, logins; the rest meets a real registry."""

from __future__ import annotations

import base64
import io
import json
import os
import tarfile
import zlib
from dataclasses import replace
from pathlib import Path

import pytest

from xfdev import connections, engine_login, options
from xfdev.bundle import Manifest, Needs, Output
from xfdev.errors import BadBundle, UsageError
from xfdev.stores import answers, artifact, packing
from xfdev.stores.afar import Afar, repositories
from xfdev.stores.artifact import Artifact, Blob
from xfdev.stores.local import LocalStore
from xfdev.stores.reference import reference

DIGEST = "sha256:" + "a" * 64
MADE = Manifest(
    project="p",
    version="1",
    kind="build",
    facts={"torch": "2.14.1", "arch": "9.0", "cuda": "13.0", "platform": "linux-x86_64"},
    needs=Needs(machine="x86_64", cuda="13", python="any"),
    outputs={"p/_C.so": Output("p/_C.so", "0" * 64, 10, 0o755)},
    origin={"created": "5", "commit": "abc"},
)


@pytest.mark.parametrize(
    ("text", "host", "port", "secure", "repository", "version"),
    [
        ("ghcr.io/team/bundles", "ghcr.io", 443, True, "team/bundles", ""),
        ("oci://ghcr.io/team/bundles", "ghcr.io", 443, True, "team/bundles", ""),
        ("team/bundles", "registry-1.docker.io", 443, True, "team/bundles", ""),
        ("docker.io/team/bundles:x", "registry-1.docker.io", 443, True, "team/bundles", "x"),
        ("localhost:5000/b", "localhost", 5000, False, "b", ""),
        ("127.0.0.1:5000/b", "127.0.0.1", 5000, False, "b", ""),
        ("https://localhost:5000/b", "localhost", 5000, True, "b", ""),
        ("http://localhost:5000/b", "localhost", 5000, False, "b", ""),
        ("host.example:5000/a/b/c@" + DIGEST, "host.example", 5000, True, "a/b/c", DIGEST),
    ],
)
def test_references(text: str, host: str, port: int, secure: bool, repository: str, version: str) -> None:
    found = reference(text)
    assert (found.host, found.port, found.secure) == (host, port, secure)
    assert (found.repository, found.version) == (repository, version)
    assert reference(str(found)).repository == repository


@pytest.mark.parametrize(
    "text",
    ["", "ghcr.io/", "ghcr.io/Team/x", "ghcr.io/a/../b", "ftp://ghcr.io/a", "ghcr.io/a:b:c", "ghcr.io/a@sha256:1",
     "http://ghcr.io/a", "user:secret@ghcr.io/a", "ghcr.io:port/a", "ghcr.io/a b", "ghcr.io/a?x", "https://", "a\n/b"],
)  # fmt: skip
def test_what_is_no_reference(text: str) -> None:
    with pytest.raises(UsageError):
        reference(text)


def test_a_store_has_no_tag() -> None:
    assert [str(place) for place in repositories(["ghcr.io/a/b"])] == ["ghcr.io/a/b"]
    with pytest.raises(UsageError, match="tag"):
        repositories(["ghcr.io/a/b:x"])


def test_a_bundle_is_listed_where_its_checkout_looks() -> None:
    assert artifact.tag_of(MADE) == artifact.tag("P", "x86_64", "13") == "p-x86_64-cu13"
    assert artifact.tag("a_b.c", "x86_64", "") == artifact.tag("A-B--C", "x86_64", "") == "a-b-c-x86_64-cpu"


@pytest.mark.parametrize("names", [("é", "è"), ("a" * 100, "a" * 101), ("a/b", "ab"), ("..", "a")])
def test_two_projects_never_share_a_tag(names: tuple[str, str]) -> None:
    tags = [artifact.tag(name, "x86_64", "13") for name in names]
    assert tags[0] != tags[1]
    for tag in tags:
        assert reference(f"ghcr.io/a:{tag}").version == tag


def document(**changes: object) -> bytes:
    recipe = Blob(DIGEST, 5, artifact.RECIPE_LAYER)
    made = Artifact(recipe, {"p/_C.so": Blob(DIGEST, 6, artifact.OUTPUT_LAYER, "p/_C.so")}, None)
    value = json.loads(artifact.artifact_document(made, artifact.labels("b" * 64, MADE, recipe)))
    return json.dumps({**value, **changes}).encode()


def test_an_artifact_is_read_as_it_was_written() -> None:
    found = artifact.read_artifact(document(), "here")
    assert found.recipe.size == 5
    assert found.outputs["p/_C.so"].size == 6
    assert found.objects is None
    value = json.loads(document())
    assert value["config"]["digest"] == artifact.digest_of(artifact.EMPTY)
    assert base64.b64decode(value["config"]["data"]) == artifact.EMPTY


def layer(**changes: object) -> dict[str, object]:
    return {"mediaType": artifact.RECIPE_LAYER, "digest": DIGEST, "size": 5, **changes}


@pytest.mark.parametrize(
    "data",
    [
        b"", b"[]", b"7", b"[" * 100_000, document(artifactType="x"), document(layers=None), document(layers=[]),
        document(layers=[7]), document(layers=[layer(), layer()]), document(layers=[layer(size=True)]),
        document(layers=[layer(size=-1)]), document(layers=[layer(size=1 << 60)]), document(layers=[layer(size="5")]),
        document(layers=[layer(digest="sha256:../../etc")]), document(layers=[layer(), layer(mediaType="x")]),
        document(layers=[layer(annotations=[1])]), document(layers=[layer(mediaType=["x"])]),
        document(layers=[layer(), *[layer(mediaType=artifact.OUTPUT_LAYER)] * 2]),
    ],
)  # fmt: skip
def test_what_is_no_artifact(data: bytes) -> None:
    with pytest.raises(BadBundle):
        artifact.read_artifact(data, "here")


def line(created: int, arch: str = "9.0") -> dict[str, object]:
    made = replace(MADE, facts={**MADE.facts, "arch": arch}, origin={"created": str(created)})
    digest = artifact.digest_of(f"{created} {arch}".encode())
    return artifact.listed(digest, 5, artifact.labels(made.id, made, Blob(DIGEST, 5, artifact.RECIPE_LAYER)))


def test_an_index_keeps_the_newest_of_each_class() -> None:
    lines: list[dict[str, object]] = []
    for number in range(40):
        lines = artifact.merged(lines, line(number, "8.0" if number % 4 else "9.0"))
    found = artifact.read_index(artifact.index_document(lines), "here")[1]
    numbers = [int(entry.label("created")) for entry in found]
    assert numbers == sorted(numbers, reverse=True)
    assert [entry.label("arch") for entry in found].count("8.0") == 16
    assert [entry.label("arch") for entry in found].count("9.0") == 10, "a busy arch does not push another out"
    assert artifact.merged(lines, lines[3]) == [lines[3], *[entry for entry in lines if entry is not lines[3]]]


@pytest.mark.parametrize(
    ("name", "value"),
    [("digest", "x"), ("artifactType", "x"), ("annotations", {}), ("annotations", {"org.xfdev.bundle.id": "../x"})],
)
def test_foreign_lines_are_passed_over(name: str, value: object) -> None:
    lines, entries = artifact.read_index(artifact.index_document([{**line(1), name: value}, line(2)]), "here")
    assert len(lines) == 2
    assert [entry.label("created") for entry in entries] == ["2"]


@pytest.mark.parametrize("manifests", [None, [7], [[1]], "x", [{"artifactType": artifact.BUNDLE, "annotations": 7}]])
def test_what_is_no_index(manifests: object) -> None:
    data = json.dumps({"artifactType": artifact.BUNDLES, "manifests": manifests}).encode()
    with pytest.raises(BadBundle):
        artifact.read_index(data, "here")


# --- packing


def test_packed_alike_and_unpacked(tmp_path: Path) -> None:
    first = packing.packed(tmp_path / "a", [b"x" * 1000, b"y"], artifact.OUTPUT_LAYER)
    assert first == packing.packed(tmp_path / "b", [b"x" * 1000 + b"y"], artifact.OUTPUT_LAYER)
    packing.expand(tmp_path / "a", tmp_path / "c", 1001, "it")
    assert (tmp_path / "c").read_bytes() == b"x" * 1000 + b"y"


@pytest.mark.parametrize("length", [0, 9, 11])
def test_unpacked_is_as_long_as_announced(tmp_path: Path, length: int) -> None:
    (tmp_path / "a").write_bytes(zlib.compress(b"x" * 10, wbits=31))
    with pytest.raises(BadBundle, match="larger" if length < 10 else "truncated"):
        packing.expand(tmp_path / "a", tmp_path / "b", length, "it")


@pytest.mark.parametrize("cut", [0, 5, 18])
def test_half_a_file(tmp_path: Path, cut: int) -> None:
    data = zlib.compress(os.urandom(10), wbits=31)
    (tmp_path / "a").write_bytes(data[:cut])
    with pytest.raises(BadBundle):
        packing.expand(tmp_path / "a", tmp_path / "b", 10, "it")
    with pytest.raises(BadBundle):
        packing.inflated(data[:cut], 100, "here")


def test_a_bomb_is_not_unpacked(tmp_path: Path) -> None:
    bomb = zlib.compress(b"\0" * 50_000_000, wbits=31)
    (tmp_path / "a").write_bytes(bomb)
    with pytest.raises(BadBundle):
        packing.expand(tmp_path / "a", tmp_path / "b", 1000, "it")
    assert (tmp_path / "b").stat().st_size <= 1 << 20
    with pytest.raises(BadBundle):
        packing.inflated(bomb, 1000, "here")
    with pytest.raises(BadBundle):
        packing.inflated(zlib.compress(b"x", wbits=31) + b"more", 1000, "here")


def archive(path: Path, *members: tarfile.TarInfo) -> Path:
    with tarfile.open(path, "w") as made:
        for member in members:
            made.addfile(member, io.BytesIO(b"x" * member.size))
    return path


def member(name: str, kind: bytes = tarfile.REGTYPE, link: str = "") -> tarfile.TarInfo:
    found = tarfile.TarInfo(name)
    found.size, found.type, found.linkname = (3 if kind == tarfile.REGTYPE else 0), kind, link
    return found


@pytest.mark.parametrize(
    "members",
    [
        (member("../out"),), (member("/out"),), (member("other"),), (member("ab/c", tarfile.SYMTYPE, "/etc/passwd"),),
        (member("ab/c", tarfile.LNKTYPE, "../../out"),), (member("ab/c", tarfile.CHRTYPE),), (),
    ],
)  # fmt: skip
def test_an_archive_with_foreign_files(tmp_path: Path, members: tuple[tarfile.TarInfo, ...]) -> None:
    with pytest.raises(BadBundle):
        packing.unpack(archive(tmp_path / "a.tar", *members), tmp_path / "in" / "objects", {"ab/c": "0" * 64})
    assert not (tmp_path / "out").exists()
    assert not (tmp_path / "in" / "out").exists()


def test_an_archive_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"x" * 2000)
    with pytest.raises(BadBundle):
        packing.unpack(tmp_path / "a", tmp_path / "objects", {"a": "0" * 64})


@pytest.mark.parametrize("change", [{"mode": 0o4755}, {"size": 1 << 50}, {"size": "1"}, {"mode": None}, {"sha256": 1}])
def test_impossible_outputs(change: dict[str, object]) -> None:
    packing.check(MADE, "here")
    output = replace(MADE.outputs["p/_C.so"], **change)  # type: ignore[arg-type]
    with pytest.raises(BadBundle):
        packing.check(replace(MADE, outputs={"p/_C.so": output}), "here")


@pytest.mark.parametrize(
    ("place", "allowed"),
    [
        ("p/_C.so", True),
        ("p/.libs/libx.so", True),
        (".git/hooks/post-checkout", False),
        ("p/.git", False),
        (".venv/bin/python", False),
        (".xfdev/linked.json", False),
        (".vscode/tasks.json", False),
    ],
)
def test_places_that_no_compiler_writes_to(place: str, allowed: bool) -> None:
    made = replace(MADE, outputs={"p/_C.so": replace(MADE.outputs["p/_C.so"], place=place)})
    if allowed:
        packing.check(made, "here")
        return
    with pytest.raises(BadBundle):
        packing.check(made, "here")


# --- bundles that came without their objects


def test_a_bundle_without_objects_is_whole_until_they_come(tmp_path: Path) -> None:
    from test_local_store import made

    manifest, outputs, objects = made(tmp_path / "made")
    store = LocalStore(tmp_path / "store")
    name = store.put(manifest, outputs, None)
    assert store.lacks_objects(name)
    store.verify(name)
    assert store.objects(name, manifest) is None
    store.add_objects(name, manifest, objects)
    assert not store.lacks_objects(name)
    store.verify(name)
    assert store.objects(name, manifest) is not None
    store.add_objects(name, manifest, objects)
    (objects / "ab" / "c").write_bytes(b"other")
    with pytest.raises(BadBundle):
        store.add_objects(name, manifest, objects)
    store.verify(name)


def test_a_bundle_of_another_version_keeps_its_name(tmp_path: Path) -> None:
    from test_local_store import made

    manifest, outputs, _ = made(tmp_path / "made")
    value = json.loads(manifest.to_bytes())
    del value["roots"], value["submodules"]  # as if they had come later
    written = json.dumps(value).encode()
    store = LocalStore(tmp_path / "store")
    name = store.put(manifest, outputs, None, written)
    assert f"sha256:{name}" == artifact.digest_of(written)
    assert store.written(name) == written
    assert store.manifest(name) == manifest
    assert LocalStore(tmp_path / "other").adopt(store) == [name]


def test_nothing_is_asked_where_no_store_is_configured(tmp_path: Path) -> None:
    local = LocalStore(tmp_path / "store")
    assert list(Afar([], {}, local).offers("p-x86_64-cpu", lambda entry: (), set())) == []
    assert not local.folder.exists()


# --- logins and connections


def config(folder: Path, value: object) -> dict[str, str]:
    (folder / "config.json").write_text(json.dumps(value))
    return {"DOCKER_CONFIG": str(folder), "PATH": str(folder)}


def pair(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


@pytest.mark.parametrize(
    ("registry", "key"),
    [("ghcr.io", "ghcr.io"), ("ghcr.io", "https://ghcr.io"), ("docker.io", "https://index.docker.io/v1/")],
)
def test_logins(tmp_path: Path, registry: str, key: str) -> None:
    environ = config(tmp_path, {"auths": {key: {"auth": pair("ada:a:b")}}})
    assert engine_login.credentials(environ, registry, seconds=1) == engine_login.Credentials("ada", "a:b")
    assert engine_login.credentials(environ, "other.io", seconds=1) is None
    assert "a:b" not in repr(engine_login.credentials(environ, registry, seconds=1))


@pytest.mark.parametrize(
    "value",
    [7, [], {}, {"auths": 7}, {"auths": {"ghcr.io": 7}}, {"auths": {"ghcr.io": {"auth": "?"}}},
     {"auths": {"ghcr.io": {"auth": pair("ada")}}}, {"credsStore": "absent"}, {"credsStore": "../x"}],
)  # fmt: skip
def test_no_login(tmp_path: Path, value: object) -> None:
    assert engine_login.credentials(config(tmp_path, value), "ghcr.io", seconds=1) is None


def test_identity_token(tmp_path: Path) -> None:
    environ = config(tmp_path, {"auths": {"ghcr.io": {"identitytoken": "t"}}})
    assert engine_login.credentials(environ, "ghcr.io", seconds=1) == engine_login.Credentials("", "t")


def test_proxies() -> None:
    environ = {"HTTPS_PROXY": "http://p:1", "no_proxy": "inside.example"}
    assert connections.proxy_for(environ, "https", "ghcr.io") == "http://p:1"
    assert connections.proxy_for(environ, "https", "inside.example") == ""
    assert connections.proxy_for(environ, "http", "ghcr.io") == ""


def test_certificates_that_are_not_there() -> None:
    with pytest.raises(ValueError, match="absent"):
        connections.trust({"REQUESTS_CA_BUNDLE": "/absent.pem"})


def test_refusals_in_words() -> None:
    body = b'{"errors": [{"code": "DENIED", "message": "not\\u0007 you"}]}'
    assert answers.refusal(answers.Answer(403, {}, body)) == "403 Forbidden (not  you)"
    for odd in (b"", b"<html>", b"[]", b'{"errors": []}', b'{"errors": [7]}', b"[" * 100_000):
        assert answers.refusal(answers.Answer(500, {}, odd)) == "500 Internal Server Error"
    assert [answers.seconds(text) for text in ("", "7", "x", "-1", "9999999")] == [0, 7, 60, 60, 60]


# --- the option


def test_stores_from_everywhere(tmp_path: Path) -> None:
    file = tmp_path / "xfdev.toml"
    file.write_text('stores = ["ghcr.io/a/b", "ghcr.io/c/d"]\n')
    assert options.resolve({}, {}, [file]).stores == ("ghcr.io/a/b", "ghcr.io/c/d")
    assert options.resolve({}, {"XFDEV_STORES": " ghcr.io/x  ghcr.io/y "}, [file]).stores == ("ghcr.io/x", "ghcr.io/y")
    given = options.resolve({"stores": ["ghcr.io/z", "ghcr.io/w"]}, {"XFDEV_STORES": "ghcr.io/x"}, [file])
    assert given.stores == ("ghcr.io/z", "ghcr.io/w")
    assert given.command_line("jobs", "stores") == " --store ghcr.io/z --store ghcr.io/w"


@pytest.mark.parametrize("text", ["stores = 7", "stores = [7]", "stores = ['']", "stores = true"])
def test_stores_of_another_type(tmp_path: Path, text: str) -> None:
    file = tmp_path / "xfdev.toml"
    file.write_text(text)
    with pytest.raises(UsageError, match=r"stores = .* is not a list of texts"):
        options.resolve({}, {}, [file])
