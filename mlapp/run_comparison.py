"""What differs between runs: settings, and figures with the intervals of their differences."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from mlapp.result import Metric
from mlapp.run_history import Run


@dataclass(frozen=True)
class Row:
    """One figure of all the runs; None where a run has none."""

    stage: str
    name: str
    figures: list[Metric | None]

    @property
    def equal(self) -> bool:
        """Whether all runs agree."""
        values = {figure.value if figure else None for figure in self.figures}
        return len(values) == 1

    def differences(self) -> list[Metric | None]:
        """Each run's figure less the first run's."""
        first, *others = self.figures
        return [difference(first, other) if first and other else None for other in others]


def differing_settings(runs: list[Run]) -> dict[str, list[Any]]:
    """The settings that are not the same in all runs; what a run is called does not count."""
    names = dict.fromkeys(name for run in runs for name in run.settings)
    found = {name: [run.settings.get(name) for run in runs] for name in names if name != "tracking.group"}
    return {name: values for name, values in found.items() if any(value != values[0] for value in values)}


def rows(runs: list[Run]) -> list[Row]:
    """Every figure of every stage, in the order of the stages."""
    by_run = []
    for run in runs:
        figures: dict[tuple[str, str], Metric] = {}
        for stage in run.stages:
            figures |= {(stage.label, name): metric for name, metric in stage.metrics.items()}
            if "wall_s" in stage.timings:
                figures[stage.label, "time"] = Metric(value=stage.timings["wall_s"], unit="s")
        by_run.append(figures)
    keys = list(dict.fromkeys(key for figures in by_run for key in figures))
    kinds = list(dict.fromkeys(stage.split(" ", maxsplit=1)[0] for stage, _ in keys))
    keys.sort(key=lambda key: (kinds.index(key[0].split(" ", maxsplit=1)[0]), key[0]))
    return [Row(stage, name, [figures.get((stage, name)) for figures in by_run]) for stage, name in keys]


def difference(first: Metric, other: Metric) -> Metric:
    """``other`` less ``first``, with a 95 % interval where both have one.

    The interval is recovered from the two (MOVER) as if they were independent: Zou, G. & Donner, A. (2008).
    Construction of confidence intervals about effect measures. Statistics in Medicine 27. For shares with Wilson
    intervals that is Newcombe's (1998) tenth method. Two models scored on the same images differ less at random than
    that, so it errs on the wide side.
    """
    by = other.value - first.value
    if first.low is None or first.high is None or other.low is None or other.high is None:
        return Metric(value=by, unit=other.unit)
    return Metric(
        value=by,
        low=by - math.hypot(other.value - other.low, first.high - first.value),
        high=by + math.hypot(other.high - other.value, first.value - first.low),
        unit=other.unit,
    )


def same_data(runs: list[Run]) -> bool:
    """Whether all runs that got to their data had the same."""
    keys = {stage.key for run in runs if (stage := run.stage("transform"))}
    return len(keys) <= 1
