"""A byte budget for a student: the widest network whose int8 model keeps to it."""

from __future__ import annotations

import bisect
import logging
from collections.abc import Callable
from typing import Any

import numpy as np

from mlapp.dataset import Dataset
from mlapp.dl import nets
from mlapp.dl.exporter import convert
from mlapp.errors import UserError
from mlapp.schema import Network

log = logging.getLogger("mlapp")
STEPS = 100  # widths to tell apart below 1
Change = Callable[[Any], Any] | None


def widest(dataset: Dataset, network: Network, width: float, max_bytes: int, change: Change = None) -> float:
    """The largest multiplier of channels up to ``width`` at which the int8 file has at most ``max_bytes``.

    ``change`` makes of a network what is written, where that is another one. A file's size does not depend on training,
    so untrained networks are converted: the narrowest, for what a file has besides weights, then the widest that should
    fit. A `UserError` says what the narrowest one takes.
    """
    least = int8_bytes(dataset, network, 1 / STEPS, change)
    if least > max_bytes:
        raise UserError(
            f"max_bytes={max_bytes:,} is less than the narrowest {network.architecture} of depth {network.depth} takes "
            f"({least:,} bytes): raise it, or take another architecture"
        )

    def weights(step: int) -> int:
        return weight_bytes(_written(dataset, network, step / STEPS, change))

    besides = least - weights(1)
    step = max(1, bisect.bisect_right(range(1, round(width * STEPS) + 1), max_bytes - besides, key=weights))
    while (size := int8_bytes(dataset, network, step / STEPS, change)) > max_bytes:
        step -= 1
    log.info("width %g: %d bytes of at most %d", step / STEPS, size, max_bytes)
    return step / STEPS


def weight_bytes(model: Any) -> int:
    """Bytes of a network's weights in int8: one each, and for every channel its scale, zero point and bias."""
    kernels = [layer.kernel for layer in model.layers if hasattr(layer, "kernel")]
    return sum(int(np.prod(kernel.shape)) + 16 * int(kernel.shape[-1]) for kernel in kernels)


def int8_bytes(dataset: Dataset, network: Network, width: float, change: Change = None) -> int:
    """Bytes of the int8 model of a network before training."""
    model = _written(dataset, network, width, change)
    _scatter(model)
    return len(convert(model, dataset.split("train"), images=2))


def _written(dataset: Dataset, network: Network, width: float, change: Change) -> Any:
    model = nets.build_for(dataset, network, width=width, seed=0)
    return change(model) if change else model


def _scatter(model: Any) -> None:
    """Give each bias and normalisation values of its own: a converter writes equal ones once."""
    draw = np.random.default_rng(0)
    model.set_weights([draw.uniform(0.5, 1.5, weight.shape) for weight in model.get_weights()])
