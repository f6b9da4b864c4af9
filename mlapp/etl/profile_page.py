"""The profile of a data set as one self-contained page."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jinja2 import Environment

from mlapp.etl.class_looks import Looks, Values
from mlapp.etl.page import STYLE, strip

TEMPLATE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>{{ profile.name }}: profile</title>
<style>{{ style }}
  body { max-width: 76rem; } .plot { width: 100%; max-width: 52rem; image-rendering: auto; }
</style>
<h1>{{ profile.name }}</h1>
<p>{{ profile.shape | join(" × ") }} pixels, {{ looks | length }} classes, from {{ profile.origin }}.
Digest of the prepared pixels and labels: <code>{{ profile.digest }}</code>.</p>

<h2>Splits</h2>
<table>
<tr><th>Split</th><th>Images</th><th>Mean brightness</th><th>Standard deviation</th>
<th>Shift against train (Kolmogorov-Smirnov, 0 to 1)</th></tr>
{% for name, figures in profile.brightness.items() -%}
<tr><td>{{ name }}</td><td>{{ "{:,}".format(profile.class_counts[name].values() | sum) }}</td>
<td>{{ "%.1f" | format(figures.mean) }}</td><td>{{ "%.1f" | format(figures.std) }}</td>
<td>{{ "%.3f" | format(profile.brightness_shift[name].value) if name in profile.brightness_shift else "–" }}</td></tr>
{% endfor -%}
</table>
<img class="plot" alt="distribution of brightness" src="data:image/png;base64,{{ plot }}">

<h2>Classes, in the training split</h2>
<table>
<tr><th>Class</th>{% for name in profile.class_counts %}<th>{{ name }}</th>{% endfor %}
<th class="wide">Mean, spread</th><th class="wide">Most typical</th><th class="wide">Oddest</th></tr>
{% for each in looks -%}
{% set name = classes[loop.index0] -%}
<tr><td>{{ name }}</td>
{% for counts in profile.class_counts.values() %}<td>{{ "{:,}".format(counts[name]) }}</td>{% endfor %}
{% for picture in each -%}
<td class="wide"><img alt="{{ name }}" src="data:image/png;base64,{{ picture }}"></td>
{% endfor %}</tr>
{% endfor -%}
</table>

<h2>Classes that look most alike</h2>
<p>Distance between the mean images, in units of the pixels' spread within the two classes: the smaller, the harder.</p>
<table>
<tr><th>Classes</th><th>Distance</th></tr>
{% for pair in profile.most_alike -%}
<tr><td>{{ pair.classes | join(" and ") }}</td><td>{{ "%.2f" | format(pair.distance) }}</td></tr>
{% endfor -%}
</table>
</html>
"""
SHOWN = 6


def render(profile: Mapping[str, Any], looks: Sequence[Looks], brightness: Mapping[Any, Values]) -> str:
    """The page for a profile."""
    pictures = [
        (
            strip([np.rint(part).astype(np.uint8) for part in (each.mean, np.minimum(2 * each.spread, 255))], 2),
            strip(each.typical, SHOWN),
            strip(each.oddest, SHOWN),
        )
        for each in looks
    ]
    return (
        Environment(autoescape=True)
        .from_string(TEMPLATE)
        .render(
            profile=profile,
            looks=pictures,
            classes=list(profile["class_counts"]["train"]),
            plot=_histograms(brightness),
            style=STYLE,
        )
    )


def _histograms(brightness: Mapping[Any, Values]) -> str:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 2.6), layout="constrained")
    axes = figure.subplots()
    for name, values in brightness.items():
        axes.hist(
            values, bins=np.linspace(0, 255, 65).tolist(), density=True, histtype="step", linewidth=1.4, label=name
        )
    axes.set(xlabel="mean pixel of an image", ylabel="density")
    axes.legend()
    axes.grid(alpha=0.3)
    stream = io.BytesIO()
    figure.savefig(stream, format="png", dpi=120)
    return base64.b64encode(stream.getvalue()).decode()
