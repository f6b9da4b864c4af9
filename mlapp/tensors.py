"""Arrays as a file that holds nothing else: reading one allocates no more than the file's size, and never runs code.

The layout is that of safetensors: the header's length (8 bytes, little endian), a JSON header with type, shape and
place of every array and some texts about them (``__metadata__``), then the numbers. Other programs read it too.
"""

from __future__ import annotations

import json
import math
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field

from mlapp import plain, storage
from mlapp.errors import UserError

TYPES = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8", "I32": "<i4", "U8": "|u1", "BOOL": "|b1"}
NAMES = {np.dtype(kind): name for name, kind in TYPES.items()}
ABOUT = "__metadata__"
MOST_HEADER_BYTES = 4 << 20
MOST_BYTES = 4 << 30

Arrays = dict[str, npt.NDArray[Any]]


class _Place(BaseModel):
    """Where an array lies in the file, counted from the header's end."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    dtype: str
    shape: list[Annotated[int, Field(ge=0, le=1 << 40)]] = Field(max_length=8)
    data_offsets: tuple[int, int]


def write(path: Path, arrays: Mapping[str, npt.NDArray[Any]], about: Mapping[str, str]) -> None:
    """Write arrays and texts about them to a file, whole or not at all."""
    header: dict[str, Any] = {ABOUT: dict(about)}
    end = 0
    kept = {name: np.asarray(array, order="C") for name, array in arrays.items()}
    for name, array in kept.items():
        start, end = end, end + array.nbytes
        header[name] = {"dtype": NAMES[array.dtype], "shape": list(array.shape), "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with storage.atomic_file(path) as draft, draft.open("wb") as stream:
        stream.write(struct.pack("<Q", len(text)) + text)
        for array in kept.values():
            stream.write(array.tobytes())


def read(path: Path) -> tuple[Arrays, dict[str, str]]:
    """The arrays of a file that `write` wrote, and the texts about them; a `UserError` if it is another file."""
    try:
        return _read(path)
    except (ValueError, TypeError, KeyError) as error:
        why = " ".join(str(error).split())[:200]
        raise UserError(
            f"{path} is not a file of arrays that this version reads ({why}): remove it, and run its stage with --force"
        ) from error


def _read(path: Path) -> tuple[Arrays, dict[str, str]]:
    size = path.stat().st_size
    if size > MOST_BYTES:
        raise ValueError(f"it is larger than {MOST_BYTES:,} bytes")
    with path.open("rb") as stream:
        start = stream.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else size
        if length > min(MOST_HEADER_BYTES, size - 8):
            raise ValueError("its header is cut off or too long")
        header = plain.from_json(stream.read(length).decode("utf-8"))
        if not isinstance(header, dict):
            raise TypeError("its header is not a map")
        about = header.pop(ABOUT, {})
        if not isinstance(about, dict) or not all(isinstance(value, str) for value in about.values()):
            raise ValueError(f"{ABOUT} must map names to texts")
        places = {name: _Place.model_validate_json(json.dumps(place)) for name, place in header.items()}
        _check(places, size - 8 - length)
        content = stream.read(size - 8 - length)
    return {name: _array(place, content) for name, place in places.items()}, about


def _check(places: Mapping[str, _Place], size: int) -> None:
    """Refuse arrays that overlap, leave gaps, or do not take just the bytes that their shapes say."""
    end = 0
    for name, place in places.items():
        if place.dtype not in TYPES:
            raise ValueError(f"{name[:80]!r} is of type {place.dtype[:20]!r}: only {', '.join(TYPES)} are read")
        taken = math.prod(place.shape) * np.dtype(TYPES[place.dtype]).itemsize
        if place.data_offsets != (end, end + taken):
            raise ValueError(f"{name[:80]!r} does not lie where its shape and the arrays before it say")
        end += taken
    if end != size:
        raise ValueError(f"it holds {size:,} bytes of numbers, and its header names {end:,}")


def _array(place: _Place, content: bytes) -> npt.NDArray[Any]:
    start, end = place.data_offsets
    return np.frombuffer(content[start:end], TYPES[place.dtype]).reshape(place.shape)
