"""Figures and tables as plain text, for the terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from mlapp.errors import printable
from mlapp.result import Metric

WIDTH = 120
PER_CENT = " %"
SHARES = ("accuracy", "recall", "difference_to")


def table(rows: Sequence[Sequence[str]], *, right: Sequence[int] = (), width: int | None = WIDTH) -> str:
    """Columns two spaces apart; those numbered in ``right`` are flush right. Lines are cut to ``width``, if any.

    Control characters are escaped: no cell can add a line or change how a terminal shows the others.
    """
    rows = [[printable(cell) for cell in row] for row in rows]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [
            cell.rjust(room) if column in right else cell.ljust(room)
            for column, (cell, room) in enumerate(zip(row, widths, strict=True))
        ]
        line = "  ".join(cells).rstrip()
        lines.append(cut(line, width) if width else line)
    return "\n".join(lines)


def cut(text: str, width: int) -> str:
    """The text, or as much of it as fits."""
    return text if len(text) <= width else f"{text[: width - 1]}…"


def costs(timings: Mapping[str, float]) -> tuple[str, str, str]:
    """A stage's time, CPU time and peak memory."""
    wall, cpu, peak = (timings.get(name, 0.0) for name in ("wall_s", "cpu_s", "peak_rss_mb"))
    return f"{wall:.1f} s", f"{cpu:.0f} s", f"{peak:,.0f} MB"


def key_metric(stage: str, headline: str) -> str:
    """What a stage came to, for its line of a table; of verdict and promotion the rest is told beside the table."""
    return headline.partition(";")[0] if stage in ("vet", "promote") else headline


def number(value: float) -> str:
    """A number of any size: ``0.8912``, ``150,000``, ``3e-12``."""
    return f"{value:,.0f}" if value >= 1000 else f"{value:.1g}" if 0 < value < 1e-4 else f"{value:.4g}"


def percent(metric: Metric) -> str:
    """A share as ``91.23 %``."""
    return f"{100 * metric.value:.2f} %"


def interval(metric: Metric) -> str:
    """The 95 % interval of a share as ``90.70 – 91.80``, in percent."""
    return f"{100 * (metric.low or 0):.2f} – {100 * (metric.high or 0):.2f}"


def duration(seconds: float) -> str:
    """A time as one would say it."""
    if seconds < 100:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02} min"


def figure(name: str, metric: Metric, *, signed: bool = False, interval: bool = True) -> str:
    """A metric by its name's meaning, with its interval: shares in per cent, sizes in kilobytes.

    ``signed`` is for a difference: of shares, it is in percentage points.
    """
    scale, digits, unit = _manner(name, metric)
    manner = f"{'+' if signed else ''}z,.{digits}f"  # z: no minus before a zero
    told = f"{metric.value * scale:{manner}}{' pp' if signed and unit == PER_CENT else unit}"
    if interval and metric.low is not None and metric.high is not None:
        told += f" [{metric.low * scale:{manner}}, {metric.high * scale:{manner}}]"
    return told


def _manner(name: str, metric: Metric) -> tuple[float, int, str]:
    if any(share in name for share in SHARES):
        return 100, 2, PER_CENT
    if metric.unit == "B":
        return 1e-3, 1, " KB"
    if metric.unit == "s":
        return 1, 1, " s"
    whole = float(metric.value).is_integer() or abs(metric.value) >= 1000
    return 1, 0 if whole else 2, f" {metric.unit}" if metric.unit else ""
