"""The raw area's data set, memory-mapped: what extract left, as validate and transform read it."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, Field

from mlapp import storage
from mlapp.errors import UserError, printable
from mlapp.etl import idx
from mlapp.result import StageResult
from mlapp.schema import NAME, Label

Part = Literal["train", "test"]


@dataclass(frozen=True)
class Files:
    """Images (n, height, width) or (n, height, width, channels) and labels (n,), both uint8, as the files hold them."""

    images: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.uint8]


class Description(BaseModel):
    """What extract says of the data set, as far as it is needed here."""

    name: str = Field(pattern=NAME)
    classes: tuple[Label, ...] = Field(min_length=2, max_length=256)
    origin: str
    pictures: dict[str, Any] | None = None


@dataclass(frozen=True)
class RawData:
    """Training files, and test files where the source has any.

    Made of pictures, ``pictures`` is how they were read, and ``names`` are their files, relative to the source.
    """

    name: str
    classes: tuple[str, ...]
    origin: str
    parts: dict[Part, Files]
    digest: str
    pictures: dict[str, Any] | None = None
    names: dict[Part, list[str]] | None = None

    def image(self, part: Part, number: int) -> str:
        """How a person finds an image: its file's name in one line, or its place in an IDX file, from 0."""
        return printable(self.names[part][number]) if self.names else f"{part} image {number}"


@contextmanager
def open_raw(uri: str) -> Iterator[RawData]:
    """Open the data set behind the URI of an extract stage's result, and verify its files while they are worked with.

    A `UserError` at the end names a missing or altered file, whatever came of the work; keep nothing before that.
    """
    result = StageResult.load(uri)
    for name in result.artifacts:
        path = result.artifact(name)
        if storage.is_local(path) and path.exists() and not path.is_file():  # a pipe would be waited on for ever
            raise UserError(f"the raw data's {name} is not a regular file ({path}): run the extract stage again")
    with ThreadPoolExecutor(1) as beside:
        damage = beside.submit(result.damage)
        try:
            yield _opened(result)
        finally:
            if found := damage.result():
                raise UserError(f"the raw data is not as it was extracted: {found}; run the extract stage again")


def row_slices(count: int, row_bytes: int) -> Iterator[slice]:
    """Slices of ``count`` rows of so many bytes: each is one row at least, else no more than a `storage.CHUNK`."""
    step = max(1, storage.CHUNK // row_bytes)
    return (slice(start, start + step) for start in range(0, count, step))


def _opened(result: StageResult) -> RawData:
    source = result.content("source", Description)
    present: tuple[Part, ...] = ("train", "test") if "test_images" in result.artifacts else ("train",)
    parts = {
        part: Files(*(idx.open_idx(_path(result, f"{part}_{kind}")) for kind in ("images", "labels")))
        for part in present
    }
    names = result.content("names", dict[Part, list[str]]) if "names" in result.artifacts else None
    if names and any(len(names.get(part, [])) != len(files.images) for part, files in parts.items()):
        raise UserError(f"{result.artifact('names')} does not name every image: run the extract stage again")
    return RawData(source.name, source.classes, source.origin, parts, result.digest(), source.pictures, names)


def _path(result: StageResult, name: str) -> Path:
    """A local file as it is, for it is verified while it is worked with; a remote one fetched and verified."""
    place = result.artifact(name)
    return Path(place.path) if storage.is_local(place) else result.local(name)
