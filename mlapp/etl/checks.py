"""What is counted in raw data, chunk by chunk: never more than a few MiB a processor in memory."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from mlapp.errors import UserError, first_few
from mlapp.etl.raw_data import Files, Part, RawData, row_slices

CHANNELS = (1, 3)
Digests = npt.NDArray[np.uint64]
Bytes = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Survey:
    """Figures of one part of the raw data; ``sums`` are those of all pixel values and of their squares."""

    per_class: npt.NDArray[np.intp]
    digests: Digests
    constant: npt.NDArray[np.intp]
    lowest: int
    highest: int
    sums: npt.NDArray[np.float64]
    count: int

    @property
    def pixels(self) -> dict[str, float]:
        """Minimum, maximum, mean and standard deviation of all pixel values."""
        mean, square = self.sums / self.count
        deviation = float(np.sqrt(max(square - mean**2, 0.0)))
        return {
            "min": float(self.lowest),
            "max": float(self.highest),
            "mean": round(float(mean), 4),
            "std": round(deviation, 4),
        }


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
        if part == "train" and int(labels.min()) == 1:
            raise UserError(
                f"train labels go from 1 to {labels.max()}, but must start at 0: subtract 1 from every label, "
                f"of the test set too"
            )
        strays = np.flatnonzero(labels >= len(raw.classes))
        if len(strays):
            raise UserError(
                f"{part} labels go from 0 to {len(raw.classes) - 1}, but {len(strays):,} of {len(labels):,} lie above "
                f"(number {strays[0]} is {labels[strays[0]]}): correct the labels, or name all classes in data.classes"
            )


def check_classes(raw: RawData, part: Part, per_class: npt.NDArray[np.intp], least: int) -> None:
    """At least so many images of every class; a `UserError` names the classes that have fewer."""
    few = [f"{raw.classes[label]} has {per_class[label]:,}" for label in np.flatnonzero(per_class < least)]
    if few:
        raise UserError(f"too few {part} images of a class, at least {least} are needed: {first_few(few)}; add images")


def survey(files: Files, classes: int) -> Survey:
    """One pass over a part's images, on all processors: digests, constant images and the moments of pixel values."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        digests, least, most, sums = zip(*pool.map(_looked_at, _chunks(files.images)), strict=True)
    lowest, highest = np.concatenate(least), np.concatenate(most)
    return Survey(
        per_class=np.bincount(files.labels, minlength=classes),
        digests=np.concatenate(digests),
        constant=np.flatnonzero(lowest == highest),
        lowest=int(lowest.min()),
        highest=int(highest.max()),
        sums=np.sum(sums, axis=0),
        count=files.images.size,
    )


def _looked_at(rows: npt.NDArray[np.uint8]) -> tuple[Digests, Bytes, Bytes, list[np.float64]]:
    """Of rows (n, bytes): digest, lowest and highest value of each; sum of all values, and of their squares."""
    pixels = rows.astype(np.float32)
    squares = np.einsum("ij,ij->i", pixels, pixels)
    sums = [pixels.sum(axis=1).sum(dtype=np.float64), squares.sum(dtype=np.float64)]
    return digest(rows), rows.min(axis=1), rows.max(axis=1), sums


def digest(rows: npt.NDArray[np.uint8]) -> Digests:
    """A 64-bit digest of every row (n, bytes); two different rows share theirs with a probability of 2**-64.

    Two strongly universal 32-bit ones by Lemire, D. & Kaser, O. (2014), Strongly universal string hashing is fast,
    with multipliers drawn once; one matrix product, where a cryptographic hash takes a call an image.
    """
    words = np.pad(rows, ((0, 0), (0, -rows.shape[1] % 4))).view(np.uint32).astype(np.uint64)
    multipliers = np.random.default_rng(0).integers(0, 2**64, (2, 1 + words.shape[1]), dtype=np.uint64)
    high, low = (multipliers[:, :1] + np.einsum("kj,ij->ki", multipliers[:, 1:], words)) >> np.uint64(32)
    found: Digests = (high << np.uint64(32)) | low
    return found


def firsts(digests: Digests) -> npt.NDArray[np.intp]:
    """For every image the number of the first one that equals it: its own, unless it repeats an earlier one."""
    _, first, group = np.unique(digests, return_index=True, return_inverse=True)
    return first[group]


def leaked(test: Digests, train: Digests) -> npt.NDArray[np.intp]:
    """Numbers of the test images that stand among the training images too."""
    return np.flatnonzero(np.isin(test, train))


def _chunks(images: npt.NDArray[np.uint8]) -> Iterator[npt.NDArray[np.uint8]]:
    for rows in row_slices(len(images), images[0].nbytes):
        chunk = np.ascontiguousarray(images[rows])
        yield chunk.reshape(len(chunk), -1)
