"""The doctor on this machine: each thing that can be broken here is broken, and found by name."""

from __future__ import annotations

import http.server
import json
import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from email.utils import formatdate
from pathlib import Path
from typing import Any

import pytest

import support
from faultkit import copy_of, environment_of, read_only, small_disk
from support import git, missing
from xfdev.doctor import early
from xfdev.doctor.examine import judge
from xfdev.doctor.facts import Facts, Made, Owners, Tree
from xfdev.doctor.look import hardware, place, tree
from xfdev.doctor.look.ask import Ask
from xfdev.doctor.registry import chosen
from xfdev.errors import BadEnvironment, DiskFull, FilesInTheWay, Unhealthy
from xfdev.files import write_json
from xfdev.toolchain import Compiler, Toolchain, Torch


def examined(
    path: Path, *ids: str, code: int | None = None, words: tuple[str | Path, ...] = (), **variables: str
) -> dict[str, dict[str, Any]]:
    """The findings of ``xfdev doctor`` by id."""
    only = [word for id_ in ids for word in ("--only", id_)]
    said = support.Xfdev(variables)("doctor", path, *only, *words)
    assert "checks" in said.json, said.json or said.err
    found = {entry["id"]: entry for entry in said.json["checks"]}
    bad = any(entry["status"] == "error" for entry in found.values())
    assert said.code == (Unhealthy.exit_code if bad else 0) if code is None else code
    return found


def one(path: Path, id_: str, **more: Any) -> tuple[str, str, str | None]:
    entry = examined(path, id_, **more)[id_]
    return entry["status"], entry["evidence"], entry["fix"]


def root_only() -> None:
    if os.geteuid() != 0:
        missing("only root can do this")


def program(folder: Path, name: str, body: str) -> Path:
    """A program of our own."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return path


def first_on_path(folder: Path) -> str:
    return f"{folder}{os.pathsep}{os.environ['PATH']}"


# --- the whole


def test_default_run_is_quick_and_complete(counter: Path) -> None:
    started = time.monotonic()
    said = support.Xfdev().process("doctor", counter)
    assert time.monotonic() - started < 3
    found = {entry["id"]: entry for entry in said.json["checks"]}
    assert len(found) >= 30
    assert {entry["status"] for entry in found.values()} <= {"ok", "warning", "error", "unknown", "not-applicable"}
    assert all(entry["evidence"] for entry in found.values())
    assert found["git-ownership"]["status"] == "ok"
    assert found["package-index"]["status"] == found["tls"]["status"] == "unknown"


def test_default_run_uses_no_network(counter: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def refuse(self: socket.socket, address: Any) -> None:
        if self.family != socket.AF_UNIX:
            asked.append(address)
        raise OSError(101, "Network is unreachable")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    examined(counter, PIP_INDEX_URL="https://127.0.0.1:9/simple", words=("--image", "127.0.0.1:9/a"))
    assert asked == []
    examined(counter, "package-index", PIP_INDEX_URL="https://127.0.0.1:9/simple", words=("--network",))
    assert asked, "the test sees what is asked"


def test_lines_for_people(counter: Path) -> None:
    said = support.Xfdev().process("doctor", counter, "--only", "git-ownership", json_wanted=False)
    assert said.code == 0
    assert said.out == f"checkout\n  ok      git-ownership  git works in {counter}\n0 errors, 0 warnings, 1 ok\n"
    listed = support.Xfdev().process("doctor", "--list", json_wanted=False)
    assert listed.code == 0
    assert "--fix tells git to trust this one folder" in listed.out


def test_wrong_words(tmp_path: Path) -> None:
    said = support.Xfdev()("doctor", tmp_path, "--only", "dsik")
    assert (said.code, said.json["error"]) == (2, "UsageError")
    assert "disk?" in said.json["message"]
    assert support.Xfdev()("doctor", tmp_path / "nothing").json["error"] == "NoSuchPath"


def test_folder_that_is_no_checkout(tmp_path: Path) -> None:
    found = examined(tmp_path, "git-ownership", "submodules", "worktree", "stale-locks", "environment")
    del found["stale-locks"]
    assert {entry["status"] for entry in found.values()} == {"not-applicable"}


# --- the engine


def docker() -> None:
    if shutil.which("docker") is None:
        missing("docker is not installed")


def test_stopped_engine(counter: Path, tmp_path: Path) -> None:
    docker()
    found = examined(counter, "engine-running", "engine-version", "image-store", "engine-disk", "gpu-in-container",
                     DOCKER_HOST=f"unix://{tmp_path}/no.sock")  # fmt: skip
    assert found["engine-running"]["status"] == "error"
    assert f"{tmp_path}/no.sock" in found["engine-running"]["evidence"]
    assert "systemctl start docker" in found["engine-running"]["fix"]
    for name in ("engine-version", "image-store", "engine-disk", "gpu-in-container"):
        assert (found[name]["status"], found[name]["evidence"]) == ("unknown", "docker does not answer")


def test_engine_that_hangs(counter: Path, tmp_path: Path) -> None:
    docker()
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "mute.sock"))
        server.listen()
        started = time.monotonic()
        found = examined(counter, DOCKER_HOST=f"unix://{tmp_path}/mute.sock")
        assert time.monotonic() - started < 3
    assert found["engine-running"]["status"] == "warning"
    assert "did not answer" in found["engine-running"]["evidence"]
    assert found["git-ownership"]["status"] == "ok", "the others answer"


def test_no_engine(counter: Path, tmp_path: Path) -> None:
    for name in ("git", "sh", "uname"):
        found = shutil.which(name)
        assert found
        (tmp_path / name).symlink_to(found)
    ids = ("engine-installed", "engine-running", "buildx")
    found_ = examined(counter, *ids, PATH=str(tmp_path))
    assert {entry["status"] for entry in found_.values()} <= {"warning", "not-applicable"}


# --- the environment


@pytest.fixture
def environment(plain_prefix: Path, counter: Path) -> Path:
    """An environment of the checkout's own that has, as far as files tell, a torch for CUDA 13.0."""
    prefix = copy_of(plain_prefix, counter / ".venv")
    notes = {**environment_of(prefix), "torch": "2.14.1+cu130"}
    write_json(prefix / "xfdev" / "environment.json", notes)
    (prefix / "xfdev" / "constraints.txt").write_text("torch===2.14.1\n")
    put_torch(prefix, "2.14.1+cu130", "2.14.1")
    return prefix


def site(prefix: Path) -> Path:
    (found,) = prefix.glob("lib/python3.*/site-packages")
    return found


def put_torch(prefix: Path, version: str, metadata: str) -> None:
    packages = site(prefix)
    (packages / "torch").mkdir(exist_ok=True)
    (packages / "torch" / "version.py").write_text(f"__version__ = '{version}'\ncuda = '13.0'\ngit_version = 'abc'\n")
    folder = packages / f"torch-{metadata}.dist-info"
    folder.mkdir(exist_ok=True)
    (folder / "METADATA").write_text(f"Metadata-Version: 2.1\nName: torch\nVersion: {metadata}\n")


def test_torch_as_it_was_made(environment: Path, counter: Path) -> None:
    assert one(counter, "torch") == ("ok", "torch 2.14.1+cu130, once, and pinned", None)
    assert one(counter, "environment")[0] == "ok"


def test_swapped_torch(environment: Path, counter: Path) -> None:
    shutil.rmtree(site(environment) / "torch-2.14.1.dist-info")
    put_torch(environment, "2.11.0+cpu", "2.11.0")
    status, evidence, fix = one(counter, "torch")
    assert (status, evidence) == ("error", "torch was swapped: made with 2.14.1+cu130, now 2.11.0+cpu")
    assert fix is not None
    assert "xfdev up again" in fix


def test_torch_twice_renamed_unpinned_and_hidden(environment: Path, counter: Path, tmp_path: Path) -> None:
    (environment / "xfdev" / "constraints.txt").write_text("")
    assert one(counter, "torch")[:2] == ("warning", "nothing keeps torch 2.14.1: the constraint says nothing")
    other = tmp_path / "other" / "torch"
    other.mkdir(parents=True)
    (other / "__init__.py").touch()
    assert one(counter, "torch", PYTHONPATH=str(tmp_path / "other"))[:2] == (
        "error", f"another torch is found first: {other}",
    )  # fmt: skip
    metadata = site(environment) / "torch-2.14.1.dist-info" / "METADATA"
    metadata.write_text("Name: torch\nVersion: 2.13.0\n")
    assert one(counter, "torch")[:2] == ("error", "torch is 2.14.1+cu130, and pip takes it for 2.13.0")
    put_torch(environment, "2.14.1+cu130", "2.15.0")
    assert one(counter, "torch")[:2] == ("error", "pip sees not one torch but 2: 2.13.0, 2.15.0")


def test_environment_unfinished_broken_and_somebody_elses(environment: Path, counter: Path) -> None:
    (environment / "bin" / "python").unlink()
    assert one(counter, "environment")[0] == "error"
    (environment / "xfdev" / "environment.json").unlink()
    assert one(counter, "environment")[0] == "warning"
    shutil.rmtree(environment / "xfdev")
    assert one(counter, "environment")[0] == "not-applicable"


def with_nvcc(environment: Path, folder: Path, version: str) -> None:
    """An nvcc that says its version; nothing is compiled here."""
    says = f"*) echo 'Cuda compilation tools, release 13.0, V{version}';;"
    program(folder / "cuda" / "bin", "nvcc", f"case $1 in --list-gpu-code) echo sm_90;; {says} esac")
    write_json(
        environment / "xfdev" / "environment.json", {**environment_of(environment), "cuda_home": str(folder / "cuda")}
    )


def test_too_new_compiler_beside_the_real_one(environment: Path, counter: Path, tmp_path: Path) -> None:
    with_nvcc(environment, tmp_path, "13.0.88")
    real = one(counter, "host-compiler", CXX="g++")
    assert real[0] == "ok", real
    new = program(tmp_path / "bin", "g++-99", "echo 99.1.0")
    status, evidence, fix = one(counter, "host-compiler", CXX=str(new))
    assert status == "error"
    assert evidence == f"{new} 99.1.0 is newer than gcc 15, the last that nvcc 13.0.88 takes"
    assert fix == "sudo apt-get install g++-15, then export CXX=g++-15 CC=gcc-15"
    allowed = one(counter, "host-compiler", CXX=str(new), NVCC_APPEND_FLAGS="-allow-unsupported-compiler")
    assert allowed[0] == "warning"
    assert one(counter, "host-compiler", CXX="g++", CC=str(new))[0] == "error", "torch gives CC to nvcc"
    assert one(counter, "host-compiler", CXX="g++", NVCC_CCBIN=str(new))[0] == "error"
    assert one(counter, "host-compiler", CXX="g++", NVCC_CCBIN=str(new), CC="g++")[0] == "ok"
    assert one(counter, "host-compiler", CXX="g++", NVCC_PREPEND_FLAGS=f"-ccbin={new}", CC="g++")[0] == "error"
    apart = {"CXX": str(new), "CC": "g++"}
    assert one(counter, "host-compiler", **apart)[0] == "error", "torch refuses it"
    assert one(counter, "host-compiler", TORCH_DONT_CHECK_COMPILER_ABI="1", **apart)[0] == "warning"
    assert one(counter, "host-compiler", CXX="g++-98")[:2] == ("error", "CXX is 'g++-98', which is no program")


@pytest.mark.parametrize(("version", "status"), [("13.0.88", "ok"), ("13.2.20", "warning"), ("12.8.93", "error")])
def test_nvcc_against_torch(environment: Path, counter: Path, tmp_path: Path, version: str, status: str) -> None:
    with_nvcc(environment, tmp_path, version)
    assert one(counter, "nvcc-torch")[0] == status


# --- the checkout


def test_missing_submodule_is_checked_out_by_fix(counter: Path) -> None:
    git(counter, "submodule", "deinit", "-f", "vendor/tally")
    status, evidence, fix = one(counter, "submodules")
    assert status == "warning"
    assert "vendor/tally" in evidence
    said = support.Xfdev()("doctor", counter, "--only", "submodules", "--fix")
    assert said.code == FilesInTheWay.exit_code
    assert said.json["details"] == f"submodules: {fix}", "it is shown before it is done"
    assert not (counter / "vendor" / "tally" / "include").exists(), "nothing is changed unasked"
    found = examined(counter, "submodules", words=("--fix", "--yes"))
    assert found["submodules"]["status"] == "ok"
    assert (counter / "vendor" / "tally" / "include" / "tally.h").exists()


def test_submodule_at_another_commit_is_left_alone(counter: Path) -> None:
    git(counter / "vendor" / "tally", "checkout", "-q", "v2")
    found = examined(counter, "submodules", words=("--fix", "--yes"))["submodules"]
    assert found["status"] == "warning"
    assert found["safe_fix"] == []
    assert git(counter / "vendor" / "tally", "describe", "--tags") == "v2"


def test_owner_that_git_refuses(counter: Path, tmp_path: Path) -> None:
    root_only()
    os.chown(counter, 12345, 12345)
    os.chown(counter / ".git", 12345, 12345)
    settings = tmp_path / "gitconfig"
    settings.touch()
    own = {"GIT_CONFIG_COUNT": "0", "GIT_CONFIG_GLOBAL": str(settings)}
    status, evidence, fix = one(counter, "git-ownership", **own)
    assert (status, fix) == ("error", f"git config --global --add safe.directory {counter}")
    assert "another user" in evidence
    assert one(counter, "submodules", **own)[0] == "unknown"
    assert settings.read_text() == ""
    found = examined(counter, "git-ownership", words=("--fix", "--yes"), **own)
    assert found["git-ownership"]["status"] == "ok"
    assert str(counter) in settings.read_text()


def test_asking_on_a_terminal(
    counter: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    import pty

    git(counter, "submodule", "deinit", "-f", "vendor/tally")
    argv = [sys.executable, "-m", "xfdev", "doctor", str(counter), "--only", "submodules", "--fix"]
    for answer, status in ((b"n\n", FilesInTheWay.exit_code), (b"y\n", 0)):
        near, far = pty.openpty()
        with subprocess.Popen(argv, stdin=far, stderr=far, stdout=subprocess.DEVNULL) as process:
            os.close(far)
            shown = b""
            while b"[y/N]" not in shown:
                shown += os.read(near, 1000)
            os.write(near, answer)
            assert process.wait(60) == status
        os.close(near)
        assert b"submodule update --init" in shown
    assert (counter / "vendor" / "tally" / "include").exists()


def test_files_of_another_user(counter: Path) -> None:
    root_only()
    assert one(counter, "file-owners")[0] == "ok"
    os.chown(counter / "setup.py", 12345, -1)
    status, evidence, fix = one(counter, "file-owners")
    assert (status, fix) == ("warning", f"sudo chown -R 0 {counter}")
    assert f"first {counter / 'setup.py'}" in evidence


def test_files_that_this_user_cannot_write() -> None:
    root_only()
    with tempfile.TemporaryDirectory() as name:  # pytest's own folders are closed to others
        root = Path(name)
        root.chmod(0o755)
        (root / "mine").touch()
        near, far = os.pipe()
        child = os.fork()
        if child == 0:  # root can write everything; another user tells
            try:
                os.setgid(65534)
                os.setuid(65534)
                os.write(far, json.dumps(asdict(place.owners(Ask(root, root, {}, root, Made(""))))).encode())
            finally:
                os._exit(0)
        os.waitpid(child, 0)
        os.close(far)
        found = Owners(**json.loads(os.read(near, 1000)))
        os.close(near)
    assert found == Owners(str(root), 65534, 65534, 0, looked=2, foreign=0, closed=2, example=str(root))
    (check,) = chosen(["file-owners"])
    assert (
        judge(check, Facts({Owners: found, Tree: Tree(str(root))}), network=False).fix
        == f"sudo chown -R 65534:65534 {root}"
    )


def test_worktree_whose_repository_is_gone(counter: Path, tmp_path: Path) -> None:
    work = tmp_path / "work"
    git(counter, "worktree", "add", "-q", str(work))
    assert one(work, "worktree")[:2] == ("ok", f"a worktree of {counter / '.git'}")
    (work / ".devcontainer").mkdir()
    (work / ".devcontainer" / "devcontainer.json").write_text("{}")
    assert one(work, "worktree")[0] == "warning"
    counter.rename(tmp_path / "elsewhere")
    status, evidence, _ = one(work, "worktree")
    assert status == "error"
    assert str(counter) in evidence


def test_lock_that_was_left(counter: Path) -> None:
    lock = counter / ".git" / "index.lock"
    lock.touch()
    assert one(counter, "stale-locks")[0] == "ok", "it is young"
    os.utime(lock, (time.time() - 7200, time.time() - 7200))
    with lock.open():
        assert one(counter, "stale-locks")[:2] == ("ok", f"in use: {lock}")
    status, evidence, fix = one(counter, "stale-locks")
    assert (status, fix) == ("warning", f"rm {lock}")
    assert "2 h old" in evidence
    assert examined(counter, "stale-locks", words=("--fix", "--yes"))["stale-locks"]["status"] == "ok"
    assert not lock.exists()


def test_lock_that_changed_meanwhile_stays(tmp_path: Path) -> None:
    from xfdev.doctor import repair
    from xfdev.doctor.finding import Repair

    lock = tmp_path / "lock"
    lock.touch()
    seen = tree.identity(lock)
    lock.write_text("in use again")
    assert "changed meanwhile" in repair.make(Repair(remove=str(lock), identity=seen), {})
    assert lock.exists()
    assert repair.make(Repair(remove=str(lock), identity=tree.identity(lock)), {}) == ""
    assert not lock.exists()
    assert "failed" in repair.make(Repair(("false",)), dict(os.environ))


def test_lock_of_a_torch_extension(counter: Path, tmp_path: Path) -> None:
    lock = tmp_path / "ext" / "py311_cu130" / "mine" / "lock"
    lock.parent.mkdir(parents=True)
    lock.touch()
    os.utime(lock, (time.time() - 7200, time.time() - 7200))
    assert one(counter, "stale-locks", TORCH_EXTENSIONS_DIR=str(tmp_path / "ext"))[2] == f"rm {lock}"


def test_mount(counter: Path) -> None:
    status, evidence, _ = one(counter, "mount")
    assert status in ("ok", "warning"), "the machine may be busy"
    assert "files/s" in evidence
    assert git(counter, "status", "--porcelain") == "", "nothing is left"
    assert one(counter, "clock-files")[0] == "ok"
    with read_only(counter):
        status, evidence, fix = one(counter, "mount")
        assert (status, evidence) == ("error", f"{counter} is mounted read-only; a link writes into the checkout")
        assert fix is not None
        assert f"remount,rw {counter}" in fix


def test_speed_of_something_slow_is_told_in_time() -> None:
    started = time.monotonic()
    rate = place._BATCH / place._quickest(lambda: time.sleep(0.05))
    assert 5 < rate <= 20
    assert time.monotonic() - started < 2


# --- disks, memory, caches


def test_full_small_file_system(counter: Path, tmp_path: Path) -> None:
    root_only()
    with small_disk(tmp_path / "small", 1) as small:
        status, evidence, fix = one(counter, "disk", XFDEV_CACHE=str(small / "cache"))
        assert status == "error"
        assert f"{small} (cache): 1 MB free, next to nothing" in evidence
        assert fix is not None
        assert "bundle prune" in fix
        ask = Ask(small, small, dict(os.environ), small, Made(str(small / ".venv")))
        found = place.mount(ask)
        assert (found.system, found.files) == ("tmpfs", None)
        assert found.said == "No space left on device"
        assert not list(small.glob(".xfdev-doctor*")), "what was written is removed"


def test_environment_that_does_not_fit_is_refused_at_once(counter: Path, tmp_path: Path) -> None:
    root_only()
    with small_disk(tmp_path / "small", 1) as small:
        started = time.monotonic()
        said = support.Xfdev()("up", counter, "--toolchain", "cu130", "--venv", small / ".venv")
        assert time.monotonic() - started < 3
        assert said.code == DiskFull.exit_code
        assert "an environment with CUDA takes about 6.5 GB" in said.json["message"]
        assert list(small.iterdir()) == [], "nothing was begun"


def test_caches_are_counted(counter: Path, tmp_path: Path) -> None:
    folder = tmp_path / "pip" / "http"
    folder.mkdir(parents=True)
    (folder / "one").write_bytes(b"x" * 3_000_000)
    os.link(folder / "one", tmp_path / "pip" / "two")
    status, evidence, _ = one(counter, "caches", PIP_CACHE_DIR=str(tmp_path / "pip"))
    assert status == "ok"
    assert "pip 3 MB" in evidence


def test_limits_of_memory(tmp_path: Path) -> None:
    proc = tmp_path / "proc"
    (proc / "sys" / "kernel").mkdir(parents=True)
    (proc / "self").mkdir()
    (proc / "sys" / "kernel" / "osrelease").write_text("5.15.153.1-microsoft-standard-WSL2\n")
    (proc / "meminfo").write_text("MemTotal:  8000000 kB\nMemAvailable:  4000000 kB\n")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / ".containerenv").touch()
    ask = Ask(tmp_path, tmp_path, {}, tmp_path, Made(""))
    found = hardware.machine(ask, proc=proc, root=tmp_path)
    assert (found.wsl, found.container, found.total, found.memory) == (True, "podman", 8_192_000_000, 4_096_000_000)


# --- the network


class Server(http.server.BaseHTTPRequestHandler):
    """A package index and a registry; *answers* by path, *ahead* is what its clock is off by."""

    answers: Mapping[str, int] = {}
    ahead = 0.0
    seen: list[str]

    def do_GET(self) -> None:
        self.seen.append(f"{self.command} {self.path}")
        self.send_response_only(self.answers.get(self.path, 404))
        self.send_header("Date", formatdate(time.time() + self.ahead, usegmt=True))
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_HEAD = do_GET

    def log_message(self, *words: object) -> None:
        pass


@contextmanager
def serving(
    answers: Mapping[str, int], *, ahead: float = 0.0, context: ssl.SSLContext | None = None
) -> Iterator[tuple[int, list[str]]]:
    seen: list[str] = []
    handler = type("Handler", (Server,), {"answers": answers, "ahead": ahead, "seen": seen})
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    server.handle_error = lambda *words: None  # type: ignore[method-assign]  # who does not trust us hangs up
    if context is not None:
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    thread = threading.Thread(target=server.serve_forever, args=(0.05,))
    thread.start()
    try:
        yield server.server_address[1], seen
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture
def authority(tmp_path: Path) -> tuple[Path, ssl.SSLContext]:
    """The certificate of a CA of our own, and a server's that it signed."""
    if shutil.which("openssl") is None:
        missing("openssl is not installed")
    folder = tmp_path / "ca"
    folder.mkdir()

    def openssl(*words: str) -> None:
        subprocess.run(["openssl", *words], cwd=folder, check=True, capture_output=True)

    name = "/O=Example Corporation/CN=Example Corporation Root"
    new = ("req", "-newkey", "rsa:2048", "-nodes", "-keyout")
    openssl(*new, "ca.key", "-x509", "-out", "ca.pem", "-days", "2", "-subj", name, "-addext", "keyUsage=keyCertSign")
    openssl(*new, "server.key", "-out", "server.csr", "-subj", "/CN=localhost")
    (folder / "ext").write_text("subjectAltName=DNS:localhost,IP:127.0.0.1\nauthorityKeyIdentifier=keyid\n")
    signed = ("-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-extfile", "ext")
    openssl("x509", "-req", "-in", "server.csr", "-out", "server.pem", "-days", "2", *signed)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(folder / "server.pem", folder / "server.key")
    return folder / "ca.pem", context


def index_variables(port: int, scheme: str = "https") -> dict[str, str]:
    return {
        "PIP_INDEX_URL": f"{scheme}://user:secret@localhost:{port}/simple", "PIP_CONFIG_FILE": os.devnull,
        "PIP_CERT": "", "REQUESTS_CA_BUNDLE": "", "CURL_CA_BUNDLE": "", "no_proxy": "localhost,127.0.0.1",
    }  # fmt: skip


def test_foreign_ca(counter: Path, authority: tuple[Path, ssl.SSLContext], tmp_path: Path) -> None:
    ca, context = authority
    with serving({"/simple/pip/": 200}, context=context) as (port, seen):
        own = index_variables(port)
        found = examined(counter, "tls", "package-index", "clock", words=("--network",), **own)
        assert found["tls"]["status"] == found["package-index"]["status"] == "error"
        assert "by Example Corporation Root" in found["tls"]["evidence"]
        assert "PIP_CERT" in found["tls"]["fix"]
        assert "XFDEV_BUILD_CA" in found["tls"]["fix"]
        assert "secret" not in json.dumps(found)
        assert found["clock"]["status"] == "unknown", "nobody's time is taken who is not trusted"
        assert seen == [], "nothing is asked of a server that is not trusted"
        trusted = {**own, "PIP_CERT": str(ca)}
        found = examined(counter, "tls", "package-index", "clock", words=("--network",), **trusted)
        assert found["tls"]["status"] == "warning"
        assert "trusted here, not in an image build" in found["tls"]["evidence"]
        assert found["package-index"]["status"] == found["clock"]["status"] == "ok"
        assert seen == ["HEAD /simple/pip/"], "one page is asked for"
        found = examined(counter, "tls", words=("--network",), XFDEV_BUILD_CA=ca.read_text(), **trusted)
        assert found["tls"]["status"] == "ok"
        settings = tmp_path / "pip.conf"
        settings.write_text(f"[global]\ncert = {ca}\n")
        found = examined(counter, "tls", words=("--network",), **{**own, "PIP_CONFIG_FILE": str(settings)})
        assert found["tls"]["status"] == "warning", "pip's own settings count"


def test_certificates_that_are_not_there(counter: Path, tmp_path: Path) -> None:
    assert one(counter, "certificates", PIP_CERT=str(tmp_path / "no.pem"))[::2] == ("error", "unset PIP_CERT")


@pytest.mark.parametrize(("ahead", "status"), [(0.0, "ok"), (3600.0, "error"), (-60.0, "warning")])
def test_clock_against_a_server(counter: Path, ahead: float, status: str) -> None:
    with serving({"/simple/pip/": 200}, ahead=ahead) as (port, _):
        assert one(counter, "clock", words=("--network",), **index_variables(port, "http"))[0] == status


@pytest.mark.parametrize(("answer", "status"), [(200, "ok"), (401, "error"), (503, "warning")])
def test_index_that_wants_a_login_or_is_ill(counter: Path, answer: int, status: str) -> None:
    with serving({"/simple/pip/": answer}) as (port, _):
        found = examined(counter, "tls", "package-index", words=("--network",), **index_variables(port, "http"))
    assert found["package-index"]["status"] == status
    assert found["tls"]["status"] == "not-applicable"


def test_index_that_does_not_answer(counter: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        status, evidence, _ = one(
            counter, "package-index", words=("--network",), **index_variables(taken.getsockname()[1])
        )
        assert status == "error"
        assert "refused" in evidence
        proxied = {**index_variables(9), "no_proxy": "", "https_proxy": f"http://127.0.0.1:{taken.getsockname()[1]}"}
        status, evidence, _ = one(counter, "package-index", words=("--network",), **proxied)
    assert status == "error"


def test_proxies_without_their_passwords(counter: Path) -> None:
    found = examined(counter, "proxy", https_proxy="http://me:secret@proxy:1", HTTPS_PROXY="http://other:1")["proxy"]
    assert found["status"] == "warning"
    assert "secret" not in json.dumps(found)


def test_login_by_helper_and_without(counter: Path, tmp_path: Path) -> None:
    config = tmp_path / "docker"
    config.mkdir()
    own = {"DOCKER_CONFIG": str(config), "PATH": first_on_path(tmp_path / "bin")}
    image = ("--image", "registry.example.com/team/image:1")

    def login(**settings: Any) -> tuple[str, str, str | None]:
        (config / "config.json").write_text(json.dumps(settings))
        return one(counter, "registry-login", words=image, **own)

    assert login()[0] == "unknown"
    assert login(auths={"registry.example.com": {"auth": "c2VjcmV0"}})[0] == "ok"
    assert login(auths={"registry.example.com": {}})[0] == "unknown"
    status, evidence, _ = login(credsStore="desktop.exe")
    assert status == "error"
    assert "docker-credential-desktop.exe, which is not installed" in evidence
    helper = program(tmp_path / "bin", "docker-credential-pass", """echo '{"https://registry.example.com": "me"}'""")
    assert login(credsStore="pass")[:2] == ("ok", "registry.example.com: logged in, by docker-credential-pass")
    assert login(credHelpers={"other.example.com": "pass"})[0] == "unknown"
    helper.write_text("#!/bin/sh\necho 'it is locked' >&2; exit 1\n")
    assert login(credsStore="pass")[0] == "unknown"
    program(tmp_path / "bin", "docker-credential-far", "touch /asked-a-server; exit 1")
    assert "it may ask a server" in login(credsStore="far")[1]


def test_registry(counter: Path) -> None:
    answers = {"/v2/": 200, "/v2/team/image/manifests/1": 200}
    with serving(answers) as (port, seen):
        words = ("--network", "--image", f"localhost:{port}/team/image:1")
        found = examined(counter, "registry", "registry-login", words=words, DOCKER_CONFIG="/nonexistent")
        assert {entry["status"] for entry in found.values()} == {"ok"}
        assert seen == ["GET /v2/", "GET /v2/team/image/manifests/1"]
        words = ("--network", "--image", f"localhost:{port}/team/secret:1")
        found = examined(counter, "registry", "registry-login", words=words, DOCKER_CONFIG="/nonexistent")
        assert found["registry-login"]["status"] == "warning"
    found = examined(counter, "registry", words=words)
    assert found["registry"]["status"] == "error"


# --- before long work


def chain(cxx: tuple[str, str], nvcc: str = "13.0.88", cuda: str | None = "13.0") -> Toolchain:
    host, device = Compiler(Path(cxx[0]), cxx[1], ""), Compiler(Path("/cuda/bin/nvcc"), nvcc, "")
    return Toolchain({}, {}, Path("/cuda"), device, host, Torch("2.14.1+cu130", cuda, None))


def test_early_errors_have_names(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good = ("/usr/bin/g++-14", "14.2.0")
    early.before_compile(chain(good), {}, [tmp_path], full=True)
    with pytest.raises(Unhealthy, match=r"g\+\+ 99.1 is newer than gcc 15") as refused:
        early.before_compile(chain(("/bin/g++", "99.1")), {}, [tmp_path], full=True)
    assert "CXX=g++-15" in refused.value.hint
    with pytest.raises(BadEnvironment, match="torch refuses to compile"):
        early.before_compile(chain(good, nvcc="12.8.93"), {}, [tmp_path], full=True)
    capsys.readouterr()
    allowed = {"NVCC_PREPEND_FLAGS": "-allow-unsupported-compiler"}
    early.before_compile(chain(("/bin/g++", "99.1")), allowed, [tmp_path], full=True)
    said = capsys.readouterr().err.strip().splitlines()
    assert len([line for line in said if "99.1 is newer" in line]) == 1
    early.before_compile(chain(("/bin/g++", "99.1"), cuda=None), {}, [tmp_path], full=True)
    assert capsys.readouterr().err == ""
    script = program(tmp_path, "g++-13", "echo 13.3.0")
    early.before_compile(chain((str(script), "13.3.0"), cuda=None), {}, [tmp_path], full=True)
    assert f"warning: {script} is a script" in capsys.readouterr().err


def test_a_compiler_that_is_a_script_and_what_it_costs(counter: Path, environment: Path, tmp_path: Path) -> None:
    real = shutil.which("g++")
    script = program(tmp_path, "g++", f'exec {real} "$@"')
    status, evidence, fix = one(counter, "host-compiler", CXX=str(script))
    assert (status, fix) == ("warning", "export CXX=PROGRAM CC=PROGRAM, the compiler that it starts")
    assert evidence.startswith(f"{script} is a script")


def test_early_sees_a_full_disk(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root_only()
    with small_disk(tmp_path / "small", 1) as small:
        with pytest.raises(DiskFull, match="a build takes about"):
            early.before_compile(chain(("/g++", "14.2")), {}, [small / "new"], full=True)
        capsys.readouterr()
        early.before_compile(chain(("/g++", "14.2")), {}, [small], full=False)
        assert f"warning: {small}: 1 MB free" in capsys.readouterr().err


def test_early_reads_the_driver_that_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "version"
    file.write_text(
        "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  570.86.10  Release Build  (root@host)\n"
        "GCC version:  gcc version 13.3.0 (Ubuntu)\n"
    )
    assert early.running_driver(file) == "570.86.10"
    assert early.running_driver(tmp_path / "none") is None
    monkeypatch.setattr(early, "running_driver", lambda: "570.86.10")
    early.before_compile(chain(("/g++", "14.2")), {}, [tmp_path], full=True)
    assert "warning: driver 570.86.10 is older than 580.65.06, which CUDA 13.0 needs" in capsys.readouterr().err


def test_early_takes_no_time(tmp_path: Path) -> None:
    """In a process of its own, as a build starts: with what it imports less than 50 ms (best of five)."""
    script = (
        "import sys, time; import xfdev.commands.build, xfdev.compile, xfdev.configure, xfdev.profile;"
        "from pathlib import Path; from xfdev.toolchain import Compiler, Toolchain, Torch;"
        "c = Toolchain({}, {}, Path('/c'), Compiler(Path('/n'), '13.0.88', ''), Compiler(Path('/g++'), '14.2', ''),"
        " Torch('2.14.1', '13.0', None));"
        "t = time.perf_counter(); from xfdev.doctor import early;"
        "early.before_compile(c, {}, [Path('/tmp')], full=True); print(time.perf_counter() - t)"
    )
    times = [
        float(subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout)
        for _ in range(5)
    ]
    assert min(times) < 0.05


def test_build_is_refused_before_it_configures(environment: Path, counter: Path, tmp_path: Path) -> None:
    with_nvcc(environment, tmp_path, "12.8.93")
    started = time.monotonic()
    said = support.Xfdev()("build", counter, "--arch", "9.0")
    assert time.monotonic() - started < 5
    assert said.code == BadEnvironment.exit_code
    assert "torch refuses to compile" in said.json["message"]


def test_interrupt(counter: Path, tmp_path: Path) -> None:
    docker()
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "mute.sock"))
        server.listen()
        argv = [sys.executable, "-m", "xfdev", "doctor", str(counter), "--only", "engine-running"]
        env = {**os.environ, "DOCKER_HOST": f"unix://{tmp_path}/mute.sock"}
        quiet = {"stderr": subprocess.PIPE, "stdout": subprocess.DEVNULL, "text": True}
        with subprocess.Popen(argv, env=env, **quiet) as process, server.accept()[0]:  # type: ignore[call-overload]
            process.send_signal(signal.SIGINT)
            _, said = process.communicate(timeout=10)
    assert process.returncode == 130
    assert "Traceback" not in said


def test_gpu_of_this_machine(counter: Path) -> None:
    if shutil.which("nvidia-smi") is None:
        pytest.skip("no GPU here: there is no nvidia-smi")
    told = subprocess.run(
        ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"], capture_output=True, text=True
    )
    if told.returncode != 0:
        pytest.skip("no GPU here: nvidia-smi finds none")
    status, evidence, _ = one(counter, "gpu")
    assert status == "ok"
    assert told.stdout.split()[0] in evidence
