"""What is shown of runs in the terminal, as plain text: a line each, one in detail, several side by side."""

from __future__ import annotations

from mlapp import origins, run_comparison
from mlapp.result import Metric
from mlapp.run_history import Run
from mlapp.schema import Config
from mlapp.text_table import WIDTH, costs, cut, duration, figure, key_metric, table


def overview(runs: list[Run]) -> str:
    """A line a run."""
    if not runs:
        return "no runs yet"
    rows = [("run", "when (UTC)", "preset", "state", "teacher", "challenger", "verdict", "time")]
    for run in runs:
        rows.append(
            (
                run.name,
                f"{run.when:%m-%d %H:%M}" if run.when else "",
                cut(run.preset, 12),
                cut(run.state, 20),
                _share(run, "teacher"),
                _share(run, "challenger"),
                run.verdict,
                duration(run.seconds) if run.stages else "",
            )
        )
    names = [run.name for run in runs]
    others = sum(max(len(row[column]) for row in rows) + 2 for column in range(1, len(rows[0])))
    rows[1:] = [(_short(row[0], names, WIDTH - others), *row[1:]) for row in rows[1:]]
    told = [table(rows, right=(4, 5, 7))]
    if any("~" in row[4] + row[5] for row in rows):
        told.append("~ on validation; the others are on the test split")
    told += [f"damaged: {run.name}: cannot read {', '.join(run.damage)}" for run in runs if run.damage]
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
            width = max(len(label) for label, _ in paths)  # a path that is cut helps nobody, so this is no table
            parts.append("\n".join(["paths", *(f"{label:{width}}  {path}" for label, path in paths)]))
    return "\n\n".join(parts)


def comparison(runs: list[Run]) -> str:
    """Settings and figures side by side, with the differences to the first run."""
    settings, rows = run_comparison.differing_settings(runs), run_comparison.rows(runs)
    letters = [chr(ord("A") + place) for place in range(len(runs))]
    heads = [("", "run", "preset", "state", "teacher", "challenger", "verdict")]
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
                run.verdict,
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
    return "\n".join(f"{name:10}  {value}" for name, value in lines)


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


def _short(name: str, names: list[str], width: int) -> str:
    """A name cut to the width, but never so short that it could be another's."""
    least = max((len(_common(name, other)) for other in names if other != name), default=0) + 2
    return cut(name, max(width, least, 12))


def _common(first: str, other: str) -> str:
    return first[: next((place for place, (a, b) in enumerate(zip(first, other, strict=False)) if a != b), len(first))]
