"""What is shown of runs in the terminal, as plain text: a line each, one in detail, several side by side."""

from __future__ import annotations

import itertools
import os
from datetime import UTC, datetime

from mlapp import origins, run_comparison
from mlapp.errors import printable
from mlapp.result import Metric
from mlapp.run_history import Run
from mlapp.run_index import Accuracy, Overview
from mlapp.schema import Config
from mlapp.text_table import WIDTH, costs, cut, duration, figure, key_metric, table


def overview(runs: list[Overview], width: int | None = WIDTH) -> str:
    """A line a run, whole or of this width."""
    if not runs:
        return "no runs yet"
    rows: list[tuple[str, ...]] = [
        ("run", "when (UTC)", "preset", "outcome", "state", "teacher", "challenger", "model", "data", "time")
    ]
    for run in runs:
        state = "" if run.state == run.outcome else run.state
        rows.append(
            (
                run.run,
                datetime.fromisoformat(run.when).astimezone(UTC).strftime("%Y-%m-%d %H:%M") if run.when else "",
                run.preset if width is None else cut(run.preset, 12),
                run.outcome,
                state if width is None else cut(state, 20),
                _percent(run.teacher),
                _percent(run.challenger),
                run.model,
                f"{run.data}@{run.data_digest}" if run.data_digest else run.data,
                duration(run.seconds) if run.seconds else "",
            )
        )
    if width is not None:  # what a run is known by comes first, what identifies its data last
        keep = (0, 1, 2, 3, 5, 6, 7, 9)
        rows = [tuple(row[column] for column in keep) for row in rows]
        names = [run.run for run in runs]
        others = sum(max(len(row[column]) for row in rows) + 2 for column in range(1, len(rows[0])))
        rows[1:] = [(short, *row[1:]) for short, row in zip(_shortened(names, width - others), rows[1:], strict=True)]
    told = [table(rows, right=(4, 5, 7) if width is not None else (5, 6, 9), width=width)]
    if any("~" in cell for row in rows[1:] for cell in row[4:7]):
        told.append("~ on validation; the others are on the test split")
    told += [printable(f"damaged: {run.run}: cannot read {', '.join(run.damaged)}") for run in runs if run.damaged]
    return "\n".join(told)


def details(run: Run) -> str:
    """One run, from its settings to its paths."""
    parts = [_head(run)]
    if changed := run.changed():
        usual = origins.flat(Config())
        rows = [
            (name, cut(origins.compact(setting.value), 40), setting.origin, cut(origins.compact(usual.get(name)), 30))
            for name, setting in changed.items()
        ]
        parts.append(table([("settings not at their defaults", "", "set by", "default"), *rows]))
    if run.stages:
        parts.append(_stages(run))
        paths = [(stage.label, stage.result.removesuffix("/result.json")) for stage in run.stages if stage.result]
        if paths:
            parts.append(f"paths\n{table(paths, width=None)}")  # a path that is cut helps nobody
    return "\n\n".join(parts)


def comparison(runs: list[Run]) -> str:
    """Settings and figures side by side, with the differences to the first run."""
    settings, rows = run_comparison.differing_settings(runs), run_comparison.rows(runs)
    letters = [chr(ord("A") + place) for place in range(len(runs))]
    heads = [("", "run", "preset", "state", "teacher", "challenger", "outcome")]
    for letter, run in zip(letters, runs, strict=True):
        name = cut(run.name, 60)
        heads.append(
            (
                letter,
                name,
                cut(run.preset, 12),
                run.state,
                _share(run, "teacher"),
                _share(run, "challenger"),
                run.outcome,
            )
        )
    parts = [table(heads, right=(4, 5))]
    if not run_comparison.same_data(runs):
        parts.append("The runs had different data: their accuracies are not of the same images.")
    told = [(name, *(cut(origins.compact(value), 24) for value in values)) for name, values in settings.items()]
    parts.append(table([("settings that differ", *letters), *told]) if told else "The settings are the same.")
    different = [row for row in rows if not row.equal]
    if different:
        parts.append(_figures(different, letters))
    if equal := len(rows) - len(different):
        parts.append(f"{equal} figures are equal.")
    return "\n\n".join(parts)


def _figures(rows: list[run_comparison.Row], letters: list[str]) -> str:
    """Two runs with full intervals, more of them with a mark where the difference is beyond chance."""
    pair = len(letters) == 2
    lines = [("figures", *letters, "B - A")] if pair else [("figures", *letters)]
    stage = ""
    for row in rows:
        if row.stage != stage:
            stage = row.stage
            lines.append((stage, *[""] * (len(lines[0]) - 1)))
        cells = [figure(row.name, metric, interval=pair) if metric else "" for metric in row.figures]
        differences = row.differences()
        if pair:
            cells += [figure(row.name, by, signed=True) if by else "" for by in differences]
        else:
            cells[1:] = [
                f"{cell} ({figure(row.name, by, signed=True, interval=False)}{_beyond(by)})" if by else cell
                for cell, by in zip(cells[1:], differences, strict=True)
            ]
        lines.append((f"  {row.name}", *cells))
    meant = "[95 % interval]; of a difference, as if of independent samples, so wide for models of the same images"
    marked = "(difference to A; * its 95 % interval, as if of independent samples, excludes zero)"
    return f"{table(lines, right=range(1, len(lines[0])))}\n{meant if pair else marked}"


def _beyond(by: Metric) -> str:
    return "*" if by.low is not None and by.high is not None and not by.low <= 0 <= by.high else ""


def _head(run: Run) -> str:
    lines = [("run", run.name)]
    if run.origins:
        lines.append(("configured", f"{run.when:%Y-%m-%d %H:%M} UTC, preset {run.preset}, as {run.origins.run}"))
    lines.append(("state", f"{run.state}, stages took {duration(run.seconds)}"))
    lines.append(("outcome", run.outcome))
    if run.model or run.data:
        lines.append(("model", f"{run.model}, of {run.data}{f'@{run.data_digest}' if run.data_digest else ''}"))
    if not run.done and run.stages and run.last.reason:
        lines.append(("why", run.last.reason))
    vetted, promoted = run.stage("vet"), run.stage("promote")
    if vetted:
        lines.append(("verdict", vetted.headline))
    if promoted:
        lines.append(("registry", promoted.headline))
    lines.append(("folder", str(run.folder)))
    if run.damage:
        lines.append(("damaged", f"cannot read {', '.join(run.damage)}"))
    return table(lines, width=None)


def _stages(run: Run) -> str:
    rows = [("stage", "state", "time", "CPU", "peak", "key metric")]
    for stage in run.stages:
        rows.append(
            (
                stage.label,
                stage.state_now,
                *(costs(stage.timings) if stage.timings else ("", "", "")),
                key_metric(stage.stage, stage.headline) or stage.reason,
            )
        )
    return table(rows, right=(2, 3, 4))


def _share(run: Run, who: str) -> str:
    metric, on_test = run.accuracy(who)
    return f"{'' if on_test else '~'}{100 * metric.value:.2f} %" if metric else ""


def _percent(accuracy: Accuracy | None) -> str:
    return f"{'' if accuracy.split == 'test' else '~'}{100 * accuracy.value:.2f} %" if accuracy else ""


def _shortened(names: list[str], width: int) -> list[str]:
    """Names cut to the width, but never so short that one could be another's."""
    ordered = sorted(names)
    least = dict.fromkeys(names, 0)
    for first, second in itertools.pairwise(ordered):  # a name shares most with one that stands beside it
        common = len(os.path.commonprefix((first, second))) + 2
        least[first], least[second] = max(least[first], common), max(least[second], common)
    return [cut(name, max(width, least[name], 12)) for name in names]
