"""Where the trees look: the gain of their splits, laid back over the image."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from mlapp import storage
from mlapp.ml.xgboost_model import features_of


def draw(model: Any, path: Path) -> None:
    """Write a picture for each part of the features: how much of all gain came from splits on each pixel's cells."""
    from matplotlib.figure import Figure

    features = features_of(model)
    gains = np.zeros(features.count, np.float32)
    for name, gain in model.get_score(importance_type="total_gain").items():
        gains[int(name.removeprefix("f"))] = gain
    pictures = features.spread(gains)
    total = max(float(gains.sum()), float(np.finfo(np.float32).tiny))
    figure = Figure(figsize=(4.2 * len(pictures), 3.6), layout="constrained")
    for axes, (name, picture) in zip(np.atleast_1d(figure.subplots(1, len(pictures))), pictures.items(), strict=True):
        shown = axes.imshow(100 * picture / total, cmap="magma", vmin=0)
        axes.set_title(f"{name}: {100 * picture.sum() / total:.0f} % of the gain", fontsize=10)
        axes.set_axis_off()
        figure.colorbar(shown, ax=axes, label="% of all gain in this pixel", shrink=0.9)
    with storage.atomic_file(path) as draft:
        figure.savefig(draft, format="png", dpi=120)
