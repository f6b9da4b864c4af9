"""A search with a real Ray and a tiny trainer: what it finds, what it leaves, and how it takes failing trials."""

from __future__ import annotations

import itertools
import json
import signal
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from ray.cluster_utils import Cluster

from mlapp import storage, workspaces
from mlapp.errors import UserError
from mlapp.result import StageResult
from mlapp.search_space import Choice, Real, Whole
from mlapp.tracking import Tracker, tracked_by
from mlapp.tune import tuner
from mlapp.tune.space import every
from mlapp.tune.trials import Trial, Trials
from mlapp.tune.tuner import TunerConfig
from tests.tune import tiny_trainer as tiny_trainer_module

Make = Callable[..., TunerConfig]


@pytest.fixture(scope="module")
def two_machines() -> Iterator[Cluster]:
    with (
        tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp", ignore_cleanup_errors=True) as folder,
        pytest.MonkeyPatch.context() as environment,
    ):
        environment.setenv("RAY_TMPDIR", folder)
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
        cluster.add_node(num_cpus=1)
        yield cluster
        cluster.shutdown()


@pytest.fixture
def cluster(two_machines: Cluster, tiny_trainer: Path, monkeypatch: pytest.MonkeyPatch) -> Cluster:
    """The cluster at RAY_ADDRESS: two raylets of one processor each."""
    monkeypatch.setenv("RAY_ADDRESS", two_machines.address)
    return two_machines


def trials_of(result: StageResult) -> list[dict[str, Any]]:
    trials: list[dict[str, Any]] = json.loads(result.local("trials").read_text())
    return trials


def seed_of(behaviour: str) -> int:
    """The seed that makes the tiny trainer behave so, also on a machine that knows nothing of our environment."""
    return next(seed for seed, does in tiny_trainer_module.DOES.items() if does == behaviour)


class Heard(Tracker):
    def __init__(self) -> None:
        self.trials: dict[str, tuple[dict[str, Any], int, bool]] = {}

    def trial(self, name: str, parameters: Any, history: Any, stopped_early: bool) -> None:
        self.trials[name] = (dict(parameters), len(history), stopped_early)


@pytest.mark.usefixtures("nothing_left")
def test_a_search_leaves_the_best_parameters_with_their_evidence(
    config: Make, tiny_trainer: Path, tmp_path: Path
) -> None:
    heard = Heard()
    with tracked_by(heard):
        result = tuner.run(config(trials=9), tmp_path / "work")
    trials = trials_of(result)
    best = json.loads(result.local("best").read_text())
    by_accuracy = {max(trial["accuracies"].values()): trial for trial in trials}
    winner = by_accuracy[max(by_accuracy)]

    assert best == {
        "parameters": winner["parameters"],
        "trainer": "train",
        "validation_accuracy": max(by_accuracy),
        "epochs": max(map(int, winner["accuracies"])),
        "trial": winner["number"],
    }
    assert [trial["number"] for trial in trials] == list(range(1, 10))
    assert heard.trials == {
        f"trial-{trial['number']}": (trial["parameters"], len(trial["accuracies"]), trial["state"] == "stopped")
        for trial in trials
    }
    assert trials[0]["parameters"] == {"learning_rate": 0.05, "batch_size": 64, "augmentation": "none"}
    assert winner["parameters"]["learning_rate"] > 0.05
    states = Counter(trial["state"] for trial in trials)
    assert states["stopped"] > 0
    assert states["stopped"] + states["finished"] == 9
    assert all(len(trial["accuracies"]) == 4 for trial in trials if trial["state"] == "finished")
    assert all(len(trial["accuracies"]) < 4 for trial in trials if trial["state"] == "stopped")

    assert result.metrics["validation_accuracy"].n == 2000
    assert result.metrics["stopped_early"].value == states["stopped"]
    assert result.headline.startswith(f"train: 9 trials, {states['stopped']} stopped early, best ")
    assert len(result.local("table").read_text().splitlines()) == 2 + 9
    assert result.local("importance").read_bytes().startswith(b"\x89PNG")
    assert {path.name for path in (tmp_path / "work").iterdir() if not path.name.startswith(".")} == {
        *("best.json", "trials.json", "trials.md", "importance.png", "result.json")
    }

    # Nine trials, two workers at most: each imported the trainer (so TensorFlow) once, and made several trials.
    fits = [line.split() for line in tiny_trainer.read_text().splitlines() if line.startswith("fit")]
    assert len(fits) == 9
    workers = {process for _, process, *_ in fits}
    assert len({(process, imported) for _, process, imported, *_ in fits}) == len(workers) <= 2
    assert {threads for *_, threads, _ in fits} == {"1"}
    assert {str(trial["process"]) for trial in trials} == workers


def test_a_space_of_few_points_is_tried_whole_and_no_point_twice(
    config: Make, tiny_trainer: Path, tmp_path: Path
) -> None:
    given = config(trials=9, space={"batch_size": Whole(low=62, high=64), "augmentation": Choice(of=("light", "none"))})
    over, cut_off = {"batch_size": 62, "augmentation": "none"}, {"batch_size": 63, "augmentation": "light"}
    with workspaces.workspace(storage.at(tmp_path)) as place:
        place.resume(tuner.run.key(tuner.run.resolved(given)))
        kept = Trials(tmp_path, tuner.run.resolved(given), given.space)
        kept.put(Trial(number=1, parameters=over, state="finished", accuracies={4: 0.5}))
        kept.put(Trial(number=2, parameters=cut_off))

    trials = trials_of(tuner.run(given, tmp_path))

    assert [trial["parameters"] for trial in trials[:3]] == [over, cut_off, {"batch_size": 64, "augmentation": "none"}]
    points = {(trial["parameters"]["batch_size"], trial["parameters"]["augmentation"]) for trial in trials}
    assert points == set(itertools.product((62, 63, 64), ("light", "none")))
    assert len(trials) == 6
    assert len([line for line in tiny_trainer.read_text().splitlines() if line.startswith("fit")]) == 5


@pytest.mark.parametrize(
    ("space", "most", "found"),
    [
        ({"a": Whole(low=0, high=1), "b": Choice(of=(3, 4, 3))}, 4, [(0, 3), (0, 4), (1, 3), (1, 4)]),
        ({"a": Whole(low=0, high=1), "b": Choice(of=(3, 4))}, 3, []),
        ({"a": Whole(low=0, high=10**12)}, 1000, []),
        ({"a": Choice(of=(1, 2)), "b": Real(low=0, high=1)}, 1000, []),
    ],
    ids=["all", "too many", "far too many", "a real"],
)
def test_the_points_of_a_space(space: dict[str, Any], most: int, found: list[tuple[int, int]]) -> None:
    assert [tuple(point.values()) for point in every(space, most)] == found


def test_a_trial_that_fails_does_not_end_the_search_nor_its_worker(
    cluster: Cluster, config: Make, tmp_path: Path
) -> None:
    space = {"augmentation": Choice(of=("light", "none"))}
    given = config(trials=8, concurrency=1, space=space, training={"seed": seed_of("refuse light")})
    result = tuner.run(given, tmp_path / "work")
    trials = trials_of(result)
    failed = [trial for trial in trials if trial["state"] == "failed"]
    assert 0 < len(failed) < 8
    assert all(trial["parameters"] == {"augmentation": "light"} for trial in failed)
    assert failed[0]["reason"] == "the loss is nan: training diverged; lower learning_rate"
    assert len({trial["process"] for trial in trials}) == 1
    assert result.metrics["failed"].value == len(failed)
    assert f"{len(failed)} failed" in result.headline
    assert f"Trial {failed[0]['number']} failed: the loss is nan" in result.local("table").read_text()


@pytest.mark.parametrize(
    ("does", "error", "told"),
    [
        ("crash", UserError, r"^all 2 trials failed, the first with ValueError: a bug of two lines \(tiny_trainer"),
        ("die", UserError, r"^all 2 trials failed, the first with its worker died: "),
    ],
)
def test_when_all_trials_fail_the_first_ones_error_is_told_in_one_line(
    cluster: Cluster, config: Make, tmp_path: Path, does: str, error: type[Exception], told: str
) -> None:
    with pytest.raises(error, match=told) as raised:
        tuner.run(config(trials=2, training={"seed": seed_of(does)}), tmp_path / "work")
    assert "\n" not in str(raised.value)
    assert not [path for path in (tmp_path / "work").iterdir() if path.name != ".lock"]  # all are tried anew next time


@pytest.mark.usefixtures("nothing_left", "tiny_trainer")
def test_what_a_user_can_mend_passes_through_as_it_is_and_ends_ray(config: Make, tmp_path: Path) -> None:
    handler = signal.getsignal(signal.SIGTERM)
    with pytest.raises(UserError, match=r"^the loss is nan: training diverged; lower learning_rate$"):
        tuner.run(config(trials=2, concurrency=1, training={"seed": seed_of("refuse")}), tmp_path / "work")
    assert signal.getsignal(signal.SIGTERM) is handler


def test_trials_spread_over_the_machines_of_a_cluster(cluster: Cluster, config: Make, tmp_path: Path) -> None:
    result = tuner.run(config(trials=4, concurrency=None, training={"seed": seed_of("meet")}), tmp_path / "work")
    nodes = Counter(trial["node"] for trial in trials_of(result))
    assert set(nodes) == {cluster.head_node.node_id, *(node.node_id for node in cluster.worker_nodes)}
    assert len(nodes) == 2
    assert sum(nodes.values()) == 4
    assert not cluster.head_node.dead_processes()


def test_what_no_machine_of_a_cluster_can_give_is_told_not_waited_for(
    cluster: Cluster, config: Make, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=r"no machine of the Ray cluster has 900000 MB for a trial, the largest has"):
        tuner.run(config(memory_per_trial_mb=900_000), tmp_path / "work")
