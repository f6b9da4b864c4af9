"""The two DAGs under Airflow's own scheduler: data by the clock, training by data, and nothing trained on twice."""

from __future__ import annotations

import json
import os
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from mlapp.registry.pointer import Pointer
from mlapp.result import StageResult
from tests.e2e.small_source import small_source
from tests.e2e.standalone import Airflow, standalone
from tests.e2e.workspace import ROOT, Workspace

pytestmark = pytest.mark.timeout(900)
DATA, TRAINING = "fashion_mnist_data", "fashion_mnist_training"
NAME = "small_fashion"


@pytest.fixture(scope="module")
def airflow(workspace: Workspace, raw_uri: str) -> Iterator[Airflow]:
    settings = {
        "MLAPP_DATA__SOURCE": str(small_source(raw_uri, workspace.folder)),
        "MLAPP_DATA__NAME": "small",
        "MLAPP_PROMOTION__NAME": NAME,
        "MLAPP_TRANSFORM__LIMIT": "",
    }
    with standalone(workspace, DATA, TRAINING, MLAPP_DATA_SCHEDULE="0 4 * * *", **settings) as server:
        yield server


@pytest.fixture(scope="module")
def scheduled(airflow: Airflow) -> tuple[dict[str, Any], dict[str, Any]]:
    """The first day's data run, and the training run that it started."""
    [data] = airflow.finished(DATA, 1)
    [training] = airflow.finished(TRAINING, 1)
    return data, training


@pytest.mark.parametrize("path", ["auth/token", "api/v2/version", "execution/health", "static/x"])
def test_it_answers_to_its_own_names_only(airflow: Airflow, path: str) -> None:
    """Given the name of a web page that was pointed at this machine, then nothing is served, no token either."""
    url = f"http://127.0.0.1:{airflow.port}/{path}"
    request = urllib.request.Request(url, headers={"Host": f"evil.example:{airflow.port}"})
    with pytest.raises(urllib.error.HTTPError) as refused:
        urllib.request.urlopen(request, timeout=30)
    assert refused.value.code == 421
    assert airflow.ask("auth/token")["access_token"]


def test_one_scheduled_run_makes_up_for_no_missed_days(scheduled: tuple[dict[str, Any], ...]) -> None:
    data, _ = scheduled
    assert (data["run_type"], data["state"]) == ("scheduled", "success")


def test_new_data_start_a_training_with_the_settings_they_were_made_with(
    airflow: Airflow, scheduled: tuple[dict[str, Any], ...], workspace: Workspace
) -> None:
    _, training = scheduled
    assert (training["run_type"], training["state"]) == ("asset_triggered", "success")
    assert set(airflow.states(training).values()) == {"success"}
    assert (workspace.folder / "registry" / NAME / "CHAMPION").exists()
    results = [StageResult.load(str(path)) for path in workspace.results()]
    assert len([result for result in results if result.stage == "transform"]) == 1, "the data were prepared once"


def test_the_event_tells_digest_counts_and_quality(airflow: Airflow, scheduled: tuple[dict[str, Any], ...]) -> None:
    events = airflow.ask("api/v2/assets/events?order_by=timestamp")["asset_events"]
    told = next(event["extra"] for event in events if event["source_dag_id"] == DATA)
    assert told["class_counts"]["test"] == dict.fromkeys(told["class_counts"]["test"], 100)
    assert told["quality"]["test leaked"] == 0
    model = next(event["extra"] for event in events if event["source_dag_id"] == TRAINING)
    assert model["data"] == told["digest"]
    assert model["outcome"].startswith(f"promoted {NAME}/")


def test_the_same_data_again_train_nothing_and_a_person_still_may(
    airflow: Airflow, scheduled: tuple[dict[str, Any], ...]
) -> None:
    """Given two more data runs at once, which wait for each other, then neither starts work; a trigger by hand does."""
    now = {"logical_date": None}
    for _ in range(2):
        airflow.ask(f"api/v2/dags/{DATA}/dagRuns", "POST", now)
    data = airflow.finished(DATA, 3)
    assert [run["state"] for run in data] == ["success"] * 3
    assert data[1]["end_date"] <= data[2]["start_date"]
    time.sleep(10)  # both events may start one run or two
    trainings = airflow.finished(TRAINING, len(airflow.runs(TRAINING)))
    for run in trainings[1:]:
        states = airflow.states(run)
        assert (run["state"], states.pop("wanted"), set(states.values())) == ("success", "success", {"skipped"})
    assert len(trainings) >= 2
    airflow.ask(f"api/v2/dags/{TRAINING}/dagRuns", "POST", now)
    by_hand = airflow.finished(TRAINING, len(trainings) + 1)[-1]
    assert set(airflow.states(by_hand).values()) == {"success"}


def test_a_trial_starts_no_training(airflow: Airflow, scheduled: tuple[dict[str, Any], ...]) -> None:
    trainings = len(airflow.runs(TRAINING))
    airflow.ask(f"api/v2/dags/{DATA}/dagRuns", "POST", {"logical_date": None, "conf": {"transform.limit": 500}})
    run = airflow.finished(DATA, len(airflow.runs(DATA)))[-1]
    assert (run["state"], airflow.states(run)["announce"]) == ("success", "skipped")
    time.sleep(5)
    assert len(airflow.runs(TRAINING)) == trainings


def test_a_run_of_the_terminal_is_announced_where_that_is_asked_for(
    airflow: Airflow, scheduled: tuple[dict[str, Any], ...], workspace: Workspace
) -> None:
    """In its own database, while a scheduler runs; the data are known, so no training follows."""
    conf = json.dumps({"data.source": str(workspace.folder / "small"), "data.name": "small"})
    command = (str(ROOT / "plugins" / "dags_test.py"), DATA, "--preset=quick", f"--conf={conf}")
    events = airflow.ask("api/v2/assets/events")["total_entries"]
    assert workspace.run("python", *command).code == 0
    assert airflow.ask("api/v2/assets/events")["total_entries"] == events
    ran = workspace.run("python", *command, "--announce")
    assert (ran.code, ran.last_line.startswith(f"announced to http://127.0.0.1:{airflow.port}: {DATA}, ")) == (0, True)
    first, *_, last = airflow.ask("api/v2/assets/events?order_by=timestamp")["asset_events"]
    assert last["extra"]["digest"] == first["extra"]["digest"]


def test_only_this_machine_is_listened_to_and_answered(airflow: Airflow) -> None:
    own = {airflow.process.pid}
    tree = {int(path.name): int(path.joinpath("stat").read_text().rpartition(")")[2].split()[1]) for path in live()}
    while more := {pid for pid, parent in tree.items() if parent in own} - own:
        own |= more
    inodes = {os.readlink(link) for pid in own for link in Path(f"/proc/{pid}/fd").iterdir()}
    rows = [
        line.split() for table in ("tcp", "tcp6") for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]
    ]
    listening = {row[1] for row in rows if row[3] == "0A" and f"socket:[{row[9]}]" in inodes}
    assert listening == {f"0100007F:{airflow.port:04X}"}  # 127.0.0.1
    request = urllib.request.Request(f"http://127.0.0.1:{airflow.port}/auth/token", headers={"Host": "evil.example"})
    with pytest.raises(urllib.error.HTTPError, match="421"):
        urllib.request.urlopen(request, timeout=30)


def live() -> list[Path]:
    """The folders of all processes in /proc."""
    return [path for path in Path("/proc").iterdir() if path.name.isdecimal() and (path / "stat").exists()]


def test_a_person_is_asked_on_airflows_page_and_the_history_tells_who_approved(
    airflow: Airflow, scheduled: tuple[dict[str, Any], ...], workspace: Workspace
) -> None:
    registry = Pointer(str(workspace.folder / "registry"), "asked")
    conf = {"promotion.name": registry.folder.name, "promotion.approval": True}
    run = airflow.ask(f"api/v2/dags/{TRAINING}/dagRuns", "POST", {"logical_date": None, "conf": conf})
    airflow.until(lambda: airflow.states(run).get("approve") == "awaiting_input", "nobody was asked")
    instance = f"api/v2/dags/{TRAINING}/dagRuns/{run['dag_run_id']}/taskInstances/approve/-1/hitlDetails"
    asked = airflow.ask(instance)
    assert asked["subject"].startswith("Promote? ")
    assert "| accuracy | " in asked["body"]
    assert registry.read() is None
    time.sleep(15)  # a person reads first; an answer in the first moments fails the try, and Airflow asks anew
    airflow.ask(instance, "PATCH", {"chosen_options": ["Approve"], "params_input": {}})
    airflow.until(lambda: airflow.runs(TRAINING)[-1]["state"] in ("success", "failed"), "the run did not go on")
    assert set(airflow.states(run).values()) == {"success"}
    [move] = registry.history()
    assert move["champion"] == registry.read()
    assert "; approved by " in move["why"]
