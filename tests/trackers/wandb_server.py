"""A W&B server on loopback: one that works as far as runs without artifacts need it, refuses, or never answers."""

from __future__ import annotations

import base64
import gzip
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal

VIEWER = {"id": "u", "entity": "me", "username": "me", "email": "", "flags": "{}", "teams": {"edges": []}}
PROJECT = {"id": "p", "name": "mlapp", "entity": {"id": "e", "name": "me"}}


class Server:
    """Serves within its ``with`` block, and keeps what it was sent."""

    def __init__(self, manner: Literal["works", "refuses", "hangs"]) -> None:
        self.manner = manner
        self.upserted: list[dict[str, Any]] = []
        self.history: list[dict[str, Any]] = []
        self.exit_codes: list[int] = []
        self.keys: set[str] = set()
        self.released = threading.Event()
        self._serving = ThreadingHTTPServer(("127.0.0.1", 0), handler(self))
        self._serving.daemon_threads = True

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._serving.server_address[1]}"

    def __enter__(self) -> Server:
        threading.Thread(target=self._serving.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self.released.set()
        self._serving.shutdown()
        self._serving.server_close()

    def answer(self, query: str, variables: dict[str, Any]) -> dict[str, Any]:
        asked = re.search(r"(?:query|mutation)\s+(\w+)", query)
        match asked[1] if asked else "":
            case "Viewer":
                return {"viewer": VIEWER}
            case "UpsertBucket":
                self.upserted.append(variables)
                bucket = {"id": "r", "name": variables["name"], "displayName": variables["displayName"]}
                return {"upsertBucket": {"bucket": {**bucket, "config": "{}", "project": PROJECT}, "inserted": True}}
            case "RunResumeStatus":
                return {"model": {**PROJECT, "bucket": None}}
            case "CreateRunFiles":
                files = [{"name": name, "uploadUrl": f"{self.url}/upload"} for name in variables["files"]]
                return {"createRunFiles": {"runID": "r", "uploadHeaders": [], "files": files}}
            case _:
                return {}

    def streamed(self, content: dict[str, Any]) -> None:
        lines = content.get("files", {}).get("wandb-history.jsonl", {}).get("content", [])
        self.history += [json.loads(line) for line in lines]
        if content.get("complete"):
            self.exit_codes.append(content["exitcode"])


def handler(server: Server) -> type[BaseHTTPRequestHandler]:
    """The request handler of one server."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
            body = gzip.decompress(body) if self.headers.get("content-encoding") == "gzip" else body
            if server.manner == "hangs":
                server.released.wait(120)
                return
            if server.manner == "refuses":
                self.give(401, {"errors": [{"message": "user is not logged in"}]})
                return
            scheme, _, given = self.headers.get("authorization", "").partition(" ")
            if scheme == "Basic":
                server.keys.add(base64.b64decode(given).decode().partition(":")[2])
            if self.path == "/graphql":
                asked = json.loads(body)
                self.give(200, {"data": server.answer(asked["query"], asked.get("variables") or {})})
                return
            if self.path.endswith("/file_stream"):
                server.streamed(json.loads(body))
            self.give(200, {})

        def do_PUT(self) -> None:
            self.do_POST()

        def give(self, status: int, content: dict[str, Any]) -> None:
            text = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("content-type", "application/json")
            self.send_header("content-length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, *arguments: object) -> None:
            pass

    return Handler
