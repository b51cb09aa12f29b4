"""A registry in front of the real one: it hands out damaged layers, or goes away."""

from __future__ import annotations

import http.client
import math
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@contextmanager
def corrupted(registry: str) -> Iterator[str]:
    """The host and port of a registry that answers as *registry* does, with one wrong bit in every blob of more than
    100 kB: the manifests are right, the layers are not."""
    with forwarded(registry, damage=100_000) as place:
        yield place


@contextmanager
def forwarded(registry: str, *, damage: float = math.inf) -> Iterator[str]:
    """The host and port of a registry that answers as *registry* does, as long as the context lasts. One bit is wrong
    in every blob of more than *damage* bytes."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        default_request_version = "HTTP/1.1"  # who tries TLS first is answered so that it notices

        def do_GET(self) -> None:
            self.answer()

        def do_HEAD(self) -> None:
            self.answer()

        def answer(self) -> None:
            upstream = http.client.HTTPConnection(registry, timeout=60)
            kept = {name: value for name, value in self.headers.items() if name.lower() not in ("host", "connection")}
            upstream.request(self.command, self.path, headers=kept)
            said = upstream.getresponse()
            length = int(said.headers.get("Content-Length") or 0)
            self.send_response(said.status)
            for name, value in said.getheaders():
                if name.lower() != "connection":
                    self.send_header(name, value)
            self.end_headers()
            wrong = "/blobs/" in self.path and length > damage
            while chunk := said.read(1 << 20):
                if wrong:
                    chunk, wrong = bytes([chunk[0] ^ 1]) + chunk[1:], False
                self.wfile.write(chunk)
            upstream.close()

        def log_message(self, *args: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, request: object, client_address: object) -> None:
            pass  # a client that has seen enough hangs up

    server = Server(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"localhost:{server.server_address[1]}"
    finally:
        server.shutdown()
        server.server_close()
