"""The folder of a local Ray's sockets, token and logs: short, private, and gone with its search."""

from __future__ import annotations

import hashlib
import os
import re
import secrets
import shutil
import stat
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mlapp.errors import UserError

RAYS_OWN = "r"  # within our folder: Ray opens its own to everybody
# A socket's path has at most 107 characters, of which Ray's part and our folder's name take 92.
LONGEST_BASE = 15
SAFE = re.compile(r"[\w./+-]+", re.ASCII)  # Ray starts its workers through a shell, which takes other letters apart
LAST_LINES = 3
LONGEST = 300


@contextmanager
def session(workdir: Path) -> Iterator[Path]:
    """A new folder that only this user can enter; nothing of it stays, not even of a killed search in ``workdir``."""
    base = _base()
    prefix = f"mlapp-ray-{hashlib.sha256(str(workdir.absolute()).encode()).hexdigest()[:6]}-"

    def clear() -> None:
        for left in filter(is_private, base.glob(f"{prefix}*")):
            shutil.rmtree(left, ignore_errors=True)  # a dying process may still write there

    clear()
    try:
        yield Path(tempfile.mkdtemp(prefix=prefix, dir=base))
    finally:
        clear()  # also of what a dying process of the killed run's Ray has written since


def is_private(path: Path) -> bool:
    """Whether this is a folder of our own that nobody else may enter, and no link: anybody may write beside it."""
    try:
        found = path.lstat()
    except FileNotFoundError:
        return False
    return stat.S_ISDIR(found.st_mode) and found.st_uid == os.getuid() and not found.st_mode & 0o077


def write_token(folder: Path) -> Path:
    """A file with a new random token, which anyone who speaks to this Ray must know."""
    path = folder / "token"
    with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="ascii") as file:
        file.write(secrets.token_hex(32))
    return path


def safe_python(folder: Path) -> str:
    """This Python by a path that a shell takes as it is: where its own holds a space or the like, through a link."""
    executable = Path(sys.executable)
    if SAFE.fullmatch(str(executable)):
        return str(executable)
    home = folder / "python"  # the whole environment, in which Python looks for its settings
    home.symlink_to(executable.parents[1])
    return str(home / executable.relative_to(executable.parents[1]))


def require_readable(path: Path) -> None:
    """A `UserError` where Ray's files lie in a path that Ray takes apart when it starts processes from there."""
    if odd := sorted({each for each in str(path) if each in "'\"\\" or not each.isprintable()}):
        raise UserError(
            f"Ray cannot be started from {path}, whose name holds {' '.join(map(ascii, odd))}: move the project with "
            "its environment to a folder without quotes, backslashes and line breaks in its path"
        )


def last_words(folder: Path) -> str:
    """What Ray's own logs say at their end, of the process that wrote an error last; in one line."""
    told = [path for path in folder.glob(f"{RAYS_OWN}/session_2*/logs/*.*") if path.is_file() and path.stat().st_size]
    errors = [path for path in told if path.suffix == ".err"]
    for path in sorted(errors or told, key=lambda path: path.stat().st_mtime, reverse=True):
        lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
        if last := [" ".join(line.split()) for line in lines if line.strip()][-LAST_LINES:]:
            return f"{path.name}: {' | '.join(last)[-LONGEST:]}"
    return "its logs are empty"


def _base() -> Path:
    """Where temporary files go on this machine, or /tmp where that is too long for Ray's sockets or not safe."""
    for base in (tempfile.gettempdir(), "/tmp"):  # noqa: S108
        if len(base) <= LONGEST_BASE and SAFE.fullmatch(base) and os.access(base, os.W_OK | os.X_OK):
            return Path(base)
    raise UserError("Ray needs a folder of a short name for its sockets, and cannot write to /tmp: make /tmp writable")
