"""What the reports on data share: their style, and strips of small images inside the page itself."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from markupsafe import Markup
from PIL import Image

SAMPLES = 12
SIDE = 40
STYLE = Markup("""
  :root { color-scheme: light dark; }
  body { font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
  table { border-collapse: collapse; width: 100%; margin: 0.5rem 0 2rem; }
  th, td { padding: 0.3rem 0.7rem; text-align: right; border-bottom: 1px solid #8884; white-space: nowrap; }
  th:first-child, td:first-child { text-align: left; }
  .wide { width: 100%; white-space: normal; text-align: left; }
  img { display: block; image-rendering: pixelated; }
  h1 { margin-bottom: 0; } h2 { margin: 0; font-size: 1.1rem; }
  p { margin-top: 0; }
""")


def strip(images: Sequence[npt.NDArray[np.uint8]], places: int = SAMPLES) -> str:
    """Up to ``places`` images (height, width, 1 or 3) side by side as base64 PNG; places that are left stay black."""
    thumbnails = [Image.fromarray(np.squeeze(pixels)).resize((SIDE, SIDE)) for pixels in images[:places]]
    picture = Image.new(thumbnails[0].mode, (places * SIDE, SIDE))
    for place, thumbnail in enumerate(thumbnails):
        picture.paste(thumbnail, (place * SIDE, 0))
    stream = io.BytesIO()
    picture.save(stream, "PNG")
    return base64.b64encode(stream.getvalue()).decode()
