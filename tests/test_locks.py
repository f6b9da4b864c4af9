"""What is installed is what was locked: every package by version and hash, in every place that installs anything."""

from __future__ import annotations

import re
import subprocess
import tomllib

import locks
import pytest
from locks import ROOT
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

LOCKS = sorted(path.name for path in ROOT.glob("requirements*.txt"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
EXTRAS = PROJECT["project"]["optional-dependencies"]
DECLARED = {
    "requirements-pip.txt": PROJECT["dependency-groups"]["pip"],
    "requirements.txt": [*PROJECT["project"]["dependencies"], *EXTRAS["airflow"]],
    "requirements-dev.txt": [*PROJECT["project"]["dependencies"], *EXTRAS["airflow"], *EXTRAS["dev"]],
    "requirements-training.txt": PROJECT["project"]["dependencies"],
    "requirements-training-cuda.txt": [*PROJECT["project"]["dependencies"], *EXTRAS["cuda"]],
}
NOT_LOCKS = {"deploy/composer-requirements.txt", "deploy/composer-constraints.txt"}  # Composer's own package list


def tracked() -> list[str]:
    return subprocess.check_output(["git", "ls-files"], cwd=ROOT, text=True).splitlines()


def test_every_lock_is_known() -> None:
    """So that a lock that is added is declared in pyproject.toml, made by `make lock`, and tested here."""
    assert set(LOCKS) == set(DECLARED)
    made = re.findall(r"-o (requirements\S*)", (ROOT / "Makefile").read_text(encoding="utf-8"))
    assert sorted(made) == LOCKS
    others = {name for name in tracked() if "requirements" in name.rpartition("/")[2] and name.endswith(".txt")}
    assert others - set(LOCKS) <= NOT_LOCKS


@pytest.mark.parametrize("name", LOCKS)
def test_every_package_is_pinned_with_hashes_and_no_place_to_fetch_from(name: str) -> None:
    assert all(pin.hashes for pin in locks.read(name).values())
    text = (ROOT / name).read_text(encoding="utf-8")
    assert "://" not in text
    assert not re.search(r"^\s*-(?!-hash)", text, re.MULTILINE)  # no --index-url, --trusted-host, -e, -r


@pytest.mark.parametrize("name", LOCKS)
def test_a_lock_has_what_pyproject_declares(name: str) -> None:
    pinned = locks.read(name)
    for declared in map(Requirement, DECLARED[name]):
        version = pinned[canonicalize_name(declared.name)].version
        assert declared.specifier.contains(version, prereleases=True), f"{declared} and {version}"


def test_locks_agree_with_each_other() -> None:
    """The same version everywhere, and of one version the same files."""
    seen: dict[str, locks.Pin] = {}
    for name in LOCKS:
        for package, pin in locks.read(name).items():
            assert seen.setdefault(package, pin) == pin, f"{name}: {package}"


def installs(text: str) -> list[str]:
    """Each command of pip that installs from a file: continued lines joined, one shell command at a time."""
    joined = re.sub(r"\\\n\s*", " ", text)
    commands = [command for line in joined.splitlines() for command in re.split(r";|&&|\|\|", line)]
    return [command for command in commands if re.search(r"\bpip\b.*\binstall\b.* (-r|--requirement)\b", command)]


def test_what_is_installed_is_checked_against_its_hashes_and_nothing_is_built() -> None:
    """Building a package would fetch what its build needs, of which no lock has a hash."""
    found = {
        name: installs((ROOT / name).read_text(encoding="utf-8"))
        for name in tracked()
        if name.startswith((".ci/", "deploy/", "Dockerfile", "Makefile", "README", "docs/", "mlapp/"))
        and not name.endswith((".png", ".tflite", ".keras"))
    }
    for name, commands in found.items():
        for command in commands:
            for flag in ("--require-hashes", "--no-deps", "--only-binary=:all:"):
                assert flag in command, f"{name}: {command}"
    assert (len(found["Dockerfile.training"]), len(found["Makefile"])) == (3, 1)


def test_pip_itself_comes_first_and_is_newer_than_the_one_that_python_brings() -> None:
    assert int(locks.read("requirements-pip.txt")["pip"].version.partition(".")[0]) >= 26
    for name in ("Makefile", "Dockerfile.training"):
        text = (ROOT / name).read_text(encoding="utf-8")
        assert text.index("requirements-pip.txt") < min(
            text.index(lock) for lock in ("requirements-dev.txt", "-r requirements-training.txt") if lock in text
        )


def test_the_store_s_client_survives_a_503() -> None:
    """gcsfs up to 2025.10 raises a TypeError for one 503 of a download."""
    versions = {locks.read(name)["gcsfs"].version for name in LOCKS if name != "requirements-pip.txt"}
    assert min(tuple(map(int, version.split(".")[:2])) for version in versions) > (2025, 10)


def test_composer_s_workers_have_the_store_s_client_of_the_locks() -> None:
    constraints = (ROOT / "deploy" / "composer-constraints.txt").read_text(encoding="utf-8")
    theirs = dict(re.findall(r"^([a-z0-9._-]+)==(\S+)$", constraints, re.MULTILINE))
    ours = locks.read("requirements.txt")
    assert {name: theirs[name] for name in ("gcsfs", "fsspec")} == {
        name: ours[name].version for name in ("gcsfs", "fsspec")
    }
