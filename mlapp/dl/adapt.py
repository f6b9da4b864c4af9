"""Settings that depend on the data: batches that a small data set is enough for, and no mirroring where it may harm."""

from __future__ import annotations

import logging
import math
from typing import TypeVar

from mlapp.dataset import Dataset
from mlapp.dl.augment import POLICIES
from mlapp.errors import UserError
from mlapp.schema import Optimization, Pruning

C = TypeVar("C", bound=Optimization)
log = logging.getLogger("mlapp")
MIRRORED_ALIKE = {"fashion_mnist"}  # data sets whose classes are known to look the same mirrored
LEAST_STEPS = 7  # of an epoch: fewer, and rate and warm-up jump
ENOUGH_STEPS = 100  # in all, for an untrained network; with one step an epoch the loss rose from 5 to 38
LEAST_BATCH = 8


def adapt_to_data(config: C, dataset: Dataset) -> C:
    """The config as it fits the data; a `UserError` says what to set where the data is too small for it.

    Nothing changes where an epoch has `LEAST_STEPS`, and a config that was adapted is not changed again.
    """
    images = int(dataset.description["splits"]["train"]["images"])
    changes: dict[str, object] = {}
    if config.flip is None and dataset.name not in MIRRORED_ALIKE:
        changes["flip"] = False
        if POLICIES[config.augmentation].mirrors:
            log.warning("no image is mirrored in training, as %s may differ left and right: see flip", dataset.name)
    if (batch := _batch(config, images)) != config.batch_size:
        changes["batch_size"] = batch
        log.warning("batch_size %d instead of %d, as there are %d training images", batch, config.batch_size, images)
    return config.model_copy(update=changes) if changes else config


def _batch(config: Optimization, images: int) -> int:
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
