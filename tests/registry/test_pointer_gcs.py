"""The pointer in Cloud Storage: of several that promote at once one wins, and none loses another's history."""

from __future__ import annotations

import subprocess
import sys
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import chain
import pytest

from mlapp import gcs, storage
from mlapp.errors import UserError
from mlapp.registry import promoter
from mlapp.registry.bundle import verify
from mlapp.registry.pointer import HISTORY, POINTER, Pointer
from mlapp.result import StageResult

pytest_plugins = "loopback.fixtures"
ROOT = Path(__file__).parents[2]
RACER = """
import sys
from mlapp.errors import UserError
from mlapp.registry.pointer import Pointer
registry, new = sys.argv[1:]
pointer = Pointer(registry, "m")
present = pointer.read()
print("ready", flush=True)
sys.stdin.readline()
try:
    pointer.swap(present, new, {})
    print("won")
except UserError as error:
    print(error)
"""


@pytest.fixture
def registry(cloud: dict[str, str]) -> str:
    return f"gs://models/{uuid.uuid4().hex}"


def bundle(number: int) -> str:
    return f"{number:012x}"


def test_the_first_promotion_and_a_rollback_are_moves_of_the_pointer(registry: str) -> None:
    pointer = Pointer(registry, "m")
    assert pointer.read() is None
    pointer.swap(None, bundle(1), {"why": "better"})
    pointer.swap(bundle(1), bundle(2), {})
    pointer.swap(bundle(2), bundle(1), {"why": "rollback"})
    assert pointer.read() == bundle(1)
    moves = [(move["before"], move["champion"]) for move in pointer.history()]
    assert moves == [(None, bundle(1)), (bundle(1), bundle(2)), (bundle(2), bundle(1))]


def test_a_stale_swap_changes_nothing_and_says_so(registry: str) -> None:
    pointer = Pointer(registry, "m")
    pointer.swap(None, bundle(1), {})
    with pytest.raises(
        UserError, match=f"the champion changed meanwhile .from None to {bundle(1)}.: run the DAG again"
    ):
        pointer.swap(None, bundle(2), {})
    assert (pointer.read(), len(pointer.history())) == (bundle(1), 1)


def test_a_swap_between_reading_and_writing_is_noticed(registry: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Given another promotion in the very moment between the two requests, then the generation tells."""
    pointer, reading = Pointer(registry, "m"), gcs.read

    def overtaken(path: Any) -> tuple[str | None, int]:
        found = reading(path)
        monkeypatch.setattr(gcs, "read", reading)
        Pointer(registry, "m").swap(None, bundle(9), {})
        return found

    monkeypatch.setattr(gcs, "read", overtaken)
    with pytest.raises(UserError, match=f"changed meanwhile .from None to {bundle(9)}."):
        pointer.swap(None, bundle(1), {})
    assert [move["champion"] for move in pointer.history()] == [bundle(9)]


def test_of_threads_that_promote_at_once_one_wins_each_time(registry: str) -> None:
    def promote(number: int) -> str:
        try:
            Pointer(registry, "m").swap(present, bundle(number), {})
        except UserError as error:
            return str(error)
        return "won"

    present = None
    for turn in range(5):
        with ThreadPoolExecutor(8) as pool:
            told = list(pool.map(promote, range(8 * turn, 8 * turn + 8)))
        assert told.count("won") == 1
        assert sum("the champion changed meanwhile" in line for line in told) == 7
        present = bundle(8 * turn + told.index("won"))
        assert Pointer(registry, "m").read() == present
    assert len(Pointer(registry, "m").history()) == 5


def test_of_processes_that_promote_at_once_one_wins(registry: str, cloud: dict[str, str]) -> None:
    racers = [
        subprocess.Popen(
            [sys.executable, "-Wignore", "-c", RACER, registry, bundle(number)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for number in range(4)
    ]
    for racer in racers:
        assert racer.stdout
        assert racer.stdout.readline() == "ready\n"
    for racer in racers:
        assert racer.stdin
        racer.stdin.write("go\n")
        racer.stdin.flush()
    told = [racer.communicate(timeout=60)[0].strip() for racer in racers]
    assert told.count("won") == 1
    assert sum("the champion changed meanwhile" in line for line in told) == 3
    assert Pointer(registry, "m").read() == bundle(told.index("won"))


def test_concurrent_lines_of_the_history_are_all_kept(registry: str) -> None:
    with ThreadPoolExecutor(6) as pool:
        list(pool.map(lambda number: Pointer(registry, "m").remember(bundle(number), None, {}), range(6)))
    assert {move["champion"] for move in Pointer(registry, "m").history()} == {bundle(number) for number in range(6)}


def test_a_write_whose_answer_was_lost_is_known_as_ours(registry: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from google.api_core.exceptions import PreconditionFailed
    from google.cloud.storage import Blob

    path, upload = storage.at(registry) / "m" / POINTER, Blob.upload_from_string

    def answered_late(blob: Blob, *content: Any, **options: Any) -> None:
        upload(blob, *content, **options)
        raise PreconditionFailed("the second try")  # type: ignore[no-untyped-call]

    monkeypatch.setattr(Blob, "upload_from_string", answered_late)
    assert gcs.replace(path, "ours", 0)
    assert gcs.read(path)[0] == "ours"


@pytest.mark.parametrize(
    ("file", "content", "told"),
    [
        (POINTER, "../../etc", "names no bundle, but '../../etc': write the champion's bundle id into it"),
        (POINTER, "\N{SNOWMAN}".encode()[:2], "write the champion's bundle id into it"),
        (HISTORY, "{", "is not a history of promotions: restore it from a copy"),
    ],
)
def test_a_registry_that_someone_wrote_into_is_told_in_one_line(
    registry: str, file: str, content: Any, told: str
) -> None:
    path = storage.at(registry) / "m" / file
    path.fs.pipe_file(path.path, content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError, match=told):
        Pointer(registry, "m").read() if file == POINTER else Pointer(registry, "m").history()


def test_a_registry_without_its_bucket_is_told_in_one_line(cloud: dict[str, str]) -> None:
    with (
        pytest.raises(UserError, match="there is no bucket gs://nosuch: run `gcloud storage buckets create"),
        storage.explained(),
    ):
        Pointer("gs://nosuch/registry", "m").swap(None, bundle(1), {})


def test_a_promotion_files_the_bundle_and_moves_the_pointer(
    registry: str, tmp_path: Path, planted_data: StageResult, planted_teacher: StageResult, planted_student: Any
) -> None:
    floors = {"accuracy": 0.5, "class_recall": 0.0}
    run = chain.vet(tmp_path, planted_data, planted_teacher, planted_student(0, 2, 4, 6), registry=registry, **floors)
    config = chain.promote_config(tmp_path, planted_data, run).model_copy(update={"registry": registry})

    place = promoter.run(config, f"{registry}/promote").artifact("manifest").parent

    assert Pointer(registry, config.name).read() == place.name == verify(place).id
    assert promoter.run(config, f"{registry}/promote").headline.startswith("already the champion")
    (place / "labels.json").fs.pipe_file((place / "labels.json").path, b"[]")
    with pytest.raises(UserError, match=r"labels.json was altered; restore the bundle"):
        verify(place)
