"""Magnitude pruning of single weights with tensorflow-model-optimization (Zhu and Gupta, 2017)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from mlapp.dataset import Split
from mlapp.dl.backend import keras, tfmot
from mlapp.dl.feed import steps_per_epoch
from mlapp.dl.losses import distillation
from mlapp.dl.optimise import optimise
from mlapp.dl.replicas import replicate, unreplicate
from mlapp.schema import Pruning

RAMP_SHARE = 0.5  # of all steps: the sparsity rises until here, the rest recovers accuracy at full sparsity


def prune_weights(
    student: Any, train: Split, validation: Split, config: Pruning, folder: Path, sparsity: float
) -> tuple[Any, list[dict[str, float]]]:
    """A copy of ``student`` with a share of ``sparsity`` of each kernel's weights at zero, fine-tuned and stripped.

    The sparsity rises along tfmot's cubic polynomial; only epochs at full sparsity are eligible as the best one.
    """
    per_epoch = steps_per_epoch(train, config.batch_size)
    ramp = max(1, round(RAMP_SHARE * config.epochs * per_epoch))
    calls = ramp * config.towers  # what tfmot counts: each part of a batch calls the network
    schedule = tfmot.sparsity.keras.PolynomialDecay(
        initial_sparsity=0.0, final_sparsity=sparsity, begin_step=0, end_step=calls, frequency=max(1, calls // 20)
    )

    def wrapped(layer: Any) -> Any:
        if isinstance(layer, keras.layers.Conv2D | keras.layers.Dense):
            return tfmot.sparsity.keras.prune_low_magnitude(layer, pruning_schedule=schedule)
        return layer

    source = keras.models.clone_model(student)
    source.set_weights(student.get_weights())
    pruned = replicate(keras.models.clone_model(source, clone_function=wrapped))
    loss = distillation(pruned, temperature=config.temperature, alpha=config.alpha, smoothing=config.label_smoothing)
    update = tfmot.sparsity.keras.UpdatePruningStep()
    update.set_model(pruned)
    update.on_train_begin()
    history = optimise(
        *(pruned, loss, train, validation, config, folder),
        after_epoch=lambda: update.on_epoch_end(None),
        eligible_from=min(-(-ramp // per_epoch), config.epochs - 1),
    )
    return unreplicate(tfmot.sparsity.keras.strip_pruning(pruned)), history
