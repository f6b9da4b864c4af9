"""Transform: write validated raw data as training-ready splits that are memory-mapped, never loaded whole.

A source's own test set stays the test split, in its order; else one is held out. Train and validation are stratified
and shuffled once here, so that reading them in sequence is enough. Leaves {train,validation,test}_{images,labels}
(.npy, uint8, images as (n, height, width, channels)) and dataset (dataset.json).
"""

from __future__ import annotations

import hashlib
import io
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from pydantic import Field

from mlapp import schema, storage
from mlapp.dataset import SPLITS, SplitName
from mlapp.errors import UserError
from mlapp.etl import split
from mlapp.etl.leftovers import removed_on_refusal
from mlapp.etl.progress import progress
from mlapp.etl.raw_data import Files, RawData, open_raw, row_slices
from mlapp.result import Metric, Outcome, ResultUri, StageResult
from mlapp.stage import stage
from mlapp.storage import Written

log = logging.getLogger("mlapp")
FEW = 50  # validation images: of fewer, each is two points of accuracy or more


class Transformation(schema.Transform):
    """What to transform, and how it is split."""

    raw: ResultUri = Field(description="result of the extract stage")
    report: ResultUri = Field(description="result of the validate stage on that raw data")


class Rows(NamedTuple):
    """A split before it is written: the numbers of its images in the raw files."""

    files: Files
    numbers: split.Numbers

    @property
    def labels(self) -> split.Labels:
        """The labels of its images."""
        return self.files.labels[self.numbers]


class Saved(NamedTuple):
    """A split's images or labels: their file, and the SHA-256 of what is in it without the format's own header."""

    file: Written
    content: str


@stage("transform", area="processed", section="transform")
def run(config: Transformation, workdir: Path) -> Outcome:
    """Split and write; a `UserError` where the data was not validated or a class would be missing from a split."""
    with removed_on_refusal(workdir), open_raw(config.raw) as raw:
        return _transformed(raw, config, workdir)


def _transformed(raw: RawData, config: Transformation, workdir: Path) -> Outcome:
    _check_validated(raw, config.report)
    splits = _plan(raw, config)
    counts = {name: split.check_classes(name, splits[name].labels, raw.classes) for name in SPLITS}
    if (few := len(splits["validation"].numbers)) < FEW:
        log.warning(
            "every choice will rest on %d validation images: add images, or raise transform.validation_fraction", few
        )
    saved = {name: _saved(name, splits[name], workdir) for name in SPLITS}
    description = {
        "name": raw.name,
        "classes": raw.classes,
        "shape": _image_shape(raw.parts["train"].images),
        "splits": {
            name: {
                "images": len(splits[name].numbers),
                "per_class": dict(zip(raw.classes, counts[name].tolist(), strict=True)),
                "sha256": {kind: one.content for kind, one in saved[name].items()},
            }
            for name in SPLITS
        },
        "seed": config.seed,
        "origin": raw.origin,
        "raw": raw.digest,
        **({"recipe": raw.pictures["recipe"]} if raw.pictures else {}),
    }
    storage.write_text(workdir / "dataset.json", json.dumps(description, indent=2, ensure_ascii=False) + "\n")
    return Outcome(
        artifacts={
            **{f"{name}_{kind}": one.file for name in SPLITS for kind, one in saved[name].items()},
            "dataset": workdir / "dataset.json",
        },
        metrics={f"{name}_images": Metric(value=len(splits[name].numbers), unit="images") for name in SPLITS},
        headline=f"{raw.name}: " + ", ".join(f"{len(splits[name].numbers):,} {name}" for name in SPLITS),
    )


def _check_validated(raw: RawData, uri: str) -> None:
    report = StageResult.load_verified(uri).content("report", dict[str, Any])
    if report.get("raw") != raw.digest:
        raise UserError(f"{uri} reports on other data than this: run the validate stage on this raw data first")


def _plan(raw: RawData, config: Transformation) -> dict[SplitName, Rows]:
    training = raw.parts["train"]
    if "test" in raw.parts:
        testing, pool = raw.parts["test"], np.arange(len(training.labels))
        held_out = np.arange(len(testing.labels))
    else:
        testing = training
        pool, held_out = split.held_out_test(training.labels, config)
    test = split.limited(held_out, testing.labels, config.limit, config.seed)
    train, validation = split.training_splits(pool, training.labels, config)
    return {"train": Rows(training, train), "validation": Rows(training, validation), "test": Rows(testing, test)}


def _saved(name: SplitName, rows: Rows, workdir: Path) -> dict[str, Saved]:
    images = rows.files.images
    return {
        "images": _save(workdir / f"{name}_images.npy", images, _image_shape(images), rows.numbers),
        "labels": _save(workdir / f"{name}_labels.npy", rows.files.labels, (), rows.numbers),
    }


def _save(path: Path, source: npt.NDArray[np.uint8], shape: tuple[int, ...], numbers: split.Numbers) -> Saved:
    """Copy rows of ``source`` to an .npy file of images of ``shape``, chunk by chunk."""
    header = io.BytesIO()
    described = {"descr": "|u1", "fortran_order": False, "shape": (len(numbers), *shape)}
    np.lib.format.write_array_header_1_0(header, described)
    content = hashlib.sha256()

    def blocks() -> Iterator[bytes | memoryview]:
        yield header.getvalue()
        with progress(f"writing {path.name}", len(numbers), "rows") as advance:
            for rows in row_slices(len(numbers), source[0].nbytes):
                chunk = np.ascontiguousarray(source[numbers[rows]])
                content.update(chunk.data)
                yield chunk.data
                advance(len(chunk))

    file = storage.write_blocks(path, blocks())
    return Saved(file, content.hexdigest())


def _image_shape(images: npt.NDArray[np.uint8]) -> tuple[int, int, int]:
    height, width, *channels = images.shape[1:]
    return (height, width, channels[0] if channels else 1)


if __name__ == "__main__":
    run.main()
