"""What every trainer leaves besides its model: the history as JSON and as a plot, and the headline figures."""

from __future__ import annotations

import json
from pathlib import Path

from mlapp import storage
from mlapp.candidate import Candidate
from mlapp.result import Metric, Outcome


def outcome(
    workdir: Path, artifacts: dict[str, Path], candidates: list[Candidate], history: list[dict[str, float]]
) -> Outcome:
    """The trainer's outcome; its headline is the float model's line."""
    written = artifacts | {"history": workdir / "history.json", "curves": workdir / "curves.png"}
    storage.write_text(written["history"], json.dumps(history, indent=2))
    _plot(history, written["curves"])
    metrics = {
        f"{candidate.precision}.{name}": metric
        for candidate in candidates
        for name, metric in {
            "validation_accuracy": candidate.validation_accuracy,
            "latency": candidate.latency_us,
            "size": Metric(value=candidate.bytes, unit="B"),
        }.items()
    }
    metrics["epochs"] = Metric(value=len(history))
    metrics["training"] = Metric(value=sum(record["seconds"] for record in history), unit="s")
    return Outcome(artifacts=dict(written), metrics=metrics, headline=_headline(candidates))


def _headline(candidates: list[Candidate]) -> str:
    float32, int8 = (
        next(candidate for candidate in candidates if candidate.precision == precision)
        for precision in ("float32", "int8")
    )
    accuracies = f"{100 * float32.validation_accuracy.value:.2f} %, int8 {100 * int8.validation_accuracy.value:.2f} %"
    return f"{float32.name}: {accuracies} on validation; {int8.bytes / 1000:.0f} KB, {int8.latency_us.value:.0f} µs"


def _plot(history: list[dict[str, float]], path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.4), layout="constrained")
    losses, accuracies = figure.subplots(1, 2)
    epochs = range(1, len(history) + 1)
    losses.plot(epochs, [record["loss"] for record in history], label="training", marker=".")
    losses.plot(epochs, [record["validation_loss"] for record in history], label="validation", marker=".")
    losses.set(xlabel="epoch", ylabel="loss")
    losses.legend()
    accuracies.plot(epochs, [100 * record["validation_accuracy"] for record in history], color="C1", marker=".")
    accuracies.set(xlabel="epoch", ylabel="validation accuracy (%)")
    for axes in (losses, accuracies):
        axes.grid(alpha=0.3)
        axes.xaxis.get_major_locator().set_params(integer=True)
    with storage.atomic_file(path) as draft:
        figure.savefig(draft, format="png", dpi=120)
