"""One step of the training loop: its rate by the schedule, its optimizer, and the compiled update."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any

from mlapp.dl.backend import keras, tf
from mlapp.dl.devices import current
from mlapp.dl.losses import Loss
from mlapp.dl.muon import muon
from mlapp.schema import Optimization


def learning_rate(config: Optimization, step: int, total: int) -> float:
    """The scheduled rate at ``step`` of ``total``, before any reduction on a plateau."""
    if config.schedule != "one_cycle":
        return config.learning_rate
    rising = max(1, round(config.warmup * total))
    share = (step + 1) / rising if step < rising else (total - step) / (total - rising + 1)
    return config.learning_rate * min(1.0, share)


def optimizer_of(config: Optimization) -> Any:
    """The Keras optimizer that the settings name."""
    return (
        muon(config.learning_rate) if config.optimizer == "muon" else keras.optimizers.legacy.Adam(config.learning_rate)
    )


def step_function(model: Any, loss: Loss, optimizer: Any, config: Optimization) -> Callable[[Any, Any], Any]:
    """A compiled training step, ``(images, targets) -> loss``.

    A batch is worked at in ``config.towers`` parts side by side, which shares the processors out better than every
    operation among all of them; batch normalisation takes its statistics of each part.
    """
    towers, weight_decay = config.towers, config.weight_decay
    variables = model.trainable_variables
    kernels = [variable for variable in variables if len(variable.shape) > 1]
    devices = current()

    def update(images: Any, targets: Any) -> Any:
        values, gradients = [], []
        for tower in range(towers):
            # Every so many-th image: with several devices too, a part is the same images of the whole batch.
            own = slice(tower, None, towers)
            share = len(range(images.shape[0])[own]) / images.shape[0]
            part = tf.nest.map_structure(operator.itemgetter(own), (images, targets))
            with tf.GradientTape() as tape:
                value = devices.mean(loss(*part)) * share
            values.append(value)
            gradients.append(tape.gradient(value, variables))
        mean = [tf.add_n(each) for each in zip(*gradients, strict=True)]
        optimizer.apply_gradients(zip(mean, variables, strict=True))
        return tf.add_n(values)

    def decay() -> None:
        if weight_decay:
            for kernel in kernels:
                devices.assign(kernel, lambda each: each.assign_sub(optimizer.learning_rate * weight_decay * each))

    return devices.step(update, decay)
