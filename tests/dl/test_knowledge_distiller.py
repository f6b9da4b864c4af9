"""Distillation: the student learns from the teacher, which stays as it is; the two are never mixed up."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from mlapp.dataset import Dataset
from mlapp.dl import filter_pruning, knowledge_distiller, nets
from mlapp.dl.answers import answers_of
from mlapp.dl.backend import tf
from mlapp.dl.exporter import convert
from mlapp.dl.filter_pruning import as_pruned
from mlapp.dl.knowledge_distiller import KnowledgeDistillerConfig
from mlapp.dl.losses import cross_entropy, distillation, soft_cross_entropy
from mlapp.errors import Terminated
from mlapp.schema import Pruning
from mlapp.tracking import PRELIMINARY


def network(seed: int, width: float = 0.125) -> Any:
    return nets.build("convnet", shape=(28, 28, 1), classes=10, width=width, seed=seed)


def config(**changes: Any) -> KnowledgeDistillerConfig:
    return KnowledgeDistillerConfig(
        **{"data": "-", "teacher": "-", "width": 0.125, "epochs": 2, "batch_size": 50, "learning_rate": 0.01, **changes}
    )


@pytest.fixture
def distil(dataset: Dataset, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Any]:
    """A function that trains a student under a teacher that is given itself, not by the URI of its result."""

    def taught(teacher: Any, folder: Path, **changes: Any) -> Any:
        train = replace(dataset.split("train"), answers=answers_of(teacher, dataset.split("train"))[0])
        monkeypatch.setattr(knowledge_distiller, "taught", lambda *_: train)
        return knowledge_distiller.fit(config(**changes), dataset, folder)[0]

    return taught


def stopped(*arguments: Any, **more: Any) -> Any:
    raise Terminated


def test_soft_loss_is_t_squared_times_the_divergence_of_softened_distributions() -> None:
    draw = np.random.default_rng(0)
    teacher, student = draw.normal(size=(2, 5, 10)).astype(np.float32) * 4
    p, q = (np.exp(z / 3) / np.exp(z / 3).sum(1, keepdims=True) for z in (teacher, student))
    expected = 9 * (p * np.log(p / q)).sum(1).mean()
    assert float(soft_cross_entropy(teacher, student, 3.0)) == pytest.approx(expected, rel=1e-4)


def test_t_squared_keeps_the_size_of_the_gradient() -> None:
    teacher, student = (tf.constant(np.random.default_rng(seed).normal(size=(64, 10)), tf.float32) for seed in (0, 1))
    norms = []
    for temperature in (10.0, 40.0):
        with tf.GradientTape() as tape:
            tape.watch(student)
            loss = soft_cross_entropy(teacher, student, temperature)
        norms.append(float(tf.norm(tape.gradient(loss, student))))
    assert norms[0] == pytest.approx(norms[1], rel=0.1)


def test_alpha_mixes_the_soft_and_the_hard_loss(dataset: Dataset) -> None:
    teacher, student = network(1), network(2)
    images, labels = (np.asarray(part[:20]) for part in (dataset.split("train").images, dataset.split("train").labels))
    images, labels = images.astype(np.float32), labels.astype(np.int32)
    targets = (labels, teacher(images))
    soft, hard, mixed = (
        float(distillation(student, temperature=4.0, alpha=alpha, smoothing=0.1)(images, targets))
        for alpha in (1.0, 0.0, 0.7)
    )
    assert mixed == pytest.approx(0.7 * soft + 0.3 * hard, rel=1e-3)
    assert hard == pytest.approx(float(cross_entropy(student(images, training=True), labels, 0.1)), rel=1e-3)


def test_a_student_of_the_wanted_width_learns_in_all_its_weights(distil: Callable[..., Any], tmp_path: Path) -> None:
    teacher = network(1, width=0.25)
    student = distil(teacher, tmp_path, epochs=1)
    fresh = network(0).get_weights()
    assert student.count_params() == network(0).count_params() < teacher.count_params()
    assert not any(np.array_equal(old, new) for old, new in zip(fresh, student.get_weights(), strict=True))


def test_the_student_follows_the_teacher_where_teacher_and_labels_disagree(
    dataset: Dataset, distil: Callable[..., Any], tmp_path: Path
) -> None:
    """Given a teacher that answers the next class for what it recognises, when alpha is 1, the student does as well."""
    # One epoch: the best of several would be the one that follows the labels, by validation accuracy.
    learning = {"width": 0.5, "epochs": 1, "batch_size": 8, "augmentation": "none"}
    right = distil(network(1), tmp_path / "right", alpha=0.0, **learning)
    shifted = tf.keras.layers.Lambda(lambda answers: tf.roll(answers, 1, axis=-1))(right.output)
    wrong = tf.keras.Model(right.input, shifted)

    student = distil(wrong, tmp_path / "student", alpha=1.0, seed=4, **learning)

    train = dataset.split("train")
    images = train.images.astype(np.float32)
    answers, taught = (model.predict(images, verbose=0).argmax(1) for model in (student, wrong))
    assert (answers == taught).mean() > 0.5
    assert (answers == train.labels).mean() < 0.2


def test_filters_leave_half_way_and_only_what_is_left_counts(
    distil: Callable[..., Any], tmp_path: Path, told: list[tuple[int, Mapping[str, float]]]
) -> None:
    student = distil(network(1), tmp_path, epochs=6, sparsity=0.5, width=0.5)
    for name, filters in (("stem", 8), ("widen1", 16), ("widen2", 32), ("block1", 48)):
        assert student.get_layer(name).filters == pytest.approx(filters / 2, abs=1)
    assert [(number, figures[PRELIMINARY]) for number, figures in told] == [*((n, 1.0) for n in range(1, 6)), (6, 0.0)]


def test_a_pruned_student_keeps_to_its_byte_budget(dataset: Dataset) -> None:
    asked = config(width=1.0, max_bytes=30_000, sparsity=0.3)
    found = knowledge_distiller.within_budget(asked, dataset)
    assert found.width > knowledge_distiller.within_budget(asked.model_copy(update={"sparsity": 0.0}), dataset).width
    wide = nets.build_for(dataset, found, width=found.width, seed=0)
    pruned = as_pruned(wide, Pruning(epochs=1), 0.3)
    assert len(convert(wide, dataset.split("train"), images=2)) > 40_000
    assert 27_000 < len(convert(pruned, dataset.split("train"), images=2)) <= 30_000


def test_an_interrupted_distillation_ends_as_an_undisturbed_one_while_filters_leave(
    distil: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = distil(network(1), tmp_path / "undisturbed", epochs=2, sparsity=0.4)
    monkeypatch.setattr(filter_pruning, "optimise", stopped)
    with pytest.raises(Terminated):
        distil(network(1), tmp_path / "stopped", epochs=2, sparsity=0.4)
    monkeypatch.undo()
    resumed = distil(network(1), tmp_path / "stopped", epochs=2, sparsity=0.4)
    for left, right in zip(expected.get_weights(), resumed.get_weights(), strict=True):
        np.testing.assert_array_equal(left, right)


def test_one_epoch_is_too_few_to_lose_filters() -> None:
    with pytest.raises(ValidationError, match="sparsity needs at least 2 epochs"):
        config(epochs=1, sparsity=0.3)
