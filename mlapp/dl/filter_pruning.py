"""Filter pruning interleaved with distillation: some filters go, the rest learns from the teacher, and again."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from mlapp.dataset import Split
from mlapp.dl.channels import choose_filters, rebuild
from mlapp.dl.losses import distillation
from mlapp.dl.optimise import optimise
from mlapp.dl.replicas import replicate, unreplicate
from mlapp.schema import Pruning

log = logging.getLogger("mlapp")
RAMP_SHARE = 0.5  # of all epochs go to the rounds before the last, as weight pruning has it


def prune_filters(
    student: Any,
    train: Split,
    validation: Split,
    config: Pruning,
    folder: Path,
    sparsity: float,
    *,
    earlier_epochs: int = 0,
) -> tuple[Any, list[dict[str, float]]]:
    """A narrower copy of ``student`` and its history: in each round the same share of the filters left goes.

    Each round has a schedule of its own, and ends with its best epoch.
    """
    model, history = student, list[dict[str, float]]()
    rounds = epochs_of_rounds(config.rounds, config.epochs)
    for number, epochs in enumerate(rounds, start=1):
        narrow = replicate(_narrower(model, sparsity, len(rounds)))
        log.info(
            "round %d/%d: %d of %d parameters stay", number, len(rounds), narrow.count_params(), student.count_params()
        )
        loss = distillation(
            narrow, temperature=config.temperature, alpha=config.alpha, smoothing=config.label_smoothing
        )
        settings = config.model_copy(update={"epochs": epochs})
        place = folder / f"round-{number}"
        history += optimise(
            *(narrow, loss, train, validation, settings, place),
            earlier_epochs=earlier_epochs + len(history),
            preliminary=number < len(rounds),
        )
        model = unreplicate(narrow)
    return model, history


def as_pruned(model: Any, config: Pruning, sparsity: float) -> Any:
    """A network as narrow as `prune_filters` leaves ``model``, without any training."""
    rounds = len(epochs_of_rounds(config.rounds, config.epochs))
    for _ in range(rounds):
        model = _narrower(model, sparsity, rounds)
    return model


def _narrower(model: Any, sparsity: float, rounds: int) -> Any:
    """After one of so many rounds."""
    return rebuild(model, choose_filters(model, 1 - (1 - sparsity) ** (1 / rounds)))


def epochs_of_rounds(rounds: int, epochs: int) -> list[int]:
    """How the epochs are shared out: the last round gets what `RAMP_SHARE` leaves, every one at least one epoch."""
    earlier = min(rounds, epochs) - 1
    each = max(1, int(RAMP_SHARE * epochs) // earlier) if earlier else 0
    return [each] * earlier + [epochs - each * earlier]
