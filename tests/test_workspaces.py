"""Where a stage works: what it keeps of an unfinished work is there for the next machine, and goes with the result."""

from __future__ import annotations

import json
import logging
import tarfile
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest
from upath import UPath

from mlapp import ledger, storage, workspaces
from mlapp.errors import Terminated, UserError
from mlapp.result import StageResult
from mlapp.workspaces import KEPT, workspace
from tests.counting_stage import Counting, Stop, run

pytest_plugins = "loopback.fixtures"


@pytest.fixture(autouse=True)
def entries() -> Iterator[UPath]:
    """An experiments area, as every command has one."""
    area = storage.at(f"memory://{uuid.uuid4().hex}")
    with ledger.kept_in(str(area)):
        yield area


@pytest.fixture(params=["disk", "memory", "gcs"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> UPath:
    """A work directory here, in what stands for a store, and in Cloud Storage."""
    if request.param == "gcs":
        request.getfixturevalue("cloud")
    name = uuid.uuid4().hex
    return storage.at(
        {"disk": f"{tmp_path}/work", "memory": f"memory://{name}", "gcs": f"gs://models/{name}"}[request.param]
    )


@pytest.fixture(params=["memory", "gcs"])
def remote(request: pytest.FixtureRequest) -> UPath:
    if request.param == "gcs":
        request.getfixturevalue("cloud")
    name = uuid.uuid4().hex
    return storage.at({"memory": f"memory://{name}", "gcs": f"gs://models/{name}"}[request.param])


def kept(folder: UPath) -> list[str]:
    return sorted(name.rpartition("/")[2] for name in folder.fs.find((folder / KEPT).path))


def test_a_workspace_is_the_folder_itself_or_a_scratch_one_that_goes(folder: UPath) -> None:
    with workspace(folder) as place:
        (place.local / "a").touch()
    assert place.local.exists() == storage.is_local(folder)


def test_an_interrupted_work_goes_on_where_it_stood(folder: UPath) -> None:
    with pytest.raises(Terminated):
        run(Counting(stop=Stop(at=2)), str(folder))
    result = run(Counting(), str(folder))
    assert result.local("counted").read_text() == "2 to 3"


def test_what_was_kept_goes_when_the_result_stands(
    remote: UPath, entries: UPath, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    with pytest.raises(Terminated):
        run(Counting(stop=Stop(at=1)), str(remote))
    assert len(entries.fs.find((entries / ledger.FOLDER / ledger.KEPT).path)) == 1
    assert kept(remote) == ["numbers.tar", "spent.json", "worker.json"]
    assert json.loads((remote / KEPT / "worker.json").read_text()).keys() == {"host", "at"}
    run(Counting(), str(remote))
    assert kept(remote) == []
    assert not (entries / ledger.FOLDER / ledger.KEPT / run.key(Counting())[:16]).exists()
    assert "another process began this: " in caplog.text


def test_what_somebody_else_put_there_is_not_taken_up(remote: UPath, caplog: pytest.LogCaptureFixture) -> None:
    """Whoever writes the models bucket would else choose the weights that a training ends with."""
    with pytest.raises(Terminated):
        run(Counting(stop=Stop(at=1)), str(remote))
    planted = remote / KEPT / "deep" / "numbers.tar"
    copy = storage.fetch(planted)
    with tarfile.open(copy, "a") as archive:
        archive.add(__file__, "2.txt")
    storage.put(copy, planted)
    assert run(Counting(), str(remote)).local("counted").read_text() == "0 to 3"
    assert f"{planted} is not known to be the project's own: it is not used" in caplog.text
    assert kept(remote) == []


def test_without_entries_nothing_is_taken_up(remote: UPath) -> None:
    with pytest.raises(Terminated):
        run(Counting(stop=Stop(at=1)), str(remote))
    with ledger.kept_in("memory://another"):
        assert run(Counting(), str(remote)).local("counted").read_text() == "0 to 3"


def test_a_local_work_directory_gets_no_copies(tmp_path: Path) -> None:
    with pytest.raises(Terminated):
        run(Counting(stop=Stop(at=2)), tmp_path)
    assert not (tmp_path / KEPT).exists()
    assert (tmp_path / "deep" / "numbers" / "1.txt").exists()


def test_keeping_often_costs_a_tenth_of_the_time_at_most(remote: UPath, monkeypatch: pytest.MonkeyPatch) -> None:
    """Given copies that take a second, then those asked for within ten are left to the end of the work."""
    now = 0.0
    copied: list[float] = []
    put = storage.put

    def slow(source: Path, target: UPath) -> None:
        nonlocal now
        if target.suffix == ".tar":
            copied.append(now)
            now += 1.0
        put(source, target)

    monkeypatch.setattr(storage, "put", slow)
    monkeypatch.setattr(workspaces.time, "monotonic", lambda: now)
    with suppress(Terminated), workspace(remote) as place:
        place.resume("key")
        (place.local / "state").mkdir()
        for _ in range(25):
            workspaces.keep(place.local / "state")
            now += 1.0
        raise Terminated
    assert copied == [0.0, 11.0, 22.0, 28.0]


@pytest.mark.parametrize("kind", ["local", "remote"])
def test_unfinished_work_is_found_by_the_same_key_alone(remote: UPath, tmp_path: Path, kind: str) -> None:
    """Given a work directory that was used for other data or code, or work to be done from the beginning."""
    workdir = remote if kind == "remote" else UPath(tmp_path / "work")

    def found(key: str, fresh: bool = False) -> bool:
        with suppress(Terminated), workspace(workdir) as place:
            place.resume(key, fresh)
            state = workspaces.unfinished(place.local / "checkpoints", "settings") / "state"
            present = state.exists()
            state.parent.mkdir(parents=True, exist_ok=True)
            state.touch()
            workspaces.keep(state.parent)
            raise Terminated
        return present

    assert [found("a"), found("a"), found("b"), found("a"), found("a", fresh=True)] == [False, True, False, True, False]


def test_a_store_that_fails_for_a_while_ends_no_work(
    remote: UPath, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    put = storage.put

    def failing(source: Path, target: UPath, digest: str | None = None) -> None:
        if target.suffix == ".tar":
            raise OSError("Forbidden: b/models/o a@b.iam.gserviceaccount.com no storage.objects.create access")
        put(source, target, digest)

    monkeypatch.setattr(storage, "put", failing)
    assert run(Counting(), str(remote)).local("counted").read_text() == "0 to 3"
    assert "not kept for another start" in caplog.text


def test_two_machines_in_one_work_directory_leave_one_valid_result(remote: UPath) -> None:
    with ThreadPoolExecutor(2) as pool:
        results = list(pool.map(lambda _: run(Counting(until=20), str(remote)), range(2)))
    standing = StageResult.load(str(remote))
    assert {result.key for result in results} == {standing.key}
    assert standing.damage() is None
    assert kept(remote) == []


def test_what_another_machine_removes_meanwhile_is_not_missed(remote: UPath, monkeypatch: pytest.MonkeyPatch) -> None:
    """Given a result that comes from elsewhere between the listing and the reading, then the work begins anew."""
    with pytest.raises(Terminated):
        run(Counting(stop=Stop(at=2)), str(remote))

    def gone(path: UPath, digest: str | None = None) -> Path:
        raise FileNotFoundError(path)

    with monkeypatch.context() as patch:
        patch.setattr(storage, "fetch", gone)
        run(Counting(), str(remote))
    assert (remote / "counted.txt").read_text() == "0 to 3"


@pytest.mark.parametrize("name", ["/etc/cron", "../outside", "a/../../outside", "link"])
def test_nothing_is_unpacked_beside_the_scratch_folder(remote: UPath, tmp_path: Path, name: str) -> None:
    member = tarfile.TarInfo(name)
    if name == "link":
        member.type, member.linkname = tarfile.SYMTYPE, "/etc"
    with tarfile.open(tmp_path / "kept.tar", "w") as archive:
        archive.addfile(member)
    storage.put(tmp_path / "kept.tar", remote / KEPT / "deep" / "numbers.tar")
    ledger.enter_kept(run.key(Counting()), storage.sha256(tmp_path / "kept.tar"))
    with pytest.raises(UserError, match=f"numbers.tar holds '{name}', which no stage has kept: remove it"):
        run(Counting(), str(remote))


def test_a_work_directory_without_its_bucket_is_told_before_any_work(cloud: dict[str, str]) -> None:
    with pytest.raises(
        UserError, match="there is no bucket gs://nosuch: run `gcloud storage buckets create gs://nosuch"
    ):
        run(Counting(until=10**9), "gs://nosuch/work")
