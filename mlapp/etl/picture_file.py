"""What a picture's file says before it is decoded: its pixels' container without metadata, depth and orientation.

Metadata (EXIF, colour profiles, comments, thumbnails) never reaches the decoder: a broken rational or profile cannot
cost a good picture, and a compressed text cannot fill the memory. Only the EXIF orientation is read, tolerantly.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from typing import NamedTuple

PNG, JPEG, WEBP = b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"WEBP"
ORIENTATION = 0x0112
INTEGERS = {1: "B", 3: "H", 4: "I"}  # TIFF's types of whole numbers
SEQUENTIAL = (0xC0, 0xC1)  # JPEG's frames whose scan can be decoded as it is read
NO_FRAMES = {0xC4, 0xC8, 0xCC}  # JPEG's markers between C0 and CF that start no frame
BARE = {0x01, *range(0xD0, 0xD9)}  # and those without a length
DEPTH = "has {} bits a channel: save it with 8"


class PictureError(ValueError):
    """A picture that cannot be used: what is wrong with it, then what to do."""


class Container(NamedTuple):
    """A picture's file as the decoder gets it, and what was read on the way."""

    content: bytes
    orientation: int = 1
    grey_bits: int = 8  # of a PNG's grey values, which its transparent value is given in
    frames: int = 1


def opened(content: bytes) -> Container:
    """The file without its metadata; formats that keep none apart stay as they are."""
    if content.startswith(PNG):
        return _png(content)
    if content.startswith(JPEG):
        return _jpeg(content)
    if content[8:12] == WEBP:
        return Container(content, _webp_orientation(content))
    return Container(content)


def orientation_of(exif: bytes) -> int:
    """EXIF's orientation, 1 to 8; 1 (upright) where there is none, or none that can be read."""
    exif = exif.removeprefix(b"Exif\0\0")
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(exif[:4])
    if order is None:
        return 1
    try:
        (start,) = struct.unpack_from(f"{order}I", exif, 4)
        (count,) = struct.unpack_from(f"{order}H", exif, start)
        for entry in range(count):
            tag, kind, values = struct.unpack_from(f"{order}HHI", exif, start + 2 + 12 * entry)
            if tag == ORIENTATION and values == 1 and kind in INTEGERS:
                (found,) = struct.unpack_from(f"{order}{INTEGERS[kind]}", exif, start + 10 + 12 * entry)
                return int(found) if 1 <= found <= 8 else 1
    except struct.error:  # it ends too early: like an orientation that is not there
        return 1
    return 1


def _png(content: bytes) -> Container:
    kept, exif, frames, header = [PNG], b"", 1, b""
    for name, data, whole in _chunks(content):
        critical = not name[0] & 0x20
        if critical and name not in (b"IHDR", b"PLTE", b"IDAT", b"IEND"):
            raise PictureError(f"has a chunk {name!r} that no PNG has: save it again as PNG")
        if critical or name == b"tRNS":
            if zlib.crc32(name + data) != int.from_bytes(whole[-4:]):
                raise PictureError("is damaged (a checksum is wrong): replace or remove it")
            kept.append(whole)
        if name == b"IHDR":
            header = data
        elif name == b"eXIf":
            exif = exif or data
        elif name == b"acTL" and len(data) >= 4:
            frames = int.from_bytes(data[:4])
    if len(header) != 13:
        raise PictureError("is damaged (its header is missing): replace or remove it")
    depth, colour = header[8], header[9]
    if depth > 8:
        raise PictureError(DEPTH.format(depth))
    if colour == 3 and not any(whole[4:8] == b"PLTE" for whole in kept):
        raise PictureError("is damaged (its palette is missing): replace or remove it")
    return Container(b"".join(kept), orientation_of(exif), depth if colour == 0 else 8, frames)


def _chunks(content: bytes) -> Iterator[tuple[bytes, bytes, bytes]]:
    """Name, data and the whole of each of a PNG's chunks, up to its end."""
    place, name = len(PNG), b""
    while name != b"IEND":
        size = int.from_bytes(content[place : place + 4])
        whole = content[place : place + 12 + size]
        if len(whole) < 12 + size:
            raise PictureError("is truncated: replace or remove it")
        name = whole[4:8]
        yield name, whole[8:-4], whole
        place += 12 + size


def _jpeg(content: bytes) -> Container:
    """JFIF's and Adobe's segments are kept: they say what the channels mean. So is everything but metadata."""
    kept, place, orientation, channels, frames = [content[:2]], 2, 0, 0, 1
    one_scan = adobe = False
    while place + 4 <= len(content) and content[place] == 0xFF:
        marker = content[place + 1]
        if marker == 0xFF or marker in BARE:
            place += 1 if marker == 0xFF else 2
            continue
        if marker in (0xD9, 0xDA):  # the end, or pixels from here on
            break
        size = 2 + int.from_bytes(content[place + 2 : place + 4])
        segment = content[place : place + size]
        if 0xC0 <= marker <= 0xCF and marker not in NO_FRAMES and len(segment) > 9:
            if segment[4] != 8:
                raise PictureError(DEPTH.format(segment[4]))
            channels, one_scan = segment[9], marker in SEQUENTIAL
        adobe = adobe or (marker == 0xEE and segment[4:9] == b"Adobe")
        if marker == 0xE1 and segment[4:10] == b"Exif\0\0":
            orientation = orientation or orientation_of(segment[4:])
        elif marker == 0xE2 and segment[4:8] == b"MPF\0":  # more pictures follow this one
            frames = 2
        if marker in (0xE0, 0xEE) or not (0xE0 <= marker <= 0xEF or marker == 0xFE):
            kept.append(segment)
        place += size
    if channels == 4 and not adobe:
        raise PictureError("has CMYK values without Adobe's marker, which says what they mean: save it as RGB")
    pixels = content[place:]
    if one_scan and pixels[4:5] == bytes([channels]):
        pixels = _without_end(pixels)
    return Container(b"".join([*kept, pixels]), orientation or 1, frames=frames)


def _without_end(scan: bytes) -> bytes:
    """A JPEG's only scan without its end marker, where the decoder would make up what is missing before it.

    It then runs out of data, which it reports. It reads up to eight bytes ahead.
    """
    end = scan.find(b"\xff\xd9")
    return scan if end < 0 else scan[:end] + bytes(8)


def _webp_orientation(content: bytes) -> int:
    place = 12
    while place + 8 <= len(content):
        size = int.from_bytes(content[place + 4 : place + 8], "little")
        if content[place : place + 4] == b"EXIF":
            return orientation_of(content[place + 8 : place + 8 + size])
        place += 8 + size + size % 2
    return 1
