"""Log a run to Vertex Experiments: its settings, its figures, and where the model went.

It reads the run's folder in the experiments area, so a run made anywhere can be logged, at any time, and again: the
same run is then written over. Curves are not logged: that takes a Vertex TensorBoard instance, which has its price.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from pydantic import Field

from mlapp import origins, run_history, storage
from mlapp.errors import UserError
from mlapp.reference import Reference
from mlapp.registry.bundle import Manifest
from mlapp.registry.vertex_metadata import LONGEST_ID, ExperimentRun
from mlapp.result import Outcome, StageResult
from mlapp.run_history import STOPPED_SHORT, Run
from mlapp.run_record import StageRecord
from mlapp.schema_cloud import Cloud, Registration
from mlapp.stage import stage
from mlapp.vertex_client import Service

STAGE = "log_experiment"


class LogConfig(Registration):
    """The `registration` settings, and which run to log."""

    cloud: Cloud = Cloud()
    folder: str = Field(description="folder of the run in the experiments area")


@stage(STAGE, area="models", section="registration", cached=False)
def run(config: LogConfig, workdir: Path) -> Outcome:
    """Write one run of the experiment."""
    if config.experiment is None:
        return Outcome(headline="not asked for (registration.experiment is not set)")
    told = run_history.read(storage.at(config.folder))
    stages = [record for record in told.stages if record.stage != STAGE]
    if not stages:
        raise UserError(f"no run at {told.folder}: give the folder of a run, from `python -m mlapp.experiments list`")
    name = run_name(told.name, config.experiment)
    logged = ExperimentRun(Service("metadata", config.cloud), config.experiment, name)
    logged.write(parameters(told), metrics(stages), _state(stages), _description(told))
    for promoted in _results(stages, "manifest"):
        _attach(logged, promoted)
    content = {"context": logged.name, "experiment": config.experiment, "run": name}
    storage.write_text(workdir / "experiment.json", json.dumps(content, indent=2) + "\n")
    return Outcome(artifacts={"experiment": workdir / "experiment.json"}, headline=f"{config.experiment}/{name}")


def run_name(folder: str, experiment: str) -> str:
    """A run's name as Vertex AI takes it: lower case, digits, hyphens, and not overlong behind the experiment's."""
    name = re.sub(r"[^a-z0-9]+", "-", folder.lower()).strip("-")
    room = LONGEST_ID - len(experiment) - 1
    return name if len(name) <= room else f"{name[: room - 9]}-{hashlib.sha256(folder.encode()).hexdigest()[:8]}"


def parameters(told: Run) -> dict[str, str | int | float]:
    """The settings that are not at their defaults, the preset, and what the run was made with and came to."""
    chosen = {name: _scalar(setting.value) for name, setting in told.changed().items()}
    outcome = {"preset": told.preset, "verdict": told.verdict, **_produced(told.stages)}
    return {**chosen, **{name: value for name, value in outcome.items() if value}}


def metrics(stages: Iterable[StageRecord]) -> dict[str, float]:
    """The figures of every stage that measured a model, and what the whole run took."""
    finished = [record for record in stages if record.state in ("done", "reused")]
    found: dict[str, float] = {}
    for record in finished:
        if not any("accuracy" in name for name in record.metrics):
            continue
        for name, metric in record.metrics.items():
            key = f"{record.label.replace(' ', '_')}.{name}"
            found[key] = metric.value
            if name.endswith("test_accuracy"):
                known = {"n": metric.n, "low": metric.low, "high": metric.high}
                found |= {f"{key}.{part}": float(value) for part, value in known.items() if value is not None}
    for timing in ("wall_s", "cpu_s"):
        found[timing] = round(sum(r.timings.get(timing, 0.0) for r in finished if r.state == "done"), 1)
    return found


def _scalar(value: Any) -> str | int | float:
    """A setting's value as Vertex AI takes one: lists and such as text."""
    return value if isinstance(value, int | float) and not isinstance(value, bool) else origins.compact(value)


def _state(stages: Iterable[StageRecord]) -> str:
    states = {record.state_now for record in stages}
    return "FAILED" if states & set(STOPPED_SHORT) else "RUNNING" if "running" in states else "COMPLETE"


def _description(told: Run) -> str:
    vetted = told.stage("vet")
    return "; ".join([*([vetted.headline] if vetted else []), str(told.folder)])


def _produced(stages: Iterable[StageRecord]) -> dict[str, str]:
    """The image that the stages ran in and the version in Model Registry, where there are such."""
    image: dict[str, Any] = next(_contents(stages, "image"), {})
    registered: dict[str, Any] = next(_contents(stages, "registered"), {})
    versions = [f"{registered['model']}@{version}" for version in registered.get("versions", {}).values()]
    return {"image": str(image.get("image", "")), "model": " ".join(versions)}


def _contents(stages: Iterable[StageRecord], artifact: str) -> Iterator[Any]:
    for result in _results(stages, artifact):
        yield result.content(artifact, dict[str, Any])


def _results(stages: Iterable[StageRecord], artifact: str) -> Iterator[StageResult]:
    """The stages' results that have an artifact of this name; one whose files are gone by now is passed over."""
    for record in stages:
        if record.state in ("done", "reused") and record.result and storage.at(record.result).exists():
            result = StageResult.load(str(Reference(record.result, record.result_sha256)))
            if artifact in result.artifacts and result.artifact(artifact).exists():
                yield result


def _attach(logged: ExperimentRun, promoted: StageResult) -> None:
    place = promoted.artifact("manifest")
    manifest = Manifest.load(place)
    logged.attach(
        f"mlapp-{manifest.name.replace('_', '-')}-{manifest.id}",
        f"{manifest.name}/{manifest.id}",
        str(place.parent),
        {"model": manifest.model, "sha256": manifest.model_sha256},
    )


if __name__ == "__main__":
    run.main()
