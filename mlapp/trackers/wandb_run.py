"""One W&B run, made event by event of what a stage told."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from mlapp import storage
from mlapp.run_record import label
from mlapp.trackers.wandb_session import Session

TABLES = ("candidates", "trials")
MODELS = (".keras", ".tflite", ".ubj")
LARGEST_PICTURE = 5_000_000


class WandbRun:
    """The W&B run of a stage. Told the same events again, it is the same run: ids and steps come from the events."""

    def __init__(self, session: Session, began: Mapping[str, Any]) -> None:
        self._session = session
        self._settings = began["settings"]
        self._id, self._stage = began["id"], began["stage"]
        self._step = 0
        self._run = self._start(
            self._id, began["stage"], name=label(began["stage"], began["config"]), config=began["config"]
        )

    def epoch(self, number: int, figures: Mapping[str, float]) -> None:
        """A row of the curves, over the epoch's own number."""
        self._run.log({**figures, "epoch": number}, step=self._step)
        self._step += 1

    def trial(
        self, name: str, parameters: Mapping[str, Any], history: Sequence[Mapping[str, float]], stopped_early: bool
    ) -> None:
        """A run of its own, in the same group."""
        run = self._start(f"{self._id}-{name}", "trial", name=f"{self._stage} {name}", config=parameters)
        for step, figures in enumerate(history):
            run.log({**figures, "epoch": step + 1}, step=step)
        run.summary["stopped_early"] = stopped_early
        run.finish(exit_code=0)

    def ended(
        self,
        headline: str,
        metrics: Mapping[str, Mapping[str, Any]],
        timings: Mapping[str, float],
        artifacts: Sequence[Mapping[str, Any]],
    ) -> None:
        """Summary, tables, pictures and model; then the run is finished."""
        self._run.summary.update(
            {name: metric["value"] for name, metric in metrics.items()}
            | {
                f"{name}.{part}": metric[part]
                for name, metric in metrics.items()
                for part in ("n", "low", "high")
                if metric[part] is not None
            }
            | {f"timings.{name}": value for name, value in timings.items()}
            | {"headline": headline}
        )
        shown = self._tables(artifacts) | self._pictures(artifacts)
        if shown:
            self._run.log(shown, step=self._step)
        self._log_model([artifact for artifact in artifacts if artifact["own"] and _is_model(artifact)])
        self._run.finish(exit_code=0)

    def failed(self, reason: str) -> None:
        """Finish as failed."""
        self._run.summary["failed"] = reason
        self._run.finish(exit_code=1)

    def _start(self, run: str, job_type: str, *, name: str, config: Mapping[str, Any]) -> Any:
        for earlier in (self._session.folder / "wandb").glob(f"offline-run-*-{run}"):
            shutil.rmtree(earlier)  # rewritten from the same spool
        started = self._session.start(
            self._settings["project"],
            self._settings["wandb"],
            self._settings.get("wandb_secret"),
            entity=self._settings["entity"],
            group=self._settings["group"],
            id=run,
            job_type=job_type,
            name=name,
            config=dict(config),
        )
        started.define_metric("epoch")
        started.define_metric("*", step_metric="epoch")
        return started

    def _tables(self, artifacts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        import wandb

        tables = {}
        for artifact in artifacts:
            if artifact["name"] in TABLES and _suffix(artifact) == ".json":
                rows = [_flat(row) for row in json.loads(_local(artifact).read_text(encoding="utf-8"))]
                columns: list[str | int] = list(dict.fromkeys(name for row in rows for name in row))
                tables[artifact["name"]] = wandb.Table(columns, [[row.get(name) for name in columns] for row in rows])
        return tables

    def _pictures(self, artifacts: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        import wandb

        return {
            artifact["name"]: wandb.Image(str(_local(artifact)))
            for artifact in artifacts
            if _suffix(artifact) == ".png" and artifact["own"] and artifact["bytes"] <= LARGEST_PICTURE
        }

    def _log_model(self, files: Sequence[Mapping[str, Any]]) -> None:
        import wandb

        if not files:
            return
        model = wandb.Artifact(f"model-{self._id}", type="model")
        for file in files:
            path = Path(file["uri"])
            if path.is_file() and file["bytes"] <= self._settings["max_file_bytes"]:
                model.add_file(str(path), name=path.name, policy="immutable", skip_cache=True)
            elif path.is_file():
                model.add_reference(path.as_uri(), name=path.name)
            else:
                model.add_reference(file["uri"], name=path.name, checksum=False)
        self._run.log_artifact(model)


def _local(artifact: Mapping[str, Any]) -> Path:
    return storage.fetch(storage.at(artifact["uri"]), artifact.get("sha256"))


def _is_model(artifact: Mapping[str, Any]) -> bool:
    return artifact["name"] == "model" or _suffix(artifact) in MODELS


def _suffix(artifact: Mapping[str, Any]) -> str:
    return Path(artifact["uri"]).suffix


def _flat(row: Mapping[str, Any]) -> dict[str | int, Any]:
    """A record as one row: ``{"accuracy": {"value": 1, "n": 2}}`` becomes ``{"accuracy": 1, "accuracy.n": 2}``."""
    cells: dict[str | int, Any] = {}
    for name, value in row.items():
        if isinstance(value, Mapping):
            cells |= {name if part == "value" else f"{name}.{part}": inner for part, inner in value.items()}
        else:
            cells[name] = value
    return cells
