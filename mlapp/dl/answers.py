"""A teacher's answers to the training images, computed once: no student waits for its teacher at every step.

A teacher's forward pass costs a small student several times its own training step.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from mlapp import tensors
from mlapp.dataset import Dataset, Split, content_digest
from mlapp.dl import nets
from mlapp.dl.augment import policy_of
from mlapp.dl.backend import tf
from mlapp.dl.feed import evaluation_batches
from mlapp.dl.keras_model import load_from
from mlapp.errors import UserError
from mlapp.result import StageResult

ARTIFACT = "answers"
Answers = npt.NDArray[np.float16]


def answers_of(teacher: Any, split: Split) -> Answers:
    """Logits (2, n, classes) of a network: to every image as it is, and to its mirror image.

    A network that answers with the mean over both sides cannot tell them apart, and is asked once.
    """
    alike = nets.answers_both_sides(teacher)

    @tf.function(reduce_retracing=True)
    def answer(images: Any) -> Any:
        plain = teacher(images, training=False)
        return tf.stack([plain, plain if alike else teacher(images[:, :, ::-1], training=False)])

    return np.concatenate([answer(images).numpy().astype(np.float16) for images, _ in evaluation_batches(split)], 1)


def write(teacher: Any, dataset: Dataset, folder: Path) -> Path:
    """Leave the answers to the training split as a file, with the digest of the data that they are about."""
    path = folder / "answers.safetensors"
    logits = answers_of(teacher, dataset.split("train"))
    tensors.write(path, {"logits": logits}, {"data": content_digest(dataset.result)})
    return path


def taught(dataset: Dataset, teacher: str, augmentation: str, flip: bool | None = None) -> Split:
    """The training split with the answers of the teacher behind the URI of its result.

    Where images are mirrored in training, an answer is the mean of those to both sides, which is the better one.
    """
    train = dataset.split("train")
    logits = _stored(StageResult.load(teacher), dataset)
    if logits is None:
        logits = answers_of(load_from(teacher, dataset), train)
    return replace(train, answers=_merged(logits, policy_of(augmentation, flip).mirrors))


def _stored(teacher: StageResult, dataset: Dataset) -> Answers | None:
    """The answers that a teacher left; None where it left none, or some about other data."""
    if ARTIFACT not in teacher.artifacts:
        return None
    path = teacher.local(ARTIFACT)
    stored, about = tensors.read(path)
    logits = stored.get("logits")
    if about.get("data") != content_digest(dataset.result):
        return None
    expected = (2, len(dataset.split("train")), len(dataset.classes))
    if logits is None or logits.shape != expected or logits.dtype != np.float16:
        raise UserError(f"{path} does not hold answers of shape {expected}: run the {teacher.stage} stage again")
    return logits


def _merged(logits: Answers, mirrored: bool) -> Answers:
    sides = logits if mirrored else logits[:1]
    merged: Answers = sides.mean(0, dtype=np.float32).astype(np.float16)
    return merged
