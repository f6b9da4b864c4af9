"""IDX files: what is read is what was written, and nothing else is taken for one."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlapp.errors import UserError
from mlapp.etl import idx


@given(st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=4))
def test_a_header_reads_as_it_was_written(shape: list[int]) -> None:
    header = idx.Header(tuple(shape))

    assert idx.read_header(io.BytesIO(header.encode()), "x") == header
    assert header.length == len(header.encode())


def test_the_header_of_mnist_is_the_published_one() -> None:
    assert idx.Header((60000, 28, 28)).encode().hex() == "00000803" + "0000ea60" + "0000001c" * 2


def test_content_is_mapped_not_loaded_and_cannot_be_changed(tmp_path: Path) -> None:
    content = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)
    path = tmp_path / "x-idx3-ubyte"
    path.write_bytes(idx.Header(content.shape).encode() + content.tobytes())

    mapped = idx.open_idx(path)

    assert isinstance(mapped, np.memmap)
    assert not mapped.flags.writeable
    np.testing.assert_array_equal(mapped, content)


@pytest.mark.parametrize(
    ("content", "gist"),
    [
        (b"\x00\x00\x0d\x01\x00\x00\x00\x01\x00\x00\x00\x00", "wrong magic number 0x00000d01"),
        (b"<html><body>not here</body>", "wrong magic number 0x3c68746d"),
        (b"\x00\x00\x08\x05" + b"\x00\x00\x00\x01" * 5 + b"x", "wrong magic number 0x00000805"),
        (b"\x00\x00", "its header ends after 2 bytes"),
        (b"\x00\x00\x08\x03\x00\x00", "its header ends after 6 bytes"),
        (b"\x00\x00\x08\x01\x00\x00\x00\x05abcd", r"has 12 bytes, but its header \(5,\) makes 13"),
        (b"\x00\x00\x08\x01\x00\x00\x00\x05abcdef", r"has 14 bytes, but its header \(5,\) makes 13"),
        (b"\x00\x00\x08\x01\x00\x00\x00\x00", "is empty"),
    ],
)
def test_anything_else_is_refused_by_name(tmp_path: Path, content: bytes, gist: str) -> None:
    path = tmp_path / "train-labels-idx1-ubyte"
    path.write_bytes(content)

    with pytest.raises(UserError, match=f"train-labels-idx1-ubyte.*{gist}"):
        idx.open_idx(path)
