"""The body of an HTTP answer, whatever sizes its server claims."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import BinaryIO

import urllib3
from urllib3.exceptions import ProtocolError

BLOCK = 1 << 14
CHUNK_SIZE, LONGEST_LINE = re.compile(rb"[0-9A-Fa-f]{1,16}"), 1000


def body(response: urllib3.BaseHTTPResponse) -> Iterator[bytes]:
    """The body as it is sent, in small blocks, so that a slow server still shows progress.

    urllib3 and http.client read a chunk of size -1 to its end, and urllib3 a size of any length, into memory.
    """
    encoding = response.headers.get("Transfer-Encoding", "").strip().lower()
    if not encoding:
        yield from response.stream(BLOCK, decode_content=False)
        return
    if encoding != "chunked":
        raise ProtocolError(f"sent with the transfer encoding {encoding[:50]!r}")
    try:
        yield from _chunks(response._fp.fp)  # type: ignore[attr-defined]
    except OSError as error:
        raise ProtocolError(str(error)) from error


def _chunks(stream: BinaryIO) -> Iterator[bytes]:
    while size := _chunk_size(stream):
        while size:
            block = stream.read(min(size, BLOCK))
            if not block:
                raise ProtocolError("ended within a chunk")
            yield block
            size -= len(block)
        if stream.read(2) != b"\r\n":
            raise ProtocolError("a chunk is longer than its size")


def _chunk_size(stream: BinaryIO) -> int:
    line = stream.readline(LONGEST_LINE).partition(b";")[0].strip()
    if not CHUNK_SIZE.fullmatch(line):
        raise ProtocolError(f"a chunk has the size {line[:20]!r}")
    return int(line, 16)
