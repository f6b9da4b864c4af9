"""What the stage operator asks of a place that stages run in."""

from __future__ import annotations

import importlib
import signal
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, cast

# Where a stage can run: the name that a DAG gives, and the class that runs it there (module:class, imported on use).
# Beside them the operator knows `vertex`, which is waited for in other ways (`vertex_ladder`).
RUNNERS = {"local": "local_runner:LocalRunner"}
BAD_INPUT = 2


@dataclass(frozen=True)
class Ended:
    """How a stage ended: its exit code, the URI of its result when it is done, the line that says why when not."""

    exit_code: int
    uri: str = ""
    reason: str = ""

    @property
    def told(self) -> str:
        """One line for the log: the stage's own line for bad input, else the exit code or signal and its last line."""
        if self.exit_code == BAD_INPUT:
            return self.reason
        code = self.exit_code
        ended = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        return f"the stage {ended}: {self.reason or 'it said nothing'}"


class Runner(Protocol):
    """A place that stages run in. ``say`` takes each line of a stage's output as it comes."""

    def __init__(self, say: Callable[[str], object]) -> None: ...

    def run(self, module: str, arguments: Sequence[str], environ: Mapping[str, str]) -> Ended:
        """Run ``python -m module *arguments`` there to its end; whatever is raised, nothing is left behind.

        ``environ`` comes on top of what the stage may have of the environment (`mlapp.child_environment`).
        """

    def kill(self) -> None:
        """End the running stage, if any, from a signal handler: return soon, `run` sees to the rest."""


def runner_at(place: str, say: Callable[[str], object]) -> Runner:
    """A fresh runner for the place of this name."""
    if place not in RUNNERS:
        raise ValueError(f"no runner {place!r}: choose one of {', '.join(RUNNERS)}, vertex")
    module, _, name = RUNNERS[place].partition(":")
    return cast(Runner, getattr(importlib.import_module(module), name)(say))
