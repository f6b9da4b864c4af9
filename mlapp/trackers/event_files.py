"""TensorBoard: each epoch's figures as scalars in event files, for any trainer, without importing TensorFlow."""

from __future__ import annotations

import os
import socket
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from upath import UPath

from mlapp import storage
from mlapp.tracking import Tracker

COPY_EVERY_S = 60.0


class TensorBoard(Tracker):
    """Writes into ``folder``; a stage that trains several models one after another gets a subfolder for each more.

    A stage that is taken up again goes on in a second file of the same folder, which TensorBoard reads as one curve.
    What belongs into a remote folder is written into a local one, and copied each minute and when the stage is over.
    """

    def __init__(self, folder: UPath) -> None:
        self._scratch = None if storage.is_local(folder) else tempfile.TemporaryDirectory(prefix="mlapp-board-")
        self.target = folder
        self.folder = Path(self._scratch.name if self._scratch else folder.path)
        self._series, self._last, self._copied = 1, 0, time.monotonic()
        self._records: Any = None

    def epoch(self, number: int, figures: Mapping[str, float]) -> None:
        """One scalar a figure, on disk at once."""
        if number <= self._last:
            self._series += 1
            self._close()
        self._last = number
        if self._records is None:
            self._open()
        self._write(step=number, summary=_scalars(figures))
        if time.monotonic() - self._copied > COPY_EVERY_S:
            self._copy()

    def ended(self, result: object) -> None:
        """Close the file."""
        self._finish()

    def failed(self, reason: str) -> None:
        """Close the file."""
        self._finish()

    def _finish(self) -> None:
        self._close()
        self._copy()

    def _copy(self) -> None:
        self._copied = time.monotonic()
        for path in self.folder.rglob("events.*") if self._scratch else ():
            storage.put(path, self.target / str(path.relative_to(self.folder)))

    def _open(self) -> None:
        from tensorboard.summary.writer.record_writer import RecordWriter

        folder = self.folder if self._series == 1 else self.folder / str(self._series)
        folder.mkdir(parents=True, exist_ok=True)
        name = f"events.out.tfevents.{time.time_ns() // 10**9:010d}.{socket.gethostname()}.{os.getpid()}.{self._series}"
        self._records = RecordWriter((folder / name).open("ab"))
        self._write(file_version="brain.Event:2")

    def _write(self, **content: Any) -> None:
        from tensorboard.compat.proto.event_pb2 import Event

        self._records.write(Event(wall_time=time.time(), **content).SerializeToString())
        self._records.flush()

    def _close(self) -> None:
        if self._records is not None:
            self._records.close()
        self._records = None


def _scalars(figures: Mapping[str, float]) -> Any:
    from tensorboard.compat.proto.summary_pb2 import Summary
    from tensorboard.plugins.scalar.summary_v2 import scalar_pb

    summary = Summary()
    for name, value in figures.items():
        summary.MergeFrom(scalar_pb(name, value))
    return summary
