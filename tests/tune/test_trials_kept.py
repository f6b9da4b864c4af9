"""A search whose machine is taken away: the next one knows what was tried."""

from __future__ import annotations

import json
import uuid
from contextlib import suppress
from pathlib import Path

import pytest

from mlapp import ledger, storage
from mlapp.errors import Terminated
from mlapp.schema import Tuning
from mlapp.search_space import Choice, Real, SearchSpace, Whole
from mlapp.tune.trials import Trial, Trials, checkpoints
from mlapp.workspaces import workspace

SPACE: SearchSpace = {"rate": Real(low=0.0, high=1.0)}


def test_trials_in_a_remote_work_directory_are_there_for_the_next_start() -> None:
    workdir = storage.at(f"memory://{uuid.uuid4().hex}")
    with ledger.kept_in("memory://experiments"), suppress(Terminated), workspace(workdir) as place:
        place.resume("key")
        trials = Trials(place.local, Tuning(), SPACE)
        trials.put(Trial(number=1, parameters={"rate": 0.1}, state="finished", accuracies={1: 0.5}))
        trials.put(Trial(number=2, parameters={"rate": 0.2}))
        (trials.folder / "checkpoints-of-a-trial").mkdir()
        raise Terminated

    with ledger.kept_in("memory://experiments"), workspace(workdir) as place:
        place.resume("key")
        again = Trials(place.local, Tuning(), SPACE)
        assert [trial.number for trial in again.over] == [1]
        assert [trial.number for trial in again.interrupted] == [2]
        assert not (again.folder / "checkpoints-of-a-trial").exists()


@pytest.mark.parametrize("state", ["finished", "stopped", "failed"])
def test_checkpoints_stay_until_it_is_written_down_that_the_trial_is_over(tmp_path: Path, state: str) -> None:
    trials = Trials(tmp_path, Tuning(), SPACE)
    kept = checkpoints(trials.folder, {"rate": 0.1})
    other = checkpoints(trials.folder, {"rate": 0.2})
    kept.mkdir()
    other.mkdir()
    running = trials.put(Trial(number=1, parameters={"rate": 0.1}, accuracies={1: 0.5}))
    assert kept.exists()
    trials.put(running.model_copy(update={"state": state}))
    assert not kept.exists()
    assert other.exists()
    assert Trials(tmp_path, Tuning(), SPACE).over


def test_checkpoints_of_a_point_that_is_tried_twice_stay_until_both_trials_are_over(tmp_path: Path) -> None:
    trials = Trials(tmp_path, Tuning(), SPACE)
    kept = checkpoints(trials.folder, {"rate": 0.1})
    kept.mkdir()
    first, second = (trials.put(Trial(number=number, parameters={"rate": 0.1})) for number in (1, 2))
    trials.put(first.model_copy(update={"state": "finished"}))
    assert kept.exists()
    trials.put(second.model_copy(update={"state": "stopped"}))
    assert not kept.exists()


def test_a_file_that_is_no_trial_of_the_search_is_passed_over(tmp_path: Path) -> None:
    """Anyone who writes the folder could else have a training take other data, or a search never end."""
    space: SearchSpace = {
        "rate": Real(low=0.0, high=1.0),
        "size": Whole(low=8, high=16),
        "kind": Choice(of=("light", "none", 3, True)),
    }
    good = {"rate": 0.5, "size": 8, "kind": "none"}
    folder = Trials(tmp_path, Tuning(), space).folder

    def kept(number: int = 1, accuracies: dict[str, float] | None = None, **changed: object) -> list[Trial]:
        trial = {"number": number, "parameters": {**good, **changed}, "accuracies": accuracies or {}}
        (folder / "trial-0001.json").write_text(json.dumps(trial))
        return list(Trials(tmp_path, Tuning(), space))

    assert kept()
    assert kept(kind=3)
    assert kept(accuracies={"1": 1.0})
    assert not kept(data="gs://theirs/result.json")
    for name, value in [("rate", 1.5), ("rate", "0.5"), ("size", 8.5), ("size", True), ("kind", "odd"), ("kind", 1)]:
        assert not kept(**{name: value}), (name, value)
    assert not kept(accuracies={"1": 2.0})
    assert not kept(accuracies={"0": 0.5})
    assert not kept(number=2)
