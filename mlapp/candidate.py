"""A candidate: one model file with what is known of it before the test set is touched.

Every stage that makes a model leaves ``candidates.json`` (artifact ``candidates``) beside the files it names.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from mlapp import storage
from mlapp.result import Metric, Record, StageResult

Kind = Literal["teacher", "student", "filters pruned", "weights pruned", "baseline"]
Precision = Literal["float32", "int8"]
Count = Annotated[int, Field(ge=0, le=1 << 50)]


def _finite(metric: Metric) -> Metric:
    """A figure that can be compared and drawn."""
    figures = [figure for figure in (metric.value, metric.low, metric.high) if figure is not None]
    if metric.value < 0 or not all(abs(figure) < 1e12 for figure in figures):
        raise ValueError(f"a figure is out of bounds: {figures}")
    return metric


class Candidate(Record):
    """One LiteRT file, or the baseline's trees. Accuracy is on the validation split, measured through the file itself.

    For trees, ``parameters`` counts nodes (a threshold in each split, a value in each leaf), and there are no ``macs``:
    they multiply nothing.
    """

    name: str
    kind: Kind
    precision: Precision
    artifact: Literal["float32", "int8", "model"]
    bytes: Count
    compressed_bytes: Count
    parameters: Count
    nonzero_parameters: Count
    macs: Count | None
    validation_accuracy: Annotated[Metric, AfterValidator(_finite)]
    latency_us: Annotated[Metric, AfterValidator(_finite)]
    description: str = ""

    @property
    def label(self) -> str:
        """Short name for tables and plots."""
        return f"{self.name} {self.precision}"

    @property
    def metrics(self) -> dict[str, Metric]:
        """Accuracy, latency and size, as the stage that made it reports them."""
        figures = {
            "validation_accuracy": self.validation_accuracy,
            "latency": self.latency_us,
            "size": Metric(value=self.bytes, unit="B"),
        }
        return {f"{self.precision}.{name}": metric for name, metric in figures.items()}


def write_candidates(candidates: Sequence[Candidate], folder: Path) -> Path:
    """Write ``candidates.json`` to a stage's ``folder``; returns its path."""
    path = folder / "candidates.json"
    storage.write_text(path, json.dumps([entry.model_dump(mode="json") for entry in candidates], indent=2))
    return path


def read_candidates(result: StageResult) -> list[Candidate]:
    """The candidates that a stage left; a `UserError` if their file is of a form that this code does not know."""
    return result.content("candidates", list[Candidate])
