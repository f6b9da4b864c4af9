"""A slice of the real images as a data set of its own: a limit would make its runs trials."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from mlapp.etl import idx
from mlapp.result import StageResult


def small_source(raw_uri: str, folder: Path) -> Path:
    """100 real images of each class in each part."""
    raw, folder = StageResult.load(raw_uri), folder / "small"
    folder.mkdir()
    for part, name in (("train", "train"), ("test", "t10k")):
        labels = idx.open_idx(Path(raw.local(f"{part}_labels")))
        kept = np.sort(np.concatenate([np.flatnonzero(labels == label)[:100] for label in range(10)]))
        for kind in ("images", "labels"):
            content = idx.open_idx(Path(raw.local(f"{part}_{kind}")))[kept]
            file = folder / f"{name}-{kind}-idx{content.ndim}-ubyte"
            file.write_bytes(idx.Header(content.shape).encode() + content.tobytes())
    return folder
