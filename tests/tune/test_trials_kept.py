"""A search whose machine is taken away: the next one knows what was tried."""

from __future__ import annotations

import uuid
from contextlib import suppress
from pathlib import Path

import pytest

from mlapp import storage
from mlapp.errors import Terminated
from mlapp.schema import Tuning
from mlapp.tune.trials import Trial, Trials, checkpoints
from mlapp.workspaces import workspace


def test_trials_in_a_remote_work_directory_are_there_for_the_next_start() -> None:
    workdir = storage.at(f"memory://{uuid.uuid4().hex}")
    with suppress(Terminated), workspace(workdir) as place:
        place.resume("key")
        trials = Trials(place.local, Tuning())
        trials.put(Trial(number=1, parameters={"rate": 0.1}, state="finished", accuracies={1: 0.5}))
        trials.put(Trial(number=2, parameters={"rate": 0.2}))
        (trials.folder / "checkpoints-of-a-trial").mkdir()
        raise Terminated

    with workspace(workdir) as place:
        place.resume("key")
        again = Trials(place.local, Tuning())
        assert [trial.number for trial in again.over] == [1]
        assert [trial.number for trial in again.interrupted] == [2]
        assert not (again.folder / "checkpoints-of-a-trial").exists()


@pytest.mark.parametrize("state", ["finished", "stopped", "failed"])
def test_checkpoints_stay_until_it_is_written_down_that_the_trial_is_over(tmp_path: Path, state: str) -> None:
    trials = Trials(tmp_path, Tuning())
    kept = checkpoints(trials.folder, {"rate": 0.1})
    other = checkpoints(trials.folder, {"rate": 0.2})
    kept.mkdir()
    other.mkdir()
    running = trials.put(Trial(number=1, parameters={"rate": 0.1}, accuracies={1: 0.5}))
    assert kept.exists()
    trials.put(running.model_copy(update={"state": state}))
    assert not kept.exists()
    assert other.exists()
    assert Trials(tmp_path, Tuning()).over


def test_checkpoints_of_a_point_that_is_tried_twice_stay_until_both_trials_are_over(tmp_path: Path) -> None:
    trials = Trials(tmp_path, Tuning())
    kept = checkpoints(trials.folder, {"rate": 0.1})
    kept.mkdir()
    first, second = (trials.put(Trial(number=number, parameters={"rate": 0.1})) for number in (1, 2))
    trials.put(first.model_copy(update={"state": "finished"}))
    assert kept.exists()
    trials.put(second.model_copy(update={"state": "stopped"}))
    assert not kept.exists()
