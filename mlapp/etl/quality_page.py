"""The validation report as one self-contained page: findings, class counts, a strip of sample images of each class."""

from __future__ import annotations

import base64
import io
from typing import Any

import numpy as np
import numpy.typing as npt
from jinja2 import Environment
from PIL import Image

from mlapp.etl.raw_data import Files, RawData

SAMPLES = 12
SIDE = 40
TEMPLATE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>{{ report.name }}: data quality</title>
<style>
  :root { color-scheme: light dark; }
  body { font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
  table { border-collapse: collapse; width: 100%; margin: 0.5rem 0 2rem; }
  th, td { padding: 0.3rem 0.7rem; text-align: right; border-bottom: 1px solid #8884; white-space: nowrap; }
  th:first-child, td:first-child { text-align: left; }
  .wide { width: 100%; white-space: normal; text-align: left; }
  img { display: block; image-rendering: pixelated; }
  h1 { margin-bottom: 0; } h2 { margin: 0; font-size: 1.1rem; }
  p { margin-top: 0; }
</style>
<h1>{{ report.name }}</h1>
<p>{{ report.shape | join(" × ") }} pixels, {{ report.classes | length }} classes, from {{ report.origin }}.
Every check below is within its limit, or validation would have refused the data.</p>

<h2>Findings</h2>
<table>
<tr><th>Check</th><th>Found</th><th>of</th><th>Share</th><th>Limit</th>
<th class="wide">For instance, image number</th></tr>
{% for finding in report.findings -%}
<tr><td>{{ finding.check }}</td><td>{{ "{:,}".format(finding.count) }}</td><td>{{ "{:,}".format(finding.of) }}</td>
<td>{{ "%.3f" | format(100 * finding.share) }} %</td>
<td>{% if finding.limit is none %}reported only{% else %}{{ "%g" | format(100 * finding.limit) }} %{% endif %}</td>
<td class="wide">{{ finding.examples | join(", ") or "–" }}</td></tr>
{% endfor -%}
</table>

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
    strips = [_strip(raw.parts["train"], label) for label in range(len(raw.classes))]
    return Environment(autoescape=True).from_string(TEMPLATE).render(report=report, strips=strips)


def _strip(files: Files, label: int) -> str:
    chosen = np.flatnonzero(files.labels == label)[:SAMPLES]
    images = [_thumbnail(files.images[number]) for number in chosen]
    strip = Image.new(images[0].mode, (SAMPLES * SIDE, SIDE))
    for place, image in enumerate(images):
        strip.paste(image, (place * SIDE, 0))
    stream = io.BytesIO()
    strip.save(stream, "PNG")
    return base64.b64encode(stream.getvalue()).decode()


def _thumbnail(pixels: npt.NDArray[np.uint8]) -> Image.Image:
    return Image.fromarray(np.squeeze(pixels)).resize((SIDE, SIDE))
