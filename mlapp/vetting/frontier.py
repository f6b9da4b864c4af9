"""The accuracy/size/latency frontier of all candidates, and the policy that picks the challenger from it."""

from __future__ import annotations

from collections.abc import Sequence

from mlapp.candidate import Candidate
from mlapp.errors import UserError
from mlapp.result import Record
from mlapp.schema import Selection


class Placed(Record):
    """A candidate with its place in the comparison."""

    candidate: Candidate
    result: str
    on_frontier: bool
    obstacle: str | None


def place(candidates: Sequence[tuple[Candidate, str]], policy: Selection) -> list[Placed]:
    """Every candidate with its result's URI, whether it is on the frontier, and what keeps it from being chosen."""
    floor = accuracy_floor(candidates, policy)
    return [
        Placed(
            candidate=candidate,
            result=uri,
            on_frontier=not any(_dominates(other, candidate) for other, _ in candidates),
            obstacle=_obstacle(candidate, floor, policy),
        )
        for candidate, uri in candidates
    ]


def choose(placed: Sequence[Placed], policy: Selection) -> Placed:
    """The smallest, or most accurate, candidate that nothing keeps from being chosen; of equals the faster one."""
    qualified = [entry for entry in placed if entry.obstacle is None]
    if not qualified:
        told = "; ".join(f"{entry.candidate.label}: {entry.obstacle}" for entry in placed)
        raise UserError(
            f"no candidate meets the selection policy ({told}): loosen selection.*, or train longer or smaller"
        )

    def rank(candidate: Candidate) -> tuple[float, float, float]:
        size, error = candidate.bytes, -candidate.validation_accuracy.value
        return (*((size, error) if policy.prefer == "smallest" else (error, size)), candidate.latency_us.value)

    return min(qualified, key=lambda entry: rank(entry.candidate))


def accuracy_floor(candidates: Sequence[tuple[Candidate, str]], policy: Selection) -> float:
    """The least validation accuracy that the policy accepts."""
    teacher, _ = teacher_of(candidates)
    return teacher.validation_accuracy.value - policy.max_accuracy_drop


def teacher_of(candidates: Sequence[tuple[Candidate, str]]) -> tuple[Candidate, str]:
    """The teacher's float32 candidate, the yardstick of accuracy, with its result's URI."""
    for candidate, uri in candidates:
        if candidate.kind == "teacher" and candidate.precision == "float32":
            return candidate, uri
    raise UserError("no teacher among the results: add the result of dnn_trainer to --results")


def _obstacle(candidate: Candidate, floor: float, policy: Selection) -> str | None:
    accuracy, latency = candidate.validation_accuracy.value, candidate.latency_us.value
    if candidate.kind == "baseline":
        return "is the baseline, to compare with"
    if policy.precision not in ("any", candidate.precision):
        return f"precision is not {policy.precision}"
    if candidate.bytes > policy.max_bytes:
        return f"{candidate.bytes:,} bytes, over selection.max_bytes {policy.max_bytes:,}"
    if latency > policy.max_latency_us:
        return f"{latency:.0f} µs, over selection.max_latency_us {policy.max_latency_us:.0f}"
    if accuracy < floor:
        return f"{100 * accuracy:.2f} % on validation, under the floor {100 * floor:.2f} %"
    return None


def _dominates(left: Candidate, right: Candidate) -> bool:
    def figures(candidate: Candidate) -> tuple[float, float, float]:
        return candidate.validation_accuracy.value, -candidate.bytes, -candidate.latency_us.value

    pairs = list(zip(figures(left), figures(right), strict=True))
    return all(a >= b for a, b in pairs) and any(a > b for a, b in pairs)
