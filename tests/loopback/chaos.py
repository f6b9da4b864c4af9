"""Bad weather before a service on loopback: a seeded HTTP proxy, and an interceptor for gRPC servers.

with chaos.http_proxy(environ["STORAGE_EMULATOR_HOST"], seed=1) as proxy:
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", proxy.url)      # what the client talks to
    …
    assert proxy.weather.done["reset_after"]                     # what it was put through

server = grpc.server(pool, interceptors=[chaos.Interceptor(chaos.Weather(seed=1))])

``…_before`` nothing reaches the service; ``…_after`` the service has done what it was asked to, and the answer is lost:
that is what makes things done twice. No request meets more than ``in_a_row`` faults one after the other.
"""

from __future__ import annotations

import http.client
import json
import random
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import urlsplit

import grpc

HTTP_RATES = {
    **dict.fromkeys(("500", "502", "503", "429", "401"), 0.03),
    **dict.fromkeys(("reset_before", "reset_after", "truncated", "shortened", "slow", "empty", "page"), 0.03),
}
PAGES = {"empty": b"", "page": b"<html>please log in</html>"}  # what a proxy answers, with 200, in place of the service
GRPC_RATES = {
    **dict.fromkeys(("UNAVAILABLE_before", "UNAVAILABLE_after", "INTERNAL_before", "DEADLINE_EXCEEDED_after"), 0.06),
    **dict.fromkeys(("UNKNOWN_before", "RESOURCE_EXHAUSTED_before", "UNAUTHENTICATED_before", "slow"), 0.06),
}
ONCE = ("401", "UNAUTHENTICATED_before")  # a token that was renewed does not expire at once
RATE_LIMITED = (
    "Quota exceeded for quota metric 'Resource management requests' and limit 'Resource management requests per minute "
    "per region' of service 'aiplatform.googleapis.com' for consumer 'project_number:123456789012'."
)
MESSAGES = {
    "429": RATE_LIMITED,
    "RESOURCE_EXHAUSTED": RATE_LIMITED,
    "401": "Invalid Credentials",
    "UNAUTHENTICATED": "Request had invalid authentication credentials.",
}


class Weather:
    """Which request meets which fault, by a seed; ``done`` counts the faults there were."""

    def __init__(
        self, seed: int, rates: Mapping[str, float] | None = None, *, in_a_row: int = 2, pause_s: float = 0.02
    ) -> None:
        self.rates = rates
        self.pause_s = pause_s
        self.done: Counter[str] = Counter()
        self._chance = random.Random(seed)
        self._in_a_row = in_a_row
        self._row: Counter[str] = Counter()
        self._last: dict[str, str] = {}
        self._lock = threading.Lock()

    def draw(self, what: str, usual: Mapping[str, float], unless: Callable[[str], bool] = lambda _: False) -> str:
        """The fault that a request of this kind meets, or none; counts it."""
        with self._lock:
            left = self._chance.random()
            for fault, rate in (self.rates if self.rates is not None else usual).items():
                left -= rate
                again = self._last.get(what) == fault and fault in ONCE
                if left < 0 and self._row[what] < self._in_a_row and not again and not unless(fault):
                    self._row[what] += fault != "slow"
                    self._last[what] = fault
                    self.done[fault] += 1
                    return fault
                if left < 0:
                    break
            self._row[what] = 0
            self._last.pop(what, None)
            return ""


class Interceptor(grpc.ServerInterceptor):  # type: ignore[misc]
    """Bad weather before every method of a gRPC server.

    A token never expires on a call that creates something: that is a refusal, which nobody may try again.
    """

    def __init__(self, weather: Weather) -> None:
        self.weather = weather

    def intercept_service(self, continuation: Callable[[Any], Any], details: Any) -> Any:
        handler = continuation(details)
        method = details.method.rpartition("/")[2]
        if handler is None or handler.unary_unary is None:
            return handler

        def behave(request: Any, context: grpc.ServicerContext) -> Any:
            creates = method.startswith(("Create", "Upload"))
            fault = self.weather.draw(method, GRPC_RATES, lambda fault: creates and fault.startswith("UNAUTH"))
            code, _, _ = fault.partition("_before") if fault.endswith("_before") else fault.partition("_after")
            if fault == "slow":
                time.sleep(self.weather.pause_s)
            elif fault.endswith("_before"):
                context.abort(grpc.StatusCode[code], MESSAGES.get(code, f"{code.lower()}, before"))
            answer = handler.unary_unary(request, context)
            if fault.endswith("_after"):
                context.abort(grpc.StatusCode[code], MESSAGES.get(code, f"{code.lower()}, after"))
            return answer

        return grpc.unary_unary_rpc_method_handler(behave, handler.request_deserializer, handler.response_serializer)


class Proxy(ThreadingHTTPServer):
    """Passes HTTP requests on to a server, as far as the weather lets them through."""

    daemon_threads = True

    def __init__(self, upstream: str, weather: Weather) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.upstream = upstream.rstrip("/")
        self.weather = weather
        self.requests: list[str] = []

    @property
    def address(self) -> str:
        """HOST:PORT of the proxy."""
        return f"127.0.0.1:{self.server_address[1]}"

    @property
    def url(self) -> str:
        """What a client is given in place of the server's own address."""
        return f"http://{self.address}"

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that went away is no news."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Proxy

    def _pass(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        what = f"{self.command} {urlsplit(self.path).path}"
        self.server.requests.append(what)
        weather = self.server.weather
        fault = weather.draw(what, HTTP_RATES)
        if fault == "slow":
            time.sleep(weather.pause_s)
        if fault.isdigit():
            return self._refuse(int(fault))
        if fault == "reset_before":
            return self._reset()
        status, headers, content = self._ask(body)
        if fault == "reset_after":
            return self._reset()
        if fault in PAGES:
            return self._answer(200, [], PAGES[fault], fault)
        return self._answer(status, headers, content, fault)

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = _pass  # noqa: N815

    def _ask(self, body: bytes) -> tuple[int, list[tuple[str, str]], bytes]:
        upstream = urlsplit(self.server.upstream)
        connection = http.client.HTTPConnection(upstream.hostname or "", upstream.port, timeout=60)
        headers = {name: value for name, value in self.headers.items() if name.lower() not in ("connection", "host")}
        try:
            connection.request(self.command, self.path, body or None, {**headers, "Host": upstream.netloc})
            answer = connection.getresponse()
            return answer.status, answer.getheaders(), answer.read()
        finally:
            connection.close()

    def _answer(self, status: int, headers: list[tuple[str, str]], content: bytes, fault: str) -> None:
        whole = len(content)
        if fault in ("truncated", "shortened") and whole > 1:
            content = content[: whole // 2]
        said = next((value for name, value in headers if name.lower() == "content-length"), str(whole))
        self.send_response_only(status)
        for name, value in headers:
            if name.lower() not in ("content-length", "transfer-encoding", "connection"):
                # A resumable upload goes on at an address that the server names: through here too.
                self.send_header(name, value.replace(self.server.upstream, self.server.url))
        if status not in (204, 304):  # "shortened" is a truncation that only the content itself gives away
            self.send_header("Content-Length", str(len(content)) if fault == "shortened" else said)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)
        if fault == "truncated":
            self.wfile.flush()
            self._reset()

    def _refuse(self, status: int) -> None:
        told = {"code": status, "message": MESSAGES.get(str(status), "Backend Error")}
        content = json.dumps({"error": told, "errors": [told]}).encode()
        self.send_response_only(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        if status == 429:
            self.send_header("Retry-After", "0")
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def _reset(self) -> None:
        self.close_connection = True
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()

    def finish(self) -> None:
        try:
            super().finish()
        except OSError:
            self.close_connection = True


@contextmanager
def http_proxy(upstream: str, seed: int, rates: Mapping[str, float] | None = None, **more: Any) -> Iterator[Proxy]:
    """A proxy before an HTTP server (``http://HOST:PORT``), for as long as the block."""
    with Proxy(upstream, Weather(seed, rates, **more)) as proxy:
        threading.Thread(target=proxy.serve_forever, args=(0.05,), daemon=True).start()
        try:
            yield proxy
        finally:
            proxy.shutdown()
