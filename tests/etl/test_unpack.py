"""Decompression: whole or not there at all, and never more than the header promises."""

from __future__ import annotations

import gzip
import hashlib
import io
from pathlib import Path

import pytest

from mlapp.errors import UserError
from mlapp.etl import idx
from mlapp.etl.unpack import unpack

PIXELS = bytes(i * 37 % 251 for i in range(64 * 100))
PLAIN = idx.Header((100, 8, 8)).encode() + PIXELS
ZIPPED = gzip.compress(PLAIN)


@pytest.mark.parametrize("content", [PLAIN, ZIPPED], ids=["plain", "gzip"])
def test_the_decompressed_file_and_its_hash_are_the_same_from_either_form(tmp_path: Path, content: bytes) -> None:
    found = unpack(io.BytesIO(content), "source", tmp_path, "train-images", 10_000)

    assert found.path == tmp_path / "train-images-idx3-ubyte"
    assert found.path.read_bytes() == PLAIN
    assert found.sha256 == hashlib.sha256(PLAIN).hexdigest()


def _with_a_flipped_bit(content: bytes, at: int) -> bytes:
    return content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :]


@pytest.mark.parametrize(
    ("content", "gist"),
    [
        (ZIPPED[: len(ZIPPED) // 2], "is truncated: its compressed data ends too early"),
        (ZIPPED[:-8], "is truncated: its compressed data ends too early"),
        (_with_a_flipped_bit(ZIPPED, -6), "is corrupt"),
        (_with_a_flipped_bit(ZIPPED, 40), "is corrupt"),
        (PLAIN[:-1], "is truncated: 1 bytes of 6,416 are missing"),
        (PLAIN + b"x", "holds more than the 6,416 bytes of its header"),
        (gzip.compress(PLAIN + bytes(200 << 20), 1), "holds more than the 6,416 bytes of its header"),
        (gzip.compress(idx.Header((2**31, 28, 28)).encode()), "would decompress to 1,683,627,180,048 bytes, over"),
        (gzip.compress(b"\x00\x00\x0c\x03" + bytes(16)), "has the wrong magic number 0x00000c03"),
        (b"", "is truncated: its header ends after 0 bytes"),
    ],
    ids=["half", "no checksum", "wrong checksum", "bit flip", "short", "long", "bomb", "claim", "magic", "nothing"],
)
def test_a_bad_file_is_refused_and_leaves_nothing(tmp_path: Path, content: bytes, gist: str) -> None:
    with pytest.raises(UserError, match=f"^source {gist}"):
        unpack(io.BytesIO(content), "source", tmp_path, "train-images", 10_000)

    assert list(tmp_path.iterdir()) == []


def test_a_gzip_bomb_is_hardly_read(tmp_path: Path) -> None:
    """Of 200 MiB of zeros behind a small header, most is never even taken from the source."""
    content = gzip.compress(PLAIN + bytes(200 << 20), 1)
    bomb = io.BytesIO(content)

    with pytest.raises(UserError, match="holds more"):
        unpack(bomb, "source", tmp_path, "train-images", 10_000)

    assert bomb.tell() < len(content) / 4
