"""What every room's tests may use."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import planted
import pytest

from mlapp.dataset import Dataset
from mlapp.etl import gcp_dataloader, image_etl, quality
from mlapp.result import StageResult

DATASETS = Path(__file__).parents[1] / ".cache" / "datasets"


@pytest.fixture(scope="session")
def raw_uri() -> str:
    """URI of the extract stage's result on the real Fashion-MNIST; the 70,000 images are fetched once and kept."""
    return gcp_dataloader.run(gcp_dataloader.Extract(), DATASETS / "fashion_mnist").uri


@pytest.fixture(scope="session")
def data_uri(tmp_path_factory: pytest.TempPathFactory, raw_uri: str) -> str:
    """The URI of a transform result: 1,000 real training images and as many test images."""
    folder = tmp_path_factory.mktemp("data")
    report = quality.run(quality.run.config(raw=raw_uri), folder / "validate")
    config = image_etl.run.config(raw=raw_uri, report=report.uri, limit=1000)
    return image_etl.run(config, folder / "transform").uri


@pytest.fixture(scope="session")
def dataset(data_uri: str) -> Dataset:
    return Dataset.open(data_uri)


@pytest.fixture
def full_disk(tmp_path: Path) -> tuple[Path, tuple[str, ...]]:
    """A folder, and a program under which it is a file system of 32 KiB (a tmpfs in namespaces of its own)."""
    place = tmp_path / "disk"
    place.mkdir()
    rootless = () if os.geteuid() == 0 else ("--user", "--map-root-user")
    script = f'mount -t tmpfs -o size=32k tmpfs {place} && exec "$@"'
    under = ("unshare", *rootless, "--mount", "sh", "-c", script, "sh")
    if not shutil.which("unshare") or subprocess.run([*under, "true"], check=False, capture_output=True).returncode:
        pytest.skip("this kernel gives no mount namespace, so no disk can be made full")
    return place, under


@pytest.fixture(scope="session")
def planted_data(tmp_path_factory: pytest.TempPathFactory) -> StageResult:
    return planted.data(tmp_path_factory.mktemp("planted") / "data")


@pytest.fixture(scope="session")
def planted_teacher(tmp_path_factory: pytest.TempPathFactory) -> StageResult:
    return planted.models(tmp_path_factory.mktemp("planted") / "teacher", "teacher", "teacher", errors=[0])


@pytest.fixture(scope="session")
def planted_baseline(tmp_path_factory: pytest.TempPathFactory) -> StageResult:
    """Boosted trees that err on four groups (80 %)."""
    return planted.baseline(tmp_path_factory.mktemp("planted") / "baseline", errors=[10, 12, 14, 16])


@pytest.fixture(scope="session")
def planted_student(tmp_path_factory: pytest.TempPathFactory) -> object:
    """A function that gives the result of a student that errs on these groups, made once for each set."""
    folder: Path = tmp_path_factory.mktemp("planted")
    made: dict[tuple[int, ...], StageResult] = {}

    def student(*errors: int) -> StageResult:
        if errors not in made:
            made[errors] = planted.models(folder / "-".join(map(str, errors)), "student", "student", errors)
        return made[errors]

    return student
