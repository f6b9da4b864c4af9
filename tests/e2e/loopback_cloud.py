"""A deployment on the loopback cloud: Vertex AI jobs executed as processes, every file in Cloud Storage."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import yaml

from tests.e2e.workspace import Workspace
from tests.loopback import chaos, gcs, vertex
from tests.loopback.vertex_lives import executes

IMAGE = "europe-west4-docker.pkg.dev/project-1/mlapp/training@sha256:" + "0" * 64
PLACES: list[dict[str, Any]] = [
    {"region": "europe-west4", "machine_type": "n2-standard-8", "spot": True},
    {"region": "europe-west1", "machine_type": "n2-standard-8"},
]
DEPLOYMENT = {
    "cloud": {"project": vertex.PROJECT, "region": "europe-west4"},
    "storage": {
        "raw": "gs://raw/mlapp",
        "processed": "gs://processed/mlapp",
        "models": "gs://models/mlapp",
        "experiments": "gs://models/experiments",
        "registry": "gs://models/production",
    },
    "placement": {
        "runner": "vertex",
        "places": PLACES,
        "image": IMAGE,
        "service_account": "training@project-1.iam.gserviceaccount.com",
        "labels": {"team": "vision"},
        "poll_seconds": 0.2,
        "prices": {"n2-standard-8": 0.4},
    },
}


# A run makes some thousand requests; no request fails more often in a row than two times.
STORAGE_WEATHER = dict.fromkeys(chaos.HTTP_RATES, 0.003)
VERTEX_WEATHER = dict.fromkeys(chaos.GRPC_RATES, 0.02)


@contextmanager
def loopback_cloud(workspace: Workspace, seed: int | None = None) -> Iterator[vertex.Vertex]:
    """Have the workspace's runs use it, with a seed in bad weather; yields its Vertex AI."""
    weather = chaos.Weather(seed or 0, VERTEX_WEATHER if seed else {})
    with (
        gcs.serving(workspace.folder / "gcs") as buckets,
        chaos.http_proxy(buckets["STORAGE_EMULATOR_HOST"], seed or 0, STORAGE_WEATHER if seed else {}) as proxy,
        vertex.serving(weather, default=executes({**buckets, "STORAGE_EMULATOR_HOST": proxy.url})) as service,
    ):
        deployment = workspace.folder / "loopback.yaml"
        deployment.write_text(yaml.safe_dump(DEPLOYMENT))
        through = {**buckets, "STORAGE_EMULATOR_HOST": proxy.url, "MLAPP_VERTEX_ENDPOINT": service.address}
        workspace.cloud = {**through, "MLAPP_DEPLOYMENT": str(deployment)}
        yield service
