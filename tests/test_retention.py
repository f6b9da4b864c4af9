"""What is old goes, what anything younger needs stays, and nothing goes unasked."""

from __future__ import annotations

import os
import time
import uuid
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from mlapp import retention, run_record, storage
from mlapp.errors import UserError
from mlapp.registry.bundle import Draft, describe, install
from mlapp.registry.pointer import Pointer
from mlapp.run_record import StageRecord
from mlapp.schema import Storage

pytest_plugins = "loopback.fixtures"
NOW = datetime.now(UTC)
CUTOFF = NOW - timedelta(days=30)


def areas(root: str) -> Storage:
    names = ("raw", "processed", "models", "experiments", "registry")
    if storage.is_local(storage.at(root)) and Path(root).is_dir():
        Path(root, "experiments").mkdir(exist_ok=True)
    return Storage(**{name: f"{root}/{name}" for name in names})


def work(area: str, key: str, days: float, stage: str = "train") -> str:
    """A work directory that last changed so many days ago."""
    place = storage.at(area) / stage / key
    for name in ("model.keras", "result.json"):
        storage.write_text(place / name, "content")
        if storage.is_local(place):
            age(place / name, days)
    return str(place)


def age(path: Any, days: float) -> None:
    moment = time.time() - 86_400 * days
    os.utime(path, (moment, moment))


def run(area: str, name: str, days: float, *used: str, **more: Any) -> str:
    """A run's folder that was configured so many days ago and used these work directories."""
    began = (NOW - timedelta(days=days)).isoformat(timespec="seconds")
    for number, place in enumerate(used or ("/nowhere",)):
        told = {"state": "done", "began": began, "result": f"{place}/result.json", **more}
        run_record.write(storage.at(area) / name, StageRecord(stage="train", key=f"{number:08d}", **told))
    return str(storage.at(area) / name)


def bundle(
    pointer: Pointer, content: str, days: float, before: str | None = None, promote: bool = False, made_of: str = ""
) -> str:
    with Draft(pointer.folder) as draft:
        (draft / "labels.json").write_text(content)
        about = {"name": "m", "model": "labels.json", "predecessor": before, "created": "2026-08-26"}
        stages = {f"transform/{made_of[:8]}": {"key": made_of}} if made_of else {}
        place = install(draft, describe(draft, **about, data={}, stages=stages, history=None), pointer.folder)
    for path in place.iterdir():
        age(path, days)
    if promote:
        pointer.swap(pointer.read(), place.name, {})
    return str(place)


def test_what_is_old_and_not_needed_is_found(tmp_path: Path) -> None:
    where = areas(str(tmp_path))
    used, unused, young = (work(where.models, key * 16, days) for key, days in (("a", 90), ("b", 90), ("c", 1)))
    old_run = run(where.experiments, "2026-01-01-old", 90, unused, used)
    run(where.experiments, "2026-11-01-young", 1, used)
    pointer = Pointer(where.registry, "m")
    first = bundle(pointer, "one", 90, promote=True)
    bundle(pointer, "two", 90, before=Path(first).name, promote=True)
    never, fresh = bundle(pointer, "three", 90), bundle(pointer, "four", 1)
    found = {(each.kind, str(each.folder)) for each in retention.old(where, CUTOFF)}
    assert found == {("run", old_run), ("work directory", unused), ("bundle", never)}
    assert young
    assert fresh


def test_a_run_at_work_and_what_it_uses_are_kept_whatever_their_age(tmp_path: Path) -> None:
    where = areas(str(tmp_path))
    used = work(where.models, "a" * 16, 90)
    run(where.experiments, "2026-01-01-long", 90, used, state="running", process=run_record.this_process())
    assert retention.old(where, CUTOFF) == []


def test_the_predecessor_of_a_bundle_that_is_kept_is_kept(tmp_path: Path) -> None:
    """Given a history that was begun anew, then the champion's manifest still names where a rollback would go."""
    where = areas(str(tmp_path))
    pointer = Pointer(where.registry, "m")
    first = bundle(pointer, "one", 90, promote=True)
    bundle(pointer, "two", 90, before=Path(first).name, promote=True)
    (tmp_path / "registry" / "m" / "HISTORY.jsonl").unlink()
    assert retention.old(where, CUTOFF) == []


def test_nothing_is_removed_from_a_registry_whose_history_was_tampered_with(tmp_path: Path) -> None:
    where = areas(str(tmp_path))
    pointer = Pointer(where.registry, "m")
    bundle(pointer, "one", 90, promote=True)
    bundle(pointer, "two", 90)
    path = tmp_path / "registry" / "m" / "HISTORY.jsonl"
    path.write_text(path.read_text().replace("{", "[", 1))
    with pytest.raises(UserError, match="is not a history of promotions"):
        retention.old(where, CUTOFF)


def test_folders_that_are_no_work_directories_are_left_alone(tmp_path: Path) -> None:
    where = areas(str(tmp_path))
    for name in ("notes", "A" * 16, "a" * 15):
        work(where.models, name, 900)
    assert retention.old(where, CUTOFF) == []


def test_it_is_shown_first_and_removed_when_asked_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    where = areas(str(tmp_path))
    for name in ("models", "experiments", "registry"):
        monkeypatch.setenv(f"MLAPP_STORAGE__{name.upper()}", str(getattr(where, name)))
    gone, kept = work(where.models, "a" * 16, 91), work(where.models, "b" * 16, 89)
    retention.main([])
    assert gone in capsys.readouterr().out
    assert Path(gone).exists()
    retention.main(["--yes"])
    assert "1 folders, 0.0 MB removed" in capsys.readouterr().out
    assert (Path(gone).exists(), Path(kept).exists()) == (False, True)
    retention.main(["--older-than", "80"])
    assert kept in capsys.readouterr().out


@pytest.mark.parametrize("days", ["-1", "nan", "inf", "soon"])
def test_an_age_that_is_none_is_refused(days: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        retention.main(["--older-than", days, "--yes"])
    assert ended.value.code == 2
    assert f"argument --older-than: invalid days value: '{days}'" in capsys.readouterr().err


@pytest.mark.parametrize("area", ["raw", "processed"])
def test_data_that_nothing_needs_are_old_too(tmp_path: Path, area: str) -> None:
    """Given data of an old run, of a kept one, of a bundle, and of nobody; what else lies there is the user's own."""
    where = areas(str(tmp_path))
    place = getattr(where, area)
    old, kept, promoted, nobody, fresh = (
        work(place, key * 16, days, "transform") for key, days in (("a", 90), ("b", 90), ("c", 90), ("d", 90), ("e", 1))
    )
    own = storage.at(place) / "my-pictures" / "train" / "cat.png"
    storage.write_text(own, "content")
    age(own, 900)
    run(where.experiments, "2026-01-01-old", 90, old)
    run(where.experiments, "2026-11-01-young", 1, kept)
    bundle(Pointer(where.registry, "m"), "one", 90, promote=True, made_of="c" * 64)
    found = retention.clean(where, 30, remove_them=True, bundles=False)
    assert {str(each.folder) for each in found if each.kind == "work directory"} == {old, nobody}
    assert [Path(each).exists() for each in (old, kept, promoted, nobody, fresh, str(own))] == [
        *(False, True, True, False, True, True)
    ]


def test_what_a_kept_run_used_is_known_by_its_key_wherever_the_area_lies_now(tmp_path: Path) -> None:
    """Given a project that was moved, or an area behind a link: results are recorded by paths of then."""
    where = areas(str(tmp_path))
    place = work(where.models, "a" * 16, 90)
    run(where.experiments, "2026-11-01-young", 1, f"/before/{Path(place).relative_to(tmp_path)}")
    assert retention.old(where, CUTOFF) == []


def test_what_a_damaged_record_stands_for_is_kept(tmp_path: Path) -> None:
    where = areas(str(tmp_path))
    work(where.models, "a" * 16, 90)
    folder = Path(run(where.experiments, "2026-11-01-young", 1))
    record = folder / "stages" / "train-aaaaaaaa" / "stage.json"
    record.parent.mkdir()
    record.write_text("{")
    assert retention.old(where, CUTOFF) == []


@pytest.mark.parametrize(
    "at", ["models/train/" + "a" * 16, "models/train", "processed/train", "experiments/2026-01-01-x"]
)
def test_links_are_not_followed(tmp_path: Path, at: str) -> None:
    """Given a link to a folder outside that would be old, it is neither listed nor emptied."""
    where, outside = areas(str(tmp_path)), tmp_path / "outside"
    work(str(outside), "a" * 16, 900)
    run(str(outside), "run", 900)
    target = {"a": outside / "train" / ("a" * 16), "n": outside / "train", "x": outside / "run"}[at[-1]]
    (tmp_path / at).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / at).symlink_to(target)
    before = sorted(outside.rglob("*"))
    assert retention.clean(where, 30, remove_them=True) == []
    assert sorted(outside.rglob("*")) == before


def test_a_link_within_a_folder_goes_without_what_it_points_to(tmp_path: Path) -> None:
    where, outside = areas(str(tmp_path)), tmp_path / "outside"
    outside.mkdir()
    (outside / "precious").write_text("x" * 1000)
    place = Path(work(where.models, "a" * 16, 90))
    (place / "link").symlink_to(outside)
    os.utime(place / "link", (0, 0), follow_symlinks=False)
    (each,) = retention.clean(where, 30, remove_them=True)
    assert each.bytes < 1000
    assert not place.exists()
    assert (outside / "precious").exists()


def test_a_folder_that_became_a_link_meanwhile_is_refused(tmp_path: Path) -> None:
    where, outside = areas(str(tmp_path)), tmp_path / "outside"
    outside.mkdir()
    (outside / "result.json").touch()
    place = Path(work(where.models, "a" * 16, 90))
    [each] = retention.old(where, CUTOFF)
    place.rename(tmp_path / "away")
    place.symlink_to(outside)
    with pytest.raises(UserError, match="is a link now: nothing behind it is removed"):
        retention.remove(each)
    assert (outside / "result.json").exists()


def test_in_buckets_it_goes_the_same_way(cloud: dict[str, str]) -> None:
    where = areas(f"gs://models/{uuid.uuid4().hex}")
    place = work(where.models, "a" * 16, 0)
    storage.write_text(storage.at(where.experiments) / "2026-01-01-x" / "config.json", "{}")
    assert retention.old(where, CUTOFF) == []
    [each] = retention.old(where, datetime.now(UTC) + timedelta(minutes=1))
    assert (each.kind, str(each.folder)) == ("work directory", place)
    retention.remove(each)
    assert not storage.at(place).exists()


def test_missing_runs(tmp_path: Path) -> None:
    """Nothing is old where the runs, which would say what they need, are looked for in the wrong place."""
    where = areas(str(tmp_path))
    Path(where.experiments).rmdir()
    place = work(where.models, "a" * 16, 90)
    with pytest.raises(UserError, match=r"there are no runs at .*experiments.* 1 old work directories"):
        retention.old(where, CUTOFF)
    Path(where.experiments).mkdir()
    assert [str(each.folder) for each in retention.old(where, CUTOFF)] == [place]


def test_without_anything_there_is_nothing_old(tmp_path: Path) -> None:
    assert retention.old(areas(str(tmp_path / "nowhere")), CUTOFF) == []


def test_a_link_in_a_bundles_place_is_refused_and_what_it_leads_to_stays(tmp_path: Path) -> None:
    """Given a bundle's name that leads to a folder of somebody else's, old enough to go, then nothing is removed."""
    where = areas(str(tmp_path))
    pointer = Pointer(where.registry, "m")
    bundle(pointer, "champion", 100, promote=True)
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    (theirs / "manifest.json").write_text("precious")
    age(theirs / "manifest.json", 100)
    (Path(pointer.folder.path) / "0123456789ab").symlink_to(theirs)
    with pytest.raises(UserError, match="0123456789ab is a symbolic link"):
        retention.old(where, CUTOFF)
    assert (theirs / "manifest.json").read_text() == "precious"


def test_what_a_kept_result_or_record_names_is_kept(tmp_path: Path) -> None:
    """Given stages that were run by hand, without a run, then what a young result was made of stays, however old."""
    where = areas(str(tmp_path))
    raw, data, model = work(where.raw, "a" * 16, 90, "extract"), work(where.processed, "b" * 16, 90), "c" * 16
    unused, named = work(where.processed, "d" * 16, 90), work(where.processed, "e" * 16, 90)
    Path(data, "result.json").write_text(f'{{"inputs": {{"raw": "{raw}/result.json"}}}}')
    age(Path(data, "result.json"), 90)
    young = Path(work(where.models, model, 1), "result.json")
    young.write_text(f'{{"inputs": {{"data": "{data}/result.json#sha256={"0" * 64}"}}}}')
    run(where.experiments, "2026-11-01-young", 1, config={"data": f"{named}/result.json"})
    assert [str(each.folder) for each in retention.old(where, CUTOFF)] == [unused]


def test_a_link_in_a_models_place_is_refused(tmp_path: Path) -> None:
    """Given a link in a registry, then nothing behind it is looked at, or removed."""
    where = areas(str(tmp_path))
    Path(where.registry).mkdir()
    (Path(where.registry) / "m").symlink_to(tmp_path / "nothing")
    with pytest.raises(UserError, match="m is a symbolic link"):
        retention.old(where, CUTOFF)
