"""What is counted in raw data, chunk by chunk: never more than a few MiB of images in memory."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mlapp.errors import UserError
from mlapp.etl.raw_data import Files, Part, RawData

CHUNK_BYTES = 4 << 20
# Two different images share 16 bytes of BLAKE2b with a probability below 1e-20 among a billion images.
DIGEST_BYTES = 16
CHANNELS = (1, 3)
Digests = npt.NDArray[np.bytes_]


@dataclass(frozen=True)
class Survey:
    """Figures of one part of the raw data."""

    per_class: npt.NDArray[np.intp]
    digests: Digests
    constant: npt.NDArray[np.intp]
    histogram: npt.NDArray[np.intp]

    @property
    def pixels(self) -> dict[str, float]:
        """Minimum, maximum, mean and standard deviation of all pixel values."""
        values, total = np.arange(256), self.histogram.sum()
        mean = float(values @ self.histogram / total)
        present = np.flatnonzero(self.histogram)
        deviation = float(np.sqrt((values - mean) ** 2 @ self.histogram / total))
        return {"min": float(present[0]), "max": float(present[-1]), "mean": round(mean, 4), "std": round(deviation, 4)}


def check_form(raw: RawData) -> None:
    """Shapes, counts and label range; a `UserError` gives the figures of the first violation."""
    for part, files in raw.parts.items():
        images, labels = files.images, files.labels
        if images.ndim not in (3, 4) or (images.ndim == 4 and images.shape[3] not in CHANNELS):
            raise UserError(
                f"{part} images have the shape {images.shape}: give (n, height, width), or (n, height, width, 1 or 3)"
            )
        if labels.ndim != 1:
            raise UserError(f"{part} labels have the shape {labels.shape}: give one label an image, (n,)")
        if len(images) != len(labels):
            raise UserError(f"{part} has {len(images):,} images but {len(labels):,} labels: give the files that match")
        if images.shape[1:] != raw.parts["train"].images.shape[1:]:
            raise UserError(
                f"test images are {images.shape[1:]}, training images {raw.parts['train'].images.shape[1:]}: "
                f"make all images of one size"
            )
        strays = np.flatnonzero(labels >= len(raw.classes))
        if len(strays):
            raise UserError(
                f"{part} labels go from 0 to {len(raw.classes) - 1}, but {len(strays):,} of {len(labels):,} lie above "
                f"(number {strays[0]} is {labels[strays[0]]}): mend the labels, or name all classes in data.classes"
            )


def check_classes(raw: RawData, part: Part, per_class: npt.NDArray[np.intp], least: int) -> None:
    """At least so many images of every class; a `UserError` names the classes that have fewer."""
    few = [f"{raw.classes[label]} has {per_class[label]:,}" for label in np.flatnonzero(per_class < least)]
    if few:
        raise UserError(f"too few {part} images of a class, at least {least} are needed: {', '.join(few)}; add images")


def survey(files: Files, classes: int) -> Survey:
    """One pass over a part's images: digests, constant images and the histogram of pixel values."""
    digests = np.empty(len(files.images), dtype=f"S{DIGEST_BYTES}")
    histogram = np.zeros(256, dtype=np.intp)
    constant = []
    for start, chunk in _chunks(files.images):
        stop = start + len(chunk)
        digests[start:stop] = [hashlib.blake2b(row.data, digest_size=DIGEST_BYTES).digest() for row in chunk]
        constant.append(start + np.flatnonzero(chunk.min(axis=1) == chunk.max(axis=1)))
        histogram += np.bincount(chunk.ravel(), minlength=256)
    return Survey(np.bincount(files.labels, minlength=classes), digests, np.concatenate(constant), histogram)


def repeated(digests: Digests) -> npt.NDArray[np.intp]:
    """Numbers of the images that equal an earlier one."""
    _, first = np.unique(digests, return_index=True)
    return np.setdiff1d(np.arange(len(digests)), first)


def contradicted(digests: Digests, labels: npt.NDArray[np.uint8]) -> npt.NDArray[np.intp]:
    """Numbers of the images that equal the first of their kind but bear another label."""
    _, first, group = np.unique(digests, return_index=True, return_inverse=True)
    return np.flatnonzero(labels != labels[first][group])


def leaked(test: Digests, train: Digests) -> npt.NDArray[np.intp]:
    """Numbers of the test images that stand among the training images too."""
    return np.flatnonzero(np.isin(test, train))


def _chunks(images: npt.NDArray[np.uint8]) -> Iterator[tuple[int, npt.NDArray[np.uint8]]]:
    rows = max(1, CHUNK_BYTES // images[0].nbytes)
    for start in range(0, len(images), rows):
        chunk = np.ascontiguousarray(images[start : start + rows])
        yield start, chunk.reshape(len(chunk), -1)
