"""Cloud Storage in bad weather: nothing lost, nothing half there, nothing twice."""

from __future__ import annotations

import os
import subprocess
import sys
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest
from loopback import chaos
from upath import UPath

from mlapp import gcs, gcs_files, ledger, storage
from mlapp.errors import TryAgainError
from mlapp.registry.pointer import Pointer
from tests.tiny_stage import Tiny, run

pytest_plugins = "loopback.fixtures"
SEEDS = range(3)
STORM = dict.fromkeys(chaos.HTTP_RATES, 0.06)


@pytest.fixture
def stormy(cloud: dict[str, str], monkeypatch: pytest.MonkeyPatch, bad_weather: Callable[..., chaos.Proxy]) -> Callable:
    """A function that puts bad weather between this process and the store; gives the proxy."""

    monkeypatch.setattr(gcs_files, "PAUSES_S", (0.01, 0.02, 0.04, *(0.05,) * 6))
    monkeypatch.setattr(gcs, "FIRST_PAUSE_S", 0.02)

    def begin(seed: int, rates: dict[str, float] | None = None, **more: int) -> chaos.Proxy:
        monkeypatch.setenv(gcs.EMULATOR, cloud[gcs.EMULATOR])
        proxy = bad_weather(cloud[gcs.EMULATOR], seed, STORM if rates is None else rates, **more)
        monkeypatch.setenv(gcs.EMULATOR, proxy.url)
        gcs_files.Files.clear_instance_cache()
        return proxy

    return begin


def place() -> UPath:
    return storage.at(f"gs://raw/{uuid.uuid4().hex}")


@pytest.mark.parametrize("size", [5_000, 7_000_000])
def test_what_is_hashed_piece_by_piece_is_whole(stormy: Callable[..., chaos.Proxy], tmp_path: Path, size: int) -> None:
    """Given answers that are shortened in a way that only their content shows, also those gcsfs asks for ahead."""
    path, content = place() / "a", os.urandom(size)
    (tmp_path / "a").write_bytes(content)
    storage.put(tmp_path / "a", path)
    proxy = stormy(0, {"shortened": 0.4})
    for _ in range(10):
        assert storage.sha256(path) == storage.sha256(tmp_path / "a")
    assert proxy.weather.done["shortened"] > 3


@pytest.mark.parametrize("seed", SEEDS)
def test_what_is_written_and_read_is_whole(stormy: Callable[..., chaos.Proxy], tmp_path: Path, seed: int) -> None:
    proxy = stormy(seed)
    folder = place()
    contents = {f"{size}-{number}": os.urandom(size) for size in (0, 1, 200_000) for number in range(2)}
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
        storage.put(tmp_path / name, folder / name)
        assert (folder / name).exists()
        assert (folder / name).is_file()
    assert sorted(path.name for path in folder.iterdir()) == sorted(contents)
    for name, content in contents.items():
        assert folder.fs.cat_file((folder / name).path) == content
        assert storage.fetch(folder / name).read_bytes() == content
        assert (folder / name).read_bytes() == content
        size, digest = storage.described(folder / name)
        assert (size, digest) == (len(content), storage.sha256(tmp_path / name))
    fetched = storage.fetch_named(folder, list(contents))
    assert {path.name: path.read_bytes() for path in fetched.iterdir()} == contents
    for name in contents:
        storage.copy(folder / name, folder / "copied" / name)
        storage.remove(folder / name)
        storage.remove(folder / name)
    assert sorted(path.name for path in (folder / "copied").iterdir()) == sorted(contents)
    assert [path.name for path in folder.iterdir()] == ["copied"]
    assert sum(proxy.weather.done.values()) > 20
    assert len(proxy.weather.done) > 5


@pytest.mark.parametrize("fault", sorted(chaos.HTTP_RATES))
def test_each_fault_alone_is_got_over(stormy: Callable[..., chaos.Proxy], tmp_path: Path, fault: str) -> None:
    """Given the fault at every first and second request for anything."""
    folder = place()
    proxy = stormy(1, {fault: 1.0}, in_a_row=2)
    storage.write_text(folder / "a.txt", "text")
    assert storage.read_text(folder / "a.txt") == "text"
    assert storage.fetch(folder / "a.txt").read_text() == "text"
    assert [path.name for path in folder.iterdir()] == ["a.txt"]
    assert gcs.read(folder / "a.txt")[0] == "text"
    generation = gcs.upload(folder / "b" / "b.txt", b"more")
    assert gcs.read(folder / "b" / "b.txt") == ("more", generation)
    storage.remove(folder / "a.txt")
    assert not (folder / "a.txt").exists()
    assert proxy.weather.done[fault] > 3


def test_a_large_file_goes_up_in_pieces(
    stormy: Callable[..., chaos.Proxy], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gcs_files, "ONE_REQUEST", 1 << 18)
    content = os.urandom((1 << 20) + 17)
    (tmp_path / "large").write_bytes(content)
    for seed in SEEDS:
        stormy(seed, dict.fromkeys(chaos.HTTP_RATES, 0.03), in_a_row=1)
        target = place() / "large"
        storage.put(tmp_path / "large", target)
        assert storage.fetch(target).read_bytes() == content
        assert storage.described(target)[1] == storage.sha256(tmp_path / "large")


@pytest.mark.parametrize("seed", SEEDS)
def test_a_stage_in_a_bucket_leaves_what_it_always_leaves(stormy: Callable[..., chaos.Proxy], seed: int) -> None:
    stormy(seed)
    folder = place()
    with ledger.kept_in(f"{folder}-experiments"):
        result = run(Tiny(text="far"), str(folder))
        assert run(Tiny(text="far"), str(folder)) == result
    assert run(Tiny(text="!", earlier=result.uri), f"{folder}2").local("text").read_text() == "far!"


@pytest.mark.parametrize("seed", SEEDS)
def test_each_move_of_the_pointer_is_made_once(stormy: Callable[..., chaos.Proxy], seed: int) -> None:
    """Given answers that are lost after the write, a swap is neither reported as failed nor made twice."""
    stormy(seed)
    registry = str(place())
    pointer, before = Pointer(registry, "m"), None
    for number in range(5):
        bundle = f"{number:012x}"
        pointer.swap(before, bundle, {"why": str(number)})
        assert pointer.read() == bundle
        before = bundle
    assert [move["champion"] for move in pointer.history()] == [f"{number:012x}" for number in range(5)]


@pytest.mark.parametrize(
    ("fault", "kind"), [("503", TryAgainError), ("reset_after", TryAgainError), ("truncated", TryAgainError)]
)
def test_what_does_not_pass_is_one_line_and_nothing_is_left(
    stormy: Callable[..., chaos.Proxy], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: str, kind: type
) -> None:
    path = place() / "a.txt"
    storage.write_text(path, "text")
    monkeypatch.setattr(gcs_files, "PAUSES_S", (0.001, 0.001))
    stormy(1, {fault: 1.0}, in_a_row=10**6)
    path = storage.at(str(path))
    for do in (lambda: storage.read_text(path), lambda: path.fs.get_file(path.path, str(tmp_path / "got"))):
        with pytest.raises(kind, match="Cloud Storage does not answer"), storage.explained():
            do()
    assert not (tmp_path / "got").exists()


@pytest.mark.parametrize(
    "command",
    [
        ("mlapp.experiments", "list", "--experiments", "gs://raw/nothing-there"),
        ("mlapp.registry", "show", "--registry", "gs://raw/nothing-there", "--name", "m"),
        ("mlapp.etl.quality", "--raw", "gs://raw/nothing-there/result.json"),
    ],
    ids=lambda command: command[0],
)
def test_a_command_that_gets_no_answer_says_so_and_ends_with_75(
    cloud: dict[str, str], bad_weather: Callable[..., chaos.Proxy], tmp_path: Path, command: tuple[str, ...]
) -> None:
    proxy = bad_weather(cloud[gcs.EMULATOR], 1, {"503": 1.0}, in_a_row=10**6)
    script = (
        "import runpy, sys; from mlapp import gcs, gcs_files; gcs_files.PAUSES_S = (0.01, 0.01); gcs.PATIENCE_S = 0.1; "
        "sys.argv = sys.argv[1:]; runpy.run_module(sys.argv[0], run_name='__main__', alter_sys=True)"
    )
    environ = {**os.environ, **cloud, gcs.EMULATOR: proxy.url, "PYTHONPATH": str(Path(__file__).parents[1])}
    run_it = [sys.executable, "-c", script, *command]
    done = subprocess.run(run_it, cwd=tmp_path, env=environ, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 75, done.stderr
    assert "Cloud Storage does not answer" in done.stderr
    assert done.stderr.count("\n") == 1
