"""How a training went, for a person and for a program: the history as JSON and as a plot."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from mlapp import storage


def write_history(history: Sequence[dict[str, float]], folder: Path, along: str = "epoch") -> dict[str, Path]:
    """Write ``history.json`` and ``curves.png`` to ``folder`` and return them as artifacts.

    Each record has loss, validation_loss and validation_accuracy. ``along`` names what the records count; they lie at
    their own value of it where they have one, else at 1, 2, 3 …
    """
    written = {"history": folder / "history.json", "curves": folder / "curves.png"}
    storage.write_text(written["history"], json.dumps(history, indent=2))
    _plot(history, written["curves"], along)
    return written


def _plot(history: Sequence[dict[str, float]], path: Path, along: str) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.4), layout="constrained")
    losses, accuracies = figure.subplots(1, 2)
    places = [record.get(along, position) for position, record in enumerate(history, 1)]
    losses.plot(places, [record["loss"] for record in history], label="training", marker=".")
    losses.plot(places, [record["validation_loss"] for record in history], label="validation", marker=".")
    losses.set(xlabel=along, ylabel="loss")
    losses.legend()
    accuracies.plot(places, [100 * record["validation_accuracy"] for record in history], color="C1", marker=".")
    accuracies.set(xlabel=along, ylabel="validation accuracy (%)")
    for axes in (losses, accuracies):
        axes.grid(alpha=0.3)
        axes.xaxis.get_major_locator().set_params(integer=True)
    with storage.atomic_file(path) as draft:
        figure.savefig(draft, format="png", dpi=120)
