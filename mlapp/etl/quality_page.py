"""The validation report as one self-contained page: findings, class counts, a strip of sample images of each class."""

from __future__ import annotations

from typing import Any

import numpy as np
from jinja2 import Environment

from mlapp.etl.page import SAMPLES, STYLE, strip
from mlapp.etl.raw_data import Files, RawData

TEMPLATE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>{{ report.name }}: data quality</title>
<style>
{{ style }}</style>
<h1>{{ report.name }}</h1>
<p>{{ report.shape | join(" × ") }} pixels, {{ report.classes | length }} classes, from {{ report.origin }}.
Every check below is within its limit, or validation would have refused the data.</p>
{% if report.uneven %}<p><strong>{{ report.uneven }}.</strong></p>{% endif %}

<h2>Findings</h2>
<table>
<tr><th>Check</th><th>Found</th><th>of</th><th>Share</th><th>Limit</th>
<th class="wide">For instance</th></tr>
{% for finding in report.findings -%}
<tr><td>{{ finding.check }}</td><td>{{ "{:,}".format(finding.count) }}</td><td>{{ "{:,}".format(finding.of) }}</td>
<td>{{ "%.3f" | format(100 * finding.share) }} %</td>
<td>{% if finding.limit is none %}reported only{% else %}{{ "%g" | format(100 * finding.limit) }} %{% endif %}</td>
<td class="wide">{{ finding.named | join(", ") or "–" }}</td></tr>
{% endfor -%}
</table>

{% if report.pictures -%}
<h2>Pictures</h2>
<p>{{ "{:,}".format(report.pictures.read) }} files were read, each made {{ report.pictures.recipe.width }} ×
{{ report.pictures.recipe.height }} pixels, {{ "grey" if report.pictures.recipe.channels == 1 else "colour" }};
transparent pixels show a {{ report.pictures.recipe.background }} background.</p>
<table>
<tr><th>Converted or skipped</th><th>Files</th></tr>
{% for what, count in report.pictures.converted.items() -%}
<tr><td>{{ what }}</td><td>{{ "{:,}".format(count) }}</td></tr>
{% endfor -%}
{% for what, count in report.pictures.skipped.items() -%}
<tr><td>skipped: {{ what }}</td><td>{{ "{:,}".format(count) }}</td></tr>
{% endfor -%}
</table>

{% endif -%}
<h2>Pixel values</h2>
<table>
<tr><th>Part</th><th>Images</th><th>Least</th><th>Most</th><th>Mean</th><th>Standard deviation</th></tr>
{% for part, figures in report.parts.items() -%}
<tr><td>{{ part }}</td><td>{{ "{:,}".format(figures.images) }}</td><td>{{ figures.pixels.min | int }}</td>
<td>{{ figures.pixels.max | int }}</td><td>{{ "%.2f" | format(figures.pixels.mean) }}</td>
<td>{{ "%.2f" | format(figures.pixels.std) }}</td></tr>
{% endfor -%}
</table>

<h2>Classes</h2>
<table>
<tr><th>Class</th>{% for part in report.parts %}<th>{{ part }}</th>{% endfor %}
<th class="wide">First training images</th></tr>
{% for name in report.classes -%}
<tr><td>{{ name }}</td>
{% for figures in report.parts.values() %}<td>{{ "{:,}".format(figures.per_class[name]) }}</td>{% endfor %}
<td class="wide"><img alt="samples of {{ name }}" src="data:image/png;base64,{{ strips[loop.index0] }}"></td></tr>
{% endfor -%}
</table>
</html>
"""


def render(report: dict[str, Any], raw: RawData) -> str:
    """The page for a quality report."""
    strips = [_first(raw.parts["train"], label) for label in range(len(raw.classes))]
    return Environment(autoescape=True).from_string(TEMPLATE).render(report=report, strips=strips, style=STYLE)


def _first(files: Files, label: int) -> str:
    chosen = np.flatnonzero(files.labels == label)[:SAMPLES]
    return strip([files.images[number] for number in chosen])
