"""Made-up images and folders of them, small enough to spoil one by one."""

from __future__ import annotations

import gzip
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mlapp.etl import gcp_dataloader, idx


@dataclass
class IdxFolder:
    """A folder of IDX files that a test may spoil: three classes, 60 training and 30 test images of 8 × 8."""

    path: Path

    def write(self, name: str, content: np.ndarray, *, zipped: bool = False) -> Path:
        file = self.path / f"{name}-idx{content.ndim}-ubyte"
        file.write_bytes(idx.Header(content.shape).encode() + content.tobytes())
        if zipped:
            file.with_name(f"{file.name}.gz").write_bytes(gzip.compress(file.read_bytes()))
            file.unlink()
            file = file.with_name(f"{file.name}.gz")
        return file

    def extract(self, workdir: Path, **settings: object) -> str:
        config = gcp_dataloader.Extract(name="tiny", source=str(self.path), **settings)
        return gcp_dataloader.run(config, workdir).uri


def images(count: int, seed: int = 0, shape: tuple[int, ...] = (8, 8)) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, *shape), dtype=np.uint8)


def labels(count: int, classes: int = 3) -> np.ndarray:
    return (np.arange(count) % classes).astype(np.uint8)
