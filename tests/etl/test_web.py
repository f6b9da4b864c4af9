"""A hostile server costs one line and a bounded time, leaves nothing on the disk, and leads nowhere inward."""

from __future__ import annotations

import contextlib
import ipaddress
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from mlapp.errors import UserError
from mlapp.etl import download as downloads
from mlapp.etl import gcp_dataloader, web
from mlapp.etl.download import download
from mlapp.etl.fingerprint import fingerprint

MOST = 100_000
OK = b"HTTP/1.1 200 OK\r\n"
CHUNKED = OK + b"Transfer-Encoding: chunked\r\n\r\n"


class Raw:
    """A server on loopback that answers every connection with what ``talk`` sends."""

    def __init__(self, talk: Callable[[socket.socket, bytes], None]) -> None:
        self.talk, self.asked = talk, []
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}/file"
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self.listener.accept()
                threading.Thread(target=self.answer, args=(connection,), daemon=True).start()

    def answer(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError):
            asked = b""
            while not asked.endswith(b"\r\n\r\n"):
                asked += connection.recv(1)
            self.asked.append(asked)
            self.talk(connection, asked)


@pytest.fixture
def raw(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Raw]]:
    monkeypatch.setattr(downloads, "PAUSE_S", 0.01)
    servers: list[Raw] = []

    def make(answer: bytes | Callable[[socket.socket, bytes], None]) -> Raw:
        talk = answer if callable(answer) else lambda connection, _: connection.sendall(answer)
        servers.append(Raw(talk))
        return servers[-1]

    yield make
    for server in servers:
        server.listener.close()


def test_a_chunked_body_arrives_whole(raw: Callable[..., Raw], tmp_path: Path) -> None:
    content = bytes(range(256)) * 200
    chunks = [content[:7], content[7:40_000], content[40_000:]]
    sent = b"".join(f"{len(each):x};x=y\r\n".encode() + each + b"\r\n" for each in chunks)
    download(raw(CHUNKED + sent + b"0\r\n\r\n").url, tmp_path / "file", MOST)
    assert (tmp_path / "file").read_bytes() == content


def test_a_chunked_body_that_stops_is_not_waited_for(
    raw: Callable[..., Raw], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(web, "READ_S", 0.1)

    def talk(connection: socket.socket, _: bytes) -> None:
        connection.sendall(CHUNKED + b"9\r\nabc")
        time.sleep(1)

    with pytest.raises(UserError, match=r"broke off 4 times \(timed out"):
        download(raw(talk).url, tmp_path / "file", MOST)
    assert not list(tmp_path.iterdir())


def drip(head: bytes, pause: float = 0.05) -> Callable[[socket.socket, bytes], None]:
    def talk(connection: socket.socket, _: bytes) -> None:
        connection.sendall(head)
        while True:
            connection.sendall(b"x")
            time.sleep(pause)

    return talk


def flood(head: bytes, block: bytes) -> Callable[[socket.socket, bytes], None]:
    def talk(connection: socket.socket, _: bytes) -> None:
        connection.sendall(head)
        while True:
            connection.sendall(block)

    return talk


@pytest.mark.parametrize(
    ("answer", "gist"),
    [
        (b"HTTP/1.1 416 No\r\nContent-Length: 0\r\n\r\n", r"answers HTTP 416 to a request for the whole file"),
        (b"HTTP/1.1 206 Part\r\nContent-Length: 3\r\nContent-Range: bytes 5-7/9\r\n\r\nabc", r"answers HTTP 206 to a"),
        (b"HTTP/1.1 204 No\r\n\r\n", r"answers HTTP 204"),
        (b"HTTP/1.1 302 No\r\nContent-Length: 0\r\n\r\n", r"answers HTTP 302"),
        (OK + b"Content-Length: 999999999999999\r\n\r\nabc", r"is larger than 100,000 bytes"),
        (OK + b"Content-Length: 9\r\n\r\nabc", r"broke off 4 times"),
        (OK + b"Content-Length: 3, 4\r\n\r\nabc", r"broke off 4 times"),
        (CHUNKED + b"zz\r\nabc", r"broke off 4 times"),
        (CHUNKED + b"-5\r\nabc", r"broke off 4 times"),
        (flood(CHUNKED + b"-1\r\n", bytes(9999)), r"broke off 4 times \(a chunk has the size"),
        (flood(CHUNKED, b"0" * 9999), r"broke off 4 times \(a chunk has the size"),
        (CHUNKED + b"3\r\nabcd", r"broke off 4 times \(a chunk is longer"),
        (CHUNKED + b"9\r\nabc", r"broke off 4 times \(ended within a chunk"),
        (OK + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", r"broke off 4 times \(sent with the transfer enc"),
        (b"HTTP/1.1 two hundred\r\n\r\n", r"broke off 4 times"),
        (b"\x00\xff" * 50, r"broke off 4 times"),
        (b"", r"broke off 4 times"),
        (OK + b"X: " + b"y" * 70_000 + b"\r\n\r\n", r"broke off 4 times"),
        (OK + b"X: y\r\n" * 200 + b"\r\n", r"broke off 4 times"),
        (OK + b"Content-Encoding: br\r\nContent-Length: 3\r\n\r\nabc", r"with the encoding 'br'"),
        (OK + b"Content-Encoding: gzip, deflate\r\nContent-Length: 3\r\n\r\nabc", r"with the encoding 'gzip, deflate'"),
        (flood(OK + b"\r\n", bytes(9999)), r"is larger than 100,000 bytes"),
        (flood(CHUNKED, b"270f\r\n" + bytes(9999) + b"\r\n"), r"is larger than 100,000 bytes"),
    ],
)
def test_a_lying_server_is_refused_in_one_line_and_nothing_is_left(
    raw: Callable[..., Raw], tmp_path: Path, answer: Any, gist: str
) -> None:
    server = raw(answer)
    with pytest.raises(UserError, match=gist) as caught:
        download(server.url, tmp_path / "file", MOST)
    assert "\n" not in str(caught.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("length", [b"-1", b"abc", b"", b"1e3", b"0x3", "٣".encode()])
def test_a_length_that_is_none_is_no_length(raw: Callable[..., Raw], tmp_path: Path, length: bytes) -> None:
    server = raw(OK + b"Content-Length: " + length + b"\r\nConnection: close\r\n\r\nabc")
    with contextlib.suppress(UserError):
        download(server.url, tmp_path / "file", MOST)
    assert [path.name for path in tmp_path.iterdir()] in ([], ["file"])
    assert isinstance(fingerprint(server.url), str)


@pytest.mark.parametrize("head", [b"", OK, OK + b"\r\n", OK + b"Content-Length: 90000\r\n\r\n", CHUNKED + b"4000\r\n"])
@pytest.mark.parametrize("limit", ["WINDOW_S", "DEADLINE_S"])
def test_a_server_that_sends_a_byte_now_and_then_is_given_up(
    raw: Callable[..., Raw], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, head: bytes, limit: str
) -> None:
    monkeypatch.setattr(web, limit, 0.4)
    server = raw(drip(head))
    started = time.monotonic()
    with pytest.raises(UserError, match=r"(sends under 1,000 bytes a second|took over 0 s): try again later"):
        download(server.url, tmp_path / "file", MOST)
    assert time.monotonic() - started < 10
    assert len(server.asked) == 1
    assert not list(tmp_path.iterdir())


def test_a_fingerprint_of_a_dripping_server_is_given_up_too(
    raw: Callable[..., Raw], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(web, "WINDOW_S", 0.4)
    with pytest.raises(UserError, match="sends under 1,000 bytes a second"):
        fingerprint(raw(drip(b"")).url)


def redirect(to: str, status: int = 302) -> bytes:
    return f"HTTP/1.1 {status} Go\r\nLocation: {to}\r\nContent-Length: 0\r\n\r\n".encode()


@pytest.mark.parametrize("status", web.REDIRECTS)
@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "0.0.0.0", "127.1", "2130706433", "[::ffff:127.0.0.1]"])
def test_no_redirect_leads_inward(raw: Callable[..., Raw], tmp_path: Path, host: str, status: int) -> None:
    """Another port of the same machine is another server: the user named just one."""
    inner = raw(OK + b"Content-Length: 6\r\n\r\nsecret")
    server = raw(redirect(f"http://{host}:{inner.port}/file", status))
    with pytest.raises(UserError, match=r"is not a public address: set data\.allow_private_addresses=true"):
        download(server.url, tmp_path / "file", MOST)
    with pytest.raises(UserError, match=r"is not a public address"):
        fingerprint(server.url)
    assert not inner.asked
    assert not list(tmp_path.iterdir())


def test_a_redirect_inward_is_followed_where_that_is_allowed(raw: Callable[..., Raw], tmp_path: Path) -> None:
    inner = raw(OK + b"Content-Length: 6\r\n\r\nsecret")
    download(raw(redirect(f"http://127.0.0.1:{inner.port}/file")).url, tmp_path / "file", MOST, allow_private=True)
    assert (tmp_path / "file").read_bytes() == b"secret"


def test_a_redirect_on_the_same_server_is_followed(raw: Callable[..., Raw], tmp_path: Path) -> None:
    def talk(connection: socket.socket, asked: bytes) -> None:
        moved = b"GET /moved" in asked
        connection.sendall(OK + b"Content-Length: 2\r\n\r\nhi" if moved else redirect("/moved"))

    download(raw(talk).url, tmp_path / "file", MOST)
    assert (tmp_path / "file").read_bytes() == b"hi"


@pytest.mark.parametrize(
    "to", ["file:///etc/passwd", "gs://bucket/x", "ftp://127.0.0.1/x", "data:,x", "//[::1", "http://"]
)
def test_no_redirect_leads_to_another_scheme_or_nowhere(raw: Callable[..., Raw], tmp_path: Path, to: str) -> None:
    with pytest.raises(UserError):
        download(raw(redirect(to)).url, tmp_path / "file", MOST)
    assert not list(tmp_path.iterdir())


def test_a_server_that_redirects_to_itself_is_given_up(raw: Callable[..., Raw], tmp_path: Path) -> None:
    server = raw(redirect("/file"))
    with pytest.raises(UserError, match="redirects over 5 times"):
        download(server.url, tmp_path / "file", MOST)


def resolving(monkeypatch: pytest.MonkeyPatch, *answers: list[str]) -> list[str]:
    """Names resolve to these addresses, one list after the other, the last one from then on; what is connected to."""
    left, connected = [*answers], []

    def getaddrinfo(host: str, port: int, *_: Any, **__: Any) -> list[Any]:
        with contextlib.suppress(ValueError):
            ipaddress.ip_address(host)
            return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (host, port))]
        found = left.pop(0) if len(left) > 1 else left[0]
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (each, port)) for each in found]

    def connect(self: socket.socket, address: Any) -> None:
        connected.append(address[0])
        raise ConnectionRefusedError(111, "Connection refused")

    monkeypatch.setattr(web.socket, "getaddrinfo", getaddrinfo)
    monkeypatch.setattr(socket.socket, "connect", connect)
    return connected


@pytest.mark.parametrize("inward", ["127.0.0.1", "10.0.0.8", "169.254.169.254", "100.64.0.1", "0.0.0.0", "224.0.0.1"])
def test_a_name_that_also_stands_for_an_inner_address_is_refused(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, inward: str
) -> None:
    """Given a name that was public at first, then every later answer must be, and all of its addresses."""
    connected = resolving(monkeypatch, ["8.8.8.8"], ["8.8.4.4", inward])
    client = web.Web("http://data.example/file", allow_private=False)
    with pytest.raises(web.NewConnectionError), client.request("GET", "http://data.example/file", {}):
        pass
    with pytest.raises(UserError, match="not a public address"), client.request("GET", "http://data.example/b", {}):
        pass
    assert connected == ["8.8.8.8"]


def test_the_checked_address_is_the_one_that_is_connected_to(monkeypatch: pytest.MonkeyPatch) -> None:
    """A name is asked for once a connection: a second answer, which rebinding needs, is never heard."""
    connected = resolving(monkeypatch, ["8.8.8.8", "8.8.4.4"], ["127.0.0.1"])
    client = web.Web("http://other.example/file", allow_private=False)
    with pytest.raises(web.NewConnectionError), client.request("GET", "http://data.example/file", {}):
        pass
    assert connected == ["8.8.8.8", "8.8.4.4"]


def test_what_a_user_names_may_be_private_but_not_link_local(monkeypatch: pytest.MonkeyPatch) -> None:
    connected = resolving(monkeypatch, ["10.0.0.8"])
    for url in ("http://intranet/file", "http://192.168.0.1/file"):
        with pytest.raises(web.NewConnectionError), web.Web(url, allow_private=False).request("GET", url, {}):
            pass
    url = "http://169.254.169.254/computeMetadata/v1/"
    with pytest.raises(UserError, match="not a public"), web.Web(url, allow_private=False).request("GET", url, {}):
        pass
    assert connected == ["10.0.0.8", "192.168.0.1"]


@pytest.mark.parametrize(
    ("address", "public"),
    [
        ("8.8.8.8", True),
        ("2001:4860:4860::8888", True),
        ("::1", False),
        ("fe80::1", False),
        ("fd00::1", False),
        ("::ffff:10.0.0.1", False),
        ("64:ff9b::7f00:1", False),
        ("2002:7f00:1::", False),
        ("172.16.0.1", False),
        ("192.0.2.1", False),
        ("255.255.255.255", False),
    ],
)
def test_which_addresses_are_public(address: str, public: bool) -> None:
    assert web._is_public(ipaddress.ip_address(address)) is public


def test_a_refused_source_leaves_nothing_in_the_work_directory(raw: Callable[..., Raw], tmp_path: Path) -> None:
    server = raw(flood(OK + b"\r\n", bytes(9999)))
    config = gcp_dataloader.Extract(name="x", source=server.url, max_decoded_bytes=MOST)
    with pytest.raises(UserError, match=r"is larger than"):
        gcp_dataloader.run(config, tmp_path / "raw")
    assert {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*")} == {"raw", "raw/.lock"}
