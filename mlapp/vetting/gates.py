"""The gates between a challenger and production: each one a figure, a bound, and whether it holds."""

from __future__ import annotations

from typing import Literal

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
    return Gate(
        name=name,
        value=value,
        bound=bound,
        relation=">=",
        passed=value >= bound,
        on_failure="reject",
        detail=detail,
    )


def at_most(name: str, value: float, bound: float, detail: str = "") -> Gate:
    """A budget; exceeding it rejects."""
    return Gate(
        name=name,
        value=value,
        bound=bound,
        relation="<=",
        passed=value <= bound,
        on_failure="reject",
        detail=detail,
    )


def improvement(difference: Metric, p_value: float, significance: float) -> list[Gate]:
    """Against a champion: significantly worse rejects, anything short of significantly better holds."""
    worse = p_value < significance and difference.value < 0
    better = p_value < significance and difference.value > 0
    detail = f"McNemar's exact test, p = {p_value:.3g}, level {significance:g}"
    return [
        Gate(
            name="not significantly worse than the champion",
            value=difference.value,
            bound=0.0,
            relation=">=",
            passed=not worse,
            on_failure="reject",
            detail=detail,
        ),
        Gate(
            name="significantly better than the champion",
            value=difference.value,
            bound=0.0,
            relation=">",
            passed=better,
            on_failure="hold",
            detail=detail,
        ),
    ]


def decide(gates: list[Gate]) -> Decision:
    """Reject if any rejecting gate fails, else hold if any holding gate fails, else promote."""
    failed = {gate.on_failure for gate in gates if not gate.passed}
    if "reject" in failed:
        return "reject"
    return "hold" if failed else "promote"
