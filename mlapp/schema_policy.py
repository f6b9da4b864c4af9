"""The settings of vetting: the policy, which says what a challenger must show, and how it is measured."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    SerializerFunctionWrapHandler,
    WithJsonSchema,
    model_serializer,
)

from mlapp.address import usable
from mlapp.section import Section

# What a gate can bound. The first group needs the challenger alone, the others what they are named for.
Measure = Literal[
    "accuracy",
    "accuracy_apart",
    "class_recall",
    "calibration_error",
    "corrupted_accuracy",
    "bytes",
    "latency_us",
    "test_images",
    "test_images_per_class",
    "same_test_set",
    "champion_worse_p",
    "champion_better_p",
    "champion_gain_apart",
    "class_recall_drop",
    "class_inferior_p",
    "corrupted_accuracy_drop",
    "churn",
    "baseline_worse_p",
    "baseline_better_p",
]


def _number(value: Any) -> Any:
    if isinstance(value, bool):
        raise ValueError("input should be a number, not true or false")  # noqa: TRY004 - pydantic takes no other
    return value


class Bound(Section):
    """What a policy asks of a measure, or what of that a run changes."""

    at_least: Annotated[float | None, BeforeValidator(_number)] = None
    at_most: Annotated[float | None, BeforeValidator(_number)] = None
    margin: float | None = Field(None, gt=0, lt=1, description="of class_inferior_p: a loss of recall that matters")
    otherwise: Literal["reject", "hold", "note"] | None = Field(
        None, description="what missing the bound means; note: nothing, but it is told"
    )

    @model_serializer(mode="wrap")
    def _what_is_set(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {name: value for name, value in serialize(self).items() if value is not None}


class Vetting(Section):
    """The gates between a challenger and production, on the frozen test set."""

    policy: Annotated[str, AfterValidator(usable)] = Field(
        "standard", description="standard, strict, or the path or URI of a .yaml file of gates like those"
    )
    gates: Annotated[
        dict[Measure, Bound], WithJsonSchema({"type": "object", "additionalProperties": {"type": "object"}})
    ] = Field(
        default_factory=dict,
        description="changes to the policy's gates, by measure: {bytes: {at_most: 32000}, churn: {otherwise: note}}",
    )
    corrupted_images: int = Field(2000, ge=100, description="test images of which corrupted ones are scored")
    bootstrap_samples: int = Field(10_000, ge=1000, description="resamples of the paired bootstrap interval")
    seed: int = Field(0, ge=0, lt=2**31, description="seed of the bootstrap and of the corruptions")
