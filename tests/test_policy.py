"""A policy's file and the changes to it make gates, or one line that says what is wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from mlapp import config, policy
from mlapp.configure import configure
from mlapp.errors import UserError
from mlapp.schema_policy import Vetting

PER_CLASS = "test_images_per_class"


@pytest.mark.parametrize("name", policy.names())
def test_what_ships_can_be_read(name: str) -> None:
    gates = policy.policy_of(Vetting(policy=name))
    assert {"accuracy", "champion_better_p", "class_inferior_p"} <= gates.keys()


@pytest.mark.parametrize("name", policy.names())
def test_what_ships_asks_for_enough_test_images(name: str) -> None:
    gates = policy.policy_of(Vetting(policy=name))
    asked = {measure: (gates[measure].at_least, gates[measure].otherwise) for measure in ("test_images", PER_CLASS)}
    assert asked == {"test_images": (100, "hold"), PER_CLASS: (10, "hold")}


def test_a_run_changes_a_bound_and_keeps_the_rest() -> None:
    usual, changed = (policy.policy_of(Vetting(gates=gates)) for gates in ({}, {"bytes": {"at_most": 32_000}}))
    assert changed == {**usual, "bytes": usual["bytes"].model_copy(update={"at_most": 32_000})}
    assert usual["bytes"].at_most == 150_000


def test_what_a_run_changed_is_the_policy_of_the_next_look() -> None:
    """Given settings that hold the whole policy, as a stage's key does, then the policy is the same."""
    gates = policy.policy_of(Vetting(policy="strict"))
    assert policy.policy_of(Vetting(policy="strict", gates=gates)) == gates


def test_bounds_come_from_every_layer() -> None:
    settings = config.load("tiny", {"vetting.gates.accuracy.at_least": 0.9}, {}).vetting
    gates = policy.policy_of(settings)
    assert (gates["accuracy"].at_least, gates["bytes"].at_most) == (0.9, 32_000)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("accuracy: {at_least: high, otherwise: reject}", r"wrong gate accuracy.at_least: .*valid number"),
        ("acuracy: {at_least: 0.9, otherwise: reject}", r"gate acuracy: did you mean accuracy\?"),
        ("accuracy: {at_most: 0.9, otherwise: reject}", "accuracy takes at_least, a number, and no at_most"),
        ("bytes: {at_least: 1, at_most: 9, otherwise: hold}", "bytes takes at_most, a number, and no at_least"),
        ("accuracy: {at_least: 92, otherwise: reject}", "accuracy takes a number from 0 to 1, not 92"),
        ("calibration_error: {at_most: 5, otherwise: reject}", "calibration_error takes a number from 0 to 1, not 5"),
        ("churn: {at_most: -0.1, otherwise: hold}", "churn takes a number from 0 to 1, not -0.1"),
        ("class_recall_drop: {at_most: 5, otherwise: reject}", "class_recall_drop takes a number from -1 to 1, not 5"),
        ("bytes: {at_most: -1, otherwise: reject}", "bytes takes a number of 0 or more, not -1"),
        ("accuracy: {at_least: 0.9}", "accuracy does not say what missing it means"),
        ("accuracy: {at_least: 0.9, otherwise: panic}", "wrong gate accuracy.otherwise: .*'hold' or 'note'"),
        ("class_inferior_p: {at_most: 0.1, otherwise: hold}", "class_inferior_p needs a margin"),
        ("churn: {at_most: 0.1, margin: 0.1, otherwise: hold}", "churn takes no margin"),
        ("accuracy: {at_least: 85, otherwise: reject}", "accuracy takes a number from 0 to 1, not 85"),
        ("churn: {at_most: -5, otherwise: hold}", "churn takes a number from 0 to 1, not -5"),
        ("bytes: {at_most: -1, otherwise: hold}", "bytes takes a number of 0 or more, not -1"),
        ("accuracy: {at_least: true, otherwise: reject}", "input should be a number, not true or false"),
        ("accuracy: 0.9", "wrong gate accuracy: "),
        ("- accuracy", "must map measures to bounds"),
        ("", "must map measures to bounds"),
        ("a: {b", "is not YAML"),
    ],
)
def test_what_is_wrong_with_a_file_is_told_in_one_line(tmp_path: Path, content: str, told: str) -> None:
    file = tmp_path / "ours.yaml"
    file.write_text(content)
    with pytest.raises(UserError, match=told) as error:
        policy.policy_of(Vetting(policy=str(file)))
    assert str(file) in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["lenient", "../presets/quick", "gone.yaml"])
def test_a_policy_that_is_not_there_is_told_before_anything_runs(tmp_path: Path, name: str) -> None:
    settings: dict[str, Any] = {"vetting.policy": name}
    with pytest.raises(UserError, match=r"no policy '.*': choose standard or strict, or give a \.yaml file"):
        configure("smoke", settings, str(tmp_path / "config.json"))
    assert not list(tmp_path.iterdir())
