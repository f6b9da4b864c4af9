"""A project folder of the previous release goes on with this one's code.

Releases whose folders must still work are archives of their source in ``releases/`` (`git archive --prefix=NAME/ COMMIT
mlapp pyproject.toml | xz`). The folder is made by the release's own code; then this code reads it and ends its run.
"""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass
from pathlib import Path

import pytest
from upgrade.project import RELEASES, Project

pytestmark = pytest.mark.timeout(900)
NEW = Path(__file__).parents[2]
NAME = "bars"


@dataclass(frozen=True)
class Release:
    """A folder in which a release promoted a model, and left another run behind after its teacher was trained."""

    project: Project
    code: Path
    begun: str
    results: dict[str, str]
    bundle: str


@pytest.fixture(scope="module", params=[path.name.partition(".")[0] for path in sorted(RELEASES.glob("*.tar.xz"))])
def release(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Release:
    folder = tmp_path_factory.mktemp("upgrade")
    subprocess.run(["tar", "-xJf", str(RELEASES / f"{request.param}.tar.xz"), "-C", str(folder)], check=True)
    code, project = folder / request.param, Project(folder)
    finished = project.configured(code, "finished")
    made = prepare(project, code, finished)
    made |= complete(project, code, finished, made)
    begun = project.configured(code, "begun", **{"training.seed": 1})
    results = prepare(project, code, begun)
    bundle = (folder / "registry" / NAME / "CHAMPION").read_text().strip()
    return Release(project, code, begun, results, bundle)


def prepare(project: Project, code: Path, config: str) -> dict[str, str]:
    """The stages up to the teacher and the baseline; returns the URI of each one's result."""

    def stage(module: str, *arguments: str) -> str:
        return project.run(code, module, "--config", config, *arguments)

    raw = stage("mlapp.etl.gcp_dataloader")
    report = stage("mlapp.etl.quality", "--raw", raw)
    data = stage("mlapp.etl.image_etl", "--raw", raw, "--report", report)
    train = stage("mlapp.dl.dnn_trainer", "--data", data)
    baseline = stage("mlapp.ml.xgboost_trainer", "--data", data)
    return {"extract": raw, "validate": report, "transform": data, "train": train, "baseline": baseline}


def complete(project: Project, code: Path, config: str, made: dict[str, str]) -> dict[str, str]:
    """The stages from the student to the promotion."""
    data = made["transform"]

    def stage(module: str, *arguments: str) -> str:
        return project.run(code, module, "--config", config, *arguments)

    student = stage("mlapp.dl.knowledge_distiller", "--data", data, "--teacher", made["train"], "--width", "0.2")
    models = [made["train"], made["baseline"], student]
    challenger = stage("mlapp.vetting.selector", "--results", *models)
    given = ["--data", data, "--challenger", challenger]
    verdict = stage("mlapp.vetting.verdict", *given, "--baseline", made["baseline"])
    promoted = stage("mlapp.registry.promoter", *given, "--verdict", verdict, "--results", *made.values(), student)
    return {"distill": student, "choose": challenger, "vet": verdict, "promote": promoted}


def test_finished_runs(release: Release) -> None:
    """Runs of the release are listed, shown and compared as the release itself lists them."""
    listed = {}
    for code in (release.code, NEW):
        listed[code] = json.loads(release.project.run(code, "mlapp.experiments", "list", "--json"))
    names = [run["run"] for run in listed[NEW]]
    assert sorted(name[11:] for name in names) == ["begun", "finished"]
    assert names == [run["run"] for run in listed[release.code]]
    for command in (["show", names[0]], ["show", names[1]], ["compare", *names]):
        release.project.run(NEW, "mlapp.experiments", *command)


def test_registry(release: Release) -> None:
    """What the release promoted is whole, and its champion is this code's champion."""
    assert "all whole, 1 bundle" in release.project.run(NEW, "mlapp.registry", "verify", "--name", NAME)
    listed = release.project.run(NEW, "mlapp.registry", "list", "--name", NAME).splitlines()
    assert (listed[1].split()[0], "champion" in listed[1]) == (release.bundle, True)
    assert release.bundle in release.project.run(NEW, "mlapp.registry", "show", "--name", NAME)


def test_settings(release: Release) -> None:
    """Every setting of the release is taken under its name, at least with the release's own default."""
    script = "import json, mlapp.schema; print(json.dumps(mlapp.schema.Config().model_dump(mode='json')))"
    release.project.folder.joinpath("defaults.py").write_text(script)
    defaults = json.loads(release.project.run(release.code, "defaults"))
    release.project.run(NEW, "mlapp.configure", "--run", "defaults", "--conf", json.dumps(defaults))


def test_begun_run(release: Release) -> None:
    """A run that the release left half-finished goes on from its settings and its teacher, up to a verdict."""
    made = complete(release.project, NEW, release.begun, release.results)
    assert "promote" in made
    assert "all whole" in release.project.run(NEW, "mlapp.registry", "verify", "--name", NAME)
    assert release.project.run(NEW, "mlapp.retention", "--older-than", "0")
