"""Images as a worse camera, a worse light or a worse hand would have taken them: six kinds, three severities each.

After Hendrycks and Dietterich (2019), Benchmarking Neural Network Robustness to Common Corruptions and Perturbations,
for images of any size and number of channels. Fixed, so that two models see the same: lots are drawn from a seed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt

Images = npt.NDArray[np.uint8]

# What the three severities of a kind are.
SEVERITIES: dict[str, tuple[float, float, float]] = {
    "noise": (0.02, 0.05, 0.1),  # standard deviation, as a share of the full range
    "blur": (0.02, 0.03, 0.04),  # standard deviation, as a share of the side
    "contrast": (0.9, 0.75, 0.6),  # what is left of the differences to an image's mean
    "occlusion": (0.2, 0.3, 0.4),  # side of a black square, as a share of the image's
    "shift": (0.05, 0.1, 0.15),  # to one of eight sides, as a share of the side
    "rotation": (6.0, 12.0, 18.0),  # degrees, every other image the other way
}


def corruptions(images: Images, seed: int = 0) -> Iterator[tuple[str, int, Images]]:
    """Each kind and severity (0 to 2) with the ``images`` (n, height, width, channels) so corrupted."""
    for kind, levels in SEVERITIES.items():
        for severity, level in enumerate(levels):
            draw = np.random.default_rng((seed, severity))
            yield kind, severity, _rounded(KINDS[kind](images, level, draw))


def _noise(images: Images, level: float, draw: np.random.Generator) -> npt.NDArray[np.float32]:
    return images + 255 * np.float32(level) * draw.standard_normal(images.shape, np.float32)


def _blur(images: Images, level: float, _: np.random.Generator) -> npt.NDArray[np.float32]:
    from scipy.ndimage import gaussian_filter

    height, width = images.shape[1:3]
    blurred: npt.NDArray[np.float32] = gaussian_filter(
        images.astype(np.float32), (0, level * height, level * width, 0), mode="nearest"
    )
    return blurred


def _contrast(images: Images, level: float, _: np.random.Generator) -> npt.NDArray[np.float32]:
    mean: npt.NDArray[np.float32] = images.mean((1, 2, 3), dtype=np.float32, keepdims=True)
    return mean + np.float32(level) * (images - mean)


def _occlusion(images: Images, level: float, draw: np.random.Generator) -> Images:
    inside = np.ones((len(images), 1, 1), np.bool_)
    for axis, side in ((1, images.shape[1]), (2, images.shape[2])):
        size = max(1, round(level * side))
        start = np.expand_dims(draw.integers(0, side - size + 1, len(images)), (1, 2))
        place = np.expand_dims(np.arange(side), (0, 3 - axis))
        inside = inside & (place >= start) & (place < start + size)
    return np.where(inside[..., None], np.uint8(0), images)


def _shift(images: Images, level: float, draw: np.random.Generator) -> Images:
    """By whole pixels; what comes in at a border is the border's."""
    height, width = images.shape[1:3]
    ways = np.array([(y, x) for y in (-1, 0, 1) for x in (-1, 0, 1) if y or x])
    ways = ways[draw.integers(0, len(ways), len(images))] * [max(1, round(level * side)) for side in (height, width)]
    rows = np.clip(np.arange(height) - ways[:, :1], 0, height - 1)
    columns = np.clip(np.arange(width) - ways[:, 1:], 0, width - 1)
    moved: Images = images[np.arange(len(images))[:, None, None], rows[:, :, None], columns[:, None, :]]
    return moved


def _rotation(images: Images, level: float, _: np.random.Generator) -> npt.NDArray[np.float32]:
    from scipy.ndimage import rotate

    turned = images.astype(np.float32)
    for first, angle in ((0, level), (1, -level)):
        turned[first::2] = rotate(turned[first::2], angle, axes=(1, 2), reshape=False, order=1, mode="nearest")
    return turned


def _rounded(images: npt.NDArray[np.float32] | Images) -> Images:
    return np.clip(np.rint(images), 0, 255).astype(np.uint8)


KINDS: dict[str, Callable[[Images, float, np.random.Generator], npt.NDArray[np.float32] | Images]] = {
    "noise": _noise,
    "blur": _blur,
    "contrast": _contrast,
    "occlusion": _occlusion,
    "shift": _shift,
    "rotation": _rotation,
}
