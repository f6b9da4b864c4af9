"""Settings that depend on the data: batches that a small data set is enough for, and no mirroring where it may harm."""

from __future__ import annotations

import logging
from typing import TypeVar

from mlapp.dataset import Dataset
from mlapp.dl.augment import POLICIES
from mlapp.enough import fitting_batch
from mlapp.schema import Optimization

C = TypeVar("C", bound=Optimization)
log = logging.getLogger("mlapp")
MIRRORED_ALIKE = {"fashion_mnist"}  # data sets whose classes are known to look the same mirrored


def adapt_to_data(config: C, dataset: Dataset) -> C:
    """The config as it fits the data; a `UserError` says what to set where the data is too small for it.

    Nothing changes where an epoch has enough steps (`mlapp.enough`). A config that was adapted is not changed again.
    """
    images = int(dataset.description["splits"]["train"]["images"])
    changes: dict[str, object] = {}
    if config.flip is None and dataset.name not in MIRRORED_ALIKE:
        changes["flip"] = False
        if POLICIES[config.augmentation].mirrors:
            log.warning("no image is mirrored in training, as %s may differ left and right: see flip", dataset.name)
    if (batch := fitting_batch(config, images)) != config.batch_size:
        changes["batch_size"] = batch
        log.warning("batch_size %d instead of %d, as there are %d training images", batch, config.batch_size, images)
    if config.towers > batch:
        changes["towers"] = batch
        log.warning("towers %d instead of %d, as a batch has %d images", batch, config.towers, batch)
    return config.model_copy(update=changes) if changes else config
