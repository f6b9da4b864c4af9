"""What a Ray worker does for one trial: train with the suggested parameters, report every epoch, tell how it ended.

A worker makes many trials one after the other, so a failing one is reported, not raised: Ray would end the worker, and
the next one would import TensorFlow again.
"""

from __future__ import annotations

import gc
import importlib
import os
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from mlapp import config as configuration
from mlapp.dataset import Dataset
from mlapp.dl.backend import use_processors
from mlapp.errors import UserError
from mlapp.section import Section
from mlapp.tracking import PRELIMINARY, Tracker, tracked_by
from mlapp.tune.trials import checkpoints

METRIC = "validation_accuracy"


class Assignment(Section):
    """What is the same for every trial of a search."""

    module: str
    settings: dict[str, Any]
    cpus: int
    scratch: str | None


class Reporter(Tracker):
    """Reports each epoch to Ray Tune, which may end the trial there (it raises SystemExit)."""

    def __init__(self) -> None:
        self.accuracies: dict[int, float] = {}
        self.wall, self.cpu = time.monotonic(), time.process_time()

    def epoch(self, number: int, figures: Mapping[str, float]) -> None:
        """Keep the epoch's accuracy and report.

        Not where filters leave on the way: before, the accuracy is another network's, and after that it has epochs to
        recover, so a comparison with others at the same epoch would stop the wrong ones.
        """
        self.keep(number, figures)
        if PRELIMINARY not in figures:
            self.report("running")

    def keep(self, number: int, figures: Mapping[str, float]) -> None:
        """Keep the epoch's accuracy, if it is one of the network that the trial is to end with."""
        if not figures.get(PRELIMINARY):
            self.accuracies[number] = float(figures["validation_accuracy"])

    def report(self, state: str, **more: Any) -> None:
        """Tell the search. Its metric is the best epoch's accuracy: that is the epoch which the trainers keep."""
        import ray
        from ray import tune

        number = max(self.accuracies, default=0)
        tune.report(
            {
                METRIC: max(self.accuracies.values(), default=0.0) if state != "failed" else 0.0,
                "accuracies": self.accuracies,
                "epoch": number,
                "state": state,
                "seconds": time.monotonic() - self.wall,
                "cpu_seconds": time.process_time() - self.cpu,
                "node": ray.get_runtime_context().get_node_id(),
                "process": os.getpid(),
                **more,
            }
        )


def run_trial(parameters: dict[str, Any], assignment: Assignment) -> None:
    """Train with the assignment's settings and these parameters on top; Ray Tune calls it in a thread of the worker."""
    _prepare(assignment.cpus)
    reporter = Reporter()
    try:
        trainer = importlib.import_module(assignment.module)
        config = configuration.validate(
            trainer.run.config, {**assignment.settings, **parameters}, {"the search": parameters}
        )
        with _folder(assignment, parameters) as folder, tracked_by(reporter):
            _, history = trainer.fit(config, Dataset.open(config.data), folder)
    except UserError as error:
        reporter.report("failed", reason=str(error), blame="user")
    except Exception as error:
        traceback.print_exc()
        frame = traceback.extract_tb(error.__traceback__)[-1]
        reason = f"{type(error).__name__}: {' '.join(str(error).split())} ({Path(frame.filename).name}:{frame.lineno})"
        reporter.report("failed", reason=reason, blame="code")
    else:
        if len(history) >= max(reporter.accuracies, default=1):
            # An interrupted trial that was taken up again tells of its earlier epochs here only.
            reporter.accuracies = {}
            for number, record in enumerate(history, start=1):
                reporter.keep(number, record)
        reporter.report("finished")
    finally:
        _release()


def _prepare(cpus: int) -> None:
    """Have the libraries keep to the trial's share, before the first of them is imported."""
    os.environ["OMP_NUM_THREADS"] = str(cpus)
    use_processors(cpus)
    # How long Ray waits for a trial that it stopped, before it gives up the worker and the next trial with it: 2 s are
    # too few on a busy machine, where a network is still being released.
    os.environ["TUNE_FUNCTION_THREAD_TIMEOUT_S"] = "60"
    os.environ["TF_FORCE_GPU_ALLOW_GROWTH"] = "true"  # trials may share a GPU
    for meant_for_the_stage in ("TF_CONFIG", "AIP_TENSORBOARD_LOG_DIR"):
        os.environ.pop(meant_for_the_stage, None)


@contextmanager
def _folder(assignment: Assignment, parameters: dict[str, Any]) -> Iterator[Path]:
    """Where the trainer keeps its checkpoints.

    The same parameters find the same folder, so that an interrupted trial goes on from its last epoch. The search
    removes it, once it has written down that the trial is over: a kill before that repeats no epoch.
    """
    if assignment.scratch is None:
        with tempfile.TemporaryDirectory(prefix="mlapp-trial-") as temporary:
            yield Path(temporary)
        return
    folder = checkpoints(Path(assignment.scratch), parameters)
    folder.mkdir(parents=True, exist_ok=True)
    yield folder


def _release() -> None:
    """Give back what a trial's network holds, before the worker takes the next one."""
    keras = sys.modules.get("tf_keras")
    if keras is not None:
        keras.backend.clear_session()
    gc.collect()
