"""Whom a bundle from afar has to be from: signatures, as cosign makes and reads them, and the lock file.

Each refusal is tried with a bundle that would be linked without it.
"""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

import registrykit as kit
import support
from faultkit import BEHAVIOUR
from xfdev.errors import NothingFits, StaleLock, Untrusted, UsageError
from xfdev.stores import artifact, signature
from xfdev.stores.local import LocalStore
from xfdev.stores.oci import OciStore
from xfdev.stores.reference import reference


@dataclass(frozen=True)
class Pair:
    private: Path
    public: Path


def openssl(*words: str | Path, data: bytes = b"") -> bytes:
    if shutil.which("openssl") is None:
        support.missing("openssl is not installed")
    return subprocess.run(["openssl", *map(str, words)], input=data, capture_output=True, check=True).stdout


def pair(folder: Path, name: str) -> Pair:
    """A key pair as openssl makes one."""
    made = Pair(folder / f"{name}.key", folder / f"{name}.pub")
    openssl("ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", made.private)
    openssl("ec", "-in", made.private, "-pubout", "-out", made.public)
    return made


@dataclass
class World:
    """A registry with bundles in it, their maker, and somebody else's machine."""

    folder: Path
    host: str
    prefix: Path
    maker: support.Xfdev
    bundle: str

    def __post_init__(self) -> None:
        self.repository = f"{self.host}/team/bundles"
        self.places = 0

    @property
    def store(self) -> LocalStore:
        return LocalStore(self.folder / "cache" / "store")

    def remote(self, repository: str) -> OciStore:
        return OciStore(reference(repository), {"DOCKER_CONFIG": str(self.folder)}, self.folder / "blobs", push=True)

    def push(self, *words: str | Path, bundle: str = "") -> tuple[str, str]:
        """Push into a repository of its own; returns that and the digest."""
        self.places += 1
        repository = f"{self.repository}-{self.places}"
        sent = self.maker("bundle", "push", bundle or self.bundle, "--to", repository, *words).ok()
        return repository, sent["digest"]


@pytest.fixture(scope="module")
def made(
    _session_environ: None, counter_template: Path, plain_prefix: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("trust")
    with kit.real(folder) as host:
        maker = support.Xfdev(variables={"XFDEV_CACHE": str(folder / "cache"), "DOCKER_CONFIG": str(folder)})
        checkout = support.copy_tree(counter_template, folder / "counter")
        name = maker("prebuild", checkout, "--venv", plain_prefix).ok()["bundle"]
        yield World(folder, host, plain_prefix, maker, name)


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> tuple[Pair, Pair]:
    folder = tmp_path_factory.mktemp("keys")
    return pair(folder, "team"), pair(folder, "other")


@dataclass
class User:
    folder: Path
    prefix: Path
    checkout: Path

    def __post_init__(self) -> None:
        self.variables = {"XFDEV_CACHE": str(self.folder / "cache"), "DOCKER_CONFIG": str(self.folder)}
        self.xfdev = support.Xfdev(variables=self.variables, options=("--venv", str(self.prefix)))
        self.plain = support.Xfdev(variables=self.variables)

    def settings(self, repository: str, text: str = "") -> None:
        (self.checkout / "xfdev.toml").write_text(f'stores = ["{repository}"]\n{text}')

    def linked(self) -> bool:
        return any((self.checkout / "counter").glob("*.so"))

    def refused(self, error: type[Exception], *words: str) -> str:
        said = self.xfdev("link", self.checkout)
        assert said.json["error"] == error.__name__, said
        assert said.code == getattr(error, "exit_code", 0)
        for word in words:
            assert word in said.json["message"], said.json
        assert not self.linked()
        return str(said.json["message"])


@pytest.fixture
def user(tmp_path: Path, counter: Path, plain_prefix: Path) -> User:
    return User(tmp_path, plain_prefix, counter)


def keyed(*pairs: Pair, signatures: str = "required") -> str:
    return f'signatures = "{signatures}"\nkeys = {[str(entry.public) for entry in pairs]}\n'


# --- signatures


def test_a_signed_bundle_is_linked(made: World, user: User, keys: tuple[Pair, Pair]) -> None:
    repository, _ = made.push("--sign", keys[0].private)
    (user.checkout / "keys").mkdir()
    shutil.copy2(keys[0].public, user.checkout / "keys")
    user.settings(repository, f"keys = ['{keys[1].public}', 'keys/team.pub']\n")  # the latter counts from the file
    linked = user.xfdev("link", user.checkout).ok()
    assert (linked["verdict"], linked["compiled"]) == ("reuse", [])
    assert support.behaviour(made.prefix / "bin" / "python", user.checkout) == BEHAVIOUR


def test_naming_a_key_makes_signatures_count(made: World, user: User, keys: tuple[Pair, Pair]) -> None:
    repository, _ = made.push()
    user.settings(repository, f"keys = ['{keys[0].public}']\n")
    user.refused(Untrusted, made.bundle[:12], "it is not signed")
    planned = user.xfdev("plan", user.checkout).ok()
    assert planned["verdict"] == "full"
    assert any("it is not signed" in entry["reasons"] for entry in planned["refused"])


@pytest.mark.parametrize("signatures", ["required", "optional"])
def test_another_key_is_refused(made: World, user: User, keys: tuple[Pair, Pair], signatures: str) -> None:
    repository, _ = made.push("--sign", keys[1].private)
    user.settings(repository, keyed(keys[0], signatures=signatures))
    user.refused(Untrusted, "signed by another key")


def test_optional_takes_what_is_not_signed(made: World, user: User, keys: tuple[Pair, Pair]) -> None:
    repository, _ = made.push()
    user.settings(repository, keyed(keys[0], signatures="optional"))
    assert user.xfdev("link", user.checkout).ok()["verdict"] == "reuse"


def test_a_second_signature_does_not_take_the_first_away(made: World, user: User, keys: tuple[Pair, Pair]) -> None:
    repository, digest = made.push("--sign", keys[0].private)
    again = made.maker("bundle", "push", made.bundle, "--to", repository, "--sign", keys[1].private).ok()
    assert again["digest"] == digest
    for wanted in keys:
        user.settings(repository, keyed(wanted))
        assert user.xfdev("plan", user.checkout).ok()["verdict"] == "reuse"


def variant(made: World, number: int) -> str:
    """Another bundle of the same outputs."""
    manifest = made.store.manifest(made.bundle)
    other = replace(manifest, origin={**manifest.origin, "created": str(2000000000 + number)}, version=f"9.{number}")
    outputs = {name: made.store.output(made.bundle, name) for name in manifest.outputs}
    return made.store.put(other, outputs, made.store.objects(made.bundle, manifest))


def test_a_signature_of_another_bundle_is_refused(made: World, user: User, keys: tuple[Pair, Pair]) -> None:
    signed, digest = made.push("--sign", keys[0].private)
    moved, other = made.push(bundle=variant(made, 1))
    assert other != digest
    source, target = made.remote(signed), made.remote(moved)
    document = source.document(signature.tag(digest), seconds=10)
    assert document is not None
    (blob, _), *_ = signature.read_manifest(document, "here")
    for found in (blob, artifact.Blob(json.loads(document)["config"]["digest"], 1000, "")):
        copy = made.folder / "copied"
        copy.write_bytes(_blob(source, found.digest))
        target.send(found.digest, copy)
    target.put(signature.tag(other), document, artifact.MANIFEST_TYPE)
    user.settings(moved, keyed(keys[0]))
    user.refused(Untrusted, "its signature by team.pub is for sha256:")


def _blob(store: OciStore, digest: str) -> bytes:
    import http.client

    connection = http.client.HTTPConnection(store.place.host, store.place.port)
    connection.request("GET", f"/v2/{store.place.repository}/blobs/{digest}")
    try:
        return connection.getresponse().read()
    finally:
        connection.close()


def test_a_list_that_gives_a_signed_bundle_another_manifest(made: World, user: User, keys: tuple[Pair, Pair]) -> None:
    """Who may push could otherwise say of a signed library that it was made from other sources."""
    repository, digest = made.push("--sign", keys[0].private)
    store, tag = made.remote(repository), artifact.tag_of(made.store.manifest(made.bundle))
    foreign = variant(made, 2)
    other, _ = made.push(bundle=foreign)
    data = made.remote(other).document(tag, seconds=10)
    assert data is not None
    (line,) = artifact.read_index(data, "here")[0]
    recipe = _blob(made.remote(other), line["annotations"]["org.xfdev.bundle.recipe"])
    (made.folder / "recipe").write_bytes(recipe)
    store.send(artifact.digest_of(recipe), made.folder / "recipe")
    store.put(tag, artifact.index_document([{**line, "digest": digest}]), artifact.INDEX_TYPE)
    user.settings(repository, keyed(keys[0]))
    user.refused(Untrusted, "another manifest than the one that was signed")
    # And without signatures it is found before anything is linked.
    user.settings(repository)
    said = user.xfdev("link", user.checkout)
    assert said.code == NothingFits.exit_code
    assert "a manifest that is not its artifact's" in said.err
    assert not user.linked()


def test_what_was_fetched_before_signatures_counted(made: World, user: User, keys: tuple[Pair, Pair]) -> None:
    repository, _ = made.push()
    user.settings(repository)
    user.xfdev("link", user.checkout).ok()
    for library in (user.checkout / "counter").glob("*.so"):
        library.unlink()
    shutil.rmtree(user.checkout / ".xfdev")
    user.settings(repository, keyed(keys[0]))
    user.refused(Untrusted, "fetched before its signature counted")


def test_offline_after_the_first_use(made: World, user: User, keys: tuple[Pair, Pair], counter_template: Path) -> None:
    with kit.before(made.host) as proxy:
        repository, _ = made.push("--sign", keys[0].private)
        near = repository.replace(made.host, proxy.host)
        user.settings(near, keyed(keys[0]))
        user.xfdev("link", user.checkout).ok()
        asked = len(proxy.seen)
        proxy.rule = lambda request: kit.dropped()
        other = support.copy_tree(counter_template, user.folder / "other")
        shutil.copy2(user.checkout / "xfdev.toml", other)
        assert user.xfdev("link", other).ok()["verdict"] == "reuse"
        assert len(proxy.seen) == asked


@pytest.mark.parametrize("act", [kit.status(500), kit.cut(0.5), kit.changed(kit.flipped), kit.silent(6)])
@pytest.mark.parametrize("what", [".sig", "referrers"])
def test_a_store_that_hides_or_damages_signatures(
    made: World, user: User, keys: tuple[Pair, Pair], what: str, act: kit.Act
) -> None:
    repository, _ = made.push("--sign", keys[0].private)
    with kit.before(made.host) as proxy:
        proxy.rule = lambda request: act if what in request.path else None
        user.settings(repository.replace(made.host, proxy.host), keyed(keys[0]))
        said = user.xfdev("link", user.checkout)
    if what == ".sig":
        assert said.code in (NothingFits.exit_code, Untrusted.exit_code), said
        assert not user.linked()
    else:  # the first form is there, and suffices
        assert said.ok()["verdict"] == "reuse"


def test_pull_by_hand(made: World, user: User, keys: tuple[Pair, Pair]) -> None:
    repository, digest = made.push()
    said = user.plain("bundle", "pull", f"{repository}@{digest}", "--key", str(keys[0].public))
    assert (said.code, said.json["error"]) == (Untrusted.exit_code, "Untrusted")
    assert "it is not signed" in said.json["message"]
    made.maker("bundle", "push", made.bundle, "--to", repository, "--sign", keys[0].private).ok()
    pulled = user.plain("bundle", "pull", f"{repository}@{digest}", "--key", str(keys[0].public)).ok()
    assert pulled["new"] == [made.bundle]


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("ed25519", ("genpkey", "-algorithm", "ed25519")),
        ("rsa", ("genpkey", "-algorithm", "RSA", "-pkeyopt", "rsa_keygen_bits:2048")),
        ("p384", ("genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-384")),
    ],
)
def test_other_kinds_of_keys(made: World, user: User, kind: str, words: tuple[str, ...]) -> None:
    mine = Pair(user.folder / f"{kind}.key", user.folder / f"{kind}.pub")
    openssl(*words, "-out", mine.private)
    openssl("pkey", "-in", mine.private, "-pubout", "-out", mine.public)
    repository, _ = made.push("--sign", mine.private)
    user.settings(repository, keyed(mine))
    assert user.xfdev("plan", user.checkout).ok()["verdict"] == "reuse"


def test_an_encrypted_key(made: World, user: User, keys: tuple[Pair, Pair]) -> None:
    locked = user.folder / "locked.key"
    openssl("pkcs8", "-topk8", "-in", keys[0].private, "-out", locked, "-passout", "pass:a word", "-v2", "aes256")
    said = made.maker("bundle", "push", made.bundle, "--to", f"{made.repository}-encrypted", "--sign", locked)
    assert said.json["error"] == UsageError.__name__
    assert "COSIGN_PASSWORD" in said.json["why"]
    assert made.remote(f"{made.repository}-encrypted").entries("any", seconds=10) == [], "nothing was sent"
    maker = support.Xfdev(variables={**made.maker.variables, "COSIGN_PASSWORD": "a word"})
    maker("bundle", "push", made.bundle, "--to", f"{made.repository}-encrypted", "--sign", locked).ok()
    user.settings(f"{made.repository}-encrypted", keyed(keys[0]))
    assert user.xfdev("plan", user.checkout).ok()["verdict"] == "reuse"


@pytest.mark.parametrize("text", ["keys = ['absent.pub']\n", "keys = ['xfdev.toml']\n", "signatures = 'required'\n"])
def test_keys_that_are_none(made: World, user: User, text: str) -> None:
    repository, _ = made.push()
    user.settings(repository, text)
    said = user.xfdev("link", user.checkout)
    assert (said.code, said.json["error"]) == (UsageError.exit_code, "UsageError")
    assert said.json["hint"]
    assert not user.linked()


def test_the_form_is_what_the_specification_says(made: World, keys: tuple[Pair, Pair]) -> None:
    """Checked by openssl alone, from what lies in the registry."""
    repository, digest = made.push("--sign", keys[0].private)
    store = made.remote(repository)
    data = store.document(f"{digest.replace(':', '-')}.sig", seconds=10)
    assert data is not None
    document = json.loads(data)
    (layer,) = document["layers"]
    assert layer["mediaType"] == "application/vnd.dev.cosign.simplesigning.v1+json"
    payload = _blob(store, layer["digest"])
    assert json.loads(payload)["critical"] == {
        "identity": {"docker-reference": repository},
        "image": {"docker-manifest-digest": digest},
        "type": "cosign container image signature",
    }
    (made.folder / "sig").write_bytes(base64.b64decode(layer["annotations"]["dev.cosignproject.cosign/signature"]))
    said = openssl("dgst", "-sha256", "-verify", keys[0].public, "-signature", made.folder / "sig", data=payload)
    assert said.strip() == b"Verified OK"


# --- with the real cosign


@pytest.fixture(scope="module")
def cosign() -> str:
    found = kit.program("cosign")
    if found is None:
        support.missing("cosign is not installed (Debian 13 has it; .ci/engine brings it)")
        raise AssertionError
    return found


def run_cosign(program: str, folder: Path, *words: str | Path) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "COSIGN_PASSWORD": "a word", "DOCKER_CONFIG": str(folder), "HOME": str(folder)}
    return subprocess.run([program, *map(str, words)], env=env, cwd=folder, capture_output=True, text=True, timeout=60)


@pytest.fixture(scope="module")
def cosign_pair(cosign: str, tmp_path_factory: pytest.TempPathFactory) -> Pair:
    folder = tmp_path_factory.mktemp("cosign")
    done = run_cosign(cosign, folder, "generate-key-pair")
    assert done.returncode == 0, done.stderr
    return Pair(folder / "cosign.key", folder / "cosign.pub")


def for_cosign(program: str, folder: Path) -> dict[str, str]:
    path = f"{Path(program).parent}{os.pathsep}{os.environ['PATH']}"
    return {"COSIGN_PASSWORD": "a word", "HOME": str(folder), "PATH": path}


def sign_words(cosign: str, folder: Path) -> list[str]:
    offered = run_cosign(cosign, folder, "sign", "--help").stdout
    more = ["--use-signing-config=false"] if "--use-signing-config" in offered else []
    return ["sign", "--tlog-upload=false", "--yes", *more]


def test_cosign_takes_what_we_sign(made: World, cosign: str, keys: tuple[Pair, Pair], tmp_path: Path) -> None:
    repository, digest = made.push("--sign", keys[0].private)

    def verified(key: Pair) -> subprocess.CompletedProcess[str]:
        words = ("verify", "--key", key.public, "--insecure-ignore-tlog=true", f"{repository}@{digest}")
        return run_cosign(cosign, tmp_path, *words)

    done = verified(keys[0])
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)[0]["critical"]["image"]["docker-manifest-digest"] == digest
    assert verified(keys[1]).returncode != 0


def test_we_take_what_cosign_signs(
    made: World, user: User, cosign: str, cosign_pair: Pair, keys: tuple[Pair, Pair], tmp_path: Path
) -> None:
    """In the form that this cosign writes: version 2 the older one, version 3 a sigstore bundle."""
    repository, digest = made.push()
    user.settings(repository, keyed(cosign_pair))
    user.refused(Untrusted, "it is not signed")
    done = run_cosign(
        cosign, tmp_path, *sign_words(cosign, tmp_path), "--key", cosign_pair.private, f"{repository}@{digest}"
    )
    assert done.returncode == 0, done.stderr
    user.settings(repository, keyed(keys[0]))
    user.refused(Untrusted, "signed by another key")
    user.settings(repository, keyed(cosign_pair))
    assert user.xfdev("link", user.checkout).ok()["verdict"] == "reuse"
    assert support.behaviour(made.prefix / "bin" / "python", user.checkout) == BEHAVIOUR


def test_push_signs_by_cosign_with_its_own_keys(made: World, user: User, cosign: str, cosign_pair: Pair) -> None:
    before = made.maker.variables
    made.maker.variables = {**before, **for_cosign(cosign, user.folder)}
    try:
        repository, _ = made.push("--sign", cosign_pair.private)
    finally:
        made.maker.variables = before
    user.settings(repository, keyed(cosign_pair))
    assert user.xfdev("plan", user.checkout).ok()["verdict"] == "reuse"


def test_cosign_and_ours_lie_beside_each_other(
    made: World, user: User, cosign: str, cosign_pair: Pair, keys: tuple[Pair, Pair], tmp_path: Path
) -> None:
    repository, digest = made.push("--sign", keys[0].private)
    words = (*sign_words(cosign, tmp_path), "--key", cosign_pair.private, f"{repository}@{digest}")
    assert run_cosign(cosign, tmp_path, *words).returncode == 0
    for wanted in (keys[0], cosign_pair):
        user.settings(repository, keyed(wanted))
        assert user.xfdev("plan", user.checkout).ok()["verdict"] == "reuse"
        shutil.rmtree(user.folder / "cache" / "store")


def test_a_password_is_in_no_log(made: World, cosign: str, cosign_pair: Pair, tmp_path: Path) -> None:
    maker = support.Xfdev(variables={**made.maker.variables, **for_cosign(cosign, tmp_path)})
    words = ("push", made.bundle, "--to", f"{made.repository}-log", "--sign", cosign_pair.private, "--verbose")
    said = maker("bundle", *words)
    said.ok()
    assert "+ " in said.err
    assert "a word" not in said.err + said.out
    assert StaleLock.exit_code != Untrusted.exit_code
