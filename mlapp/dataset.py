"""The training-ready data set, memory-mapped: opening it reads nothing, and a batch reads just its own pages."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, Field

from mlapp.data_digest import data_digest
from mlapp.errors import UserError
from mlapp.result import StageResult

SplitName = Literal["train", "validation", "test"]
SPLITS: tuple[SplitName, ...] = get_args(SplitName)
Side = Annotated[int, Field(ge=1)]
UNEVEN = 3.0  # the largest class has over so many times the images of the smallest one: accuracy alone misleads


class Contents(BaseModel):
    """A split's hashes, of images and of labels, without the file format's header."""

    sha256: dict[str, str]


class Description(BaseModel):
    """What transform says of a data set in `dataset.json`, as far as others read it."""

    name: str
    classes: tuple[str, ...]
    shape: tuple[Side, Side, Side]
    splits: dict[SplitName, Contents]


def content_digest(result: StageResult) -> str:
    """Hash of what a transform result holds, pixels, labels and class names, whatever code or settings made it."""
    return data_digest(result.content("dataset", Description).model_dump())


def are_uneven(per_class: npt.NDArray[np.intp]) -> bool:
    """Whether classes of so many images are so uneven that accuracy alone misleads."""
    return bool(per_class.max() > UNEVEN * per_class.min())


@dataclass(frozen=True)
class Split:
    """Images (n, height, width, channels) uint8 and labels (n,) uint8, both memory-mapped and read-only.

    With ``answers``, a teacher's logits (n, classes) besides, a batch's targets are pairs of labels and answers.
    """

    images: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.uint8]
    answers: npt.NDArray[np.float16] | None = None

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True)
class Dataset:
    """A transformed data set: its description (`dataset.json`) and its three splits."""

    name: str
    classes: tuple[str, ...]
    shape: tuple[int, int, int]
    description: dict[str, Any]
    result: StageResult

    @classmethod
    def open(cls, uri: str) -> Dataset:
        """Open the data set behind the reference or URI of a transform stage's result."""
        return cls.of(StageResult.load(uri))

    @classmethod
    def of(cls, result: StageResult) -> Dataset:
        """The data set of a transform stage's result."""
        told = result.content("dataset", Description)
        return cls(told.name, told.classes, told.shape, result.content("dataset", dict[str, Any]), result)

    def split(self, name: SplitName) -> Split:
        """One split, memory-mapped; a `UserError` if its files do not hold images and labels of this data set."""
        images, labels = (_mapped(self.result.local(f"{name}_{kind}")) for kind in ("images", "labels"))
        if images.shape != (len(labels), *self.shape) or labels.ndim != 1:
            raise UserError(
                f"{self.result.uri}: {name} has images {images.shape} and labels {labels.shape}, not (n, "
                f"{', '.join(map(str, self.shape))}) and (n,): run the transform stage again"
            )
        if len(labels) and labels.max() >= len(self.classes):
            raise UserError(
                f"{self.result.uri}: {name} has label {labels.max()}, and there are {len(self.classes)} classes: run "
                "the transform stage again"
            )
        return Split(images, labels)


def _mapped(path: Path) -> npt.NDArray[np.uint8]:
    """An .npy file of bytes, memory-mapped; never of objects, which a file could only hold as code."""
    try:
        found = np.lib.format.open_memmap(path, mode="r")
    except (ValueError, OSError, EOFError, OverflowError, SyntaxError) as error:
        why = " ".join(str(error).split())[:200]
        raise UserError(f"{path} is not an .npy file of bytes ({why}): run the transform stage again") from error
    if found.dtype != np.uint8:
        raise UserError(f"{path} holds {found.dtype}, not bytes: run the transform stage again")
    return found
