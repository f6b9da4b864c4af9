"""What every trainer leaves besides its model: the history as JSON and as a plot, and the headline figures."""

from __future__ import annotations

from pathlib import Path

from mlapp.candidate import Candidate
from mlapp.curves import write_history
from mlapp.result import Metric, Outcome


def outcome(
    workdir: Path, artifacts: dict[str, Path], candidates: list[Candidate], history: list[dict[str, float]]
) -> Outcome:
    """The trainer's outcome; its headline is the float model's line."""
    written = artifacts | write_history(history, workdir)
    metrics = {name: metric for candidate in candidates for name, metric in candidate.metrics.items()}
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
