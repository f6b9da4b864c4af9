"""A changed source is noticed before it is fetched, wherever it lies."""

from __future__ import annotations

import functools
import os
import threading
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from tiny_data import IdxFolder, images

from mlapp.errors import UserError
from mlapp.etl.fingerprint import fingerprint


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Keep the test's output clean."""


@pytest.fixture
def address(tiny: IdxFolder) -> Iterator[str]:
    """The tiny data set behind a loopback web server, which tells when and how large a file is."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(tiny.path)))
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("where", ["folder", "address"])
def test_it_changes_with_a_file_and_not_otherwise(where: str, tiny: IdxFolder, address: str) -> None:
    uri = str(tiny.path) if where == "folder" else address
    before = fingerprint(uri)
    assert fingerprint(uri) == before
    path = tiny.write("train-images", images(60, seed=9))
    os.utime(path, (1_600_000_000, 1_600_000_000))
    assert fingerprint(uri) != before


def test_a_new_file_at_an_address_changes_it(tiny: IdxFolder, address: str) -> None:
    (tiny.path / "t10k-labels-idx1-ubyte").rename(tiny.path / "later")
    before = fingerprint(address)
    (tiny.path / "later").rename(tiny.path / "t10k-labels-idx1-ubyte")
    assert fingerprint(address) != before


def test_an_address_that_does_not_answer_is_told() -> None:
    with pytest.raises(UserError, match=r"cannot reach http://127\.0\.0\.1:1/train-images-idx3-ubyte\.gz"):
        fingerprint("http://127.0.0.1:1")


def test_a_folder_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is nothing at"):
        fingerprint(str(tmp_path / "nowhere"))


def test_it_changes_with_what_is_not_a_file_too(tiny: IdxFolder) -> None:
    """Else a class folder that came later as a dangling link would be taken for nothing new."""
    found = {fingerprint(str(tiny.path))}
    (tiny.path / "bird").symlink_to("gone")
    found.add(fingerprint(str(tiny.path)))
    (tiny.path / "fox").mkdir()
    found.add(fingerprint(str(tiny.path)))
    os.mkfifo(tiny.path / "pipe")
    found.add(fingerprint(str(tiny.path)))
    assert len(found) == 4
