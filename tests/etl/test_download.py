"""Downloads against a loopback server that can break off, hang, change its file or lack it."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from mlapp.errors import UserError
from mlapp.etl import download as downloads
from mlapp.etl import web
from mlapp.etl.download import MissingFileError, download

CONTENT = bytes(i % 253 for i in range(3_000_000))
MOST = 4_000_000


class Server(ThreadingHTTPServer):
    """Serves CONTENT at every path but /missing; a test sets how it misbehaves."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.content = CONTENT
        self.etag: str | None = '"v1"'
        self.faults: list[str] = []
        self.asked: list[str | None] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def do_GET(self) -> None:
        self.server.asked.append(self.headers["Range"])
        fault = self.server.faults.pop(0) if self.server.faults else ""
        if fault == "hang":
            time.sleep(0.5)
            self.close_connection = True
            return None
        if self.path == "/missing" or fault.isdigit():
            return self._answer(int(fault or 404), b"no", {})
        start = 0
        if self.headers["Range"] and self.headers.get("If-Range", self.server.etag) == self.server.etag:
            start = int(self.headers["Range"].removeprefix("bytes=").rstrip("-"))
        if start > len(self.server.content):
            return self._answer(416, b"", {})
        body = self.server.content[start:]
        extra = {"ETag": self.server.etag} if self.server.etag else {}
        if start:
            extra["Content-Range"] = f"bytes {start}-{len(self.server.content) - 1}/{len(self.server.content)}"
        return self._answer(206 if start else 200, body, extra, cut=fault == "cut")

    def _answer(self, status: int, body: bytes, extra: dict[str, str], cut: bool = False) -> None:
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **extra}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body[:1_500_000] if cut else body)
        self.close_connection = cut

    def log_message(self, *_: object) -> None:
        """Keep the test's output clean."""


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr(downloads, "PAUSE_S", 0.01)
    server = Server()
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    yield server
    server.shutdown()
    server.server_close()


def test_a_file_arrives_whole_and_leaves_nothing_else(server: Server, tmp_path: Path) -> None:
    download(f"{server.url}/file", tmp_path / "new" / "file", MOST)

    assert (tmp_path / "new" / "file").read_bytes() == CONTENT
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["file"]


def test_a_transfer_that_breaks_off_is_taken_up_where_it_ended(server: Server, tmp_path: Path) -> None:
    server.faults = ["cut"]

    download(f"{server.url}/file", tmp_path / "file", MOST)

    assert (tmp_path / "file").read_bytes() == CONTENT
    assert server.asked[0] is None
    assert server.asked[1:] == ["bytes=1500000-"]


def test_the_next_run_takes_up_what_an_earlier_one_left(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(downloads, "ATTEMPTS", 1)
    server.faults = ["cut"]
    with pytest.raises(UserError, match="broke off 1 times"):
        download(f"{server.url}/file", tmp_path / "file", MOST)
    assert not (tmp_path / "file").exists()

    download(f"{server.url}/file", tmp_path / "file", MOST)

    assert (tmp_path / "file").read_bytes() == CONTENT
    assert server.asked[-1] == "bytes=1500000-"


def test_a_file_that_changed_meanwhile_is_fetched_from_its_start(server: Server, tmp_path: Path) -> None:
    server.faults = ["cut"]
    changed = CONTENT[::-1]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(downloads, "ATTEMPTS", 1)
        with pytest.raises(UserError, match="broke off"):
            download(f"{server.url}/file", tmp_path / "file", MOST)
    server.content, server.etag = changed, '"v2"'

    download(f"{server.url}/file", tmp_path / "file", MOST)

    assert (tmp_path / "file").read_bytes() == changed


@pytest.mark.parametrize("etag", [None, 'W/"weak"'])
def test_without_a_strong_version_a_broken_transfer_starts_anew(
    server: Server, tmp_path: Path, etag: str | None
) -> None:
    server.etag, server.faults = etag, ["cut"]

    download(f"{server.url}/file", tmp_path / "file", MOST)

    assert (tmp_path / "file").read_bytes() == CONTENT
    assert server.asked == [None, None]


def test_a_part_longer_than_the_file_starts_anew(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file.part").write_bytes(CONTENT + b"more")
    (tmp_path / "file.version").write_text('"v1"')

    download(f"{server.url}/file", tmp_path / "file", MOST)

    assert (tmp_path / "file").read_bytes() == CONTENT


def test_a_server_that_fails_for_a_while_is_asked_again(server: Server, tmp_path: Path) -> None:
    server.faults = ["503", "429", "500"]

    download(f"{server.url}/file", tmp_path / "file", MOST)

    assert (tmp_path / "file").read_bytes() == CONTENT


def test_a_server_that_goes_on_failing_is_given_up_after_four_attempts(server: Server, tmp_path: Path) -> None:
    server.faults = ["503"] * 9

    with pytest.raises(UserError, match=r"/file broke off 4 times \(HTTP 503\): try again later"):
        download(f"{server.url}/file", tmp_path / "file", MOST)

    assert len(server.asked) == 4


def test_a_server_that_hangs_is_not_waited_for_without_end(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(web, "READ_S", 0.1)
    server.faults = ["hang"] * 4

    with pytest.raises(UserError, match=r"broke off 4 times \(Read timed out"):
        download(f"{server.url}/file", tmp_path / "file", MOST)


def test_a_missing_file_is_told_at_once(server: Server, tmp_path: Path) -> None:
    with pytest.raises(MissingFileError, match=r"no file at http.*/missing \(HTTP 404\): check the address"):
        download(f"{server.url}/missing", tmp_path / "file", MOST)

    assert len(server.asked) == 1


def test_a_server_that_cannot_be_reached_is_told_at_once(tmp_path: Path) -> None:
    started = time.monotonic()

    with pytest.raises(UserError, match=r"cannot reach http://127.0.0.1:1/file \(.*refused\)"):
        download("http://127.0.0.1:1/file", tmp_path / "file", MOST)

    assert time.monotonic() - started < 5


def test_what_is_no_address_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot reach http://:0:0/file"):
        download("http://:0:0/file", tmp_path / "file", MOST)


def test_what_is_too_large_or_never_ends_is_refused_before_it_fills_the_disk(server: Server, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"is larger than 1,000,000 bytes: raise data\.max_decoded_bytes"):
        download(f"{server.url}/file", tmp_path / "file", 1_000_000)
    assert not (tmp_path / "file").exists()
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= 1_000_000
