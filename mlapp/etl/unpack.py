"""Decompress one IDX file as a stream: bounded memory, bounded size, whole or not there at all."""

from __future__ import annotations

import gzip
import itertools
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, cast

from mlapp import storage
from mlapp.errors import UserError
from mlapp.etl import idx
from mlapp.storage import Written

GZIP_MAGIC = b"\x1f\x8b"


def unpack(source: BinaryIO, name: str, folder: Path, stem: str, max_bytes: int) -> Written:
    """Write the IDX file in ``source``, gzipped or not, to ``folder`` as ``<stem>-idx<dimensions>-ubyte``.

    The header comes first, so what follows is never more than it promises: a gzip bomb is refused after one chunk.
    """
    zipped = source.read(2) == GZIP_MAGIC
    source.seek(0)
    stream = cast(BinaryIO, gzip.GzipFile(fileobj=source)) if zipped else source
    try:
        header = idx.read_header(stream, name)
        if header.file_bytes > max_bytes:
            raise UserError(
                f"{name} would decompress to {header.file_bytes:,} bytes, over data.max_decoded_bytes={max_bytes:,}: "
                f"raise that setting if the file is to be trusted"
            )
        return write(folder, stem, header, _blocks(stream, name, header))
    except EOFError as error:
        raise UserError(f"{name} is truncated: its compressed data ends too early; fetch it again") from error
    except (zlib.error, gzip.BadGzipFile) as error:
        raise UserError(f"{name} is corrupt ({error}): fetch it again") from error


def write(folder: Path, stem: str, header: idx.Header, blocks: Iterable[bytes]) -> Written:
    """Write an IDX file from its header and its pixels or labels, block by block."""
    target = folder / f"{stem}-idx{len(header.shape)}-ubyte"
    return storage.write_blocks(target, itertools.chain([header.encode()], blocks))


def _blocks(stream: BinaryIO, name: str, header: idx.Header) -> Iterator[bytes]:
    left = header.file_bytes - header.length
    while left and (block := stream.read(min(left, storage.CHUNK))):
        yield block
        left -= len(block)
    if left:
        raise UserError(f"{name} is truncated: {left:,} bytes of {header.file_bytes:,} are missing; fetch it again")
    # Reading to the very end also makes gzip compare its checksum.
    if stream.read(1):
        raise UserError(f"{name} holds more than the {header.file_bytes:,} bytes of its header: fetch it again")
