"""What mattered in a search, as a picture: how much each setting decides, and each trial's accuracy by its value."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from mlapp import storage
from mlapp.search_space import Choice, Dimension, SearchSpace, Whole
from mlapp.tune.space import distributions
from mlapp.tune.trials import Trial

COLUMNS = 4
BEST, FINISHED, STOPPED = "#c0392b", "#2a6fbb", "#9aa5b1"


def enough(space: SearchSpace) -> int:
    """From how many trials on the importance of settings is more than noise: a rule of thumb."""
    return max(12, 3 * len(space))


def common_epoch(trials: Sequence[Trial]) -> int:
    """The last epoch that every one of these trials reached: there, stopped and finished ones can be compared."""
    return min(max(trial.accuracies) for trial in trials)


def importances(trials: Sequence[Trial], space: SearchSpace) -> dict[str, float]:
    """Share of the variance of the accuracy at the common epoch that each setting explains, the largest first.

    Empty where it cannot be told. At the end of each trial one would mostly see which of them were stopped. Method:
    fANOVA as Optuna has it; Hutter, F., Hoos, H. & Leyton-Brown, K. (2014). An efficient approach for assessing
    hyperparameter importance. ICML.
    """
    import optuna

    if len(trials) < enough(space):
        return {}
    reached = common_epoch(trials)
    trials = [trial for trial in trials if min(trial.accuracies) <= reached]  # not those of students still to be pruned
    accuracies = [max(value for epoch, value in trial.accuracies.items() if epoch <= reached) for trial in trials]
    if len(set(accuracies)) < 3:
        return {}
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(direction="maximize")
    spread = distributions(space)
    for trial, accuracy in zip(trials, accuracies, strict=True):
        study.add_trial(optuna.trial.create_trial(params=trial.parameters, distributions=spread, value=accuracy))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
        return optuna.importance.get_param_importances(study, evaluator=evaluator)


def draw(trials: Sequence[Trial], space: SearchSpace, best: Trial, trainer: str, path: Path) -> None:
    """Write the plot as PNG."""
    from matplotlib.figure import Figure

    usable = [trial for trial in trials if trial.usable]
    shares = importances(usable, space)
    names = list(shares) or list(space)
    columns = min(COLUMNS, len(names) + 1)
    rows = math.ceil((len(names) + 1) / columns)
    figure = Figure(figsize=(3.1 * columns, 2.7 * rows + 0.6), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False).flatten()
    _bars(panels[0], shares, usable, space)
    floor = _floor(usable)
    for place, (axes, name) in enumerate(zip(panels[1:], names, strict=False), start=1):
        _slice(axes, name, space[name], usable, best, floor)
        if place == 1 or place % columns == 0:
            axes.set_ylabel("validation accuracy (%)", fontsize=8)
    for axes in panels[len(names) + 1 :]:
        axes.set_axis_off()
    failed = sum(trial.state == "failed" for trial in trials)
    lost = f", {failed} failed (not shown)" if failed else ""
    figure.suptitle(f"{trainer}: {len(trials)} trials{lost}", fontsize=10)
    figure.legend(handles=_legend(usable, floor), loc="outside lower center", ncols=4, fontsize=8, frameon=False)
    with storage.atomic_file(path) as draft:
        figure.savefig(draft, format="png", dpi=120)


def _bars(axes: Any, shares: dict[str, float], trials: Sequence[Trial], space: SearchSpace) -> None:
    if not shares:
        axes.set_axis_off()
        few = f"{len(trials)} trials are too few to tell\nwhich settings matter\n(from {enough(space)} on)"
        reason = few if len(trials) < enough(space) else "the trials do not differ in accuracy"
        axes.text(0.5, 0.5, reason, ha="center", va="center", fontsize=9, color="#4c566a")
        return
    axes.set_title(f"what decides the accuracy after epoch {common_epoch(trials)}", fontsize=9)
    names = list(reversed(shares))
    axes.barh(names, [100 * shares[name] for name in names], color="#4c566a", height=0.6)
    axes.set_xlabel(f"share of its variance (%), from {len(trials)} trials", fontsize=8)
    axes.tick_params(labelsize=8)
    axes.set_axisbelow(True)
    axes.grid(axis="x", alpha=0.25)


def _floor(trials: Sequence[Trial]) -> float:
    """The accuracy (%) below which trials stand at the panels' lower edge: early stops would flatten all the rest."""
    lowest = min(100 * trial.accuracy for trial in trials)
    finished = [100 * trial.accuracy for trial in trials if trial.state == "finished"]
    if len(finished) < 3:
        return lowest
    return max(lowest, min(finished) - max(max(finished) - min(finished), 1.0))


def _slice(axes: Any, name: str, dimension: Dimension, trials: Sequence[Trial], best: Trial, floor: float) -> None:
    from matplotlib.ticker import LogLocator, MaxNLocator

    for trial in sorted(trials, key=lambda trial: trial.state, reverse=True):
        colour = FINISHED if trial.state == "finished" else STOPPED
        below = 100 * trial.accuracy < floor
        axes.scatter(
            _place(trial, name, dimension),
            max(100 * trial.accuracy, floor),
            c=colour,
            marker="v" if below else "o",
            s=22,
            alpha=0.85,
            linewidths=0,
        )
    axes.scatter(
        _place(best, name, dimension),
        100 * best.accuracy,
        facecolors="none",
        edgecolors=BEST,
        s=90,
        linewidths=1.6,
    )
    axes.set_title(name, fontsize=9)
    axes.tick_params(labelsize=8)
    axes.grid(alpha=0.25)
    if isinstance(dimension, Choice):
        axes.set_xticks(range(len(dimension.of)), [str(option) for option in dimension.of])
        axes.set_xlim(-0.5, len(dimension.of) - 0.5)
        return
    low, high, margin = dimension.low, dimension.high, 0.04
    if dimension.log:
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0) if high / low < 50 else (1.0,)))
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_formatter("")
        axes.set_xlim(low * (low / high) ** margin, high * (high / low) ** margin)
    else:
        if isinstance(dimension, Whole):
            axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
        axes.set_xlim(low - margin * (high - low), high + margin * (high - low))


def _place(trial: Trial, name: str, dimension: Dimension) -> float:
    """Where a trial stands on its axis; those of one choice beside each other by their number, not in one line."""
    value = trial.parameters[name]
    if not isinstance(dimension, Choice):
        return float(value)
    return dimension.of.index(value) + 0.5 * ((0.618 * trial.number) % 1 - 0.5)


def _legend(trials: Sequence[Trial], floor: float) -> list[Any]:
    from matplotlib.lines import Line2D

    def dot(colour: str, label: str, marker: str = "o", **more: Any) -> Any:
        return Line2D([], [], color=colour, linestyle="", marker=marker, markersize=5, label=label, **more)

    stopped = [trial for trial in trials if trial.state == "stopped"]
    below = any(100 * trial.accuracy < floor for trial in stopped)
    return [
        dot(FINISHED, "trained to the end"),
        *([dot(STOPPED, "stopped early")] if stopped else []),
        *([dot(STOPPED, "further below", marker="v")] if below else []),
        Line2D([], [], color=BEST, linestyle="", marker="o", markersize=9, markerfacecolor="none", label="best"),
    ]
