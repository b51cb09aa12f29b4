"""A server of a team's compiler cache, with what can be wrong with one; and a compiler that counts its compiles."""

from __future__ import annotations

import shutil
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import support

_COUNTER = r"""
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
static const char mark[] = "MARK";
int main(int count, char **words) {
    const char *log = getenv("COUNTED");
    for (int i = 1; log && i < count; i++)
        if (!strcmp(words[i], "-c")) {
            int file = open(log, O_WRONLY | O_CREAT | O_APPEND, 0644);
            if (file >= 0 && write(file, "compiled\n", 9) == 9) close(file);
            break;
        }
    words[0] = (char *)"REAL";
    execv("REAL", words);
    return mark[0];
}
"""


def counting(folder: Path, mark: str = "one") -> Path:
    """A C++ compiler that is the real one, and notes each compile in the file COUNTED. It is a program and no script,
    as what stands behind a script could change. *mark* makes it another one."""
    found = shutil.which("g++")
    if found is None:
        support.missing("g++ is not installed")
    folder.mkdir(exist_ok=True)
    source = folder / "counting.c"
    source.write_text(_COUNTER.replace("REAL", str(found)).replace("MARK", mark))
    subprocess.run(["gcc", "-O1", "-x", "c", str(source), "-o", str(folder / "g++")], check=True)
    return folder / "g++"


Act = Callable[["Handler"], bool]
"""What is done with a request instead of serving it; whether it did."""


@dataclass
class Server:
    """*login* is the Authorization that is asked for, "" for none; *act* comes first; *seen* are method and path."""

    url: str = ""
    login: str = ""
    act: Act = lambda handler: False
    objects: dict[str, bytes] = field(default_factory=dict)
    seen: list[tuple[str, str]] = field(default_factory=list)
    connections: int = 0

    def did(self, method: str) -> int:
        return sum(entry[0] == method for entry in self.seen)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_facts: Server

    def setup(self) -> None:
        super().setup()
        self.server_facts.connections += 1

    def handle_any(self) -> None:
        facts = self.server_facts
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        facts.seen.append((self.command, self.path))
        if facts.act(self):
            return
        if facts.login and self.headers.get("Authorization") != facts.login:
            self.say(401)
        elif self.command == "PUT":
            facts.objects[self.path] = body
            self.say(201)
        elif self.command == "DELETE":
            facts.objects.pop(self.path, None)
            self.say(204)
        elif self.path in facts.objects:
            self.say(200, facts.objects[self.path])
        else:
            self.say(404, b"there is none")

    do_GET = do_HEAD = do_PUT = do_DELETE = handle_any

    def say(self, status: int, body: bytes = b"") -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD" and status != 204:
            self.wfile.write(body)

    def log_message(self, *args: object) -> None:
        pass


def status(code: int) -> Act:
    def act(handler: Handler) -> bool:
        handler.say(code)
        return True

    return act


def silent(handler: Handler) -> bool:
    time.sleep(20)
    handler.close_connection = True
    return True


def trickling(handler: Handler) -> bool:
    handler.close_connection = True
    for byte in b"HTTP/1.1 200 OK\r\nX: " + b"x" * 40:
        handler.wfile.write(bytes([byte]))
        time.sleep(0.5)
    return True


def hanging_up(handler: Handler) -> bool:
    handler.close_connection = True
    return True


@contextmanager
def serving(tls: tuple[Path, Path] | None = None) -> Iterator[Server]:
    """A server on this machine, by TLS with a certificate and its key; it ends with the block."""
    facts = Server()

    class Own(Handler):
        server_facts = facts

    class Quiet(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, request: object, client_address: object) -> None:
            pass  # a client that has seen enough hangs up

    server = Quiet(("127.0.0.1", 0), Own)
    if tls is not None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*tls)
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    facts.url = f"{'https' if tls else 'http'}://localhost:{server.server_address[1]}/team"
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    try:
        yield facts
    finally:
        server.shutdown()
        server.server_close()
