"""What may be tuned: each trainer declares, next to its settings, which of them and between which bounds."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

LARGEST = 1e15  # of a real bound: far from where the samplers' arithmetic overflows
LARGEST_WHOLE = 2**53  # up to which every whole number is one for the samplers too
MOST_OPTIONS = 1000  # as many as there are trials at most


class _Range(BaseModel):
    """Two bounds, both included."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    low: float = Field(ge=-LARGEST, le=LARGEST)
    high: float = Field(ge=-LARGEST, le=LARGEST)
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
    low: int = Field(ge=-LARGEST_WHOLE, le=LARGEST_WHOLE)
    high: int = Field(ge=-LARGEST_WHOLE, le=LARGEST_WHOLE)


class Choice(BaseModel):
    """One of several values."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    kind: Literal["choice"] = "choice"
    of: tuple[float | int | Annotated[str, Field(max_length=MOST_OPTIONS)] | bool, ...] = Field(
        min_length=2, max_length=MOST_OPTIONS
    )


Dimension = Annotated[Real | Whole | Choice, Field(discriminator="kind")]
SearchSpace = Mapping[str, Dimension]
