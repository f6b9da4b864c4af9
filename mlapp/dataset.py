"""The training-ready data set, memory-mapped: opening it reads nothing, and a batch reads just its own pages."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
import numpy.typing as npt

from mlapp.result import StageResult

SplitName = Literal["train", "validation", "test"]
SPLITS: tuple[SplitName, ...] = get_args(SplitName)
UNEVEN = 3.0  # the largest class has over so many times the images of the smallest one: accuracy alone misleads


def content_digest(result: StageResult) -> str:
    """Hash of what a transform result holds, pixels, labels and class names, whatever code or settings made it."""
    description = json.loads(result.local("dataset").read_text(encoding="utf-8"))
    content = [description["classes"], {name: split["sha256"] for name, split in description["splits"].items()}]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


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
        """Open the data set behind the URI of a transform stage's result."""
        result = StageResult.load(uri)
        description = json.loads(result.local("dataset").read_text(encoding="utf-8"))
        height, width, channels = description["shape"]
        return cls(description["name"], tuple(description["classes"]), (height, width, channels), description, result)

    def split(self, name: SplitName) -> Split:
        """One split, memory-mapped."""
        images, labels = (
            np.load(self.result.local(f"{name}_{kind}"), mmap_mode="r", allow_pickle=False)
            for kind in ("images", "labels")
        )
        return Split(images, labels)
