"""The policy: a file that says which measures a challenger must meet, and what missing each of them means."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

from pydantic import TypeAdapter, ValidationError

from mlapp import address, plain, small_file, storage
from mlapp.config import merge, nearest
from mlapp.errors import UserError
from mlapp.schema_policy import Bound, Measure, Vetting

POLICIES = Path(__file__).parent / "policies"
Policy = dict[Measure, Bound]

SEVERITY = (None, "note", "hold", "reject")  # what missing a gate means, the mildest first
# Of these more is better: they have a least value; all others have a most.
AT_LEAST = {
    *("accuracy", "accuracy_apart", "class_recall", "corrupted_accuracy", "test_images", "test_images_per_class"),
    *("same_test_set", "champion_worse_p", "champion_gain_apart", "baseline_worse_p"),
}
# What a measure can come to. A bound outside of it, such as a percentage for a share, is always missed or always met.
SHARES = {
    *("accuracy", "accuracy_apart", "class_recall", "calibration_error", "corrupted_accuracy", "churn"),
    *("same_test_set", "champion_worse_p", "champion_better_p", "class_inferior_p"),
    *("baseline_worse_p", "baseline_better_p"),
}
DIFFERENCES = {"champion_gain_apart", "class_recall_drop", "corrupted_accuracy_drop"}
# Only these may go without being measured: where there is no champion yet.
AGAINST_CHAMPION = {
    *("same_test_set", "champion_worse_p", "champion_better_p", "champion_gain_apart"),
    *("class_recall_drop", "class_inferior_p", "corrupted_accuracy_drop", "churn"),
}


def policy_of(settings: Vetting) -> Policy:
    """The gates that a run's challenger must pass: those of its policy's file, as its settings change them.

    A `UserError` names the file and the first gate that cannot be understood.
    """
    changes: dict[str, Any] = {name: bound.model_dump() for name, bound in settings.gates.items()}
    asked = merge(_read(settings.policy), changes)
    try:
        policy = TypeAdapter(Policy).validate_python(asked)
    except ValidationError as error:
        told = error.errors()[0]
        name = ".".join(str(part) for part in told["loc"] if part != "[key]")
        known = nearest(name, get_args(Measure)) if "[key]" in told["loc"] else f": {told['msg']}"
        raise UserError(f"policy {settings.policy}: unknown or wrong gate {name}{known}") from error
    for measure, bound in policy.items():
        if wrong := _wrong(measure, bound):
            raise UserError(f"policy {settings.policy}: {measure} {wrong}")
    return policy


def looser(ours: Policy, least: Policy) -> list[Measure]:
    """The gates of ``least`` that ``ours`` leaves out or asks less of."""
    return [measure for measure, bound in least.items() if measure not in ours or _asks_less(ours[measure], bound)]


def _asks_less(mine: Bound, least: Bound) -> bool:
    """Whether a gate lets through what another one does not, or takes missing it more lightly."""
    return (
        (least.at_least is not None and (mine.at_least is None or mine.at_least < least.at_least))
        or (least.at_most is not None and (mine.at_most is None or mine.at_most > least.at_most))
        or (least.margin is not None and (mine.margin is None or mine.margin > least.margin))
        or SEVERITY.index(mine.otherwise) < SEVERITY.index(least.otherwise)
    )


def names() -> list[str]:
    """The policies that ship with the project."""
    return sorted(path.stem for path in POLICIES.glob("*.yaml"))


def _read(name: str) -> dict[str, Any]:
    own = name.endswith((".yaml", ".yml"))
    if wrong := address.fault(name):
        raise UserError(f"policy: {wrong}")
    path = storage.at(name if own else POLICIES / f"{name}.yaml")
    with storage.explained():
        if not (path.exists() or storage.is_link(path) if own else name in names()):
            raise UserError(f"no policy {name!r}: choose {' or '.join(names())}, or give a .yaml file")
    try:
        with storage.explained():
            content = plain.from_yaml(small_file.read(path))
    except ValueError as error:
        raise UserError(f"policy {name} is not YAML: {error}") from error
    if not isinstance(content, Mapping) or not content:
        raise UserError(f"policy {name} must map measures to bounds, as {POLICIES / 'standard.yaml'} does")
    return dict(content)


def _wrong(measure: Measure, bound: Bound) -> str | None:
    """What is wrong with a gate, or None."""
    wanted, other = ("at_least", "at_most") if measure in AT_LEAST else ("at_most", "at_least")
    if getattr(bound, wanted) is None or getattr(bound, other) is not None:
        return f"takes {wanted}, a number, and no {other}"
    least, most = (0, 1) if measure in SHARES else (-1, 1) if measure in DIFFERENCES else (0, math.inf)
    if not least <= (asked := getattr(bound, wanted)) <= most:
        between = f"from {least} to {most}" if most == 1 else f"of {least} or more"
        return f"takes a number {between}, not {asked:g}"
    if bound.otherwise is None:
        return "does not say what missing it means: add otherwise: reject, hold or note"
    if (bound.margin is None) != (measure != "class_inferior_p"):
        return "needs a margin" if bound.margin is None else "takes no margin"
    return None
