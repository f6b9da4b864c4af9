"""Fetch the content of a Debian package without installing it and without root."""

from __future__ import annotations

import logging
import shutil
import subprocess
from pathlib import Path

from mlapp.child_environment import APT, child_environment
from mlapp.errors import UserError

log = logging.getLogger("mlapp")
QUICK = ("-o", "Acquire::http::Timeout=5", "-o", "Acquire::https::Timeout=5", "-o", "Acquire::Retries=1")
DEADLINE_S = 900


def fetch(package: str, scratch: Path) -> Path:
    """Download and unpack a package under ``scratch``; the folder stands for the root of a file system.

    Uses the machine's package lists, and lists of its own under ``scratch`` where those are empty or out of date.
    """
    for tool in ("apt-get", "dpkg-deb"):
        if not shutil.which(tool):
            raise UserError(f"this machine has no {tool}: use another source")
    folder = scratch / package
    folder.mkdir(parents=True, exist_ok=True)
    try:
        _run("apt-get", *QUICK, "download", package, cwd=folder)
    except UserError as error:
        log.info("%s: trying again with package lists of its own", error)
        lists = _own_lists(scratch / "apt")
        _run("apt-get", *QUICK, *lists, "update", cwd=folder)
        _run("apt-get", *QUICK, *lists, "download", package, cwd=folder)
    archive = max(folder.glob(f"{package}_*.deb"), key=lambda path: path.stat().st_mtime)
    root = folder / "root"
    _run("dpkg-deb", "-x", str(archive), str(root), cwd=folder)
    return root


def _own_lists(state: Path) -> tuple[str, ...]:
    """Options that make apt keep lists and cache in a folder of the user's own, with nothing to run afterwards."""
    for part in ("state/lists/partial", "cache/archives/partial"):
        (state / part).mkdir(parents=True, exist_ok=True)
    settings = {
        "Dir::State": state.absolute() / "state",
        "Dir::Cache": state.absolute() / "cache",
        "Acquire::Languages": "none",
    }
    return tuple(word for name, value in settings.items() for word in ("-o", f"{name}={value}"))


def _run(*command: str, cwd: Path) -> None:
    try:
        environ = child_environment(APT)
        done = subprocess.run(
            command, cwd=cwd, env=environ, capture_output=True, text=True, timeout=DEADLINE_S, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise UserError(f"{command[0]} did not end within {DEADLINE_S} s: use another source") from error
    if done.returncode:
        told = [line for line in done.stderr.splitlines() if line.startswith(("E:", "dpkg-deb:"))] or [done.stderr]
        raise UserError(
            f"{command[0]} fails ({told[0].removeprefix('E:').strip()}): run `apt-get update` as root, then try again"
        )
