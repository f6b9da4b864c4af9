"""Images as the simple features that classical models learn from: pooled pixels, and how edges run in each cell.

The gradients' part is a coarse form of the histograms of oriented gradients of Dalal & Triggs (2005), Histograms of
Oriented Gradients for Human Detection, without their normalisation: four orientations, 45° apart, unsigned.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import numpy.typing as npt

from mlapp.result import Record

Floats = npt.NDArray[np.float32]
CHUNK_PIXELS = 1 << 20
ORIENTATIONS = 4
PIXELS = "pixels"
STEEPEST = np.float32(510)  # the largest difference along a diagonal: twice 255


class Features(Record):
    """How an image of a ``shape`` (height, width, channels) becomes a row of bytes.

    ``pixel_grid`` and each of ``gradient_grids`` are cells a side; no cell is smaller than a pixel.
    """

    shape: tuple[int, int, int]
    pixel_grid: int
    gradient_grids: tuple[int, ...]

    @property
    def parts(self) -> dict[str, tuple[int, int, int]]:
        """The features' order: each part's planes (channels, or orientations) and its cells, row by row."""
        height, width, channels = self.shape
        parts = {PIXELS: (channels, self.pixel_grid)}
        parts |= {f"gradients, {grid} × {grid}": (ORIENTATIONS, grid) for grid in self.gradient_grids}
        return {name: (planes, min(grid, height), min(grid, width)) for name, (planes, grid) in parts.items()}

    @property
    def count(self) -> int:
        """Number of features."""
        return sum(int(np.prod(part)) for part in self.parts.values())

    def __call__(self, images: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """Features (n, count) uint8 of ``images`` (n, height, width, channels) uint8, chunk by chunk.

        An image's features are the same to the bit whatever images are beside it: sums of whole numbers below 2^24 (a
        cell of 180 × 180 pixels) are exact in float32, in any order, and what follows them works on each cell alone.
        """
        found = np.empty((len(images), self.count), np.uint8)
        step = max(1, CHUNK_PIXELS // int(np.prod(self.shape)))
        for start in range(0, len(images), step):
            chunk = images[start : start + step].transpose(0, 3, 1, 2).astype(np.float32)
            steep = slopes(np.rint(chunk.mean(1)))
            column = 0
            for name, part in self.parts.items():
                values = pooled(chunk if name == PIXELS else steep, part[1:])
                if name != PIXELS:  # most cells have few edges: the root gives them most of the 256 steps
                    values = 255 * np.sqrt(values / STEEPEST)
                size = int(np.prod(part))
                found[start : start + step, column : column + size] = np.rint(values).reshape(len(chunk), size)
                column += size
        return found

    def spread(self, values: Floats) -> dict[str, Floats]:
        """A value of each feature as a picture (height, width) of each part: spread evenly over its cell's pixels."""
        height, width, _ = self.shape
        pictures, column = {}, 0
        for name, (planes, rows, columns) in self.parts.items():
            size = planes * rows * columns
            cells = values[column : column + size].reshape(planes, rows, columns).sum(0)
            down, across = windows(height, rows), windows(width, columns)
            pictures[name] = down.T @ (cells / np.outer(down.sum(1), across.sum(1))) @ across
            column += size
        return pictures


@functools.cache
def windows(side: int, cells: int) -> Floats:
    """Which of ``side`` pixels belong to which of ``cells``, as 0/1 (cells, side); neighbours may share one."""
    edges = np.arange(cells + 1) * side
    first, last = edges[:-1] // cells, -(-edges[1:] // cells)
    pixel = np.arange(side)
    belong = ((pixel >= first[:, None]) & (pixel < last[:, None])).astype(np.float32)
    belong.setflags(write=False)
    return belong


def pooled(planes: Floats, cells: tuple[int, int]) -> Floats:
    """The mean of each cell of ``planes`` (…, height, width): (…, rows, columns)."""
    down, across = windows(planes.shape[-2], cells[0]), windows(planes.shape[-1], cells[1])
    means: Any = (down @ planes @ across.T) / np.outer(down.sum(1), across.sum(1))
    return means  # type: ignore[no-any-return]


def slopes(grey: Floats) -> Floats:
    """How steep ``grey`` (n, height, width) is along →, ↓, ↘ and ↗: (n, 4, height, width), each at least 0.

    Central differences; the outermost pixels, which have one neighbour only, count as flat.
    """
    steep = np.zeros((len(grey), ORIENTATIONS, *grey.shape[1:]), np.float32)
    across, down = steep[:, 0], steep[:, 1]
    np.subtract(grey[:, :, 2:], grey[:, :, :-2], out=across[:, :, 1:-1])
    np.subtract(grey[:, 2:], grey[:, :-2], out=down[:, 1:-1])
    np.add(across, down, out=steep[:, 2])
    np.subtract(across, down, out=steep[:, 3])
    return np.abs(steep, out=steep)
