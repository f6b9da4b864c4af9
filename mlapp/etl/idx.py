"""IDX, the file format of MNIST and its kin: a magic number, the dimensions, then unsigned bytes in C order.

http://yann.lecun.com/exdb/mnist/ describes it: two zero bytes, one for the type (0x08: unsigned byte), one for the
number of dimensions, then each dimension as a big-endian 32-bit integer.
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import numpy.typing as npt

from mlapp.errors import UserError

UNSIGNED_BYTE = 0x08
MAX_DIMENSIONS = 4


@dataclass(frozen=True)
class Header:
    """The shape of an IDX file of unsigned bytes."""

    shape: tuple[int, ...]

    @property
    def length(self) -> int:
        """Bytes of the header itself."""
        return 4 + 4 * len(self.shape)

    @property
    def file_bytes(self) -> int:
        """Bytes of the whole file."""
        return self.length + math.prod(self.shape)

    def encode(self) -> bytes:
        """The header as it stands in the file."""
        return struct.pack(f">HBB{len(self.shape)}I", 0, UNSIGNED_BYTE, len(self.shape), *self.shape)


def read_header(stream: BinaryIO, name: str) -> Header:
    """The header at the start of a stream; a `UserError` about ``name`` where it is not one of unsigned bytes."""
    magic = stream.read(4)
    if len(magic) < 4:
        raise UserError(f"{name} is truncated: its header ends after {len(magic)} bytes; fetch it again")
    zero, kind, dimensions = struct.unpack(">HBB", magic)
    if zero or kind != UNSIGNED_BYTE or not 1 <= dimensions <= MAX_DIMENSIONS:
        raise UserError(
            f"{name} has the wrong magic number 0x{magic.hex()}: give an IDX file of unsigned bytes "
            f"(0x00000801 for labels, 0x00000803 or 0x00000804 for images)"
        )
    sizes = stream.read(4 * dimensions)
    if len(sizes) < 4 * dimensions:
        raise UserError(f"{name} is truncated: its header ends after {4 + len(sizes)} bytes; fetch it again")
    return Header(struct.unpack(f">{dimensions}I", sizes))


def open_idx(path: Path) -> npt.NDArray[np.uint8]:
    """The content of an IDX file, memory-mapped and read-only; its size must be exactly what its header says."""
    with path.open("rb") as stream:
        header = read_header(stream, path.name)
    size = path.stat().st_size
    if size != header.file_bytes:
        raise UserError(
            f"{path.name} has {size:,} bytes, but its header {header.shape} makes {header.file_bytes:,}: fetch it again"
        )
    if not math.prod(header.shape):
        raise UserError(f"{path.name} is empty (shape {header.shape}): give a file that holds something")
    return np.memmap(path, dtype=np.uint8, mode="r", offset=header.length, shape=header.shape)
