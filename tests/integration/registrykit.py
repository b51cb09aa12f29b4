"""A real registry for a test, and a proxy before it that does what registries and networks do wrong."""

from __future__ import annotations

import base64
import http.client
import json
import os
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

import support

#: As the tests were started: a fixture takes variables away.
_STARTED_WITH = dict(os.environ)


def program(*names: str) -> str | None:
    """A program by one of *names*: on PATH, or where ``.ci/engine`` unpacked it."""
    for name in names:
        if found := shutil.which(name):
            return found
    folder = Path(urlsplit(_STARTED_WITH.get("DOCKER_HOST", "")).path).parent / "root" / "usr" / "bin"
    return next((str(folder / name) for name in names if (folder / name).exists()), None)


def certificate(folder: Path) -> tuple[Path, Path]:
    """A certificate of an authority of its own for localhost, and its key."""
    if shutil.which("openssl") is None:
        support.missing("openssl is not installed")
    made, key = folder / "cert.pem", folder / "key.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost",
         "-addext", "subjectAltName=DNS:localhost", "-keyout", str(key), "-out", str(made)],
        check=True, capture_output=True,
    )  # fmt: skip
    return made, key


class Server:
    """A registry whose data lie in *folder*. It can be killed, and started again at the same port."""

    def __init__(self, folder: Path, tls: tuple[Path, Path] | None = None) -> None:
        found = program("docker-registry", "registry")
        if found is None:
            support.missing("docker-registry is not installed (apt-get install docker-registry)")
            raise AssertionError
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]
        self._log = folder / "log"
        config = folder / "config.yml"
        config.write_text(
            "version: 0.1\nlog: {level: error}\nstorage:\n"
            f"  filesystem: {{rootdirectory: {folder / 'data'}}}\n  delete: {{enabled: true}}\n"
            f'http: {{addr: "127.0.0.1:{self.port}"'
            + (f", tls: {{certificate: {tls[0]}, key: {tls[1]}}}" if tls else "")
            + "}\n"
        )
        self._argv = [found, "serve", str(config)]
        self.start()

    @property
    def host(self) -> str:
        return f"localhost:{self.port}"

    def start(self) -> None:
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(self._argv, stdout=log, stderr=log)
        for _ in range(100):
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
                break
            except OSError:
                time.sleep(0.1)

    def kill(self) -> None:
        self._process.kill()
        self._process.wait(20)

    def end(self) -> None:
        self._process.terminate()
        self._process.wait(20)


@contextmanager
def real(folder: Path, tls: tuple[Path, Path] | None = None) -> Iterator[str]:
    """The host and port of a registry whose data lie in *folder*; it ends with the block."""
    server = Server(folder, tls)
    try:
        yield server.host
    finally:
        server.end()


@dataclass
class Request:
    method: str
    path: str
    range: str
    authorization: str
    number: int
    """How many for the same path came before."""
    sent: int = 0


class Act:
    """What is done with a request instead of passing it on; see the functions below."""

    def __init__(self, run: Callable[[Handler], None]) -> None:
        self.run = run


Rule = Callable[[Request], "Act | None"]


@dataclass
class Proxy:
    """*rule* says what is done with each request; *seen* are all that came."""

    host: str = ""
    connections: int = 0
    rule: Rule = field(default=lambda request: None)
    seen: list[Request] = field(default_factory=list)

    def of(self, word: str) -> list[Request]:
        return [request for request in self.seen if word in request.path]

    @property
    def bytes(self) -> int:
        return sum(request.sent for request in self.seen)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    proxy: Proxy
    upstream: str
    request_seen: Request

    def setup(self) -> None:
        super().setup()
        self.proxy.connections += 1

    def handle_one(self) -> None:
        before = sum(request.path == self.path and request.method == self.command for request in self.proxy.seen)
        self.request_seen = Request(
            self.command, self.path, self.headers.get("Range", ""), self.headers.get("Authorization", ""), before
        )
        self.proxy.seen.append(self.request_seen)
        act = self.proxy.rule(self.request_seen)
        if act is not None:
            act.run(self)
        else:
            self.pass_on()

    do_GET = do_HEAD = do_PUT = do_POST = do_PATCH = handle_one

    def fetch(self, *, ranged: bool = True) -> tuple[int, list[tuple[str, str]], bytes]:
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length) if length else b""
        upstream = http.client.HTTPConnection(self.upstream, timeout=60)
        dropped = ("host", "connection", "authorization", *(() if ranged else ("range",)))
        kept = {name: value for name, value in self.headers.items() if name.lower() not in dropped}
        upstream.request(self.command, self.path, body=body, headers={**kept, "Host": self.proxy.host})
        said = upstream.getresponse()
        headers = [(name, value) for name, value in said.getheaders() if name.lower() != "connection"]
        data = said.read()
        upstream.close()
        return said.status, headers, data

    def pass_on(self) -> None:
        self.reply(*self.fetch())

    def reply(self, status: int, headers: list[tuple[str, str]], data: bytes) -> None:
        self.send_response(status)
        for name, value in headers:
            self.send_header(name, value)
        if not any(name.lower() == "content-length" for name, _ in headers):
            self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)
            self.request_seen.sent += len(data)

    def log_message(self, *args: object) -> None:
        pass


def status(code: int, **headers: str) -> Act:
    given = [(name.replace("_", "-"), value) for name, value in headers.items()]

    def run(handler: Handler) -> None:
        handler.rfile.read(int(handler.headers.get("Content-Length") or 0))
        handler.reply(code, given, b'{"errors": [{"code": "X", "message": "said by the test"}]}')

    return Act(run)


def silent(seconds: float = 30.0) -> Act:
    def run(handler: Handler) -> None:
        time.sleep(seconds)
        handler.close_connection = True

    return Act(run)


def trickle(pause: float = 0.5) -> Act:
    """A byte now and then, so that no time-out of a single read ends it: of the status line already."""

    def run(handler: Handler) -> None:
        handler.close_connection = True
        for byte in b"HTTP/1.1 200 OK\r\nX-Slow: " + b"x" * 200:
            handler.wfile.write(bytes([byte]))
            time.sleep(pause)

    return Act(run)


def slow_body(pause: float = 0.5) -> Act:
    def run(handler: Handler) -> None:
        code, headers, data = handler.fetch()
        handler.close_connection = True
        handler.reply(code, headers, b"")
        for byte in data:
            handler.wfile.write(bytes([byte]))
            time.sleep(pause)

    return Act(run)


def cut(share: float) -> Act:
    """Hang up after that share of the body."""

    def run(handler: Handler) -> None:
        code, headers, data = handler.fetch()
        handler.close_connection = True
        handler.reply(code, headers, data[: int(len(data) * share)])

    return Act(run)


def changed(change: Callable[[bytes], bytes], *, length: bool = True) -> Act:
    """Another body; its length is told right unless *length* is false."""

    def run(handler: Handler) -> None:
        code, headers, data = handler.fetch()
        new = change(data)
        if length:
            headers = [(name, value) for name, value in headers if name.lower() != "content-length"]
        handler.reply(code, headers, new)

    return Act(run)


def flipped(data: bytes) -> bytes:
    return data[: len(data) // 2] + bytes([data[len(data) // 2] ^ 1]) + data[len(data) // 2 + 1 :]


def whole() -> Act:
    """As a server that knows no ranges."""
    return Act(lambda handler: handler.reply(*handler.fetch(ranged=False)))


def redirect(location: str) -> Act:
    return Act(lambda handler: handler.reply(307, [("Location", location)], b""))


def dropped() -> Act:
    def run(handler: Handler) -> None:
        handler.close_connection = True

    return Act(run)


def with_tokens(proxy: Proxy, user: str = "", password: str = "") -> Rule:
    """A registry that wants a token of its own server, which gives one to *user* alone, or to everybody."""
    basic = "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()

    def rule(request: Request) -> Act | None:
        if request.path.startswith("/token?"):
            if user and request.authorization != basic:
                return status(401)
            token = json.dumps({"token": "a-token"}).encode()
            return Act(lambda handler: handler.reply(200, [], token))
        if request.authorization != "Bearer a-token":
            return status(401, WWW_Authenticate=f'Bearer realm="http://{proxy.host}/token",service="registry.test"')
        return None

    return rule


@contextmanager
def before(upstream: str) -> Iterator[Proxy]:
    """A proxy before the registry *upstream*."""
    proxy = Proxy()

    class Own(Handler):
        pass

    Own.proxy, Own.upstream = proxy, upstream

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, request: object, client_address: object) -> None:
            pass  # a client that has seen enough hangs up

    server = Server(("127.0.0.1", 0), Own)
    proxy.host = f"localhost:{server.server_address[1]}"
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    try:
        yield proxy
    finally:
        server.shutdown()
        server.server_close()
