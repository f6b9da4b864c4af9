"""History and pointer of one moment, and whether they agree."""

from __future__ import annotations

import hashlib
import shlex
from dataclasses import dataclass
from typing import Any

from upath import UPath

from mlapp import gcs, storage
from mlapp.errors import UserError
from mlapp.registry import files, trust

POINTER, HISTORY = "CHAMPION", "HISTORY.jsonl"
POINTED = "pointer_version"


@dataclass(frozen=True)
class State:
    """History and pointer of one moment, with the versions of their files."""

    text: str
    noted: int
    moves: list[dict[str, Any]]
    present: str | None
    version: int

    @property
    def decided(self) -> str | None:
        """The champion by the history's last line."""
        return self.moves[-1]["champion"] if self.moves else None

    @property
    def agreed(self) -> bool:
        """Whether the pointer is where the history ends."""
        return self.present == self.decided

    @property
    def pending(self) -> bool:
        """Whether the last move was cut off between its line in the history and the pointer."""
        return bool(self.moves) and self.moves[-1].get(POINTED) == self.version and not self.agreed

    @property
    def champion(self) -> str | None:
        """The champion, also where only the pointer has yet to follow."""
        return self.decided if self.pending else self.present

    def check(self, folder: UPath) -> None:
        """A `UserError` if the pointer is neither where the history ends nor about to be moved there."""
        if not self.agreed and not self.pending:
            raise UserError(self.disagreement(folder))

    def disagreement(self, folder: UPath) -> str:
        """What to say of a pointer that is not where the history ends."""
        path, last = folder / POINTER, self.decided
        place = shlex.quote(str(path))
        write = f"echo {last} | gcloud storage cp - {place}" if storage.in_gcs(path) else f"echo {last} > {place}"
        back = f"run `{write}`" if last else f"restore {folder / HISTORY} from a copy"
        return (
            f"the pointer names {self.present}, the history ends with {last}, so somebody changed one by hand: {back}, "
            f"or, if the pointer is right, `{trust.adopt_command(folder)}`"
        )


def read_version(path: UPath) -> tuple[str | None, int]:
    """The text of a file and its version, for a replacement of just that version; None and 0 where there is no file.

    In Cloud Storage the version is the generation; on a disk it is made of the content, the inode and the time of the
    last change, of which one differs even if somebody brings an old file back.
    """
    if storage.in_gcs(path):
        return gcs.read(path)
    try:
        content, found = files.read(path)
    except FileNotFoundError:
        return None, 0
    text = content.decode()
    if found is None:
        return text, 0
    return text, int(hashlib.sha256(f"{found.st_ino} {found.st_mtime_ns} {text}".encode()).hexdigest()[:12], 16)
