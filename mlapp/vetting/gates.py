"""The gates between a challenger and production: each one a figure, a bound, and whether it holds."""

from __future__ import annotations

from typing import Any, Literal

from mlapp.result import Metric, Record

Decision = Literal["promote", "hold", "reject"]


class Gate(Record):
    """One condition. ``kind`` says what failing it means: reject (not good enough) or hold (not better)."""

    name: str
    value: float
    bound: float
    relation: Literal[">=", "<=", ">"]
    passed: bool
    on_failure: Literal["reject", "hold"]
    detail: str = ""


def at_least(name: str, value: float, bound: float, detail: str = "") -> Gate:
    """A floor; falling below it rejects."""
    passed = value >= bound
    return Gate(name=name, value=value, bound=bound, relation=">=", passed=passed, on_failure="reject", detail=detail)


def at_most(name: str, value: float, bound: float, detail: str = "") -> Gate:
    """A budget; exceeding it rejects."""
    passed = value <= bound
    return Gate(name=name, value=value, bound=bound, relation="<=", passed=passed, on_failure="reject", detail=detail)


def improvement(difference: Metric, p_value: float, significance: float, over: str = "champion") -> list[Gate]:
    """Against a champion (or the baseline): significantly worse rejects, short of significantly better holds."""
    significant = p_value < significance
    shared: dict[str, Any] = {"value": difference.value, "bound": 0.0, "detail": f"McNemar's exact p = {p_value:.3g}"}
    return [
        Gate(
            name=f"not significantly worse than the {over}",
            relation=">=",
            passed=not (significant and difference.value < 0),
            on_failure="reject",
            **shared,
        ),
        Gate(
            name=f"significantly better than the {over}",
            relation=">",
            passed=significant and difference.value > 0,
            on_failure="hold",
            **shared,
        ),
    ]


def decide(gates: list[Gate]) -> Decision:
    """Reject if any rejecting gate fails, else hold if any holding gate fails, else promote."""
    failed = {gate.on_failure for gate in gates if not gate.passed}
    if "reject" in failed:
        return "reject"
    return "hold" if failed else "promote"
