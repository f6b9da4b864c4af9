"""What the trainers minimise: a loss is a function ``(images, targets) -> scalar`` that runs its network."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from mlapp.dl.backend import tf

Loss = Callable[[Any, Any], Any]


def cross_entropy(logits: Any, labels: Any, smoothing: float = 0.0) -> Any:
    """Mean cross-entropy of integer labels, with label smoothing (Szegedy et al., 2016)."""
    classes = logits.shape[-1]
    targets = tf.one_hot(labels, classes, on_value=1 - smoothing + smoothing / classes, off_value=smoothing / classes)
    return tf.reduce_mean(tf.nn.softmax_cross_entropy_with_logits(targets, logits))


def soft_cross_entropy(teacher_logits: Any, student_logits: Any, temperature: float) -> Any:
    """T² · KL(teacher ‖ student) of softened distributions (Hinton, Vinyals and Dean, 2015, section 2).

    The factor T² keeps the gradient's size the same whatever the temperature.
    """
    soft = tf.nn.softmax(teacher_logits / temperature)
    log_ratio = tf.nn.log_softmax(teacher_logits / temperature) - tf.nn.log_softmax(student_logits / temperature)
    return temperature**2 * tf.reduce_mean(tf.reduce_sum(soft * log_ratio, axis=-1))


def classification(model: Any, smoothing: float) -> Loss:
    """Learn the labels."""

    def loss(images: Any, labels: Any) -> Any:
        return cross_entropy(model(images, training=True), labels, smoothing) + _regularisation(model)

    return loss


def distillation(student: Any, *, temperature: float, alpha: float, smoothing: float) -> Loss:
    """Learn from a teacher's softened answers and from the labels; ``alpha`` weighs the teacher's part.

    Targets are pairs, as of a `Split` with answers.
    """

    def loss(images: Any, targets: Any) -> Any:
        labels, answers = targets
        logits = student(images, training=True)
        soft = soft_cross_entropy(answers, logits, temperature)
        hard = cross_entropy(logits, labels, smoothing)
        return alpha * soft + (1 - alpha) * hard + _regularisation(student)

    return loss


def _regularisation(model: Any) -> Any:
    return tf.add_n(model.losses) if model.losses else 0.0
