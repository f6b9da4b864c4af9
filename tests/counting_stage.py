"""A stage whose work can be interrupted, and that keeps what it did so far."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from mlapp import workspaces
from mlapp.errors import Terminated
from mlapp.result import Outcome
from mlapp.section import Section
from mlapp.stage import stage


class Stop(Section):
    """Where to be interrupted, as from outside: it is the same work."""

    beside_the_result: ClassVar[bool] = True

    at: int = 0


class Counting(Section):
    """How often to count, and where to be interrupted."""

    until: int = 3
    stop: Stop = Stop()


@stage("counting", area="models", cached=False)
def run(config: Counting, workdir: Path) -> Outcome:
    """Count, and keep every number."""
    place = workdir / "deep" / "numbers"
    place.mkdir(parents=True, exist_ok=True)
    begun = len(list(place.iterdir()))
    for number in range(begun, config.until):
        (place / f"{number}.txt").write_text("x")
        workspaces.keep(place, "*.txt")
        if number + 1 == config.stop.at:
            raise Terminated
    (workdir / "counted.txt").write_text(f"{begun} to {config.until}")
    return Outcome(artifacts={"counted": workdir / "counted.txt"})
