"""The pointer in Cloud Storage: of several that promote at once one wins, and none loses another's history."""

from __future__ import annotations

import uuid
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
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
from tests.faults.promotions import raced

pytest_plugins = "loopback.fixtures"


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
    told = raced(registry, [bundle(number) for number in range(4)], "once")
    assert told.count("won") == 1
    assert sum("the champion changed meanwhile" in line for line in told) == 3
    assert Pointer(registry, "m").read() == bundle(told.index("won"))


def test_of_twenty_that_keep_trying_all_get_their_turn_and_a_line_of_the_history(registry: str) -> None:
    """Given twenty that promote on top of whatever stands, then each move starts where the one before ended."""

    def promote(number: int) -> None:
        pointer, done = Pointer(registry, "m"), False
        while not done:
            with suppress(UserError):
                pointer.swap(pointer.read(), bundle(number), {"by": str(number)})
                done = True

    with ThreadPoolExecutor(20) as pool:
        list(pool.map(promote, range(20)))
    moves = Pointer(registry, "m").history()
    assert sorted(move["by"] for move in moves) == sorted(str(number) for number in range(20))
    assert [move["before"] for move in moves] == [None, *(move["champion"] for move in moves[:-1])]
    assert Pointer(registry, "m").read() == moves[-1]["champion"]


@pytest.mark.parametrize("place", ["bucket", "disk"])
def test_a_move_that_was_cut_off_is_finished_by_the_next_one(
    registry: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str
) -> None:
    """Given a kill between the history's line and the pointer, then whoever comes next finds the move done."""
    from mlapp.registry import pointer as module

    moving = Pointer(registry if place == "bucket" else str(tmp_path), "m")
    moving.swap(None, bundle(1), {})
    write = module._replace
    with monkeypatch.context() as cut:
        cut.setattr(module, "_replace", lambda path, *rest: path.name == HISTORY and write(path, *rest))
        moving.swap(bundle(1), bundle(2), {"why": "cut off"})
    assert moving.read() == bundle(1)

    with pytest.raises(UserError, match=f"changed meanwhile .from {bundle(1)} to {bundle(2)}"):
        moving.swap(bundle(1), bundle(3), {})
    assert moving.settle() == bundle(2)
    assert [move["champion"] for move in moving.history()] == [bundle(1), bundle(2)]


@pytest.mark.parametrize("place", ["bucket", "disk"])
def test_a_pointer_that_somebody_wrote_by_hand_stops_every_move(registry: str, tmp_path: Path, place: str) -> None:
    moving = Pointer(registry if place == "bucket" else str(tmp_path), "m")
    moving.swap(None, bundle(1), {})
    moving.swap(bundle(1), bundle(2), {})
    storage.write_text(moving.folder / POINTER, f"{bundle(1)}\n")
    for move in (moving.settle, lambda: moving.swap(bundle(1), bundle(3), {})):
        with pytest.raises(UserError, match=f"the pointer names {bundle(1)}, the history ends with {bundle(2)}"):
            move()
    assert (moving.read(), len(moving.history())) == (bundle(1), 2)


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
        (HISTORY, "{", r"is not a history of promotions .line 1.: restore it from a copy"),
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
