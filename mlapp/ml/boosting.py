"""One boosting loop: early stopping, the best round, checkpoints that a stopped run goes on from."""

from __future__ import annotations

import logging
import math
import time
from pathlib import Path
from typing import Any

import numpy as np

from mlapp import tracking
from mlapp.errors import Terminated, UserError
from mlapp.ml.backend import xgboost
from mlapp.ml.checkpoints import Checkpoints, Record
from mlapp.schema import Baseline

log = logging.getLogger("mlapp")
REPORT_ROUNDS, CHECKPOINT_ROUNDS = 5, 10
SEED_STRIDE = 10_007  # so that runs of neighbouring seeds share no round's seed


def boost(train: Any, validation: Any, classes: int, config: Baseline, folder: Path) -> tuple[Any, list[Record]]:
    """Boost trees on the matrix ``train``; the model ends with its best round, by accuracy on ``validation``.

    Returns one record each five rounds (round, loss, validation_loss, validation_accuracy, seconds, cpu_seconds).
    A run stopped in ``folder`` goes on from its last checkpoint (at most ten rounds, or a fifth of them, ago) and ends
    with the very model of an undisturbed run.
    """
    parameters = {
        "objective": "multi:softprob",
        "num_class": classes,
        "tree_method": "hist",
        "learning_rate": config.learning_rate,
        "max_depth": config.max_depth,
        "max_bin": config.max_bin,
        "min_child_weight": config.min_child_weight,
        "subsample": config.subsample,
        "colsample_bynode": config.column_sample,
        "reg_lambda": config.l2,
    }
    shape = {"features": train.num_col(), "classes": classes}
    checkpoints = Checkpoints(folder, lambda: xgboost().Booster(parameters, [train, validation]), parameters, **shape)
    booster, history = checkpoints.restore()
    if began := booster.num_boosted_rounds():
        log.info("resuming after round %d", began)
    clocks = time.perf_counter(), time.process_time()
    try:
        while not _finished(history, config):
            done = booster.num_boosted_rounds()
            booster.set_param({"seed": (SEED_STRIDE * config.seed + done) % 2**31})
            booster.update(train, done)
            if (done + 1) % REPORT_ROUNDS and done + 1 != config.rounds:
                continue
            started, clocks = clocks, (time.perf_counter(), time.process_time())
            spent = {"seconds": clocks[0] - started[0], "cpu_seconds": clocks[1] - started[1]}
            history.append(_measured(booster, train, validation, classes) | spent)
            log.info(
                "round %d/%d  loss %.3f  validation loss %.3f  validation accuracy %.2f %%  %.1f s",
                *(done + 1, config.rounds, history[-1]["loss"], history[-1]["validation_loss"]),
                *(100 * history[-1]["validation_accuracy"], history[-1]["seconds"]),
            )
            tracking.epoch(done + 1, history[-1])
            if done + 1 - began >= max(CHECKPOINT_ROUNDS, began // 5):
                # On from the checkpoint, as a stopped run would: XGBoost's column sampler has a state that is in no
                # file, so only a booster that starts anew here too ends with the same trees. It has to answer for all
                # images anew, which costs more the more trees there are: so the steps grow with them.
                checkpoints.save(booster, history)
                booster, history = checkpoints.restore()
                began = done + 1
    except Terminated:
        log.info("stopped in round %d, the last checkpoint stands", booster.num_boosted_rounds() + 1)
        raise
    return booster[: int(best(history)["round"])], history


def best(history: list[Record]) -> Record:
    """The record of the most accurate round, the earliest of several."""
    return max(history, key=lambda record: record["validation_accuracy"])


def _finished(history: list[Record], config: Baseline) -> bool:
    if not history:
        return False
    lowest = min(history, key=lambda record: record["validation_loss"])
    last = history[-1]["round"]
    return last >= config.rounds or last - lowest["round"] >= config.patience


def _measured(booster: Any, train: Any, validation: Any, classes: int) -> Record:
    loss, _ = _loss_and_accuracy(booster, train)
    validation_loss, accuracy = _loss_and_accuracy(booster, validation)
    if not loss <= 1.01 * math.log(classes):  # of equal chances, and a rounding error; NaN is not less either
        raise UserError(
            f"the training loss is {loss:.3g}, worse than guessing: training diverged; lower baseline.learning_rate, "
            "or raise baseline.l2 or baseline.min_child_weight"
        )
    return {
        "round": booster.num_boosted_rounds(),
        "loss": loss,
        "validation_loss": validation_loss,
        "validation_accuracy": accuracy,
    }


def _loss_and_accuracy(booster: Any, matrix: Any) -> tuple[float, float]:
    """Mean cross-entropy and accuracy; XGBoost keeps the scores of its own matrices, so this costs next to nothing."""
    chances, labels = booster.predict(matrix), matrix.get_label().astype(np.int64)
    right = chances[np.arange(len(labels)), labels]
    with np.errstate(divide="ignore"):
        loss = -np.log(right, dtype=np.float64).mean()
    return float(loss), float((chances.argmax(-1) == labels).mean())
