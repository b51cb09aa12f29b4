"""A compiler cache that a team shares: compiled once, by real compilers, and never a wrong object.

Compiles are counted by the compiler itself, not by what xfdev says.
"""

from __future__ import annotations

import base64
import os
import shutil
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

import cachekit as kit
import registrykit
import support
from faultkit import BEHAVIOUR
from xfdev.profile import RESOURCES

#: What a dead server may cost a build, beside what its compiles take anyway.
BOUND = 7.0


@dataclass
class Machine:
    """Somebody's machine: an empty cache of its own, a checkout, the compiler that counts."""

    folder: Path
    checkout: Path
    prefix: Path
    compiler: Path

    def __post_init__(self) -> None:
        (self.folder / "home").mkdir(parents=True, exist_ok=True)
        self.log = self.folder / "counted"
        self.variables = {
            "XFDEV_CACHE": str(self.folder / "cache"),
            "HOME": str(self.folder / "home"),
            "CXX": str(self.compiler),
            "COUNTED": str(self.log),
        }

    def compiled(self) -> int:
        found = len(self.log.read_text().splitlines()) if self.log.exists() else 0
        self.log.unlink(missing_ok=True)
        return found

    def run(self, verb: str, place: str = "", *words: str, **variables: str) -> support.Said:
        more = {"XFDEV_COMPILE_CACHE": place} if place else {}
        chosen = support.Xfdev(variables={**self.variables, **more, **variables}, options=("--venv", str(self.prefix)))
        return chosen(verb, self.checkout, *words)

    def build(self, place: str = "", *, write: bool = False, **variables: str) -> support.Said:
        return self.run("build", place, *(["--compile-cache-write"] if write else []), **variables)

    def works(self) -> bool:
        return support.behaviour(self.prefix / "bin" / "python", self.checkout) == BEHAVIOUR


@pytest.fixture(scope="module")
def compiler(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return kit.counting(tmp_path_factory.mktemp("compiler"))


@pytest.fixture(scope="module")
def settled(_session_environ: None, counter_template: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkout of units that can be shared. A header is no longer generated: ccache keeps nothing of a unit that read
    a file just written. And none is asked for in vain: such a unit compiles on every new machine, as no dependency file
    tells what was not there."""
    folder = tmp_path_factory.mktemp("settled")
    clean = support.copy_tree(counter_template, folder / "clean")
    script = clean / "setup.py"
    before, _, after = script.read_text().partition("with open(")
    script.write_text(before + after[after.index("flags = ") :])
    constants = (clean / "csrc" / "constants.in").read_text().split("\n")
    defines = [f"#define {' '.join(line.split())}\n" for line in constants if line.strip()]
    (clean / "csrc" / "generated.h").write_text("".join(["#pragma once\n", *defines]))
    asking = clean / "csrc" / "two.cpp"
    before, _, after = asking.read_text().partition("#if __has_include")
    asking.write_text(f"{before}#define OPTIONAL 0\n{after.partition('#endif')[2]}")
    support.git(clean, "add", "-f", "setup.py", "csrc/generated.h", "csrc/two.cpp")
    support.git(clean, "commit", "-q", "-m", "nothing is generated")
    for path in clean.rglob("*"):
        if path.is_file() and ".git" not in path.parts:
            os.utime(path, (1_600_000_000, 1_600_000_000))
    return clean


@pytest.fixture
def machines(tmp_path: Path, settled: Path, plain_prefix: Path, compiler: Path) -> Iterator[tuple[Machine, Machine]]:
    """Two machines with nothing in common but their tools."""

    def machine(name: str) -> Machine:
        folder = tmp_path / name
        folder.mkdir()
        return Machine(folder, support.copy_tree(settled, folder / f"counter-{name}"), plain_prefix, compiler)

    yield machine("one"), machine("two")
    (plain_prefix / "xfdev" / "compile-cache").unlink(missing_ok=True)
    stop = {**os.environ, "CCACHE_CONFIGPATH": os.devnull, "CCACHE_DIR": str(tmp_path)}
    subprocess.run([plain_prefix / "xfdev/bin/ccache.real", "--stop-storage-helpers"], env=stop, capture_output=True)


@pytest.fixture
def server() -> Iterator[kit.Server]:
    with kit.serving() as made:
        yield made


def files(folder: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def edit(machine: Machine) -> None:
    path = machine.checkout / "csrc" / "one.cpp"
    path.write_text(f"{path.read_text()}// edited\n")


def warnings(said: support.Said) -> list[str]:
    return [line for line in said.err.splitlines() if line.startswith("warning:")]


UNITS = 4


def prove_compiled_once(machines: tuple[Machine, Machine], place: str) -> None:
    one, two = machines
    first = one.build(place, write=True)
    assert len(first.ok()["compiled"]) == one.compiled() == UNITS
    second = two.build(place)
    assert (len(second.ok()["compiled"]), len(second.json["restored"])) == (0, UNITS)
    assert two.compiled() == 0
    assert one.works()
    assert two.works()
    assert warnings(first) == warnings(second) == []


# --- compiled once


def test_in_a_folder(machines: tuple[Machine, Machine], tmp_path: Path) -> None:
    place = tmp_path / "a shared folder"
    place.mkdir()
    prove_compiled_once(machines, str(place))


def test_on_a_server(machines: tuple[Machine, Machine], server: kit.Server) -> None:
    prove_compiled_once(machines, server.url)
    assert server.did("PUT") >= UNITS
    assert server.connections < len(server.seen) / 2, "connections are kept"


def test_on_a_server_by_tls(machines: tuple[Machine, Machine], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    certificate, key = registrykit.certificate(tmp_path)
    for name in ("PIP_CERT", "CURL_CA_BUNDLE", "SSL_CERT_FILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", str(certificate))
    with kit.serving((certificate, key)) as server:
        prove_compiled_once(machines, server.url)


def test_by_hand_too(machines: tuple[Machine, Machine], tmp_path: Path) -> None:
    """Where xfdev was told of the cache once, a compile that is typed takes its objects, and gives none."""
    one, two = machines
    place = tmp_path / "shared"
    place.mkdir()
    launcher = one.prefix / "xfdev" / "bin" / "ccache"

    def typed(machine: Machine, **variables: str) -> None:
        env = {
            **os.environ,
            **machine.variables,
            "CCACHE_DIR": str(machine.folder / "typed"),
            "CCACHE_BASEDIR": str(machine.checkout),
            **variables,
        }
        words = [launcher, machine.compiler, "-Iinclude", "-c", "csrc/one.cpp", "-o", machine.folder / "one.o"]
        subprocess.run(words, cwd=machine.checkout, env=env, check=True)

    typed(one, CCACHE_REMOTE_STORAGE=f"file:{place}")
    assert one.compiled() == 1
    one.build(str(place)).ok()
    before = files(place)
    assert before
    typed(two)
    assert two.compiled() == 0
    edit(two)
    typed(two)
    assert two.compiled() == 1
    assert files(place) == before
    one.compiled()
    shutil.rmtree(one.checkout / ".xfdev")
    one.run("prebuild").ok()
    assert not (one.prefix / "xfdev" / "compile-cache").exists(), "without the option it is forgotten"


def test_read_only_unless_asked(machines: tuple[Machine, Machine], server: kit.Server, tmp_path: Path) -> None:
    one, _ = machines
    place = tmp_path / "shared"
    place.mkdir()
    for where in (str(place), server.url):
        one.build(where).ok()
        assert one.compiled() == UNITS
        shutil.rmtree(one.folder / "cache")
        shutil.rmtree(one.checkout / ".xfdev")
    assert files(place) == {}
    assert server.objects == {}
    assert {method for method, _ in server.seen} == {"GET"}


def test_what_is_here_already_is_given_too(machines: tuple[Machine, Machine], tmp_path: Path) -> None:
    """The machine that fills the cache need not begin with an empty one."""
    one, two = machines
    place = tmp_path / "shared"
    place.mkdir()
    one.build().ok()
    shutil.rmtree(one.checkout / ".xfdev")
    one.compiled()
    one.run("prebuild", str(place), "--compile-cache-write").ok()
    assert one.compiled() == 0
    two.build(str(place)).ok()
    assert two.compiled() == 0


def test_a_bundle_has_the_objects_that_came_from_the_team(
    machines: tuple[Machine, Machine], tmp_path: Path, settled: Path
) -> None:
    one, two = machines
    place = tmp_path / "shared"
    place.mkdir()
    one.build(str(place), write=True).ok()
    bundle = two.run("prebuild", str(place)).ok()["bundle"]
    assert two.compiled() == 0
    # On two's machine, but with nothing else than that bundle: what it lacks would have to compile.
    shutil.rmtree(two.folder / "cache" / "ccache")
    other = Machine(two.folder, support.copy_tree(settled, tmp_path / "third"), two.prefix, two.compiler)
    edit(other)
    built = other.build().ok()
    assert built["bundle"] == bundle
    assert other.compiled() == 1
    assert other.works()


# --- never a wrong object


def test_another_compiler_takes_none(machines: tuple[Machine, Machine], tmp_path: Path) -> None:
    one, two = machines
    place = tmp_path / "shared"
    place.mkdir()
    one.build(str(place), write=True).ok()
    two.variables["CXX"] = str(kit.counting(tmp_path / "other", "another"))
    two.build(str(place)).ok()
    assert two.compiled() == UNITS


def test_another_header_takes_none(machines: tuple[Machine, Machine], server: kit.Server, tmp_path: Path) -> None:
    """One that shadows a header is in no dependency file: the launcher looks at every hit, of a team's cache too."""
    one, two = machines
    one.build(server.url, write=True).ok()
    (two.checkout / "csrc" / "shared.h").write_text("#pragma once\n#define SHARED 70\n")
    two.build(server.url).ok()
    assert 0 < two.compiled() < UNITS
    two.variables["XFDEV_CACHE"] = str(tmp_path / "fresh")
    alone = Machine(tmp_path / "alone", support.copy_tree(two.checkout, tmp_path / "copy"), two.prefix, two.compiler)
    shutil.rmtree(alone.checkout / ".xfdev")
    alone.build().ok()
    python = two.prefix / "bin" / "python"
    assert support.behaviour(python, two.checkout) == support.behaviour(python, alone.checkout) != BEHAVIOUR


@pytest.mark.parametrize("how", ["flipped", "cut", "empty", "of another kind"])
def test_objects_that_are_damaged_are_compiled(machines: tuple[Machine, Machine], server: kit.Server, how: str) -> None:
    one, two = machines
    one.build(server.url, write=True).ok()
    everything = list(server.objects.values())
    for number, (path, data) in enumerate(list(server.objects.items())):
        middle = len(data) // 2
        server.objects[path] = {
            "flipped": data[:middle] + bytes([data[middle] ^ 1]) + data[middle + 1 :],
            "cut": data[:middle],
            "empty": b"",
            "of another kind": everything[number - 1],
        }[how]
    two.build(server.url).ok()
    assert two.works()
    assert two.compiled() == UNITS


# --- a server that does not serve


def timed(machine: Machine, place: str) -> tuple[float, support.Said]:
    started = time.monotonic()
    said = machine.build(place)
    return time.monotonic() - started, said


@pytest.mark.parametrize(
    ("act", "said"),
    [
        (kit.status(500), "answers 500"),
        (kit.silent, "does not answer within 2 s"),
        (kit.trickling, "does not answer in time"),
        (kit.hanging_up, "cannot be reached"),
    ],
    ids=["500", "silent", "trickling", "hanging-up"],
)
def test_a_server_that_fails(machines: tuple[Machine, Machine], server: kit.Server, act: kit.Act, said: str) -> None:
    one, two = machines
    usual, _ = timed(one, "")
    server.act = act
    taken, built = timed(two, server.url)
    assert len(built.ok()["compiled"]) == two.compiled() == UNITS
    assert len(warnings(built)) == 1, built.err
    assert said in warnings(built)[0]
    assert server.url in warnings(built)[0]
    assert taken < usual + BOUND, f"{taken:.1f} s, {usual:.1f} s without"
    assert len(server.seen) <= 2, "once is enough"
    assert two.works()
    # And it is left alone for a while.
    shutil.rmtree(two.checkout / ".xfdev")
    shutil.rmtree(two.folder / "cache" / "ccache" / "0", ignore_errors=True)
    asked = len(server.seen)
    _, again = timed(two, server.url)
    assert again.ok()
    assert warnings(again) == []
    assert len(server.seen) == asked


def test_a_server_that_is_not_there(machines: tuple[Machine, Machine]) -> None:
    with socket.socket() as taken_port:
        taken_port.bind(("127.0.0.1", 0))
        place = f"http://localhost:{taken_port.getsockname()[1]}/team"
        one, two = machines
        usual, _ = timed(one, "")
        taken, said = timed(two, place)
    assert two.compiled() == UNITS
    assert len(warnings(said)) == 1
    assert "Connection refused" in warnings(said)[0]
    assert taken < usual + 3


def test_a_server_that_dies_meanwhile(machines: tuple[Machine, Machine], server: kit.Server) -> None:
    one, two = machines
    one.build(server.url, write=True).ok()
    server.act = lambda handler: len(server.seen) % 1000 > 2 and kit.silent(handler)
    server.seen.clear()
    _, said = timed(two, server.url)
    said.ok()
    assert two.works()
    assert len(warnings(said)) == 1


def test_a_folder_that_is_not_there(machines: tuple[Machine, Machine], tmp_path: Path) -> None:
    one, _ = machines
    said = one.build(str(tmp_path / "none"))
    said.ok()
    assert one.compiled() == UNITS
    assert [line.partition("; ")[0] for line in warnings(said)] == [
        f"warning: the compile cache {tmp_path}/none is not there"
    ]
    assert not (tmp_path / "none").exists()


def test_a_place_that_is_none(machines: tuple[Machine, Machine]) -> None:
    one, _ = machines
    said = one.build("http://cache.example.com/team")
    assert said.code == 2
    assert "without TLS" in said.json["message"]
    assert one.compiled() == 0


# --- secrets


@pytest.mark.parametrize("how", ["netrc", "token"])
def test_a_login_is_sent_and_shown_nowhere(
    machines: tuple[Machine, Machine], server: kit.Server, tmp_path: Path, how: str
) -> None:
    one, two = machines
    secret = "open-sesame"
    if how == "netrc":
        server.login = "Basic " + base64.b64encode(f"reader:{secret}".encode()).decode()
        for machine in machines:
            path = machine.folder / "home" / ".netrc"
            path.write_text(f"machine localhost login reader password {secret}\n")
            path.chmod(0o600)
    else:
        server.login = f"Bearer {secret}"
        for machine in machines:
            machine.variables["XFDEV_COMPILE_CACHE_TOKEN"] = secret
    logs = [tmp_path / "ccache.log", tmp_path / "other.log"]
    seen: list[str] = []

    def look(handler: kit.Handler) -> bool:
        for process in Path("/proc").glob("[0-9]*/cmdline"):
            try:
                seen.append(process.read_bytes().decode(errors="replace"))
            except OSError:
                continue
        return False

    server.act = look
    one.build(server.url, write=True, CCACHE_LOGFILE=str(logs[0])).ok()
    said = two.run("build", server.url, "--verbose", CCACHE_LOGFILE=str(logs[1]))
    assert len(said.ok()["restored"]) == UNITS
    assert two.compiled() == 0
    assert any("ccache-storage" in words for words in seen), "the helper was looked at"
    for text in (*seen, said.err, said.out, *(log.read_text(errors="replace") for log in logs)):
        assert secret not in text
    kept = files(one.folder) | files(two.folder) | files(one.prefix / "xfdev")
    assert all(secret.encode() not in data for name, data in kept.items() if not name.endswith(".netrc"))


def test_a_wrong_login_is_said(machines: tuple[Machine, Machine], server: kit.Server) -> None:
    one, _ = machines
    server.login = "Bearer right"
    one.variables["XFDEV_COMPILE_CACHE_TOKEN"] = "wrong"
    said = one.build(server.url)
    said.ok()
    assert [line.partition("; ")[0] for line in warnings(said)] == [
        f"warning: the compile cache {server.url} denies reading (401)"
    ]
    assert "wrong" not in said.err


# --- the helper alone, by ccache's protocol


@pytest.fixture
def helper(tmp_path: Path, server: kit.Server) -> Iterator[socket.socket]:
    """A connection to a helper for *server*, as ccache has it."""
    endpoint = tmp_path / "socket"
    env = {
        **os.environ,
        "CRSH_IPC_ENDPOINT": str(endpoint),
        "CRSH_URL": server.url,
        "CRSH_IDLE_TIMEOUT": "1",
        "CRSH_NUM_ATTR": "1",
        "CRSH_ATTR_KEY_0": "report",
        "CRSH_ATTR_VALUE_0": str(tmp_path / "report"),
        "XFDEV_LAUNCH_LOG": str(tmp_path / "launches"),
    }
    words = [sys.executable, "-IS", RESOURCES / "launcher" / "storage.py"]
    process = subprocess.Popen(words, env=env, start_new_session=True)
    try:
        deadline = time.monotonic() + 20
        while True:
            stream = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            stream.settimeout(30)
            try:
                stream.connect(str(endpoint))
                break
            except OSError:
                stream.close()
                assert time.monotonic() < deadline, "the helper does not listen"
                time.sleep(0.01)
        with stream:
            assert take(stream, 3) == b"\1\1\0"
            yield stream
        assert process.wait(20) == 0, "it ends when it is idle"
        assert not endpoint.exists()
    finally:
        process.kill()
        process.wait()


def take(stream: socket.socket, count: int) -> bytes:
    found = b""
    while len(found) < count:
        part = stream.recv(count - len(found))
        assert part, "the helper hung up"
        found += part
    return found


KEY = bytes(range(20))
PATH = f"/team/{KEY.hex()[:2]}/{KEY.hex()[2:]}"


def get(stream: socket.socket) -> bytes | None:
    stream.sendall(b"\0" + bytes([len(KEY)]) + KEY)
    if take(stream, 1) != b"\0":
        return None
    return take(stream, struct.unpack("=Q", take(stream, 8))[0])


def put(stream: socket.socket, value: bytes, *, overwrite: bool = True) -> bool:
    stream.sendall(b"\1" + bytes([len(KEY)]) + KEY + bytes([overwrite]) + struct.pack("=Q", len(value)) + value)
    return take(stream, 1) == b"\0"


def test_helper_serves(helper: socket.socket, server: kit.Server, tmp_path: Path) -> None:
    assert get(helper) is None
    value = os.urandom(3_000_000)
    assert put(helper, value)
    assert server.objects == {PATH: value}
    assert get(helper) == value
    assert not put(helper, b"other", overwrite=False)
    assert server.objects == {PATH: value}
    helper.sendall(b"\2" + bytes([len(KEY)]) + KEY)
    assert take(helper, 1) == b"\0"
    assert server.objects == {}
    assert put(helper, b"", overwrite=False)
    assert get(helper) == b""
    assert server.connections == 1
    assert not (tmp_path / "report").exists()
    helper.sendall(b"\3")
    assert take(helper, 1) == b"\0"


@pytest.mark.parametrize(
    ("act", "said"),
    [
        (kit.status(302), "answers 302"),
        (kit.status(403), "denies reading (403)"),
        (kit.status(503), "answers 503"),
        (kit.hanging_up, "cannot be reached (RemoteDisconnected)"),
    ],
)
def test_helper_leaves_a_server_alone(
    helper: socket.socket, server: kit.Server, tmp_path: Path, act: kit.Act, said: str
) -> None:
    server.act = act
    for _ in range(5):
        assert get(helper) is None
    assert not put(helper, b"value")
    assert len(server.seen) == 1
    assert (tmp_path / "report").read_text().strip() == said


def test_helper_says_who_may_not_write(helper: socket.socket, server: kit.Server, tmp_path: Path) -> None:
    server.act = lambda handler: handler.command == "PUT" and kit.status(405)(handler)
    assert get(helper) is None
    assert not put(helper, b"value")
    assert (tmp_path / "report").read_text().strip() == "denies writing (405)"


# --- with nvcc


def test_device_code(cuda_prefix: Path, tmp_path: Path) -> None:
    """One unit, through the launcher as every build calls it."""
    shared = tmp_path / "shared"
    launcher = cuda_prefix / "xfdev" / "bin" / "ccache"
    nvcc = next(cuda_prefix.glob("lib/python*/site-packages/nvidia/cu13/bin/nvcc"))
    objects = []
    for name, mode in (("one", ""), ("two", " read-only=true")):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "unit.cu").write_text('#include "value.h"\n__global__ void f(int *x) { *x = VALUE; }\n')
        (folder / "value.h").write_text("#define VALUE 7\n")
        for path in folder.iterdir():
            os.utime(path, (1_600_000_000, 1_600_000_000))
        env = {
            **os.environ,
            "CCACHE_DIR": str(tmp_path / f"cache-{name}"),
            "CCACHE_BASEDIR": str(folder),
            "CCACHE_REMOTE_STORAGE": f"file:{shared}{mode}",
            "XFDEV_LAUNCH_LOG": str(folder / "log"),
            "PATH": f"{nvcc.parent}{os.pathsep}{os.environ['PATH']}",
        }
        words = [launcher, nvcc, "-arch=sm_90", "-c", folder / "unit.cu", "-o", folder / "unit.o"]
        subprocess.run(words, env=env, cwd=folder, check=True)
        objects.append((folder / "unit.o").read_bytes())
        said = (folder / "log").read_text().split()[0]
        assert said == ("miss" if name == "one" else "hit")
    assert objects[0] == objects[1]
