"""The custom job that runs a stage: what it runs on, and in labels and environment, whom it is for."""

from __future__ import annotations

import importlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict
from datetime import timedelta
from typing import Any, Literal

from vertex_errand import ATTEMPTS, Attempt, Errand, installation

from mlapp.schema_cloud import Place, Placement
from mlapp.stage import HOPS, IMAGE

TASK = "MLAPP_TASK"
MARK = {"mlapp": "stage"}
ENDED, ENDED_WORKER = "ended.json", "ended-worker.json"


def custom_job(
    errand: Errand, attempt: Attempt, place: Place, settings: Placement, *, prefix: str, project: str, limit: timedelta
) -> dict[str, Any]:
    """The `CustomJob` that runs an errand at a place; ends by itself after ``limit``."""
    task = errand.task
    return {
        "display_name": f"{task.name} {task.dag_id} {task.run_id}"[:128],
        "labels": {
            **settings.labels,
            **MARK,
            "mlapp_airflow": installation(project),
            "mlapp_task": task.digest,
            "mlapp_identity": attempt.identity,
            "mlapp_attempt": attempt.number,
            "mlapp_rung": str(attempt.rung),
            "mlapp_preempted": str(attempt.preempted),
            "dag": label_value(task.dag_id),
            "run": label_value(task.run_id),
            "task": label_value(task.name),
        },
        **({"encryption_spec": {"kms_key_name": settings.kms_key}} if settings.kms_key else {}),
        "job_spec": {
            "worker_pool_specs": _pools(errand, attempt, place, attempt.folder(prefix), project),
            "scheduling": {
                "timeout": timedelta(seconds=max(1, round(limit.total_seconds()))),
                "strategy": "SPOT" if place.spot else "STANDARD",
                # A stage that failed would fail again; a machine that was lost is counted, and replaced, by us.
                "disable_retries": True,
            },
            # The same for all attempts: its checkpoints are what a job takes up after a preemption.
            "base_output_directory": {"output_uri_prefix": f"{prefix}/{ATTEMPTS}/{attempt.identity}"},
            **({"service_account": account} if (account := settings.account_of(task.name)) else {}),
            **({"network": settings.network} if settings.network else {}),
        },
    }


def place_name(place: Place | str) -> str:
    """A place in words: ``europe-west4 n2-standard-8 spot``."""
    if isinstance(place, str):
        return place
    parts = [
        place.region,
        place.machine_type,
        f"{place.accelerator_count}×{place.accelerator_type}" if place.accelerator_type else "",
        "spot" if place.spot else "",
        f"on {place.replicas} machines" if place.replicas > 1 else "",
    ]
    return " ".join(filter(None, parts))


def for_stage(place: Place | Literal["local"], module: str) -> Place | Literal["local"]:
    """The place as a stage uses it: only one that can train on several machines (its config has devices) gets them."""
    if isinstance(place, str):
        return place
    if place.replicas > 1 and "devices" not in importlib.import_module(module).run.config.model_fields:
        return place.model_copy(update={"replicas": 1})
    return place


def label_value(text: str) -> str:
    """Text as a label's value may be: at most 63 lower-case letters, digits, dashes and underscores."""
    return re.sub(r"[^a-z0-9_-]+", "-", text.lower())[:63]


def _pools(errand: Errand, attempt: Attempt, place: Place, folder: str, project: str) -> list[dict[str, Any]]:
    accelerators = {"accelerator_type": place.accelerator_type, "accelerator_count": place.accelerator_count}
    environ = {
        TASK: json.dumps(asdict(errand.task)),
        HOPS: json.dumps(attempt.hops, ensure_ascii=False),
        IMAGE: errand.image,
        # Else Google's libraries take the project that Vertex AI itself runs the job in.
        "GOOGLE_CLOUD_PROJECT": project,
    }

    def pool(count: int, ended: str) -> dict[str, Any]:
        return {
            "machine_spec": {"machine_type": place.machine_type, **(accelerators if place.accelerator_type else {})},
            "replica_count": count,
            "disk_spec": {"boot_disk_size_gb": place.disk_gb},
            "container_spec": {
                "image_uri": errand.image,
                "args": [errand.module, *errand.arguments, f"--ended-to={folder}/{ended}"],
                "env": variables(environ),
            },
        }

    others = [pool(place.replicas - 1, ENDED_WORKER)] if place.replicas > 1 else []
    return [pool(1, ENDED), *others]


def variables(environ: Mapping[str, str]) -> list[dict[str, str]]:
    """An environment as a container's specification has it."""
    return [{"name": name, "value": value} for name, value in environ.items()]


def hop(place: Place | str, outcome: str) -> dict[str, str]:
    """A `mlapp.result.Hop`, as it passes to the container."""
    return {"place": place_name(place), "outcome": outcome}
