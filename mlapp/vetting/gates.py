"""The gates between a challenger and production: each one a figure, a bound, and whether it holds."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Literal, NamedTuple

from mlapp.policy import AGAINST_CHAMPION, AT_LEAST, Policy
from mlapp.result import Record
from mlapp.schema_policy import Bound, Measure
from mlapp.text_table import number, table

Decision = Literal["promote", "hold", "reject"]

# What people are told that a gate is about.
TITLES: dict[Measure, str] = {
    "accuracy": "accuracy",
    "accuracy_apart": "accuracy without near-duplicates",
    "class_recall": "lowest recall of a class",
    "calibration_error": "expected calibration error",
    "corrupted_accuracy": "accuracy on corrupted images",
    "bytes": "file size (bytes)",
    "latency_us": "latency (µs, one thread)",
    "test_images": "test images",
    "test_images_per_class": "fewest test images of a class",
    "same_test_set": "tested on the champion's own test set",
    "champion_worse_p": "not significantly worse than the champion",
    "champion_better_p": "significantly better than the champion",
    "champion_gain_apart": "gain over the champion without near-duplicates",
    "class_recall_drop": "most recall lost by a class",
    "class_inferior_p": "no class inferior",
    "corrupted_accuracy_drop": "accuracy on corrupted images lost",
    "churn": "images told otherwise than by the champion",
    "baseline_worse_p": "not significantly worse than the baseline",
    "baseline_better_p": "significantly better than the baseline",
}


class Measured(NamedTuple):
    """A measure's value, and what a person should know of it."""

    value: float
    detail: str = ""


UNKNOWN = Measured(math.nan, "could not be measured")


class Gate(Record):
    """One condition. ``on_failure``: reject (not good enough), hold (not better), or note, which decides nothing.

    What could not be measured has no value, and is missed.
    """

    name: str
    value: float | None
    bound: float
    relation: Literal[">=", "<=", ">"]
    passed: bool
    on_failure: Literal["reject", "hold", "note"]
    detail: str = ""

    @property
    def cells(self) -> tuple[str, str, str, str]:
        """A line of a table for people: what was measured, its value, the bound, and what came of it."""
        told = f"{self.name} ({self.detail})" if self.detail else self.name
        outcome = "passed" if self.passed else f"missed: {self.on_failure}"
        value = "–" if self.value is None else number(self.value)
        return told, value, f"{self.relation} {number(self.bound)}", outcome


def listed(gates: Iterable[Gate]) -> str:
    """All gates as a table in plain text."""
    return table([("gate", "value", "bound", ""), *(gate.cells for gate in gates)], right=(1,))


def gates(policy: Policy, measured: Mapping[Measure, Measured], *, champion: bool) -> list[Gate]:
    """The policy's gates, those against the champion left out where there is none."""
    return [
        _gate(measure, policy[measure], measured.get(measure, UNKNOWN))
        for measure in TITLES
        if measure in policy and (champion or measure not in AGAINST_CHAMPION)
    ]


def decide(gates: list[Gate]) -> Decision:
    """Reject if any rejecting gate fails, else hold if any holding gate fails, else promote."""
    failed = {gate.on_failure for gate in gates if not gate.passed}
    if "reject" in failed:
        return "reject"
    return "hold" if "hold" in failed else "promote"


def _gate(measure: Measure, asked: Bound, measured: Measured) -> Gate:
    floor, known = measure in AT_LEAST, math.isfinite(measured.value)
    bound = asked.at_least if floor else asked.at_most
    assert bound is not None
    assert asked.otherwise is not None
    return Gate(
        name=TITLES[measure],
        value=measured.value if known else None,
        bound=bound,
        relation=">=" if floor else "<=",
        passed=known and (measured.value >= bound if floor else measured.value <= bound),
        on_failure=asked.otherwise,
        detail=measured.detail,
    )
