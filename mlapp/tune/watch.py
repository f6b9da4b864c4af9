"""What happens to the trials of a search, written down and told as it happens."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ray.tune import Callback

from mlapp import tracking
from mlapp.errors import UserError
from mlapp.tune.session import last_words
from mlapp.tune.space import told
from mlapp.tune.trials import Trial, Trials

log = logging.getLogger("mlapp")
WRITTEN_S = 0.2  # between two writings of one trial: trees may tell of a round every few milliseconds
SPOKEN_S = 10.0  # between two lines of one trial
WORKERS_S = 60.0  # until the first trial of a local Ray starts, which takes some seconds
WAITING_S = 30.0  # between two lines that nothing happens


class Watch(Callback):  # type: ignore[misc]
    """Ray Tune's view of the trials, translated into our own records."""

    def __init__(
        self, trials: Trials, total: int, epochs: int, check: Callable[[], None], logs: Path | None = None
    ) -> None:
        """``logs`` is the folder of a local Ray, whose workers must come up soon; a cluster's may be waited for."""
        self.trials, self.total, self.epochs, self.check, self.logs = trials, total, epochs, check, logs
        self._numbers: dict[str, Trial] = {}
        self._earlier: dict[int, Trial] = {}
        self._spoken: dict[int, float] = {}
        self._written: dict[int, float] = {}
        self._heard = self._began = time.monotonic()

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """A worker takes the trial up."""
        self._heard = time.monotonic()
        for each in trials:  # in the order of suggestion, which is not that of starting
            if each.trial_id not in self._numbers:
                self._numbers[each.trial_id] = self.trials.begun(dict(each.config))
        known = self._numbers[trial.trial_id]
        self._spoken[known.number] = self._heard
        self._earlier[known.number] = known
        log.info("trial %d/%d: %s", known.number, self.total, told(known.parameters))

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        """An epoch of it ended, or all of it."""
        now = self._heard = time.monotonic()
        known = self._numbers[trial.trial_id]
        names = ("state", "seconds", "cpu_seconds", "node", "process", "reason", "blame")
        news = {name: result[name] for name in names if name in result}
        accuracies = known.accuracies | {int(epoch): value for epoch, value in result["accuracies"].items()}
        for cost in ("seconds", "cpu_seconds"):  # of a trial that was taken up again: of both times
            news[cost] += getattr(self._earlier[known.number], cost)
        known = known.model_copy(update={**news, "accuracies": accuracies})
        self._numbers[trial.trial_id] = known
        if known.over or now - self._written.get(known.number, 0.0) > WRITTEN_S:
            self._written[known.number] = now
            self.trials.put(known)
        if not known.over and now - self._spoken.get(known.number, 0.0) > SPOKEN_S:
            self._spoken[known.number] = now
            epoch = max(known.accuracies)
            log.info(
                "trial %d/%d, epoch %d/%d: %.2f %%",
                *(known.number, self.total, epoch, self.epochs, 100 * known.accuracies[epoch]),
            )

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """It is over; if it did not say so itself, it was stopped."""
        known = self._numbers[trial.trial_id]
        if not known.over:
            state = "stopped" if max(known.accuracies, default=0) < self.epochs else "finished"
            known = self.trials.put(known.model_copy(update={"state": state}))
        if known.state == "failed":
            log.warning("trial %d/%d failed: %s", known.number, self.total, known.reason)
            return
        epoch = max(known.accuracies, default=0)
        tracking.trial(
            f"trial-{known.number}",
            known.parameters,
            [{"validation_accuracy": value} for _, value in sorted(known.accuracies.items())],
            known.state == "stopped",
        )
        log.info(
            "trial %d/%d %s after epoch %d: %.2f %%, %.0f s",
            *(known.number, self.total, known.state, epoch, 100 * known.accuracy, known.seconds),
        )

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        """Its worker died."""
        error = trial.get_pickled_error() or trial.get_error() or "no reason is known"
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        reason = f"its worker died: {lines[0] if lines else type(error).__name__}"
        known = self._numbers.get(trial.trial_id) or self.trials.begun(dict(trial.config))
        self.trials.put(known.model_copy(update={"state": "failed", "reason": reason, "blame": "code"}))
        log.warning("trial %d/%d failed: %s", known.number, self.total, reason)

    def on_step_begin(self, iteration: int, trials: list[Any], **info: Any) -> None:
        """End the search here if that was asked for."""
        self.check()

    def on_step_end(self, iteration: int, trials: list[Any], **info: Any) -> None:
        """Say that it goes on, when nothing else does; give up on workers that never come."""
        now = time.monotonic()
        if self.logs and not self._spoken and now - self._began > WORKERS_S:
            raise UserError(
                f"no worker of Ray came up within {WORKERS_S:g} s ({last_words(self.logs)}): see that memory, disk and "
                "processes are free on this machine and try again, or join a cluster with RAY_ADDRESS"
            )
        if now - self._heard > WAITING_S:
            self._heard = now
            waiting = all(trial.status == "PENDING" for trial in trials if trial.status in ("PENDING", "RUNNING"))
            if waiting:
                log.info(
                    "waiting for the Ray cluster to give %s", trials[-1].placement_group_factory.required_resources
                )
            else:
                log.info("%d trials at work", sum(trial.status == "RUNNING" for trial in trials))
