"""Whether there are enough images for a training's steps, which is known before anything is trained."""

from __future__ import annotations

import math

from mlapp.errors import UserError
from mlapp.schema import Optimization, Pruning

LEAST_STEPS = 7  # of an epoch: fewer, and rate and warm-up jump
ENOUGH_STEPS = 100  # in all, for an untrained network; with one step an epoch the loss rose from 5 to 38
LEAST_BATCH = 8


def fitting_batch(config: Optimization, images: int) -> int:
    """The batch size that so many training images are enough for; a `UserError` where none is, with what to set."""
    batch, enough = config.batch_size, 0 if isinstance(config, Pruning) else ENOUGH_STEPS
    if images // batch >= LEAST_STEPS:
        return batch
    while batch // 2 >= LEAST_BATCH and (images // batch < LEAST_STEPS or images // batch * config.epochs < enough):
        batch //= 2
    steps = max(1, images // batch)
    if steps >= LEAST_STEPS or steps * config.epochs >= enough:
        return batch
    raise UserError(
        f"{images} training images make {steps} steps an epoch of the smallest batches ({batch}), "
        f"{steps * config.epochs} in all, and {ENOUGH_STEPS} are needed: "
        f"set training.epochs and distillation.epochs to {math.ceil(ENOUGH_STEPS / steps)} or more, or add images"
    )
