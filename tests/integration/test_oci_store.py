"""Bundles through a real registry, and through everything that can be wrong with one.

Whatever the registry does: success, or an error with a name, in bounded time; and nothing wrong is ever linked.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

import registrykit as kit
import support
from faultkit import BEHAVIOUR
from xfdev import connections
from xfdev.bundle import Manifest, Output
from xfdev.stores import artifact, packing
from xfdev.stores.local import LocalStore
from xfdev.stores.oci import OciStore
from xfdev.stores.reference import reference

#: What a plan may wait for a store, and the rest of a command.
BOUND = 12.0
OBJECTS = ".objects."


@dataclass(frozen=True)
class Shared:
    """A registry with one bundle of the counter in it."""

    host: str
    id: str
    digest: str
    cache: Path

    @property
    def manifest(self) -> Manifest:
        return LocalStore(self.cache / "store").manifest(self.id)


@pytest.fixture(scope="session")
def shared(
    _session_environ: None, counter_template: Path, plain_prefix: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Shared]:
    folder = tmp_path_factory.mktemp("registry")
    with kit.real(folder) as host:
        cache = folder / "cache"
        xfdev = support.Xfdev(variables={"XFDEV_CACHE": str(cache)})
        checkout = support.copy_tree(counter_template, folder / "counter")
        name = xfdev("prebuild", checkout, "--venv", plain_prefix).ok()["bundle"]
        sent = xfdev("bundle", "push", name[:12], "--to", f"{host}/team/bundles").ok()
        yield Shared(host, name, sent["digest"], cache)


@pytest.fixture
def proxy(shared: Shared) -> Iterator[kit.Proxy]:
    with kit.before(shared.host) as made:
        yield made


@dataclass
class Machine:
    """Somebody else's machine: an empty cache, a checkout, and the store behind the proxy."""

    folder: Path
    proxy: kit.Proxy
    checkout: Path
    prefix: Path

    def __post_init__(self) -> None:
        config = self.folder / "docker"
        config.mkdir(exist_ok=True)
        self.repository = f"{self.proxy.host}/team/bundles"
        self.variables = {"XFDEV_CACHE": str(self.folder / "cache"), "DOCKER_CONFIG": str(config)}
        self.xfdev = support.Xfdev(
            variables={**self.variables, "XFDEV_STORES": self.repository}, options=("--venv", str(self.prefix))
        )
        self.bundle = support.Xfdev(variables=self.variables)
        self.store = LocalStore(self.folder / "cache" / "store")

    def log_in(self, settings: object) -> None:
        (self.folder / "docker" / "config.json").write_text(json.dumps(settings))

    def libraries(self) -> list[str]:
        return sorted(path.name for path in (self.checkout / "counter").glob("*.so"))


@pytest.fixture
def machine(tmp_path: Path, proxy: kit.Proxy, counter: Path, plain_prefix: Path) -> Machine:
    return Machine(tmp_path, proxy, counter, plain_prefix)


def warnings(said: support.Said) -> list[str]:
    return [line for line in said.err.splitlines() if line.startswith("warning:")]


def blob(request: kit.Request) -> bool:
    return "/blobs/" in request.path


# --- what it is for


def test_a_link_takes_what_somebody_else_compiled(machine: Machine, shared: Shared, plain_prefix: Path) -> None:
    planned = machine.xfdev("plan", machine.checkout).ok()
    assert (planned["verdict"], planned["bundle"]) == ("reuse", shared.id)
    assert len(machine.proxy.seen) == 2, "a plan asks for the list and the manifest"
    assert machine.proxy.connections == 1, "by one connection"
    assert not machine.store.ids(), "a plan brings nothing"
    linked = machine.xfdev("link", machine.checkout).ok()
    assert linked["compiled"] == []
    assert support.behaviour(plain_prefix / "bin" / "python", machine.checkout) == BEHAVIOUR
    outputs = shared.manifest.outputs
    fetched = [request.path for request in machine.proxy.seen if blob(request)]
    assert len(fetched) == len(set(fetched)) == 1 + len({entry.sha256 for entry in outputs.values()})
    assert machine.store.lacks_objects(shared.id), "nobody needed the objects"
    assert machine.bundle("bundle", "verify").ok()["bad"] == {}


def test_what_is_fetched_is_smaller_than_the_bundle(machine: Machine, shared: Shared) -> None:
    machine.xfdev("link", machine.checkout).ok()
    at_rest = sum(entry.size for entry in shared.manifest.outputs.values()) + len(shared.manifest.to_bytes())
    assert 0 < machine.proxy.bytes < at_rest
    before = machine.proxy.bytes
    machine.bundle("bundle", "pull", f"{machine.repository}@{shared.digest}").ok()
    assert machine.proxy.bytes > before, "the objects were left behind"
    assert not machine.store.lacks_objects(shared.id)
    assert machine.store.objects(shared.id, machine.store.manifest(shared.id)) is not None
    machine.store.verify(shared.id)


def test_objects_come_when_something_has_to_compile(machine: Machine, shared: Shared, plain_prefix: Path) -> None:
    # ccache takes no file into account that is younger than the compile; the build script would write this one now.
    made = shared.cache.parent / "counter" / "csrc" / "generated.h"
    shutil.copy2(made, machine.checkout / "csrc" / "generated.h")
    (machine.checkout / "include" / "shared.h").write_text("#pragma once\n#define SHARED 7\n")
    planned = machine.xfdev("plan", machine.checkout).ok()
    assert planned["verdict"] == "partial"
    built = machine.xfdev("build", machine.checkout).ok()
    assert set(planned["affected"]) <= set(built["compiled"])
    assert "csrc/three.cpp" in built["restored"], (
        "it came from the objects: nothing was compiled on this machine before"
    )
    assert not machine.store.lacks_objects(shared.id)
    found = support.behaviour(plain_prefix / "bin" / "python", machine.checkout)
    assert found == {**BEHAVIOUR, "_first.one": 10, "_second.second": 705}


def test_objects_are_added_to_a_bundle_that_was_linked_before(machine: Machine, shared: Shared) -> None:
    machine.xfdev("link", machine.checkout).ok()
    assert machine.store.lacks_objects(shared.id)
    (machine.checkout / "include" / "shared.h").write_text("#pragma once\n#define SHARED 8\n")
    machine.xfdev("build", machine.checkout).ok()
    assert not machine.store.lacks_objects(shared.id)


def test_offline_after_the_first_use(machine: Machine, tmp_path: Path, counter_template: Path) -> None:
    machine.xfdev("link", machine.checkout).ok()
    machine.proxy.rule = lambda request: kit.dropped()
    asked = len(machine.proxy.seen)
    other = support.copy_tree(counter_template, tmp_path / "other")
    said = machine.xfdev("link", other)
    assert said.ok()["verdict"] == "reuse"
    assert len(machine.proxy.seen) == asked, "what is here is not asked for"
    assert warnings(said) == []


def test_push_again_changes_nothing_and_two_at_once_are_both_listed(
    shared: Shared, tmp_path: Path, machine: Machine
) -> None:
    again = support.Xfdev(variables={"XFDEV_CACHE": str(shared.cache)})
    to = f"{shared.host}/team/several"
    first = again("bundle", "push", shared.id, "--to", to).ok()
    assert again("bundle", "push", shared.id, "--to", to).ok() == first
    store = LocalStore(tmp_path / "more")
    local = LocalStore(shared.cache / "store")
    manifest = shared.manifest
    names = []
    for number in range(4):
        other = replace(manifest, origin={**manifest.origin, "created": str(2000000000 + number)})
        names.append(
            store.put(other, {out: local.output(shared.id, out) for out in manifest.outputs},
                      local.objects(shared.id, manifest))
        )  # fmt: skip
    errors: list[BaseException] = []

    def push(name: str) -> None:
        try:
            OciStore(reference(to), {}, tmp_path / "blobs", push=True).push(store, name)
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=push, args=(name,)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    listed = OciStore(reference(to), {}, tmp_path / "blobs").entries(first["list"], seconds=5)
    assert [entry.id for entry in listed] == [*reversed(names), shared.id], "the newest first, none lost"


def test_pull_by_every_kind_of_name(machine: Machine, shared: Shared) -> None:
    tag = artifact.tag_of(shared.manifest)
    for name in (f"@{shared.digest}", f":bundle-{shared.id}", f":{tag}", ""):
        said = machine.bundle("bundle", "pull", f"{machine.repository}{name}").ok()
        assert said["bundles"] == [shared.id]
    machine.store.verify(shared.id)
    absent = machine.bundle("bundle", "pull", f"{machine.repository}:not-there")
    assert absent.code == 22
    assert machine.bundle("bundle", "pull", "Not A Name").code == 2
    assert machine.bundle("bundle", "push", shared.id, "--to", f"{machine.repository}:tag").code == 2


# --- a store that is down, slow, denies or lies: a few seconds, one line


def is_blob(act: Callable[[], kit.Act]) -> kit.Rule:
    return lambda request: act() if blob(request) else None


def always(act: Callable[[], kit.Act]) -> kit.Rule:
    return lambda request: act()


def is_list(act: Callable[[], kit.Act]) -> kit.Rule:
    return lambda request: act() if "/manifests/counter-" in request.path else None


def is_artifact(act: Callable[[], kit.Act]) -> kit.Rule:
    return lambda request: act() if "/manifests/sha256:" in request.path else None


WRONG: dict[str, kit.Rule] = {
    "hangs up": always(kit.dropped),
    "silent": always(kit.silent),
    "a byte now and then": always(kit.trickle),
    "slow body": always(kit.slow_body),
    "401": always(lambda: kit.status(401)),
    "401 basic": always(lambda: kit.status(401, WWW_Authenticate='Basic realm="x"')),
    "401 with a realm elsewhere": always(
        lambda: kit.status(401, WWW_Authenticate='Bearer realm="http://example.org/token"')
    ),
    "403": always(lambda: kit.status(403)),
    "500": always(lambda: kit.status(500)),
    "429": always(lambda: kit.status(429, Retry_After="600")),
    "418": always(lambda: kit.status(418)),
    "redirects in circles": lambda request: kit.redirect(request.path),
    "redirects without TLS": always(lambda: kit.redirect("http://example.org/x")),
    "redirects to a file": always(lambda: kit.redirect("file:///etc/passwd")),
    "list is a page": is_list(lambda: kit.changed(lambda data: b"<html>log in</html>")),
    "list is endless": is_list(lambda: kit.changed(lambda data: data + b" " * (5 << 20))),
    "list is nested": is_list(lambda: kit.changed(lambda data: b"[" * 100_000)),
    "list has numbers": is_list(lambda: kit.changed(lambda data: data.replace(b'"manifests":[', b'"manifests":[7,'))),
    "list is cut": is_list(lambda: kit.cut(0.5)),
    "blob damaged": is_blob(lambda: kit.changed(kit.flipped)),
    "blob truncated": is_blob(lambda: kit.cut(0.5)),
    "blob shorter": is_blob(lambda: kit.changed(lambda data: data[:-1])),
    "blob longer": is_blob(lambda: kit.changed(lambda data: data + b"x")),
    "blob is another": is_blob(lambda: kit.changed(lambda data: zlib.compress(b"other", wbits=31))),
    "blob missing": is_blob(lambda: kit.status(404)),
    "blob silent": is_blob(kit.silent),
    "artifact damaged": is_artifact(lambda: kit.changed(kit.flipped)),
    "artifact is another": is_artifact(lambda: kit.changed(lambda data: data + b" ")),
    "artifact missing": is_artifact(lambda: kit.status(404)),
    "artifact slow": is_artifact(kit.trickle),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_a_store_that_fails_costs_seconds_and_one_line(machine: Machine, name: str) -> None:
    machine.proxy.rule = WRONG[name]
    started = time.monotonic()
    said = machine.xfdev("link", machine.checkout)
    seconds = time.monotonic() - started
    assert said.code == 27, "nothing else can be linked"
    assert seconds < BOUND
    assert len(warnings(said)) == 1, said.err
    assert machine.repository in warnings(said)[0]
    assert machine.libraries() == []
    assert machine.store.ids() == []
    asked = len(machine.proxy.seen)
    again = machine.xfdev("link", machine.checkout)
    assert (again.code, warnings(again), len(machine.proxy.seen)) == (27, [], asked), "it is left alone for a while"


def test_without_a_store_it_compiles(machine: Machine, plain_prefix: Path) -> None:
    machine.proxy.rule = WRONG["blob damaged"]
    said = machine.xfdev("link", machine.checkout, "--build")
    assert len(said.ok()["compiled"]) == 4
    assert len(warnings(said)) == 1
    assert support.behaviour(plain_prefix / "bin" / "python", machine.checkout) == BEHAVIOUR


def test_an_output_that_fails_after_the_manifest(machine: Machine, shared: Shared) -> None:
    """The plan said reuse; then the store is gone: the next best is taken in the same command."""
    assert machine.xfdev("plan", machine.checkout).ok()["verdict"] == "reuse"
    machine.proxy.rule = always(kit.dropped)
    said = machine.xfdev("link", machine.checkout, "--build")
    assert len(said.ok()["compiled"]) == 4
    assert len(warnings(said)) == 1


def test_nobody_listens_and_no_such_name(machine: Machine) -> None:
    for number, store in enumerate(("localhost:1/team/bundles", "registry.invalid/team/bundles")):
        started = time.monotonic()
        said = machine.xfdev("plan", machine.checkout, "--store", store)
        assert said.ok()["verdict"] == "full", number
        assert time.monotonic() - started < BOUND
        assert len(warnings(said)) == 1
        assert store in warnings(said)[0]


def test_the_next_store_is_asked(machine: Machine, shared: Shared) -> None:
    options = ("--store", "localhost:1/team/bundles", "--store", f"{shared.host}/team/bundles")
    said = machine.xfdev("link", machine.checkout, *options)
    assert said.ok()["bundle"] == shared.id
    assert len(warnings(said)) == 1


def test_trouble_that_passes_is_tried_again(machine: Machine) -> None:
    def rule(request: kit.Request) -> kit.Act | None:
        if request.number:
            return None
        if blob(request):
            return kit.dropped()
        return kit.status(503) if "sha256" in request.path else kit.status(429, Retry_After="1")

    machine.proxy.rule = rule
    said = machine.xfdev("link", machine.checkout)
    assert said.ok()["verdict"] == "reuse"
    assert warnings(said) == []


@pytest.mark.parametrize("ranges", [True, False], ids=["with ranges", "without"])
def test_a_cut_download_goes_on(machine: Machine, shared: Shared, ranges: bool) -> None:
    def rule(request: kit.Request) -> kit.Act | None:
        if blob(request) and not request.number:
            return kit.cut(0.6)
        return None if ranges else kit.whole()

    machine.proxy.rule = rule
    said = machine.bundle("bundle", "pull", f"{machine.repository}@{shared.digest}")
    said.ok()
    machine.store.verify(shared.id)
    assert any(request.range for request in machine.proxy.seen if blob(request))


def test_what_an_earlier_fetch_left_damaged_is_fetched_again(machine: Machine, shared: Shared) -> None:
    # Started again by hand, a pull finds parts in which the disk changed a byte.
    machine.proxy.rule = lambda request: kit.cut(0.6) if blob(request) and request.number < 9 else None
    assert machine.bundle("bundle", "pull", f"{machine.repository}@{shared.digest}").code == 34
    parts = [*(machine.store.folder / "afar" / "blobs").glob("*.part")]
    for part in parts:
        part.write_bytes(kit.flipped(part.read_bytes()))
    machine.proxy.rule = lambda request: None
    machine.bundle("bundle", "pull", f"{machine.repository}@{shared.digest}").ok()
    machine.store.verify(shared.id)


# --- who may read


def test_tokens_for_everybody(machine: Machine) -> None:
    machine.proxy.rule = kit.with_tokens(machine.proxy)
    assert machine.xfdev("link", machine.checkout).ok()["verdict"] == "reuse"
    (asked,) = {request.path for request in machine.proxy.of("/token?")}
    assert "scope=repository%3Ateam%2Fbundles%3Apull" in asked
    assert len(machine.proxy.of("/token?")) == 1, "once for all that is asked"


def auths(host: str, user: str, password: str) -> dict[str, object]:
    return {"auths": {host: {"auth": base64.b64encode(f"{user}:{password}".encode()).decode()}}}


def test_logins_of_docker(machine: Machine) -> None:
    machine.proxy.rule = kit.with_tokens(machine.proxy, "ada", "s3cret")
    said = machine.xfdev("link", machine.checkout)
    assert (said.code, len(warnings(said))) == (27, 1)
    assert "docker login" not in said.out
    machine.log_in(auths(machine.proxy.host, "ada", "wrong"))
    said = machine.xfdev("link", machine.checkout)
    assert (said.code, len(warnings(said))) == (27, 1), "a new login is a reason to ask again"
    assert "wrong" not in said.err + said.out
    os.utime(machine.folder / "docker" / "config.json", (0, 0))
    machine.log_in(auths(machine.proxy.host, "ada", "s3cret"))
    time.sleep(0.01)
    os.utime(machine.folder / "docker" / "config.json")
    assert machine.xfdev("link", machine.checkout, "--verbose").ok()["verdict"] == "reuse"


def test_credential_helper(machine: Machine, tmp_path: Path) -> None:
    programs = tmp_path / "programs"
    programs.mkdir()
    helper = programs / "docker-credential-test"
    helper.write_text(
        '#!/bin/sh\nread server\n[ "$1 $server" = "get $EXPECTED" ] || exit 1\n'
        'echo \'{"Username": "ada", "Secret": "s3cret"}\'\n'
    )
    helper.chmod(0o755)
    machine.log_in({"credHelpers": {machine.proxy.host: "test"}})
    machine.proxy.rule = kit.with_tokens(machine.proxy, "ada", "s3cret")
    machine.xfdev.variables |= {"PATH": f"{programs}:{os.environ['PATH']}", "EXPECTED": machine.proxy.host}
    said = machine.xfdev("link", machine.checkout, "--verbose")
    assert said.ok()["verdict"] == "reuse"
    assert "s3cret" not in said.err + said.out


def test_basic(machine: Machine) -> None:
    right = "Basic " + base64.b64encode(b"ada:s3cret").decode()
    machine.proxy.rule = lambda request: (
        None if request.authorization == right else kit.status(401, WWW_Authenticate='Basic realm="x"')
    )
    machine.log_in(auths(machine.proxy.host, "ada", "s3cret"))
    assert machine.xfdev("link", machine.checkout).ok()["verdict"] == "reuse"


def test_a_token_stays_with_its_registry(machine: Machine, shared: Shared) -> None:
    with kit.before(shared.host) as storage:
        tokens = kit.with_tokens(machine.proxy)

        def rule(request: kit.Request) -> kit.Act | None:
            found = tokens(request)
            return found or (kit.redirect(f"http://{storage.host}{request.path}") if blob(request) else None)

        machine.proxy.rule = rule
        assert machine.xfdev("link", machine.checkout).ok()["verdict"] == "reuse"
        assert storage.seen
        assert {request.authorization for request in storage.seen} == {""}


def test_pull_and_push_say_what_is_wrong(machine: Machine, shared: Shared) -> None:
    for rule, code in ((WRONG["403"], 34), (WRONG["500"], 34), (WRONG["blob damaged"], 22)):
        machine.proxy.rule = rule
        said = machine.bundle("bundle", "pull", f"{machine.repository}@{shared.digest}")
        assert said.code == code
        assert said.json["why"]
        assert machine.store.ids() == []
    machine.proxy.rule = WRONG["403"]
    maker = support.Xfdev(variables={**machine.variables, "XFDEV_CACHE": str(shared.cache)})
    said = maker("bundle", "push", shared.id, "--to", f"{machine.proxy.host}/team/new")
    assert said.code == 34
    assert "docker login" in said.json["hint"]


def test_an_authority_of_ones_own(
    machine: Machine, shared: Shared, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("SSL_CERT_FILE", "SSL_CERT_DIR", *connections.TRUSTED):
        monkeypatch.delenv(name, raising=False)
    folder = tmp_path / "tls"
    folder.mkdir()
    tls = kit.certificate(folder)
    with kit.real(folder, tls) as host:
        maker = support.Xfdev(variables={**machine.variables, "XFDEV_CACHE": str(shared.cache)})
        said = maker("bundle", "push", shared.id, "--to", f"https://{host}/team/bundles")
        assert said.code == 34
        assert "SSL_CERT_FILE" in said.json["hint"]
        for name in ("SSL_CERT_FILE", "REQUESTS_CA_BUNDLE"):
            maker.variables[name] = str(tls[0])
            maker("bundle", "push", shared.id, "--to", f"https://{host}/team/bundles").ok()
            del maker.variables[name]
        machine.xfdev.variables |= {"SSL_CERT_FILE": str(tls[0]), "XFDEV_STORES": f"https://{host}/team/bundles"}
        assert machine.xfdev("link", machine.checkout).ok()["verdict"] == "reuse"


# --- what others may have put there


def evil(
    shared: Shared,
    folder: Path,
    change: Callable[[Manifest], Manifest],
    data: Iterable[bytes] | None = None,
    recipe_data: Iterable[bytes] | None = None,
) -> str:
    """Push a bundle whose manifest says *change*, or is *recipe_data*, and whose outputs are all *data*; returns its
    digest."""
    place = reference(f"{shared.host}/team/evil")
    store = OciStore(place, {}, folder / "evil-blobs", push=True)
    manifest = change(shared.manifest)
    local = LocalStore(shared.cache / "store")
    files: dict[str, Path] = {}

    def layer(content: Iterable[bytes], media: str, title: str = "") -> artifact.Blob:
        path = folder / f"layer-{len(files)}-{time.monotonic_ns()}"
        blob = packing.packed(path, content, media, title)
        files[blob.digest] = path
        return blob

    written = manifest.to_bytes()
    recipe = layer(recipe_data or [written], artifact.RECIPE_LAYER)
    good = next(iter(shared.manifest.outputs))
    outputs = {
        name: layer(data or [local.output(shared.id, good).read_bytes()], artifact.OUTPUT_LAYER, name)
        for name in manifest.outputs
    }
    (folder / "empty").write_bytes(artifact.EMPTY)
    files[artifact.digest_of(artifact.EMPTY)] = folder / "empty"
    for digest, path in files.items():
        store.send(digest, path)
    notes = artifact.labels(hashlib.sha256(written).hexdigest(), shared.manifest, recipe)
    document = artifact.artifact_document(artifact.Artifact(recipe, outputs, None), notes)
    store.put(artifact.digest_of(document), document, artifact.MANIFEST_TYPE)
    line = artifact.listed(artifact.digest_of(document), len(document), notes)
    store.put(artifact.tag_of(shared.manifest), artifact.index_document([line]), artifact.INDEX_TYPE)
    return artifact.digest_of(document)


def places(*names: str, **fields: object) -> Callable[[Manifest], Manifest]:
    return lambda manifest: replace(
        manifest, outputs={name: Output(name, "0" * 64, 100, 0o755, **fields) for name in names}
    )


def first_output(**fields: object) -> Callable[[Manifest], Manifest]:
    def change(manifest: Manifest) -> Manifest:
        name, output = next(iter(manifest.outputs.items()))
        return replace(manifest, outputs={name: replace(output, **fields)}, objects={})  # type: ignore[arg-type]

    return change


EVIL: dict[str, Callable[[Manifest], Manifest]] = {
    "leaves its folder": places("../../escaped.so"),
    "absolute": places("/tmp/escaped.so"),
    "a hook of git": places(".git/hooks/post-checkout"),
    "an interpreter": places(".venv/bin/python"),
    "a task of an editor": places(".vscode/tasks.json"),
    "notes of ours": places(".xfdev/linked.json"),
    "setuid": first_output(mode=0o4755),
    "endless": first_output(size=1 << 50),
    "negative": first_output(size=-1),
    "size is a text": first_output(size="100"),
    "units make no sense": lambda manifest: replace(manifest, units=tuple(
        replace(unit, inputs=(7, None)) for unit in manifest.units)),  # type: ignore[arg-type]
    "files make no sense": lambda manifest: replace(manifest, files=[1, 2]),  # type: ignore[arg-type]
    "needs make no sense": lambda manifest: replace(manifest, needs=replace(manifest.needs, glibc=7)),  # type: ignore[arg-type]
    "another schema": lambda manifest: replace(manifest, schema=99),
    "an output that is not what it says": first_output(sha256="0" * 64),
    "smaller than it says": first_output(size=10_000_000),
    "larger than it says": first_output(size=10),
}  # fmt: skip


@pytest.mark.parametrize("name", EVIL)
def test_a_bundle_that_was_made_up(machine: Machine, shared: Shared, tmp_path: Path, name: str) -> None:
    digest = evil(shared, tmp_path, EVIL[name])
    before = sorted(path for path in tmp_path.rglob("*escaped*"))
    store = f"{machine.proxy.host}/team/evil"
    said = machine.xfdev("link", machine.checkout, "--store", store)
    assert said.code == 27
    assert len(warnings(said)) == 1, said.err
    assert store in warnings(said)[0]
    assert machine.libraries() == []
    assert machine.store.ids() == []
    assert not (machine.checkout / ".git" / "hooks" / "post-checkout").exists()
    if "sense" not in name:
        pulled = machine.bundle("bundle", "pull", f"{store}@{digest}")
        assert pulled.code == 22
    assert sorted(path for path in tmp_path.rglob("*escaped*")) == before
    assert not Path("/tmp/escaped.so").exists()


def test_bombs(machine: Machine, shared: Shared, tmp_path: Path) -> None:
    store = f"{machine.proxy.host}/team/evil"
    zeros = [bytes(1 << 20)] * 300
    digest = evil(shared, tmp_path, first_output(size=1000), zeros)
    # In processes of their own: the memory of this one is part of what other tests measure of their children.
    assert machine.bundle.process("bundle", "pull", f"{store}@{digest}").code == 22
    digest = evil(shared, tmp_path, lambda manifest: manifest, None, zeros)
    assert machine.bundle.process("bundle", "pull", f"{store}@{digest}").code == 22
    left = [path for path in (tmp_path / "cache").rglob("*") if path.is_file() and path.stat().st_size > 5_000_000]
    assert left == []


def test_a_tag_of_somebody_else(machine: Machine, shared: Shared, tmp_path: Path) -> None:
    place = reference(f"{shared.host}/team/image")
    store = OciStore(place, {}, tmp_path / "blobs", push=True)
    (tmp_path / "empty").write_bytes(artifact.EMPTY)
    store.send(artifact.digest_of(artifact.EMPTY), tmp_path / "empty")
    layer = {"mediaType": "application/vnd.oci.image.layer.v1.tar", "size": 2,
             "digest": artifact.digest_of(artifact.EMPTY)}  # fmt: skip
    config = {**layer, "mediaType": "application/vnd.oci.image.config.v1+json"}
    image = {"schemaVersion": 2, "mediaType": artifact.MANIFEST_TYPE, "config": config, "layers": [layer]}
    tag = artifact.tag_of(shared.manifest)
    store.put(tag, json.dumps(image).encode(), artifact.MANIFEST_TYPE)
    name = f"{machine.proxy.host}/team/image"
    said = machine.xfdev("link", machine.checkout, "--store", name)
    assert (said.code, len(warnings(said))) == (27, 1)
    assert machine.bundle("bundle", "pull", f"{name}:{tag}").code == 22
    maker = support.Xfdev(variables={**machine.variables, "XFDEV_CACHE": str(shared.cache)})
    assert maker("bundle", "push", shared.id, "--to", name).code == 22, "an image is not overwritten"


def test_pruned_here_and_fetched_again(machine: Machine, shared: Shared) -> None:
    machine.xfdev("link", machine.checkout).ok()
    machine.store.remove(shared.id)
    machine.xfdev("unlink", machine.checkout).ok()
    assert machine.xfdev("link", machine.checkout).ok()["bundle"] == shared.id
    machine.store.verify(shared.id)


def test_damaged_here_and_fetched_again(machine: Machine, shared: Shared, plain_prefix: Path) -> None:
    machine.xfdev("link", machine.checkout).ok()
    machine.xfdev("unlink", machine.checkout).ok()
    for name in shared.manifest.outputs:
        path = machine.store.output(shared.id, name)
        path.chmod(0o644)
        path.write_bytes(kit.flipped(path.read_bytes()))
    said = machine.xfdev("link", machine.checkout)
    assert said.ok()["bundle"] == shared.id
    assert "thrown away" in said.err
    assert support.behaviour(plain_prefix / "bin" / "python", machine.checkout) == BEHAVIOUR


# --- several at once, and killed


def start(machine: Machine, *words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "xfdev", *words, "--json"],
        env={**os.environ, **machine.variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_two_pulls_at_once(machine: Machine, shared: Shared) -> None:
    def rule(request: kit.Request) -> None:
        time.sleep(0.1 if blob(request) else 0)

    machine.proxy.rule = rule
    words = ("bundle", "pull", f"{machine.repository}@{shared.digest}")
    several = [start(machine, *words) for _ in range(3)]
    for process in several:
        out, err = process.communicate(timeout=60)
        assert process.returncode == 0, out + err
    machine.store.verify(shared.id)
    large = [request for request in machine.proxy.seen if blob(request) and request.sent > 1000]
    assert len({request.path for request in large}) <= len(large) <= 3 + len(shared.manifest.outputs) + 1


def test_killed_while_it_pulls(machine: Machine, shared: Shared) -> None:
    chance = iter([0.3, 0.45, 0.6, 0.75, 0.9, 1.2])
    machine.proxy.rule = lambda request: time.sleep(0.05)  # type: ignore[func-returns-value]
    for seconds in chance:
        process = start(machine, "bundle", "pull", f"{machine.repository}@{shared.digest}")
        time.sleep(seconds)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        for name in machine.store.ids():
            machine.store.verify(name)
    machine.bundle("bundle", "pull", f"{machine.repository}@{shared.digest}").ok()
    machine.store.verify(shared.id)
    assert machine.xfdev("link", machine.checkout).ok()["compiled"] == []
