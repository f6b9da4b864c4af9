"""A container registry on loopback, as far as a tag is asked for; or one that answers as Artifact Registry refuses."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Registry:
    """Its tags by NAME:TAG, and what it was asked."""

    def __init__(self) -> None:
        self.digests: dict[str, str] = {}
        self.requests: list[tuple[str, str]] = []
        self.tokens: set[str | None] = set()
        self.refuses: tuple[int, str, str] | None = None
        self.retry_after = ""
        self.address = ""

    def push(self, image: str) -> str:
        """Have an image HOST/NAME:TAG; returns its digest."""
        name = image.partition("/")[2]
        self.digests[name] = f"sha256:{hashlib.sha256(name.encode()).hexdigest()}"
        return self.digests[name]


@contextmanager
def serving() -> Iterator[Registry]:
    """Serve within the block; `address` is HOST:PORT."""
    registry = Registry()
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(registry))
    server.daemon_threads = True
    registry.address = f"127.0.0.1:{server.server_address[1]}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield registry
    finally:
        server.shutdown()
        server.server_close()


def _handler(registry: Registry) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self._answer(with_body=False)

        def do_GET(self) -> None:
            self._answer(with_body=True)

        def _answer(self, *, with_body: bool) -> None:
            registry.requests.append((self.command, self.path))
            registry.tokens.add(self.headers.get("Authorization"))
            name, _, tag = self.path.removeprefix("/v2/").partition("/manifests/")
            digest = registry.digests.get(f"{name}:{tag}")
            # Like the real ones: no manifest of a media type that was not asked for.
            if digest and "application/vnd.docker.distribution.manifest.v2+json" not in self.headers["Accept"]:
                digest = None
            status, code, message = registry.refuses or (404, "MANIFEST_UNKNOWN", f'Failed to fetch "{tag}"')
            body = json.dumps({"errors": [{"code": code, "message": message}]}).encode()
            self.send_response(200 if digest else status)
            if digest:
                self.send_header("Docker-Content-Digest", digest)
                body = b"{}"
            if registry.retry_after:
                self.send_header("Retry-After", registry.retry_after)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            if with_body:
                self.wfile.write(body)

        def log_message(self, *arguments: object) -> None:
            pass

    return Handler
