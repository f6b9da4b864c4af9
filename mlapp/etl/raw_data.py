"""The raw area's data set, memory-mapped: what extract left, as validate and transform read it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from mlapp.errors import UserError
from mlapp.etl import idx
from mlapp.result import StageResult

Part = Literal["train", "test"]


@dataclass(frozen=True)
class Files:
    """Images (n, height, width) or (n, height, width, channels) and labels (n,), both uint8, as the files hold them."""

    images: npt.NDArray[np.uint8]
    labels: npt.NDArray[np.uint8]


@dataclass(frozen=True)
class RawData:
    """Training files, and test files where the source has any."""

    name: str
    classes: tuple[str, ...]
    origin: str
    parts: dict[Part, Files]
    digest: str


def open_raw(uri: str) -> RawData:
    """Open the data set behind the URI of an extract stage's result; a `UserError` names a missing or altered file."""
    result = StageResult.load(uri)
    if damage := result.damage():
        raise UserError(f"the raw data is not as it was extracted: {damage}; run the extract stage again")
    source = json.loads(result.local("source").read_text(encoding="utf-8"))
    present: tuple[Part, ...] = ("train", "test") if "test_images" in result.artifacts else ("train",)
    parts = {
        part: Files(*(idx.open_idx(result.local(f"{part}_{kind}")) for kind in ("images", "labels")))
        for part in present
    }
    return RawData(source["name"], tuple(source["classes"]), source["origin"], parts, result.digest())
