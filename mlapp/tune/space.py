"""The search space of one search: the trainer's own or the user's, checked against the trainer's settings."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any

from mlapp import config as configuration
from mlapp.errors import UserError
from mlapp.search_space import Choice, Dimension, Real, SearchSpace
from mlapp.section import Section

Point = dict[str, Any]
NOT_SEARCHED = {"epochs", "rounds", "seed", "widths", "max_bytes"}


def checked(space: SearchSpace, base: Section, searchable: set[str], trainer: str) -> SearchSpace:
    """The space, once it is known that the trainer takes every value of it; a `UserError` names what it does not.

    ``base`` is the trainer's config, ``searchable`` the fields of it that may be searched.
    """
    for name, dimension in space.items():
        if name not in searchable:
            hint = configuration.nearest(name, searchable)
            raise UserError(f"tuning.space: {name} is nothing to search for {trainer}{hint}")
        for value in _probes(dimension):
            given = {"tuning.space": {name: value}}
            configuration.validate(type(base), {**base.model_dump(), name: value}, given)
    return space


def searchable(section: type[Section]) -> set[str]:
    """The fields of a trainer's settings that may be searched: not how long it trains, nor what the run decides."""
    return set(section.model_fields) - NOT_SEARCHED


def distributions(space: SearchSpace) -> dict[str, Any]:
    """The same space in Optuna's words."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    def distribution(dimension: Dimension) -> Any:
        if isinstance(dimension, Choice):
            return CategoricalDistribution(dimension.of)
        if isinstance(dimension, Real):
            return FloatDistribution(dimension.low, dimension.high, log=dimension.log)
        return IntDistribution(dimension.low, dimension.high, log=dimension.log)

    return {name: distribution(dimension) for name, dimension in space.items()}


def nearest(space: SearchSpace, settings: Section) -> Point:
    """The point of the space that is closest to the settings as they stand: what a search begins with."""
    return {name: _nearest(dimension, getattr(settings, name)) for name, dimension in space.items()}


def every(space: SearchSpace, most: int) -> list[Point]:
    """All points of a space that has at most so many; none of one that has more, or any real number."""
    values: dict[str, Sequence[Any]] = {}
    for name, dimension in space.items():
        if isinstance(dimension, Real):
            return []
        if isinstance(dimension, Choice):
            values[name] = tuple(dict.fromkeys(dimension.of))
        else:
            values[name] = range(dimension.low, dimension.high + 1)
    if math.prod(map(len, values.values())) > most:
        return []
    return [dict(zip(values, point, strict=True)) for point in itertools.product(*values.values())]


def holds(space: SearchSpace, point: Point) -> bool:
    """Whether a point gives each dimension of the space a value of it, and nothing else."""
    return point.keys() == space.keys() and all(_fits(space[name], value) for name, value in point.items())


def told(point: Point) -> str:
    """A point as a person reads it."""
    return ", ".join(
        f"{name} {value:.3g}" if isinstance(value, float) else f"{name} {value}" for name, value in point.items()
    )


def _fits(dimension: Dimension, value: Any) -> bool:
    if isinstance(dimension, Choice):
        return any(type(value) is type(option) and value == option for option in dimension.of)
    kinds = (int, float) if isinstance(dimension, Real) else (int,)
    return type(value) in kinds and dimension.low <= value <= dimension.high


def _nearest(dimension: Dimension, value: Any) -> Any:
    if not isinstance(dimension, Choice):
        return min(max(value, dimension.low), dimension.high)
    if value in dimension.of:
        return value
    numbers = [option for option in dimension.of if isinstance(option, int | float)]
    if isinstance(value, int | float) and len(numbers) == len(dimension.of):
        return min(numbers, key=lambda option: abs(option - value))
    return dimension.of[0]


def _probes(dimension: Dimension) -> tuple[Any, ...]:
    """Values that show whether a setting takes the dimension: its ends, and a number between that is not whole."""
    if isinstance(dimension, Choice):
        return dimension.of
    if isinstance(dimension, Real):
        return (dimension.low, dimension.high, dimension.low + (dimension.high - dimension.low) / math.pi)
    return (dimension.low, dimension.high)
