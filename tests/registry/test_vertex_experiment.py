"""Logging a run: what Vertex Experiments shows is what the run's folder says, read back with Google's own SDK."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import chain
import grpc
import pytest
from loopback import vertex_models
from loopback.vertex_model_rules import NUMBER, PROJECT, REGION, RefusedError

from mlapp import run_record, storage, vertex_client
from mlapp.configure import configure
from mlapp.errors import TryAgainError, UserError
from mlapp.registry import vertex_experiment
from mlapp.registry.vertex_experiment import run_name
from mlapp.result import Metric, StageResult
from mlapp.run_record import StageRecord
from mlapp.schema_cloud import Cloud
from mlapp.trackers.run_folder import RunFolder

EXPERIMENT, RUN = "fashion-mnist", "2026-08-26-manual-2026-08-26T12-00"
NAME = "2026-08-26-manual-2026-08-26t12-00"
STORE = f"projects/{NUMBER}/locations/{REGION}/metadataStores/default"


@pytest.fixture
def ran(tmp_path: Path, planted_data: StageResult, planted_teacher: StageResult, planted_student: Any) -> chain.Chain:
    """A run with its folder: 95 % on 2,000 test images, promoted."""
    done = chain.run(tmp_path, planted_data, planted_teacher, planted_student(3))
    conf = {"training.epochs": 3, "distillation.widths": [0.5, 0.25], "tracking.wandb": "off"}
    configure("smoke", conf, str(tmp_path / RUN / "config.json"), run="manual", group=RUN)
    for result in (done.challenger, done.vetted, done.promoted):
        RunFolder(storage.at(tmp_path / RUN), result.stage).ended(result)
    return done


def log(tmp_path: Path, **settings: object) -> StageResult:
    given = {"experiment": EXPERIMENT, "cloud": Cloud(project=PROJECT, region=REGION), "folder": str(tmp_path / RUN)}
    return vertex_experiment.run(vertex_experiment.LogConfig(**{**given, **settings}), tmp_path / "log")


def shown(vertex: vertex_models.Vertex, name: str = f"{EXPERIMENT}-{NAME}") -> dict[str, Any]:
    """What a context's metadata say."""
    context = vertex.metadata.contexts[f"{STORE}/contexts/{name}"]
    return json.loads(type(context).to_json(context))["metadata"]


def test_a_run_is_shown_with_its_settings_and_figures(
    tmp_path: Path, vertex: vertex_models.Vertex, ran: chain.Chain
) -> None:
    result = log(tmp_path)
    told = shown(vertex)
    assert told["_state"] == "COMPLETE"
    assert told["_params"]["preset"] == "smoke"
    assert told["_params"]["training.epochs"] == 3
    assert told["_params"]["tracking.wandb"] == "off"
    assert told["_params"]["verdict"] == "promote"
    assert "tracking.group" not in told["_params"]
    assert "vetting.min_accuracy" not in told["_params"] or told["_params"]["vetting.min_accuracy"] != 0.85
    assert told["_metrics"]["vet.challenger.test_accuracy"] == 0.95
    assert told["_metrics"]["vet.challenger.test_accuracy.n"] == 2000
    assert told["_metrics"]["vet.challenger.test_accuracy.low"] == ran.verdict.challenger.accuracy.low
    assert told["_metrics"]["choose.validation_accuracy"] == 0.95
    assert result.headline == f"{EXPERIMENT}/{NAME}"
    content = json.loads(result.local("experiment").read_text())
    assert content == {"context": f"{STORE}/contexts/{EXPERIMENT}-{NAME}", "experiment": EXPERIMENT, "run": NAME}


def test_the_promoted_bundle_is_among_the_runs_artifacts(
    tmp_path: Path, vertex: vertex_models.Vertex, ran: chain.Chain
) -> None:
    log(tmp_path)
    place = ran.promoted.artifact("manifest").parent
    (attached,) = vertex.metadata.in_context[f"{STORE}/contexts/{EXPERIMENT}-{NAME}"]
    artifact = vertex.metadata.artifacts[attached]
    assert (artifact.uri, artifact.schema_title) == (str(place), "system.Model")
    assert artifact.metadata["sha256"] == ran.verdict.challenger.sha256


def test_the_registered_version_and_the_image_are_told_where_the_run_has_them(
    tmp_path: Path, vertex: vertex_models.Vertex, ran: chain.Chain
) -> None:
    for stage, artifact, content in (
        ("image", "image", {"image": "host/mlapp@sha256:0"}),
        ("register", "registered", {"model": "projects/p/models/m", "versions": {"0123456789ab": "7"}}),
    ):
        result = ran.promoted.model_copy(update={"stage": stage, "folder": str(tmp_path / stage), "artifacts": {}})
        path = tmp_path / stage / f"{artifact}.json"
        storage.write_text(path, json.dumps(content))
        made = {artifact: {"uri": path.name, "sha256": storage.sha256(path), "bytes": path.stat().st_size}}
        storage.write_text(
            tmp_path / stage / "result.json", json.dumps(result.model_dump(mode="json") | {"artifacts": made})
        )
        RunFolder(storage.at(tmp_path / RUN), stage).ended(StageResult.load(str(tmp_path / stage)))
    log(tmp_path)
    assert shown(vertex)["_params"]["image"] == "host/mlapp@sha256:0"
    assert shown(vertex)["_params"]["model"] == "projects/p/models/m@7"


def test_googles_own_sdk_reads_it_as_a_run_of_the_experiment(
    tmp_path: Path, vertex: vertex_models.Vertex, ran: chain.Chain, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Given the SDK on the same server, then `Experiment.get_data_frame` has the run as one row."""
    log(tmp_path)
    from google.auth.credentials import AnonymousCredentials
    from google.cloud import aiplatform
    from google.cloud.aiplatform import initializer

    on_loopback = vertex_client.client("metadata", REGION)
    monkeypatch.setattr(type(initializer.global_config), "create_client", lambda *_, **__: on_loopback)
    place = {"project": PROJECT, "location": REGION, "credentials": AnonymousCredentials()}
    frame = aiplatform.Experiment(EXPERIMENT, **place).get_data_frame(include_time_series=False)
    (row,) = frame.to_dict("records")
    assert (row["experiment_name"], row["run_name"], row["state"]) == (EXPERIMENT, NAME, "COMPLETE")
    assert row["run_type"] == "system.ExperimentRun"
    assert row["param.training.epochs"] == 3
    assert row["metric.vet.challenger.test_accuracy"] == 0.95
    assert [experiment.name for experiment in aiplatform.Experiment.list(**place)] == [EXPERIMENT]


def test_logged_again_it_is_the_same_run_written_over(
    tmp_path: Path, vertex: vertex_models.Vertex, ran: chain.Chain
) -> None:
    log(tmp_path)
    again = ran.vetted.model_copy(update={"metrics": {"challenger.test_accuracy": Metric(value=0.5)}})
    RunFolder(storage.at(tmp_path / RUN), "vet").ended(again)
    log(tmp_path)
    assert shown(vertex)["_metrics"]["vet.challenger.test_accuracy"] == 0.5
    assert "vet.challenger.test_accuracy.n" not in shown(vertex)["_metrics"]
    assert len(vertex.metadata.contexts) == 2
    assert len(vertex.metadata.artifacts) == 1
    assert len(vertex.metadata.in_context[f"{STORE}/contexts/{EXPERIMENT}-{NAME}"]) == 1


def test_a_second_run_stands_beside_the_first(tmp_path: Path, vertex: vertex_models.Vertex, ran: chain.Chain) -> None:
    log(tmp_path)
    (tmp_path / "another").symlink_to(tmp_path / RUN)
    log(tmp_path, folder=str(tmp_path / "another"))
    children = [c for c in vertex.metadata.contexts.values() if f"{STORE}/contexts/{EXPERIMENT}" in c.parent_contexts]
    assert sorted(child.display_name for child in children) == [NAME, "another"]


def test_a_run_that_failed_is_shown_as_failed(tmp_path: Path, vertex: vertex_models.Vertex, ran: chain.Chain) -> None:
    began = "2026-08-26T12:00:00+00:00"
    failed = StageRecord(stage="register", key="0" * 64, state="failed", reason="no bucket", began=began)
    run_record.write(storage.at(tmp_path / RUN), failed)
    log(tmp_path)
    assert shown(vertex)["_state"] == "FAILED"


@pytest.mark.parametrize(
    "interrupted", ["CreateContext", "AddContextChildren", "UpdateContext", "AddContextArtifactsAndExecutions"]
)
def test_what_was_interrupted_is_made_whole_by_the_next_start(
    tmp_path: Path, vertex: vertex_models.Vertex, ran: chain.Chain, interrupted: str
) -> None:
    vertex.front.faults = {interrupted: [RefusedError(grpc.StatusCode.INTERNAL, "lost")]}
    with pytest.raises(TryAgainError, match=r"did not answer as expected \(.*lost.*\): run again"):
        log(tmp_path)
    log(tmp_path)
    assert shown(vertex)["_metrics"]["vet.challenger.test_accuracy"] == 0.95
    assert len(vertex.metadata.contexts) == 2
    assert list(map(len, vertex.metadata.in_context.values())) == [1]


def test_a_run_that_does_not_ask_for_it_says_so_and_calls_nobody(tmp_path: Path, vertex: vertex_models.Vertex) -> None:
    assert log(tmp_path, experiment=None).headline == "not asked for (registration.experiment is not set)"
    assert not vertex.front.calls


def test_names_are_made_to_fit() -> None:
    assert run_name("2026-08-26-Manual__2026-08-26T12:00+00:00", "x") == "2026-08-26-manual-2026-08-26t12-00-00-00"
    long, other = (run_name("a" * 150 + end, "e" * 60) for end in "xy")
    assert len(f"{'e' * 60}-{long}") == 121
    assert long != other


def test_a_folder_that_is_no_run_is_told(tmp_path: Path, vertex: vertex_models.Vertex) -> None:
    with pytest.raises(UserError, match=r"no run at .*: give the folder of a run, from `python -m mlapp\.experiments"):
        log(tmp_path)
    assert not vertex.metadata.contexts


def test_a_name_that_is_taken_by_something_else_is_told(
    tmp_path: Path, vertex: vertex_models.Vertex, ran: chain.Chain
) -> None:
    log(tmp_path)
    taken = f"{EXPERIMENT}-{NAME}"
    with pytest.raises(UserError, match=r"is a system\.ExperimentRun, not a system\.Experiment: give another name"):
        log(tmp_path, experiment=taken)


def test_the_command_tells_a_missing_permission_in_one_line(
    tmp_path: Path, vertex: vertex_models.Vertex, ran: chain.Chain
) -> None:
    vertex.front.faults = {"GetMetadataStore": [RefusedError(grpc.StatusCode.PERMISSION_DENIED, "no")]}
    settings = [f"registration.experiment={EXPERIMENT}", f"cloud.project={PROJECT}", "tracking.wandb=off"]
    command = [sys.executable, "-m", "mlapp.registry.vertex_experiment", "--folder", str(tmp_path / RUN), *settings]
    workdir = ["--workdir", str(tmp_path / "log")]
    done = subprocess.run([*command, *workdir], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert "--role=roles/aiplatform.user" in line
    subprocess.run([*command, *workdir], capture_output=True, check=True, timeout=120)
    assert shown(vertex)["_state"] == "COMPLETE"
