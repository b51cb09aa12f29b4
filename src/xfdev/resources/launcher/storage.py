# Started by ccache in an environment: standard library only. It stays for all compiles, and ends when it is idle.
"""A storage helper of ccache's for http and https: between ccache and the server of a team's compiler cache.

ccache's own client for http is deprecated and knows no TLS. The protocol is that of ccache's
remote_storage_helper_spec.md; objects lie where ccache's other helpers put them (layout ``subdirs``).

A server that is dead, slow or denies is found out once, by one request, and left alone for a minute: all others are
told "not there" at once, and compile. Why, stands in the file of the attribute ``report``, for xfdev to say it. The
login comes from XFDEV_COMPILE_CACHE_TOKEN or ``~/.netrc``, and goes to the server that was named and to no other.
"""

import os
import socket
import struct
import sys
import threading
import time

OK, NOOP, ERROR = b"\0", b"\1", b"\2"
GREETING = bytes((1, 1, 0))  # version 1; one capability: get, put, remove
CONNECT = 2.0  # seconds for a connection, and for a server to say something
SLOWEST = 500_000  # bytes a second; compiling is no slower
LONGEST = 25.0  # seconds for one object; ccache waits 30
REST = 60.0  # seconds in which a server that failed is left alone
MOST = 1 << 30


class Server:
    """The cache server. One request finds out whether it lives; then several run at once, over kept connections."""

    def __init__(self, url: str, report: str) -> None:
        from urllib.parse import urlsplit

        parts = urlsplit(url)
        self.secure, self.host = parts.scheme == "https", parts.hostname or ""
        self.port, self.path = parts.port or (443 if self.secure else 80), parts.path.rstrip("/")
        self.report = report
        self.idle = []
        self.login = None
        self.context = None
        self.down_until = 0.0
        self.alive = False
        self.first = threading.Lock()

    def ask(self, method: str, key: bytes, body=None):
        """The status and the body, None where the server fails."""
        if time.monotonic() < self.down_until:
            return None
        if self.alive:
            return self.bounded(method, key, body)
        with self.first:  # the others wait for what this one finds out
            if time.monotonic() < self.down_until:
                return None
            return self.bounded(method, key, body)

    def bounded(self, method: str, key: bytes, body):
        """As ``once``, in bounded time: looking up a name has no time-out of its own."""
        results = []
        done = threading.Event()

        def call() -> None:
            try:
                results.append(self.once(method, key, body))
            except Exception as error:
                results.append(error)
            done.set()

        threading.Thread(target=call, daemon=True).start()
        seconds = 2 * CONNECT + (len(body) / SLOWEST if body else 0) if method != "GET" else LONGEST
        if not done.wait(min(seconds, LONGEST) if self.alive else 2 * CONNECT + 1):
            return self.fails("does not answer in time")
        answer = results[0]
        if isinstance(answer, Exception):
            return self.fails(self.reason(answer))
        status = answer[0]
        if status in (401, 403, 407) or (method == "PUT" and status == 405):
            return self.fails("denies " + ("reading" if method != "PUT" else "writing") + f" ({status})")
        if status not in (200, 201, 202, 204, 404):
            return self.fails(f"answers {status}")
        if not self.alive:
            self.alive = True
            try:
                os.unlink(self.report)
            except OSError:
                pass
        return answer

    def reason(self, error: Exception) -> str:
        if isinstance(error, TimeoutError):
            return f"does not answer within {CONNECT:g} s"
        said = getattr(error, "verify_message", "") or getattr(error, "strerror", "") or type(error).__name__
        return f"cannot be reached ({said})"

    def fails(self, why: str) -> None:
        self.down_until, self.alive = time.monotonic() + REST, False
        try:
            with open(self.report + ".new", "w") as stream:
                stream.write(why + "\n")
            os.replace(self.report + ".new", self.report)
        except OSError:
            pass

    def once(self, method: str, key: bytes, body):
        connection = self.idle.pop() if self.idle else None
        kept = connection is not None
        for _ in range(2):
            connection = connection or self.connect()
            try:
                return self.talk(connection, method, key, body)
            except TimeoutError:
                connection.close()
                raise
            except Exception:
                connection.close()
                if not kept:
                    raise
                connection, kept = None, False  # it was closed by the other side meanwhile
        return None

    def talk(self, connection, method: str, key: bytes, body):
        name = key.hex()
        headers = {"User-Agent": "xfdev", **self.authorization()}
        if body is not None:
            headers["Content-Type"] = "application/octet-stream"
        connection.request(method, f"{self.path}/{name[:2]}/{name[2:]}", body=body, headers=headers)
        answer = connection.getresponse()
        length = int(answer.headers.get("Content-Length") or 0)
        deadline = time.monotonic() + min(CONNECT + length / SLOWEST, LONGEST)
        parts, size = [], 0
        while chunk := answer.read1(1 << 18):
            parts.append(chunk)
            size += len(chunk)
            if size > MOST or time.monotonic() > deadline:
                raise TimeoutError
        if answer.length:
            raise OSError("cut short")
        answer.read()  # there is no more; the connection is free from now on
        if answer.will_close:
            connection.close()
        else:
            self.idle.append(connection)
        return answer.status, b"".join(parts)

    def connect(self):
        import http.client

        if not self.secure:
            return http.client.HTTPConnection(self.host, self.port, timeout=CONNECT)
        import ssl
        from urllib.parse import urlsplit
        from urllib.request import getproxies, proxy_bypass

        if self.context is None:
            named = [os.environ.get(name) for name in ("PIP_CERT", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")]
            named = next((name for name in named if name), None)
            folder = named if named and os.path.isdir(named) else None
            self.context = ssl.create_default_context(cafile=None if folder else named, capath=folder)
        proxy = "" if proxy_bypass(self.host) else getproxies().get("https", "")
        if not proxy:
            return http.client.HTTPSConnection(self.host, self.port, timeout=CONNECT, context=self.context)
        door = urlsplit(proxy if "://" in proxy else "http://" + proxy)
        connection = http.client.HTTPSConnection(door.hostname, door.port, timeout=CONNECT, context=self.context)
        connection.set_tunnel(self.host, self.port)
        return connection

    def authorization(self) -> dict:
        if self.login is None:
            self.login = self.find_login()
        return {"Authorization": self.login} if self.login else {}

    def find_login(self) -> str:
        token = os.environ.get("XFDEV_COMPILE_CACHE_TOKEN", "")
        if token:
            return "Bearer " + token
        import netrc

        try:
            found = netrc.netrc(os.environ.get("NETRC") or os.path.expanduser("~/.netrc")).authenticators(self.host)
        except (OSError, netrc.NetrcParseError):
            return ""
        if not found:
            return ""
        import base64

        return "Basic " + base64.b64encode(f"{found[0]}:{found[2]}".encode()).decode()


class Client:
    """One ccache that is connected."""

    def __init__(self, stream, server: Server) -> None:
        self.stream, self.server = stream, server

    def serve(self) -> None:
        self.stream.sendall(GREETING)
        while request := self.take(1, end=True):
            kind = request[0]
            if kind == 3:
                os.unlink(os.environ["CRSH_IPC_ENDPOINT"])
                self.stream.sendall(OK)
                os._exit(0)
            key = self.take(self.take(1)[0])
            if kind == 0:
                answer = self.server.ask("GET", key)
                found = answer is not None and answer[0] == 200
                self.stream.sendall(OK + struct.pack("=Q", len(answer[1])) + answer[1] if found else NOOP)
            elif kind == 1:
                overwrite = self.take(1)[0] & 1
                value = self.take(struct.unpack("=Q", self.take(8))[0])
                known = None if overwrite else self.server.ask("HEAD", key)
                if known is not None and known[0] == 200:
                    self.stream.sendall(NOOP)
                    continue
                answer = self.server.ask("PUT", key, value)
                self.stream.sendall(OK if answer is not None and answer[0] < 300 else NOOP)
            elif kind == 2:
                answer = self.server.ask("DELETE", key)
                self.stream.sendall(OK if answer is not None and answer[0] < 300 else NOOP)
            else:
                said = b"no such request"
                self.stream.sendall(ERROR + bytes((len(said),)) + said)
                return

    def take(self, count: int, end: bool = False) -> bytes:
        parts = []
        while count:
            part = self.stream.recv(min(count, 1 << 20))
            if not part:
                if end:
                    return b""
                raise ConnectionError
            parts.append(part)
            count -= len(part)
        return b"".join(parts)


def main() -> int:
    environ = os.environ
    if "XFDEV_LAUNCH_LOG" in environ:
        # Whoever has this variable is taken for a compile of one checkout, and ended with it; this serves all.
        kept = {name: value for name, value in environ.items() if name not in ("XFDEV_LAUNCH_LOG", "XFDEV_BASELINE")}
        os.execve(sys.executable, [sys.executable, "-IS", os.path.abspath(__file__)], kept)
    endpoint = environ["CRSH_IPC_ENDPOINT"]
    count = int(environ.get("CRSH_NUM_ATTR") or 0)
    given = {environ[f"CRSH_ATTR_KEY_{number}"]: environ[f"CRSH_ATTR_VALUE_{number}"] for number in range(count)}
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    os.umask(0o077)
    try:
        listener.bind(endpoint)
    except OSError:
        try:  # one that was killed left its socket; ccache starts one at a time
            socket.socket(socket.AF_UNIX, socket.SOCK_STREAM).connect(endpoint)
            return 1
        except OSError:
            os.unlink(endpoint)
            listener.bind(endpoint)
    listener.listen(128)
    server = Server(environ["CRSH_URL"], given.get("report") or os.devnull)
    idle = float(environ.get("CRSH_IDLE_TIMEOUT") or 0)
    clients = []
    last = time.monotonic()
    listener.settimeout(1.0)
    while True:
        try:
            stream, _ = listener.accept()
        except TimeoutError:
            clients = [thread for thread in clients if thread.is_alive()]
            if clients:
                last = time.monotonic()
            elif idle and time.monotonic() - last > idle:
                break
            continue
        last = time.monotonic()
        stream.settimeout(None)
        thread = threading.Thread(target=attend, args=(stream, server), daemon=True)
        thread.start()
        clients.append(thread)
    os.unlink(endpoint)
    return 0


def attend(stream, server: Server) -> None:
    try:
        with stream:
            Client(stream, server).serve()
    except OSError:
        pass  # that ccache has ended


if __name__ == "__main__":
    sys.exit(main())
