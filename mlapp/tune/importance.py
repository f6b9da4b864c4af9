"""What mattered in a search, as a picture: how much each setting decides, and each trial's accuracy by its value."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mlapp import storage
from mlapp.search_space import Choice, Dimension, SearchSpace
from mlapp.tune.space import distributions
from mlapp.tune.trials import Trial

COLUMNS = 3
BEST, FINISHED, STOPPED = "#c0392b", "#2a6fbb", "#9aa5b1"


def enough(space: SearchSpace) -> int:
    """From how many trials on the importance of settings is more than noise: a rule of thumb."""
    return max(12, 3 * len(space))


def importances(trials: Sequence[Trial], space: SearchSpace) -> dict[str, float]:
    """Share of the variance of accuracy that each setting explains, the largest first; empty where none can be told.

    Hutter, F., Hoos, H. & Leyton-Brown, K. (2014). An efficient approach for assessing hyperparameter importance
    (fANOVA), as Optuna has it.
    """
    import optuna

    usable = [trial for trial in trials if trial.usable]
    if len(usable) < enough(space) or len({trial.accuracy for trial in usable}) < 3:
        return {}
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(direction="maximize")
    spread = distributions(space)
    for trial in usable:
        study.add_trial(optuna.trial.create_trial(params=trial.parameters, distributions=spread, value=trial.accuracy))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return optuna.importance.get_param_importances(
            study, evaluator=optuna.importance.FanovaImportanceEvaluator(seed=0)
        )


def draw(trials: Sequence[Trial], space: SearchSpace, best: Trial, trainer: str, path: Path) -> None:
    """Write the plot as PNG."""
    from matplotlib.figure import Figure

    shares = importances(trials, space)
    names = list(shares) or list(space)
    rows = math.ceil((len(names) + 1) / COLUMNS)
    figure = Figure(figsize=(3.4 * COLUMNS, 2.7 * rows + 0.4), layout="constrained")
    panels = figure.subplots(rows, COLUMNS, squeeze=False).flatten()
    usable = [trial for trial in trials if trial.usable]
    _bars(panels[0], shares, len(usable), space)
    for axes, name in zip(panels[1:], names, strict=False):
        _slice(axes, name, space[name], usable, best)
    for axes in panels[len(names) + 1 :]:
        axes.set_axis_off()
    failed = sum(trial.state == "failed" for trial in trials)
    figure.suptitle(
        f"{trainer}: {len(trials)} trials, {sum(trial.state == 'stopped' for trial in trials)} stopped early"
        + (f", {failed} failed (not shown)" if failed else ""),
        fontsize=10,
    )
    with storage.atomic_file(path) as draft:
        figure.savefig(draft, format="png", dpi=120)


def _bars(axes: Any, shares: dict[str, float], n: int, space: SearchSpace) -> None:
    axes.set_title("share of the variance explained", fontsize=9)
    if not shares:
        axes.set_axis_off()
        reason = f"{n} trials are too few to tell\nwhich settings matter\n(from {enough(space)} on)"
        reason = reason if n < enough(space) else "all trials are equally accurate"
        axes.text(0.5, 0.5, reason, ha="center", va="center", fontsize=9, color="#4c566a")
        return
    names = list(reversed(shares))
    axes.barh(names, [100 * shares[name] for name in names], color=FINISHED, height=0.6)
    axes.set_xlabel("%", fontsize=8)
    axes.tick_params(labelsize=8)
    axes.grid(axis="x", alpha=0.25)


def _slice(axes: Any, name: str, dimension: Dimension, trials: Sequence[Trial], best: Trial) -> None:
    for state, colour, label in (("stopped", STOPPED, "stopped early"), ("finished", FINISHED, "trained to the end")):
        chosen = [trial for trial in trials if trial.state == state]
        axes.scatter(*_points(chosen, name, dimension), c=colour, s=22, alpha=0.85, linewidths=0, label=label)
    axes.scatter(*_points([best], name, dimension), facecolors="none", edgecolors=BEST, s=90, linewidths=1.6)
    axes.set_title(name, fontsize=9)
    axes.set_ylabel("validation accuracy (%)", fontsize=8)
    axes.tick_params(labelsize=8)
    axes.grid(alpha=0.25)
    if isinstance(dimension, Choice):
        axes.set_xticks(range(len(dimension.of)), [str(option) for option in dimension.of])
        axes.set_xlim(-0.5, len(dimension.of) - 0.5)
    else:
        axes.set_xscale("log" if dimension.log else "linear")
        margin = 0.04
        low, high = dimension.low, dimension.high
        if dimension.log:
            axes.set_xlim(low * (low / high) ** margin, high * (high / low) ** margin)
        else:
            axes.set_xlim(low - margin * (high - low), high + margin * (high - low))


def _points(trials: Sequence[Trial], name: str, dimension: Dimension) -> tuple[list[float], list[float]]:
    values = [trial.parameters[name] for trial in trials]
    if isinstance(dimension, Choice):
        # Trials of one choice stand beside each other by their number, not on top of each other.
        values = [
            dimension.of.index(value) + 0.5 * ((0.618 * trial.number) % 1 - 0.5)
            for value, trial in zip(values, trials, strict=True)
        ]
    return values, [100 * trial.accuracy for trial in trials]
