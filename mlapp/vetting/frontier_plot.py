"""The frontier as a picture: validation accuracy against file size, what was chosen and why not the others."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mlapp import storage
from mlapp.candidate import Candidate
from mlapp.errors import printable
from mlapp.vetting.frontier import Placed

COLOURS = {
    "teacher": "#4c566a",
    "student": "#2a6fbb",
    "filters pruned": "#d1722b",
    "weights pruned": "#3c9a5f",
    "baseline": "#8e5ea2",
}
MARKERS = {"float32": "o", "int8": "s"}


def draw(placed: Sequence[Placed], chosen: Placed, teacher: Candidate, floor: float, path: Path) -> None:
    """Write the plot as PNG, with lines at the ``teacher``'s accuracy and at the ``floor`` that the policy accepts."""
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D
    from matplotlib.ticker import LogLocator

    figure = Figure(figsize=(7.6, 4.4), layout="constrained")
    axes = figure.subplots()
    for entry in placed:
        candidate = entry.candidate
        accuracy = candidate.validation_accuracy
        size, value = candidate.bytes / 1000, 100 * accuracy.value
        spread = [[value - 100 * (accuracy.low or 0)], [100 * (accuracy.high or 0) - value]]
        colour = COLOURS[candidate.kind]
        faded = 1.0 if entry.on_frontier or candidate.kind == "baseline" else 0.45
        axes.errorbar(size, value, yerr=spread, color=colour, alpha=0.35 * faded, linewidth=1, zorder=1)
        axes.scatter(size, value, c=colour, marker=MARKERS[candidate.precision], s=46, alpha=faded, zorder=3)
    axes.plot(*zip(*_staircase(placed), strict=True), color="#9aa5b1", linewidth=1, zorder=2)
    best = chosen.candidate
    axes.scatter(
        best.bytes / 1000,
        100 * best.validation_accuracy.value,
        s=190,
        facecolors="none",
        edgecolors="#c0392b",
        linewidths=1.8,
        zorder=4,
    )
    axes.annotate(
        f"chosen: {printable(best.label)}",
        (best.bytes / 1000, 100 * best.validation_accuracy.value),
        xytext=(10, -20),
        textcoords="offset points",
        color="#c0392b",
        fontsize=9,
        parse_math=False,
        bbox={"boxstyle": "square,pad=0.1", "facecolor": "white", "edgecolor": "none", "alpha": 0.85},
    )
    lowest, highest = axes.get_ylim()
    lines = [Line2D([], [], color=COLOURS["teacher"], linestyle="--", label="teacher, float32")]
    axes.axhline(100 * teacher.validation_accuracy.value, color=COLOURS["teacher"], linestyle="--", linewidth=1)
    if highest - 100 * floor < 3 * (highest - lowest):
        axes.axhline(100 * floor, color="#c0392b", linestyle=":", linewidth=1)
        lines.append(Line2D([], [], color="#c0392b", linestyle=":", label="accuracy floor"))
        lowest = min(lowest, 100 * floor - 0.05 * (highest - lowest))
    axes.set_ylim(lowest, highest)
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter("")
    axes.tick_params(which="both", labelsize=8)
    axes.set(xlabel="model file (KB, log scale)", ylabel="validation accuracy (%), 95 % interval")
    axes.grid(alpha=0.25, which="both")
    kinds = [kind for kind in COLOURS if any(entry.candidate.kind == kind for entry in placed)]
    handles = [Line2D([], [], color=COLOURS[kind], marker="o", linestyle="", label=kind) for kind in kinds]
    handles += [Line2D([], [], color="#888", marker=mark, linestyle="", label=name) for name, mark in MARKERS.items()]
    axes.legend(handles=handles + lines, fontsize=8, loc="lower left", bbox_to_anchor=(0, 1), ncols=4, frameon=False)
    with storage.atomic_file(path) as draft:
        figure.savefig(draft, format="png", dpi=130)


def _staircase(placed: Sequence[Placed]) -> list[tuple[float, float]]:
    """The points, from small to large, that are more accurate than everything smaller."""
    steps: list[tuple[float, float]] = []
    for candidate in sorted((entry.candidate for entry in placed), key=lambda each: each.bytes):
        accuracy = 100 * candidate.validation_accuracy.value
        if not steps or accuracy > steps[-1][1]:
            steps.append((candidate.bytes / 1000, accuracy))
    return steps
