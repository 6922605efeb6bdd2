"""`scaling status DIR --serve`: the page of a sweep, to browsers on this machine, as long as the command lasts.

Bound to the loopback address; answers GET and HEAD of `/` and `/data.json` alone, and only under the names of this
machine, so that no page of another site reaches it by a name of its own (DNS rebinding). Nothing of a request becomes
a path, and nothing is written.
"""

import json
import secrets
import threading
import time
import urllib.parse
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from scaling.cli.exits import DONE
from scaling.record.files import on_store
from scaling.record.live import Live
from scaling.report.live_page import document, page
from scaling.spec import Refusal

CURVES = 1000  # of runs that were over before the server was started
FRESH_SECONDS, STORE_FRESH_SECONDS = 0.8, 10.0  # for which what was read answers every browser; of a bucket
IDLE_SECONDS = 10.0  # of a connection, until it is closed


class LiveServer(ThreadingHTTPServer):
    """The page of one results folder. Raises `Refusal` where it holds no study, and where the port is taken."""

    daemon_threads = True

    def __init__(self, live: Live, port: int, clock: Callable[[], float] = time.monotonic):
        self.live, self.lock, self._clock = live, threading.Lock(), clock
        self.live.refresh()
        self._read_at, self._boot = clock(), secrets.token_hex(4)
        self.html, self.policy = page()
        try:
            super().__init__(("127.0.0.1", port), _Handler)
        except (OSError, OverflowError) as error:
            raise Refusal(f"--serve {port}: cannot listen there ({error}); 0, the default, takes a free port") from None
        self.names = {f"{host}:{self.server_port}" for host in ("localhost", "127.0.0.1", "[::1]")}
        if self.server_port == 80:
            self.names |= {"localhost", "127.0.0.1", "[::1]"}

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}/"

    def data(self, token: str) -> str:
        """The document for a page that was last given `token`; any other text gets everything."""
        with self.lock:
            fresh = STORE_FRESH_SECONDS if on_store(self.live.ledger.folder) else FRESH_SECONDS
            if self._clock() - self._read_at > fresh:
                self.live.refresh()
                self._read_at = self._clock()
            boot, _, version = token.partition("-")
            known = boot == self._boot and version.isdecimal() and len(version) < 19
            said = document(self.live, int(version) if known else None)
            return json.dumps(said | {"token": f"{self._boot}-{self.live.version}"}, allow_nan=False)


class _Handler(BaseHTTPRequestHandler):
    server: LiveServer
    server_version, sys_version = "scaling", ""
    error_message_format, error_content_type = "%(code)d %(message)s\n", "text/plain; charset=utf-8"
    timeout = IDLE_SECONDS

    def do_GET(self) -> None:
        if self.headers.get_all("Host", []) not in [[name] for name in self.server.names]:
            self.send_error(HTTPStatus.MISDIRECTED_REQUEST, "this page is for browsers on its own machine")
            return
        asked = urllib.parse.urlsplit(self.path)
        if asked.path == "/":
            self._answer("text/html; charset=utf-8", self.server.html)
        elif asked.path == "/data.json":
            try:
                said = self.server.data(urllib.parse.parse_qs(asked.query).get("since", [""])[0])
            except Refusal as refusal:
                self._answer("text/plain; charset=utf-8", refusal.faults[0], HTTPStatus.SERVICE_UNAVAILABLE)
                return
            self._answer("application/json", said)
        else:
            self.send_error(HTTPStatus.NOT_FOUND)

    do_HEAD = do_GET

    def _answer(self, kind: str, text: str, status: HTTPStatus = HTTPStatus.OK) -> None:
        body = text.encode()
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        if code == HTTPStatus.NOT_IMPLEMENTED:
            code, message = HTTPStatus.METHOD_NOT_ALLOWED, "GET and HEAD only"
        super().send_error(code, message, explain)

    def end_headers(self) -> None:
        for name, value in {
            "Content-Security-Policy": self.server.policy,
            "X-Content-Type-Options": "nosniff",
            "X-Frame-Options": "DENY",
            "Referrer-Policy": "no-referrer",
            "Cross-Origin-Resource-Policy": "same-origin",
            "Cross-Origin-Opener-Policy": "same-origin",
            "Cache-Control": "no-store",
        }.items():
            self.send_header(name, value)
        super().end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: a request's text has no business on the terminal."""


def serve(live: Live, port: int) -> int:
    """Until Ctrl-C."""
    with LiveServer(live, port) as server:
        print(f"{server.url} (on this machine only; Ctrl-C ends it)", flush=True)
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            pass
    return DONE
