"""Transform: write validated raw data as training-ready splits that are memory-mapped, never loaded whole.

A source's own test set stays the test split, in its order; else one is held out. Train and validation are stratified
and shuffled once here, so that reading them in sequence is enough. Leaves {train,validation,test}_{images,labels}
(.npy, uint8, images as (n, height, width, channels)) and dataset (dataset.json).
"""

from __future__ import annotations

import hashlib
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
from mlapp.etl.progress import progress
from mlapp.etl.raw_data import Files, RawData, open_raw
from mlapp.result import Metric, Outcome, ResultUri, StageResult
from mlapp.stage import stage

log = logging.getLogger("mlapp")
CHUNK_BYTES = 4 << 20


class Transformation(schema.Transform):
    """What to transform, and how it is split."""

    raw: ResultUri = Field(description="result of the extract stage")
    report: ResultUri = Field(description="result of the validate stage on that raw data")


class Rows(NamedTuple):
    """A split before it is written: the numbers of its images in the raw files."""

    files: Files
    numbers: split.Numbers


@stage("transform", area="processed", section="transform")
def run(config: Transformation, workdir: Path) -> Outcome:
    """Split and write; a `UserError` where the data was not validated or a class would be missing from a split."""
    raw = open_raw(config.raw)
    _check_validated(raw, config.report)
    splits = _plan(raw, config)
    described = {name: _write(name, splits[name], raw.classes, workdir) for name in SPLITS}
    train = raw.parts["train"].images
    description = {
        "name": raw.name,
        "classes": raw.classes,
        "shape": _image_shape(train),
        "splits": described,
        "seed": config.seed,
        "origin": raw.origin,
        "raw": raw.digest,
    }
    storage.write_text(workdir / "dataset.json", json.dumps(description, indent=2, ensure_ascii=False) + "\n")
    return Outcome(
        artifacts={
            **{f"{name}_{kind}": workdir / f"{name}_{kind}.npy" for name in SPLITS for kind in ("images", "labels")},
            "dataset": workdir / "dataset.json",
        },
        metrics={f"{name}_images": Metric(value=len(splits[name].numbers), unit="images") for name in SPLITS},
        headline=f"{raw.name}: " + ", ".join(f"{len(splits[name].numbers):,} {name}" for name in SPLITS),
    )


def _check_validated(raw: RawData, uri: str) -> None:
    result = StageResult.load(uri)
    if damage := result.damage():
        raise UserError(f"the validation is not as it was left: {damage}; run the validate stage again")
    report = json.loads(result.local("report").read_text(encoding="utf-8"))
    if report["raw"] != raw.digest:
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


def _write(name: SplitName, rows: Rows, classes: tuple[str, ...], workdir: Path) -> dict[str, Any]:
    """Write one split; its description with the count of each class and the digest of its pixels and labels."""
    labels = rows.files.labels[rows.numbers]
    counts = split.check_classes(name, labels, classes)
    pixels = _save(workdir / f"{name}_images.npy", rows.files.images, _image_shape(rows.files.images), rows.numbers)
    return {
        "images": len(labels),
        "per_class": dict(zip(classes, counts.tolist(), strict=True)),
        "sha256": {
            "images": pixels,
            "labels": _save(workdir / f"{name}_labels.npy", rows.files.labels, (), rows.numbers),
        },
    }


def _save(path: Path, source: npt.NDArray[np.uint8], shape: tuple[int, ...], numbers: split.Numbers) -> str:
    """Copy rows of ``source`` to an .npy file of images of ``shape`` chunk by chunk; the SHA-256 of its content.

    Written as a stream and not through a memory map, where a full disk would kill the process (SIGBUS).
    """
    digest = hashlib.sha256()
    header = {"descr": "|u1", "fortran_order": False, "shape": (len(numbers), *shape)}
    with (
        storage.atomic_file(path) as draft,
        draft.open("wb") as stream,
        progress(f"writing {path.name}", len(numbers), "rows") as advance,
    ):
        np.lib.format.write_array_header_1_0(stream, header)
        for chunk in _chunks(source, numbers):
            stream.write(chunk.data)
            digest.update(chunk.data)
            advance(len(chunk))
    return digest.hexdigest()


def _chunks(source: npt.NDArray[np.uint8], numbers: split.Numbers) -> Iterator[npt.NDArray[np.uint8]]:
    rows = max(1, CHUNK_BYTES // source[0].nbytes)
    for start in range(0, len(numbers), rows):
        yield np.ascontiguousarray(source[numbers[start : start + rows]])


def _image_shape(images: npt.NDArray[np.uint8]) -> tuple[int, int, int]:
    height, width, *channels = images.shape[1:]
    return (height, width, channels[0] if channels else 1)


if __name__ == "__main__":
    run.main()
