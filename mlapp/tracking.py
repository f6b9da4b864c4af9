"""What a stage tells of its progress, and who listens: no stage and no trainer knows which tracker is behind.

Whoever starts a stage says `with tracked_by(tracker):`; the stage contract tells of its beginning and its end, a
trainer of each epoch. With nobody listening, telling costs nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mlapp.result import StageResult

log = logging.getLogger("mlapp")
PRELIMINARY = "preliminary"


class Tracker:
    """Takes what stages tell. Every method does nothing unless a subclass has a use for it."""

    def began(self, stage: str, key: str, config: Mapping[str, Any]) -> None:
        """A stage starts to compute (one that finds a valid earlier result is `reused` instead)."""

    def epoch(self, number: int, figures: Mapping[str, float]) -> None:
        """Epoch ``number`` (from 1; for trees, a boosting round) ended with these ``figures``.

        Every trainer gives ``validation_accuracy`` (0..1); networks also loss, validation_loss, learning_rate, seconds,
        and where filters leave on the way `PRELIMINARY`: 1.0 as long as some are still to leave, 0.0 from then on.
        """

    def trial(
        self, name: str, parameters: Mapping[str, Any], history: Sequence[Mapping[str, float]], stopped_early: bool
    ) -> None:
        """A trial of a search ended: what it tried, and its figures an epoch, as `epoch` would have been given."""

    def reused(self, result: StageResult) -> None:
        """A valid earlier result stands: nothing was computed."""

    def ended(self, result: StageResult) -> None:
        """The stage is done and its result written."""

    def failed(self, reason: str) -> None:
        """The stage ended without a result."""


_trackers: ContextVar[tuple[Tracker, ...]] = ContextVar("trackers", default=())


@contextmanager
def tracked_by(*trackers: Tracker) -> Iterator[None]:
    """Have these trackers listen to what is told inside the block, besides those that already do."""
    token = _trackers.set((*_trackers.get(), *trackers))
    try:
        yield
    finally:
        _trackers.reset(token)


def began(stage: str, key: str, config: Mapping[str, Any]) -> None:
    """Tell that a stage starts to compute."""
    _tell(lambda tracker: tracker.began(stage, key, config))


def epoch(number: int, figures: Mapping[str, float]) -> None:
    """Tell how an epoch went."""
    _tell(lambda tracker: tracker.epoch(number, figures))


def trial(
    name: str, parameters: Mapping[str, Any], history: Sequence[Mapping[str, float]], stopped_early: bool = False
) -> None:
    """Tell how a trial of a search went, from the process of the search, once the trial is over."""
    _tell(lambda tracker: tracker.trial(name, parameters, history, stopped_early))


def reused(result: StageResult) -> None:
    """Tell that a stage took an earlier result."""
    _tell(lambda tracker: tracker.reused(result))


def ended(result: StageResult) -> None:
    """Tell that a stage is done."""
    _tell(lambda tracker: tracker.ended(result))


def failed(reason: str) -> None:
    """Tell that a stage ended without a result."""
    _tell(lambda tracker: tracker.failed(reason))


def was_stopped(reason: str) -> bool:
    """Whether a stage `failed` because someone stopped it."""
    return reason.startswith(("Terminated", "KeyboardInterrupt"))


def _tell(call: Callable[[Tracker], None]) -> None:
    """A tracker that fails is told once and left out from then on: no training ends because of it."""
    for tracker in _trackers.get():
        try:
            call(tracker)
        except Exception as error:
            log.warning("%s: not tracked any more, %s", type(tracker).__name__, error)
            _trackers.set(tuple(other for other in _trackers.get() if other is not tracker))
