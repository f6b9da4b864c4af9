"""The real apt against a repository in a folder: no network, no root, nothing of the machine's own is touched."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from pathlib import Path

import pytest

from mlapp.errors import UserError
from mlapp.etl import debian_package

needs_apt = pytest.mark.skipif(not shutil.which("apt-get"), reason="apt is Debian's own")


@pytest.fixture
def repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package `tiny-dataset` in a repository, and an apt that knows only this one and has no lists yet."""
    build, repository, state = (tmp_path / name for name in ("build", "repository", "state"))
    (build / "DEBIAN").mkdir(parents=True)
    (build / "usr/share/tiny").mkdir(parents=True)
    (build / "usr/share/tiny/data").write_text("the data")
    control = "Package: tiny-dataset\nVersion: 1.0\nArchitecture: all\nMaintainer: A <a@example.org>\nDescription: x\n"
    (build / "DEBIAN/control").write_text(control)
    repository.mkdir()
    archive = repository / "tiny-dataset_1.0_all.deb"
    subprocess.run(["dpkg-deb", "--root-owner-group", "-b", build, archive], check=True, capture_output=True)
    content = archive.read_bytes()
    (repository / "Packages").write_text(
        f"{control}Filename: ./{archive.name}\nSize: {len(content)}\nSHA256: {hashlib.sha256(content).hexdigest()}\n\n"
    )
    (tmp_path / "sources.list").write_text(f"deb [trusted=yes] file:{repository} ./\n")
    (state / "lists/partial").mkdir(parents=True)
    (tmp_path / "apt.conf").write_text(
        f'Dir::Etc::sourcelist "{tmp_path}/sources.list";\nDir::Etc::sourceparts "-";\nDir::State "{state}";\n'
    )
    monkeypatch.setenv("APT_CONFIG", str(tmp_path / "apt.conf"))
    return repository


@needs_apt
def test_with_empty_lists_the_package_is_found_through_lists_of_its_own(repository: Path, tmp_path: Path) -> None:
    root = debian_package.fetch("tiny-dataset", tmp_path / "scratch")

    assert (root / "usr/share/tiny/data").read_text() == "the data"
    assert list((tmp_path / "state/lists").glob("*Packages*")) == []


@needs_apt
def test_with_lists_at_hand_no_update_is_needed(repository: Path, tmp_path: Path) -> None:
    subprocess.run(["apt-get", "update"], check=True, capture_output=True)

    root = debian_package.fetch("tiny-dataset", tmp_path / "scratch")

    assert (root / "usr/share/tiny/data").read_text() == "the data"
    assert not (tmp_path / "scratch/apt").exists()


@needs_apt
def test_a_package_that_is_nowhere_is_told_with_apts_own_words(repository: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"apt-get fails \(Unable to locate package no-such\): run `apt-get update`"):
        debian_package.fetch("no-such", tmp_path / "scratch")


@needs_apt
def test_an_altered_package_is_refused(repository: Path, tmp_path: Path) -> None:
    archive = repository / "tiny-dataset_1.0_all.deb"
    archive.write_bytes(archive.read_bytes()[:-1] + b"x")

    with pytest.raises(UserError, match=r"apt-get fails \(.*(Hash Sum mismatch|Failed to fetch)"):
        debian_package.fetch("tiny-dataset", tmp_path / "scratch")


def test_a_machine_without_apt_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))

    with pytest.raises(UserError, match="this machine has no apt-get: use another source"):
        debian_package.fetch("tiny-dataset", tmp_path / "scratch")
