"""What may be tuned: each trainer declares, next to its settings, which of them and between which bounds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator


class _Range(BaseModel):
    """Two bounds, both included."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    low: float
    high: float
    log: bool = False

    @model_validator(mode="after")
    def _is_a_range(self) -> _Range:
        if self.low >= self.high:
            raise ValueError(f"low ({self.low:g}) must be below high ({self.high:g})")
        if self.log and self.low <= 0:
            raise ValueError(f"low must be above 0 for log, not {self.low:g}")
        return self


class Real(_Range):
    """A number between two bounds; ``log`` draws it evenly over orders of magnitude."""

    kind: Literal["real"] = "real"


class Whole(_Range):
    """A whole number between two bounds, both included."""

    kind: Literal["whole"] = "whole"
    low: int
    high: int


class Choice(BaseModel):
    """One of several values."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    kind: Literal["choice"] = "choice"
    of: tuple[float | int | str | bool, ...] = Field(min_length=2)


Dimension = Annotated[Real | Whole | Choice, Field(discriminator="kind")]
SearchSpace = Mapping[str, Dimension]
