"""Files in Cloud Storage: few requests, nothing stale, and what goes wrong in one line."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest
from loopback import gcs as server
from loopback.refusing import refusing
from upath import UPath

from mlapp import gcs, ledger, run_history, run_index, storage
from mlapp.errors import UserError
from mlapp.etl.fingerprint import fingerprint
from mlapp.etl.gcp_dataloader import Extract
from mlapp.etl.gcp_dataloader import run as extract
from mlapp.result import StageResult
from tests.tiny_stage import Tiny, run

pytest_plugins = "loopback.fixtures"
ROOT = Path(__file__).parents[1]
EMULATOR = gcs.EMULATOR


@pytest.fixture
def folder(cloud: dict[str, str]) -> UPath:
    return storage.at(f"gs://raw/{uuid.uuid4().hex}")


@pytest.fixture
def requests(cloud: dict[str, str], gcs_folder: Path) -> Callable[[], list[str]]:
    """A function that gives the requests since its last call."""
    seen = len(server.requests(gcs_folder))

    def since() -> list[str]:
        nonlocal seen
        found = server.requests(gcs_folder)[seen:]
        seen += len(found)
        return found

    return since


def test_what_is_written_is_there_whole_with_its_hash(folder: UPath, requests: Callable[[], list[str]]) -> None:
    storage.write_text(folder / "new" / "a.txt", "ünï")
    assert len(requests()) == 1
    assert storage.read_text(folder / "new" / "a.txt") == "ünï"
    assert len(requests()) == 1
    noted = folder.fs.info((folder / "new" / "a.txt").path)["metadata"]["sha256"]
    assert noted == storage.sha256(folder / "new" / "a.txt")


def test_a_file_above_the_size_of_one_request_arrives_whole(folder: UPath, tmp_path: Path) -> None:
    (tmp_path / "large").write_bytes(os.urandom(6_000_000))
    storage.put(tmp_path / "large", folder / "large")
    digest = storage.sha256(tmp_path / "large")
    assert storage.damage(folder / "large", 6_000_000, digest) is None
    assert storage.sha256(storage.fetch(folder / "large", digest)) == digest


def test_damage_is_seen_without_reading_the_file(folder: UPath, requests: Callable[[], list[str]]) -> None:
    path = folder / "a.txt"
    storage.write_text(path, "abc")
    digest = storage.sha256(path)
    requests()
    assert storage.damage(path, 3, digest) is None
    assert [line for line in requests() if "alt=media" in line] == []
    path.fs.pipe_file(path.path, b"abd")  # by someone else: without a hash
    assert storage.damage(path, 3, digest) == "altered"
    path.fs.rm_file(path.path)
    assert storage.damage(path, 3, digest) == "missing"


def test_the_same_content_is_fetched_once(folder: UPath, requests: Callable[[], list[str]]) -> None:
    path = folder / "a.txt"
    storage.write_text(path, "one")
    requests()
    assert storage.fetch(path) == storage.fetch(path)
    assert len([line for line in requests() if "alt=media" in line]) == 1
    storage.write_text(path, "two")
    assert storage.fetch(path).read_text() == "two"


def test_what_was_altered_on_the_way_is_not_used(folder: UPath) -> None:
    result = run(Tiny(text="abc"), str(folder))
    path = result.artifact("text")
    path.fs.pipe_file(path.path, b"abd")
    with pytest.raises(UserError, match=r"text.txt was altered: run the stage that makes it again"):
        result.local("text")


def test_another_processes_files_are_seen_at_once(folder: UPath, cloud: dict[str, str]) -> None:
    """Given listings that this process has made, when another one adds a file, then it is seen."""
    storage.write_text(folder / "a.txt", "x")
    assert [path.name for path in folder.iterdir()] == ["a.txt"]
    assert not (folder / "b.txt").exists()
    script = f"from mlapp import storage; storage.write_text(storage.at('{folder}/b.txt'), 'x')"
    subprocess.run([sys.executable, "-c", script], check=True, cwd=ROOT)
    assert sorted(path.name for path in folder.iterdir()) == ["a.txt", "b.txt"]
    assert (folder / "b.txt").exists()


def test_a_stage_takes_few_requests_and_a_finished_one_fewer(folder: UPath, requests: Callable[[], list[str]]) -> None:
    """Given a stage with one file: see what stands, say who works, write file and result, tidy up; then look twice."""
    with ledger.kept_in(f"{folder}-experiments"):
        result = run(Tiny(text="far"), str(folder))
        assert len(requests()) <= 10
        assert run(Tiny(text="far"), str(folder)) == result
        assert len(requests()) == 3
    assert run(Tiny(text="!", earlier=result.reference), f"{folder}2").local("text").read_text() == "far!"


def test_runs_are_listed_with_few_requests(folder: UPath, requests: Callable[[], list[str]]) -> None:
    for name in ("2026-01-01-a", "2026-01-02-b"):
        storage.write_text(folder / name / "config.json", json.dumps({"training": {"epochs": 3}}))
        storage.write_text(folder / name / "summary.json", "{}")
        storage.write_text(folder / name / "stages" / "train-1" / "curves.png", "large")
    requests()
    runs = run_index.read(str(folder))
    assert {(run.run, run.outcome) for run in runs} == {(name, "done") for name in ("2026-01-01-a", "2026-01-02-b")}
    assert not [request for request in requests() if "curves.png" in request]
    assert run_index.read(str(folder)) == runs
    told = requests()
    assert len(told) <= 4, told
    assert run_history.read_named(str(folder), "2026-01-01-a").settings == {"training.epochs": 3}


def test_idx_files_and_class_folders_are_extracted_from_a_bucket(folder: UPath, tmp_path: Path) -> None:
    from PIL import Image

    for kind in ("cat", "dog"):
        for number in range(4):
            place = tmp_path / "train" / kind / f"{number}.png"
            place.parent.mkdir(parents=True, exist_ok=True)
            Image.new("L", (28, 28), 20 * number + len(kind)).save(place)
            storage.put(place, folder / "pets" / "train" / kind / place.name)
    before = fingerprint(str(folder / "pets"))
    found = extract(Extract(name="pets", source=str(folder / "pets")), str(folder / "raw"))
    assert (found.metrics["train_images"].value, found.metrics["classes"].value) == (8, 2)
    storage.copy(folder / "pets" / "train" / "cat" / "0.png", folder / "pets" / "train" / "cat" / "9.png")
    assert fingerprint(str(folder / "pets")) != before

    for name, file in {"train-images-idx3-ubyte": "train_images", "train-labels-idx1-ubyte": "train_labels"}.items():
        storage.copy(found.artifact(file), folder / "idx" / name)
    again = extract(Extract(name="pets", source=str(folder / "idx"), classes=("cat", "dog")), str(folder / "raw2"))
    assert again.artifacts["train_images"].sha256 == found.artifacts["train_images"].sha256


@pytest.mark.parametrize("uri", ["gs:/bucket/a", "gs://", "gs:///a", "gs://Bucket/a", "gs://b_/a", "gs:a"])
def test_a_misspelt_uri_does_not_pass_for_a_folder(uri: str) -> None:
    with pytest.raises(UserError, match="is no URI in Cloud Storage: write gs://BUCKET/FOLDER"):
        storage.at(uri)


@pytest.mark.parametrize(
    "do",
    [
        lambda: StageResult.load("gs://nosuch/a/result.json"),
        lambda: storage.write_text(storage.at("gs://nosuch/a"), "x"),
        lambda: fingerprint("gs://nosuch/images"),
        lambda: run_index.read("gs://nosuch/experiments"),
        lambda: run(Tiny(), "gs://nosuch/work"),
    ],
    ids=["read", "write", "source", "experiments", "work"],
)
def test_a_missing_bucket_is_told_with_the_command_that_makes_it(
    cloud: dict[str, str], do: Callable[[], object]
) -> None:
    with pytest.raises(UserError, match="no bucket gs://nosuch: run `gcloud storage buckets create gs://nosuch --loc"):
        explained(do)


NO_ROLE = (
    "trainer@p1.iam.gserviceaccount.com does not have {} access to the Google Cloud Storage object. "
    "Permission '{}' denied on resource (or it may not exist)."
)


@pytest.mark.parametrize(
    ("status", "message", "told"),
    [
        (
            401,
            "Anonymous caller does not have storage.objects.get access",
            "run `gcloud auth application-default login`",
        ),
        (
            403,
            NO_ROLE.replace("{}", "storage.objects.get"),
            "no storage.objects.get on gs://raw: run `gcloud storage buckets add-iam-policy-binding gs://raw "
            "--member=serviceAccount:trainer@p1.iam.gserviceaccount.com --role=roles/storage.objectUser`",
        ),
        (
            403,
            "Caller does not have required permission to use project p9.",
            "run `gcloud auth application-default set-quota-project PROJECT`",
        ),
    ],
)
@pytest.mark.parametrize(
    "do",
    [
        lambda: storage.read_text(storage.at("gs://raw/a")),
        lambda: storage.write_text(storage.at("gs://raw/a"), "x"),
        lambda: storage.at("gs://raw/a").exists(),
        lambda: storage.damage(storage.at("gs://raw/a"), 1, ""),
        lambda: gcs.read(storage.at("gs://raw/a")),
        lambda: gcs.replace(storage.at("gs://raw/a"), "x", 0),
    ],
    ids=["read", "write", "exists", "damage", "read version", "replace"],
)
def test_a_refusal_is_told_with_the_command_that_mends_it(
    monkeypatch: pytest.MonkeyPatch, do: Callable[[], object], status: int, message: str, told: str
) -> None:
    with refusing(status, message) as address:
        monkeypatch.setenv(EMULATOR, address)
        with pytest.raises(UserError) as error:
            explained(do)
    assert told in str(error.value)
    assert "\n" not in str(error.value)


def test_an_unreachable_store_is_told_after_a_few_tries(monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[float] = []

    async def sleep(seconds: float) -> None:
        waited.append(seconds)

    monkeypatch.setenv(EMULATOR, "http://127.0.0.1:9")
    monkeypatch.setattr(asyncio, "sleep", sleep)
    with pytest.raises(UserError, match=r"cannot reach Cloud Storage at http://127.0.0.1:9: start it, or unset"):
        explained(lambda: storage.read_text(storage.at("gs://raw/a")))
    assert 0 < sum(waited) < 40


@pytest.mark.parametrize("ended_to", ["gs://raw/ended.json", "ended.json"])
def test_a_stage_without_credentials_ends_with_exit_code_2_and_one_line(tmp_path: Path, ended_to: str) -> None:
    hidden = {EMULATOR, "GOOGLE_APPLICATION_CREDENTIALS", "FSSPEC_GCS_TOKEN"}
    environment = {name: value for name, value in os.environ.items() if name not in hidden} | {
        "HOME": str(tmp_path),
        "CLOUDSDK_CONFIG": str(tmp_path),
        "PYTHONPATH": str(ROOT),
        **dict.fromkeys(("GCE_METADATA_IP", "GCE_METADATA_HOST"), "127.0.0.1:9"),
    }
    stage = [sys.executable, "-m", "mlapp.etl.quality", "--raw=gs://raw/x/result.json", f"--ended-to={ended_to}"]
    ended = subprocess.run(
        stage, env=environment, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    assert ended.returncode == 2
    assert ended.stderr.startswith(f"python -m mlapp.etl.quality: error: no Google Cloud credentials: {gcs.LOGIN}")
    assert ended.stderr.count("error: no Google") == 1  # the record that cannot be written either is a line of the log
    assert "Traceback" not in ended.stderr
    told = tmp_path / "ended.json"
    assert told.exists() == (ended_to == "ended.json")
    assert not told.exists() or json.loads(told.read_text())["exit_code"] == 2


def test_a_stage_on_this_machine_imports_nothing_of_googles(tmp_path: Path) -> None:
    script = (
        "import sys; from tests.tiny_stage import run; run.main(sys.argv[1:]); "
        "sys.exit(' '.join({'gcsfs', 'aiohttp', 'google.auth', 'google.cloud.storage'} & set(sys.modules)) or 0)"
    )
    subprocess.run([sys.executable, "-c", script, f"--workdir={tmp_path}"], cwd=ROOT, check=True)


def explained(do: Callable[[], object]) -> None:
    with storage.explained():
        do()


def test_no_object_is_fetched_to_outside_of_the_folder(cloud: dict[str, str]) -> None:
    """Cloud Storage takes any name, ``..`` too: who writes a run's records would write elsewhere on this disk."""
    run, outside = storage.at(f"gs://models/{uuid.uuid4().hex}"), uuid.uuid4().hex
    for name in ("good/config.json", f"../{outside}/config.json", f"a/../../{outside}/config.json", "other.txt"):
        run.fs.pipe_file(f"{run.path}/{name}", b"{}")
    folder = Path(storage.fetch_named(run, ["config.json"]).path)
    assert [path.relative_to(folder).as_posix() for path in folder.rglob("*.json")] == ["good/config.json"]
    assert not (folder.parent / outside).exists()
