"""What may be tuned: each trainer declares, next to its settings, which of them and between which bounds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field

from mlapp.schema import Section


class Real(Section):
    """A number between two bounds; ``log`` draws it evenly over orders of magnitude."""

    kind: Literal["real"] = "real"
    low: float
    high: float
    log: bool = False


class Whole(Section):
    """A whole number between two bounds, both included."""

    kind: Literal["whole"] = "whole"
    low: int
    high: int
    log: bool = False


class Choice(Section):
    """One of several values."""

    kind: Literal["choice"] = "choice"
    of: tuple[float | int | str | bool, ...] = Field(min_length=2)


Dimension = Annotated[Real | Whole | Choice, Field(discriminator="kind")]
SearchSpace = Mapping[str, Dimension]
