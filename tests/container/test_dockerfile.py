"""Dockerfile.training and its locks, as far as they can be judged without building."""

from __future__ import annotations

import re
import subprocess
import tomllib
from pathlib import Path

import locks

ROOT = Path(__file__).parents[2]
DOCKERFILE = (ROOT / "Dockerfile.training").read_text(encoding="utf-8")


def pins(name: str) -> dict[str, str]:
    """Version by package in a lock."""
    return {package: pin.version for package, pin in locks.read(name).items()}


def test_hadolint_finds_nothing() -> None:
    done = subprocess.run(["hadolint", "Dockerfile.training"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_the_image_s_versions_are_those_of_the_project() -> None:
    """So that a stage does the same in the image as beside Airflow."""
    project, image = pins("requirements.txt"), pins("requirements-training.txt")
    assert image.items() <= project.items()
    assert {"tensorflow", "ray", "google-cloud-aiplatform", "gcsfs", "wandb", "xgboost-cpu"} <= image.keys()
    assert not [name for name in image if "airflow" in name]


def test_everything_that_the_package_needs_is_in_the_image() -> None:
    declared = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["dependencies"]
    names = {re.split(r"[\[=<>~ ]", line)[0].lower().replace("_", "-") for line in declared}
    assert names <= pins("requirements-training.txt").keys()


def test_the_cuda_variant_adds_nvidia_s_libraries_and_nothing_else() -> None:
    cpu, cuda = pins("requirements-training.txt"), pins("requirements-training-cuda.txt")
    assert cpu.items() <= cuda.items()
    assert {name for name in cuda.keys() - cpu.keys() if not name.startswith("nvidia-")} == set()
    assert {"nvidia-cudnn-cu12", "nvidia-cublas-cu12"} <= cuda.keys()


def test_the_image_is_pinned_runs_as_nobody_in_particular_and_holds_no_secret() -> None:
    instructions = dict(re.findall(r"^(FROM|USER|ENTRYPOINT) (.+)$", DOCKERFILE, re.MULTILINE))
    assert instructions["FROM"] == "${BASE}"
    assert re.search(r"^ARG BASE=[a-z0-9./-]+@sha256:[0-9a-f]{64}$", DOCKERFILE, re.MULTILINE)
    assert re.fullmatch(r"[1-9]\d*:[1-9]\d*", instructions["USER"])
    assert instructions["ENTRYPOINT"] == '["python", "-m"]'
    assert not re.search(r"(?i)token|password|api_key|https?://", DOCKERFILE)


def test_requirements_come_before_code() -> None:
    """An edit of the code must not install anything anew."""
    assert DOCKERFILE.index("COPY requirements") < DOCKERFILE.index("pip --python") < DOCKERFILE.index("COPY mlapp")


def test_both_variants_share_the_layer_of_requirements() -> None:
    """An argument is part of every layer after it."""
    assert DOCKERFILE.index("-r requirements-training.txt") < DOCKERFILE.index("ARG VARIANT")
    assert DOCKERFILE.index("ARG VARIANT") < DOCKERFILE.index("-r requirements-training-cuda.txt")
