"""What a search leaves: the best parameters, every trial as JSON and as a table, and the plot of what mattered."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mlapp import storage
from mlapp.result import Metric, Outcome
from mlapp.search_space import SearchSpace
from mlapp.statistics import proportion
from mlapp.tune import importance
from mlapp.tune.space import told
from mlapp.tune.trials import Trial, Trials, best_of

log = logging.getLogger("mlapp")


def nothing(trainer: str, wanted: bool, workdir: Path) -> Outcome:
    """The outcome of no search: the trainer keeps its settings."""
    why = "tuning.trials is 0" if wanted else f"tuning.trainers does not name {trainer}"
    path = workdir / "best.json"
    storage.write_text(path, json.dumps({"parameters": {}, "trainer": trainer}, indent=2))
    return Outcome(artifacts={"best": path}, headline=f"{trainer}: no search ({why}), its settings stay as they are")


def outcome(trainer: str, trials: Trials, space: SearchSpace, images: int, workdir: Path) -> Outcome:
    """Write everything and sum it up; ``images`` is the number in the validation split."""
    everything = list(trials)
    best = best_of(everything)
    assert best is not None
    artifacts = {
        "best": workdir / "best.json",
        "trials": workdir / "trials.json",
        "table": workdir / "trials.md",
        "importance": workdir / "importance.png",
    }
    content = {
        "parameters": best.parameters,
        "trainer": trainer,
        "validation_accuracy": best.accuracy,
        "epochs": max(best.accuracies),
        "trial": best.number,
    }
    storage.write_text(artifacts["best"], json.dumps(content, indent=2))
    listed = [trial.model_dump(mode="json") for trial in everything]
    storage.write_text(artifacts["trials"], json.dumps(listed, indent=2))
    lines = table(everything, best)
    for line in lines:
        log.info("%s", line)
    storage.write_text(artifacts["table"], "\n".join(lines) + "\n")
    importance.draw(everything, space, best, trainer, artifacts["importance"])
    stopped = sum(trial.state == "stopped" for trial in everything)
    failed = sum(trial.state == "failed" for trial in everything)
    metrics = {
        "validation_accuracy": proportion(round(best.accuracy * images), images),
        "trials": Metric(value=len(everything)),
        "stopped_early": Metric(value=stopped, n=len(everything)),
        "failed": Metric(value=failed, n=len(everything)),
        "epochs": Metric(value=sum(len(trial.accuracies) for trial in everything)),
        "training": Metric(value=round(sum(trial.seconds for trial in everything), 1), unit="s"),
        "training_cpu": Metric(value=round(sum(trial.cpu_seconds for trial in everything), 1), unit="s"),
    }
    fate = "".join(f", {count} {what}" for count, what in ((stopped, "stopped early"), (failed, "failed")) if count)
    headline = (
        f"{trainer}: {len(everything)} trials{fate}, best {100 * best.accuracy:.2f} % on validation "
        f"(trial {best.number}: {told(best.parameters)})"
    )
    return Outcome(artifacts=dict(artifacts), metrics=metrics, headline=headline)


def table(trials: Sequence[Trial], best: Trial) -> list[str]:
    """A Markdown table that also reads well as it is, the most accurate trial first."""
    ranked = sorted(trials, key=lambda trial: (not trial.usable, -trial.accuracy, trial.number))
    names = list(best.parameters)
    head = ["trial", "accuracy", "epochs", "state", "time", *names]
    rows = [
        [
            str(trial.number),
            f"{100 * trial.accuracy:.2f} %" if trial.usable else "",
            str(max(trial.accuracies, default=0)),
            trial.state,
            f"{trial.seconds:.0f} s",
            *(_value(trial.parameters.get(name)) for name in names),
        ]
        for trial in ranked
    ]
    numeric = [all(_is_number(row[column]) for row in rows) for column in range(len(head))]
    widths = [max(3, *(len(row[column]) for row in [head, *rows])) for column in range(len(head))]

    def line(cells: Sequence[str]) -> str:
        padded = (
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(cells, widths, numeric, strict=True)
        )
        return f"| {' | '.join(padded)} |"

    rule = [f"{'-' * (width - 1)}{':' if right else '-'}" for width, right in zip(widths, numeric, strict=True)]
    failures = [f"Trial {trial.number} failed: {trial.reason}" for trial in trials if trial.state == "failed"]
    return [line(head), line(rule), *map(line, rows), *(["", *failures] if failures else [])]


def _value(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _is_number(cell: str) -> bool:
    bare = cell.removesuffix(" %").removesuffix(" s")
    return not bare or bare.replace(".", "", 1).replace("e-", "", 1).replace("e+", "", 1).lstrip("-").isdigit()
