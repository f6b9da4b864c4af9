"""Showing a planted run in Vertex AI's Model Registry, and what came of it."""

from __future__ import annotations

from pathlib import Path

import chain
from loopback import vertex_models
from loopback.vertex_model_rules import PROJECT, REGION

from mlapp.registry import vertex_registry
from mlapp.registry.pointer import Pointer
from mlapp.result import StageResult
from mlapp.schema_cloud import Cloud

NAME = "fashion_mnist"
IMAGE = f"{REGION}-docker.pkg.dev/{PROJECT}/mlapp/serving@sha256:{'0' * 64}"
LENIENT = {"accuracy": 0.5, "class_recall": 0.0, "class_recall_drop": 1.0}
SETTINGS = {"model_registry": True, "serving_image": IMAGE, "artifacts": "gs://models/shown"}


def register(folder: Path, run: chain.Chain | None = None, **settings: object) -> StageResult:
    what = {"promoted": run.promoted.uri} if run else {}
    place = {"cloud": Cloud(project=PROJECT, region=REGION)}
    return vertex_registry.run(
        vertex_registry.RegisterConfig(**{**SETTINGS, **place, **what, **settings}), folder / "register"
    )


def champion_of(folder: Path) -> str:
    named = Pointer(str(folder / "registry"), NAME).read()
    assert named
    return named


def uploads(vertex: vertex_models.Vertex) -> int:
    return vertex.front.calls["UploadModel"]
