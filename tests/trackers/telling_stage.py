"""A stage that tells of epochs and leaves every kind of artifact; run for real, ``python -m tests.trackers.…``."""

from __future__ import annotations

import glob
import json
import sys
import time
from pathlib import Path
from typing import Literal

from pydantic import Field

from mlapp import tracking
from mlapp.errors import UserError
from mlapp.result import Metric, Outcome
from mlapp.section import Section
from mlapp.stage import stage
from mlapp.statistics import proportion


class Telling(Section):
    """How much to tell, and how it ends."""

    epochs: int = Field(3, description="how many epochs to tell of")
    pause_s: float = Field(0.0, description="how long an epoch takes")
    until: str | None = Field(None, description="pattern of files: having told, wait half a minute at most for one")
    leave: Literal["all", "nothing"] = Field("all", description="which artifacts to leave")
    end: Literal["well", "refuse", "crash"] = Field("well", description="how it ends")


@stage("train", area="models")
def run(config: Telling, workdir: Path) -> Outcome:
    """Tell, and leave a model, curves, candidates and a history."""
    history = []
    for number in range(1, config.epochs + 1):
        time.sleep(config.pause_s)
        history.append({"loss": 1 / number, "validation_accuracy": 1 - 1 / (number + 1)})
        tracking.epoch(number, history[-1])
        sys.stdout.write(f"epoch {number}\n")
        sys.stdout.flush()
    deadline = time.monotonic() + 30
    while config.until and not glob.glob(config.until) and time.monotonic() < deadline:
        time.sleep(0.1)
    if config.end == "refuse":
        raise UserError("the data is too small: give more")
    if config.end == "crash":
        raise ValueError("a bug")
    metrics = {"float32.validation_accuracy": proportion(750, 1000), "epochs": Metric(value=config.epochs)}
    if config.leave == "nothing":
        return Outcome(metrics=metrics)
    candidates = [
        {"name": "teacher", "precision": precision, "validation_accuracy": {"value": 0.75, "n": 1000}}
        for precision in ("float32", "int8")
    ]
    (workdir / "history.json").write_text(json.dumps(history))
    (workdir / "candidates.json").write_text(json.dumps(candidates))
    (workdir / "model.int8.tflite").write_bytes(b"\0" * 1000)
    (workdir / "model.keras").write_bytes(b"\1" * 20_000)
    _draw(workdir / "curves.png")
    return Outcome(
        artifacts={
            "history": workdir / "history.json",
            "candidates": workdir / "candidates.json",
            "int8": workdir / "model.int8.tflite",
            "keras": workdir / "model.keras",
            "curves": workdir / "curves.png",
        },
        metrics=metrics,
        headline="teacher: 75.00 %",
    )


def _draw(path: Path) -> None:
    from PIL import Image

    Image.new("L", (40, 30), 128).save(path)


if __name__ == "__main__":
    run.main()
