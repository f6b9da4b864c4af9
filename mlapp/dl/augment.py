"""Random views of training images, a whole batch in a handful of graph operations, never image by image in Python.

All geometry of a policy is one affine transform an image, applied by one operation (`ImageProjectiveTransformV3`).
Randomness is stateless: the same seed and step give the same views, so that an interrupted run repeats itself.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, Literal

from mlapp.dl.backend import tf


@dataclass(frozen=True)
class Policy:
    """Ranges of an augmentation; every draw is uniform within ±range.

    A flip that alternates mirrors an image in every other epoch (Jordan, 2024, arXiv 2404.00498): two epochs show both
    sides of each image, where drawing lots would show a quarter of them one side twice.
    """

    rotation_degrees: float = 0.0
    shift: float = 0.0
    shear_degrees: float = 0.0
    zoom: float = 0.0
    flip: Literal["never", "random", "alternating"] = "never"
    cutout: int = 0
    whole_pixels: bool = False

    @property
    def mirrors(self) -> bool:
        """Whether a network learns both sides of an image."""
        return self.flip != "never"


POLICIES = {
    "none": Policy(),
    "light": Policy(shift=1 / 28, flip="alternating", whole_pixels=True),
    "strong": Policy(shift=1 / 28, flip="alternating", cutout=9, whole_pixels=True),
    # ImageDataGenerator(rotation_range=15, width_shift_range=.15, height_shift_range=.15, shear_range=.15 (degrees
    # there; tutorials mean 15 %, that is 8.5°), zoom_range=.15, horizontal_flip=True, fill_mode="nearest").
    "reference": Policy(rotation_degrees=15, shift=0.15, shear_degrees=8.53, zoom=0.15, flip="random"),
}


def policy_of(augmentation: str, flip: bool | None) -> Policy:
    """The policy of this name; ``flip`` adds mirroring to it or takes it away, None leaves it as it is."""
    policy = POLICIES[augmentation]
    if flip is None or flip == policy.mirrors:
        return policy
    return replace(policy, flip="alternating" if flip else "never")


Place = tuple[int, Any]  # a whole batch's size, and where in it these images start


def augment(images: Any, policy: Policy, seed: Any, mirrored: Any = None, place: Place | None = None) -> Any:
    """Random views of ``images`` (batch, height, width, channels) float32; ``seed`` is a tensor of two integers.

    ``mirrored`` (batch,) says which of them an alternating flip mirrors this time; unset: lots are drawn.

    Images that are only part of a batch get, with their ``place`` in it, the very views that the whole would.
    """
    if policy == Policy():
        return images
    transforms = random_transforms(policy, tf.shape(images), seed, mirrored, place)
    views = tf.raw_ops.ImageProjectiveTransformV3(
        images=images,
        transforms=transforms,
        output_shape=tf.shape(images)[1:3],
        fill_value=0.0,
        interpolation="NEAREST" if policy.whole_pixels else "BILINEAR",
        fill_mode="NEAREST",
    )
    return _cut_out(views, policy.cutout, seed, place) if policy.cutout else views


def random_transforms(policy: Policy, shape: Any, seed: Any, mirrored: Any = None, place: Place | None = None) -> Any:
    """One projective transform (8 numbers, output to input coordinates) an image, about the image's centre."""
    batch = shape[0]
    height, width = tf.cast(shape[1], tf.float32), tf.cast(shape[2], tf.float32)
    draws = _uniform(7, batch, seed, place, minval=-1.0, maxval=1.0)
    angle = draws[0] * math.radians(policy.rotation_degrees)
    shear = draws[1] * math.radians(policy.shear_degrees)
    zoom_x, zoom_y = 1 + draws[2] * policy.zoom, 1 + draws[3] * policy.zoom
    shift_x, shift_y = draws[4] * policy.shift * width, draws[5] * policy.shift * height
    if policy.whole_pixels:
        shift_x, shift_y = tf.round(shift_x), tf.round(shift_y)
    if mirrored is None or policy.flip == "random":
        mirrored = draws[6] < 0
    mirror = tf.where(mirrored, -1.0, 1.0) if policy.mirrors else tf.ones(batch)
    # Rows of rotation · shear · zoom · mirror, then a translation that keeps the centre in place.
    a = tf.cos(angle) * zoom_x * mirror
    b = -tf.sin(angle + shear) * zoom_y
    d = tf.sin(angle) * zoom_x * mirror
    e = tf.cos(angle + shear) * zoom_y
    centre_x, centre_y = (width - 1) / 2, (height - 1) / 2
    c = centre_x - a * centre_x - b * centre_y + shift_x
    f = centre_y - d * centre_x - e * centre_y + shift_y
    zero = tf.zeros(batch)
    return tf.stack([a, b, c, d, e, f, zero, zero], axis=1)


def _uniform(rows: int, images: Any, seed: Any, place: Place | None, **bounds: float) -> Any:
    """Random numbers (rows, images): for part of a batch, its own columns of what the whole would get."""
    if place is None:
        return tf.random.stateless_uniform((rows, images), seed=seed, **bounds)
    whole, start = place
    return tf.random.stateless_uniform((rows, whole), seed=seed, **bounds)[:, start : start + images]


def _cut_out(images: Any, size: int, seed: Any, place: Place | None) -> Any:
    """A square of ``size`` pixels set to zero at a random place of every image (DeVries and Taylor, 2017)."""
    shape = tf.shape(images)
    corner = _uniform(2, shape[0], seed + 1, place)[..., None]

    def outside(place: Any, length: Any) -> Any:
        start = tf.floor(place * tf.cast(length - size + 1, tf.float32))
        pixels = tf.range(tf.cast(length, tf.float32))
        return tf.logical_or(pixels < start, pixels >= start + size)

    rows, columns = outside(corner[0], shape[1]), outside(corner[1], shape[2])
    kept = tf.logical_or(rows[:, :, None], columns[:, None, :])
    return images * tf.cast(kept[..., None], images.dtype)
