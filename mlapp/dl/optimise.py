"""One training loop for every gradient-based stage: schedules, best checkpoint, early stopping, resume, timings."""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from mlapp import tracking
from mlapp.dataset import Split
from mlapp.dl.backend import tf
from mlapp.dl.devices import current
from mlapp.dl.feed import evaluation_batches, steps_per_epoch, training_batches
from mlapp.dl.losses import Loss, cross_entropy
from mlapp.dl.progress import Checkpoints, Progress
from mlapp.dl.replicas import unreplicate
from mlapp.dl.training_step import learning_rate, optimizer_of, step_function
from mlapp.errors import Terminated, UserError, termination_deferred
from mlapp.schema import Optimization

log = logging.getLogger("mlapp")
HEARTBEAT_S = 20.0
PARTS = 2  # of a batch that is measured, side by side
PLATEAU_EPOCHS, PLATEAU_FACTOR = 3, 0.2


def optimise(
    model: Any,
    loss: Loss,
    train: Split,
    validation: Split,
    config: Optimization,
    folder: Path,
    *,
    after_epoch: Callable[[], None] | None = None,
    eligible_from: int = 0,
    earlier_epochs: int = 0,
    preliminary: bool | None = None,
) -> list[dict[str, float]]:
    """Minimise ``loss`` over ``model``'s trainable variables; the model ends with its best epoch's weights.

    Best is the highest validation accuracy from epoch ``eligible_from`` on. Returns one record an epoch (loss,
    validation_loss, validation_accuracy, learning_rate, seconds). A run interrupted in ``folder`` is taken up where it
    stood. ``after_epoch`` is called before each epoch's weights are measured. Trackers are told of epochs as following
    ``earlier_epochs``, and where that is known, whether the network that is trained here is ``preliminary``.
    """
    devices = current()
    with devices.training(config, len(train)):
        optimizer = optimizer_of(config)
        model.optimizer = optimizer
        checkpoints = Checkpoints(folder / "checkpoints", _fingerprint(model, config, train), model, optimizer)
        progress = checkpoints.restore()
        step = step_function(model, loss, optimizer, config)
        try:
            while len(progress.history) < config.epochs and progress.waited < config.patience:
                _run_epoch(progress, step, optimizer, train, config)
                with termination_deferred():
                    if after_epoch:
                        after_epoch()
                    is_best = _close_epoch(progress, model, validation, optimizer, config, eligible_from)
                    if preliminary is not None:
                        progress.history[-1][tracking.PRELIMINARY] = float(preliminary)
                    checkpoints.save(progress, is_best=is_best)
                if devices.is_chief:
                    tracking.epoch(earlier_epochs + len(progress.history), progress.history[-1])
                devices.agree_on_stop()
        except Terminated:
            progress.step = int(optimizer.iterations.numpy())
            checkpoints.save(progress, is_best=False)
            log.info("stopped at step %d, checkpoint saved", progress.step)
            raise
        checkpoints.load_best(progress)
    return progress.history


def evaluate(model: Any, split: Split) -> tuple[float, float]:
    """Mean cross-entropy and accuracy over a whole split, without augmentation."""

    def measure(images: Any, labels: Any) -> Any:
        return tf.add_n([_measured(model, images[part::PARTS], labels[part::PARTS]) for part in range(PARTS)])

    loss, hits = current().sums(measure, lambda parts, part: evaluation_batches(split, parts=parts, part=part))
    return float(loss / len(split)), float(hits / len(split))


def _measured(model: Any, images: Any, labels: Any) -> Any:
    """Sums of cross-entropy and of hits."""
    logits = model(images, training=False)
    hits = tf.reduce_sum(tf.cast(tf.argmax(logits, -1, tf.int32) == labels, tf.float32))
    images_here = tf.cast(tf.shape(labels)[0], tf.float32)
    return tf.stack([tf.math.multiply_no_nan(cross_entropy(logits, labels), images_here), hits])


def _run_epoch(
    progress: Progress,
    step: Callable[[Any, Any], Any],
    optimizer: Any,
    train: Split,
    config: Optimization,
) -> None:
    per_epoch = steps_per_epoch(train, config.batch_size)
    total = config.epochs * per_epoch
    epoch = len(progress.history)
    started = spoken = time.perf_counter()
    batches = current().batches(
        lambda parts, own: training_batches(
            train,
            batch_size=config.batch_size,
            augmentation=config.augmentation,
            flip=config.flip,
            seed=config.seed,
            first_step=progress.step,
            steps=(epoch + 1) * per_epoch - progress.step,
            parts=parts,
            own=own,
        )
    )
    for images, labels in batches:
        optimizer.learning_rate.assign(learning_rate(config, progress.step, total) * progress.rate_scale)
        progress.loss_sum += float(step(images, labels))
        progress.loss_count += 1
        progress.step = int(optimizer.iterations.numpy())
        now = time.perf_counter()
        progress.seconds, started = progress.seconds + now - started, now
        if now - spoken > HEARTBEAT_S:
            spoken = now
            log.info("epoch %d/%d  %3.0f %%", epoch + 1, config.epochs, 100 * (progress.step / per_epoch - epoch))
        current().stop_if_told()


def _close_epoch(
    progress: Progress, model: Any, validation: Split, optimizer: Any, config: Optimization, eligible_from: int
) -> bool:
    loss = progress.loss_sum / progress.loss_count
    validation_loss, accuracy = evaluate(model, validation)
    if not np.isfinite([loss, validation_loss]).all():
        raise UserError(f"the loss is {loss}: training diverged; lower learning_rate ({config.learning_rate:g})")
    epoch = len(progress.history)
    progress.history.append(
        {
            "loss": loss,
            "validation_loss": validation_loss,
            "validation_accuracy": accuracy,
            "learning_rate": float(optimizer.learning_rate.numpy()),
            "seconds": progress.seconds,
        }
    )
    log.info(
        "epoch %d/%d  loss %.3f  validation loss %.3f  validation accuracy %.2f %%  %.0f s",
        *(epoch + 1, config.epochs, loss, validation_loss, 100 * accuracy, progress.seconds),
    )
    progress.loss_sum, progress.loss_count, progress.seconds = 0.0, 0, 0.0
    progress.waited = 0 if validation_loss < progress.lowest_loss else progress.waited + 1
    progress.lowest_loss = min(progress.lowest_loss, validation_loss)
    if config.schedule == "plateau" and progress.waited and progress.waited % PLATEAU_EPOCHS == 0:
        progress.rate_scale *= PLATEAU_FACTOR
    is_best = epoch >= eligible_from and accuracy > progress.best_accuracy
    if is_best:
        progress.best_accuracy = accuracy
    return is_best


def _fingerprint(model: Any, config: Optimization, train: Split) -> str:
    parts = [config.model_dump(mode="json"), unreplicate(model).to_json(), len(train)]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()
