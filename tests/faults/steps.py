"""The stages of a small run on real images, each a command of its own, and what it must come to whatever happens."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from mlapp.registry.bundle import Manifest, verify
from mlapp.registry.pointer import Pointer
from mlapp.result import StageResult
from mlapp.storage import at

ROOT = Path(__file__).parents[2]
SETTINGS = [
    *("--preset=smoke", "tracking.wandb=off", "transform.limit=1000", "distillation.epochs=2", "pruning.epochs=2"),
    *("training.epochs=3", "training.batch_size=25", "distillation.batch_size=25", "pruning.batch_size=25"),
]
NAME = "my_fashion_mnist"


@dataclass(frozen=True)
class Step:
    """A stage: its module, and its flags with the steps whose results they take."""

    name: str
    module: str
    inputs: dict[str, tuple[str, ...]]
    flags: tuple[str, ...] = ()
    registry: bool = False


STEPS = [
    Step("extract", "mlapp.etl.gcp_dataloader", {}),
    Step("validate", "mlapp.etl.quality", {"raw": ("extract",)}),
    Step("transform", "mlapp.etl.image_etl", {"raw": ("extract",), "report": ("validate",)}),
    Step("train", "mlapp.dl.dnn_trainer", {"data": ("transform",)}),
    Step("distill", "mlapp.dl.knowledge_distiller", {"data": ("transform",), "teacher": ("train",)}, ("--width=0.2",)),
    Step(
        "prune",
        "mlapp.dl.dnn_pruner",
        {"data": ("transform",), "teacher": ("train",), "students": ("distill",)},
        ("--sparsity=0.3",),
    ),
    Step("baseline", "mlapp.ml.xgboost_trainer", {"data": ("transform",)}),
    Step("choose", "mlapp.vetting.selector", {"results": ("train", "distill", "prune")}),
    Step("vet", "mlapp.vetting.verdict", {"challenger": ("choose",), "data": ("transform",)}, registry=True),
    Step(
        "promote",
        "mlapp.registry.promoter",
        {"verdict": ("vet",), "challenger": ("choose",), "data": ("transform",), "results": ("train", "distill")},
        registry=True,
    ),
]


def command(step: Step, given: Path, made: Path, source: Path) -> list[str]:
    """A step's command: inputs from the run in ``given``, everything it makes in ``made``."""
    inputs = [part for flag, names in step.inputs.items() for part in (f"--{flag}", *(str(given / n) for n in names))]
    registry = ["--registry", str(made / "registry")] if step.registry else []
    own = [f"data.source={source}"] if step.name == "extract" else []
    return [step.module, "--workdir", str(made / step.name), *inputs, *step.flags, *registry, *SETTINGS, *own]


def run(line: list[str], *killer: str) -> subprocess.CompletedProcess[str]:
    """Run a step's command, perhaps under a program that kills it."""
    start = [sys.executable, *killer] if killer else [sys.executable, "-m"]
    return subprocess.run([*start, *line], cwd=ROOT, capture_output=True, text=True, check=False, env=os.environ)


def reference(folder: Path, source: Path) -> dict[str, float]:
    """A whole run that nothing disturbs; returns the seconds that each step took."""
    seconds = {}
    for step in STEPS:
        began = time.monotonic()
        done = run(command(step, folder, folder, source))
        assert done.returncode == 0, f"{step.name}: {done.stdout}{done.stderr}"
        seconds[step.name] = time.monotonic() - began
    return seconds


def outcome(step: Step, made: Path) -> dict[str, object]:
    """What a step came to, as far as it is the same each time: contents without times, and no trace of a half-done."""
    result = StageResult.load(str(made / step.name))
    left = [path.name for path in made.rglob("*") if path.name.endswith(".draft") or path.name.startswith(".draft-")]
    found: dict[str, object] = {"left over": left, "damage": result.damage()}
    if step.name == "promote":
        pointer = Pointer(str(made / "registry"), NAME)
        champion = str(pointer.read())
        manifest: Manifest = verify(at(pointer.folder / champion))
        bundles = [path.name for path in pointer.folder.iterdir() if len(path.name) == len(champion)]
        moves = [move["champion"] for move in pointer.history()]
        return found | {"model": manifest.model_sha256, "alone": bundles == [champion], "told": moves == [champion]}
    same = {name: file.sha256 for name, file in result.artifacts.items() if name in SAME}
    if "history" in result.artifacts:
        same["losses"] = json.dumps([epoch["loss"] for epoch in json.loads(result.local("history").read_text())])
    return found | same


# Artifacts that hold no time, latency or place.
SAME = {
    *("train-images", "train-labels", "t10k-images", "t10k-labels", "float32", "int8", "predictions"),
    *(f"{split}_{kind}" for split in ("train", "validation", "test") for kind in ("images", "labels")),
}
