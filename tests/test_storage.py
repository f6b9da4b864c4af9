"""Files by URI: the same on a disk and in a bucket, whole or not there."""

from __future__ import annotations

import errno
import hashlib
import os
import tempfile
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from upath import UPath

from mlapp import storage
from mlapp.errors import UserError


@pytest.fixture(params=["disk", "memory"])
def folder(request, tmp_path) -> UPath:
    """A folder on this machine, and one that stands for a bucket."""
    return UPath(tmp_path) if request.param == "disk" else UPath(f"memory://{uuid.uuid4().hex}")


def test_a_local_path_means_the_same_in_every_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert str(storage.at("a/../b")) == str(tmp_path / "b")
    assert str(storage.at(f"file://{tmp_path}/b")) == str(tmp_path / "b")
    assert str(storage.at("memory://x/b")) == "memory://x/b"


def test_what_is_written_is_there_whole(folder):
    storage.write_text(folder / "new" / "a.txt", "ünï")
    assert (folder / "new" / "a.txt").read_bytes() == "ünï".encode()
    assert storage.sha256(folder / "new" / "a.txt") == hashlib.sha256("ünï".encode()).hexdigest()


def test_a_broken_off_write_leaves_what_was_there_and_no_draft(folder):
    storage.write_text(folder / "a.txt", "old")

    def write_half() -> None:
        with storage.atomic_file(folder / "a.txt") as draft:
            draft.write_text("ne")
            raise ValueError("cut")

    with pytest.raises(ValueError, match="cut"):
        write_half()
    assert (folder / "a.txt").read_text() == "old"
    assert [path.name for path in folder.iterdir()] == ["a.txt"]


def test_a_reader_never_sees_half_a_file(tmp_path):
    with storage.atomic_file(tmp_path / "a.txt") as draft:
        draft.write_text("half")
        assert not (tmp_path / "a.txt").exists()
    assert (tmp_path / "a.txt").read_text() == "half"


def test_a_written_file_can_be_read_by_others(tmp_path):
    storage.write_text(tmp_path / "a.txt", "x")
    assert (tmp_path / "a.txt").stat().st_mode & 0o777 == 0o644


def test_a_large_file_is_hashed_in_pieces(tmp_path):
    content = bytes(range(250)) * 10_000
    (tmp_path / "a").write_bytes(content)
    assert storage.sha256(tmp_path / "a") == hashlib.sha256(content).hexdigest()


def test_blocks_are_hashed_as_they_are_written(tmp_path):
    blocks = [bytes([number]) * 3000 * number for number in range(100)]
    assert storage.write_blocks(tmp_path / "a", iter(blocks)) == (tmp_path / "a", storage.sha256(tmp_path / "a"))
    assert (tmp_path / "a").read_bytes() == b"".join(blocks)


@pytest.mark.parametrize("fault", ["in making the last block", "in writing the last block", "in writing the first"])
def test_blocks_that_break_off_leave_what_was_there(tmp_path, fault):
    storage.write_text(tmp_path / "a", "old")

    def blocks():
        yield "no bytes" if fault == "in writing the first" else b"new"
        yield b"new"
        if fault == "in making the last block":
            raise TypeError("cut")
        yield "no bytes"

    with pytest.raises(TypeError):
        storage.write_blocks(tmp_path / "a", blocks())
    assert (tmp_path / "a").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_fetch_gives_a_local_path(folder):
    storage.write_text(folder / "a.txt", "x")
    local = storage.fetch(folder / "a.txt")
    assert isinstance(local, Path)
    assert (local.name, local.read_text()) == ("a.txt", "x")


@pytest.mark.parametrize(
    ("number", "told"),
    [
        (errno.ENOSPC, "no space left for /x: free some disk space"),
        (errno.EDQUOT, "no space left for /x"),
        (errno.EACCES, "no permission for /x"),
        (errno.EROFS, "no permission for /x"),
        (errno.ENOTDIR, "/x is in the way"),
        (errno.ENAMETOOLONG, "/x is longer than a name may be"),
    ],
)
def test_a_full_or_closed_disk_is_told_in_one_line(number, told):
    explained = storage.explain(OSError(number, "why", "/x"))
    assert isinstance(explained, UserError)
    assert str(explained).startswith(told)


def test_an_error_that_no_user_can_mend_stays_what_it_is():
    assert storage.explain(OSError(errno.EIO, "why")) is None


def test_threads_that_fetch_at_once_share_one_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else the folder of the one vanishes, with what it holds, once the other's is taken."""
    made = tempfile.TemporaryDirectory

    def slowly(**given: str) -> tempfile.TemporaryDirectory[str]:
        time.sleep(0.05)
        return made(**given)

    monkeypatch.setattr(tempfile, "TemporaryDirectory", slowly)
    storage._folder.cache_clear()
    with ThreadPoolExecutor(8) as pool:
        assert len({folder.name for folder in pool.map(lambda _: storage._fetched(), range(8))}) == 1


@pytest.mark.timeout(20)
@pytest.mark.parametrize(
    "make", [os.mkfifo, os.mkdir, lambda path: path.symlink_to("/dev/zero"), lambda path: path.symlink_to(path)]
)
def test_what_is_no_regular_file_is_missing_and_never_waited_on(tmp_path, make):
    make(tmp_path / "file")
    assert storage.damage(storage.at(tmp_path / "file"), 3, "0" * 64) == "missing"
