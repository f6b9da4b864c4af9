"""The side process of Weights & Biases: makes W&B runs of the spools in a folder.

Follows the spool of one stage while that runs, and takes up what earlier stages or attempts left behind. By hand
(without --run) it writes all that is left. Prints only what a person should know, a line each.
"""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, cast

from mlapp import storage
from mlapp.child_environment import take_secrets
from mlapp.trackers.wandb_run import WandbRun
from mlapp.trackers.wandb_session import Session
from mlapp.trackers.wandb_spool import SPOOL, last_event

POLL_S = 0.5
ENDS = ("ended", "failed")


def main(argv: list[str] | None = None) -> None:
    """Write one spool as it grows, and all others that are complete."""
    parser = argparse.ArgumentParser(
        prog="python -m mlapp.trackers.wandb_writer",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("folder", type=Path, help="folder of a run (or of one stage) that holds wandb/spool")
    parser.add_argument("--run", help="id of the stage's run to follow until it ends")
    parser.add_argument("--copy-to", metavar="URI", help="copy what was written in files to this remote folder")
    arguments = parser.parse_args(argv)
    folder = arguments.folder.absolute()
    session = Session(folder, say)
    if arguments.run:
        follow(folder / SPOOL / f"{arguments.run}.jsonl", session)
    else:
        write_left(folder, session)
    if arguments.copy_to:
        target = storage.at(arguments.copy_to)
        for run in (folder / "wandb").glob("offline-run-*"):
            target.fs.put(f"{run}/", f"{target.path}/{run.name}/", recursive=True)


def follow(spool: Path, session: Session) -> None:
    """Write a spool while its stage adds to it, and the others in its folder: first, unless the stage is over."""
    with claimed(spool) as mine:
        if not mine:
            return
        waited_for = last_event(spool) in ENDS
        if not waited_for:
            write_left(session.folder, session)
        growing = Growing(spool, session)
        growing.write()
        while not growing.complete:
            time.sleep(POLL_S)
            growing.write()
        session.close()
        mark_written(spool)
        if waited_for:
            write_left(session.folder, session)


def write_left(folder: Path, session: Session) -> None:
    """Write every complete spool that was not written yet and that no other process is at.

    One that W&B cannot take is told and left, so that it does not stand in the way of those after it.
    """
    with ExitStack() as claims:
        # Asked again once it is claimed: another process may have written it meanwhile.
        left = [
            spool
            for spool in sorted((folder / SPOOL).glob("*.jsonl"), key=lambda path: path.stat().st_mtime)
            if is_left(spool) and claims.enter_context(claimed(spool)) and is_left(spool)
        ]
        for spool in left:
            try:
                Growing(spool, session).write()
            except Exception as error:
                say(f"W&B could not take {spool} ({type(error).__name__}), see {folder / 'wandb' / 'writer.log'}")
                traceback.print_exc()
        session.close()
        for spool in left:
            mark_written(spool)


class Growing:
    """A spool, and the W&B run that is made of it so far."""

    def __init__(self, spool: Path, session: Session) -> None:
        self.spool = spool
        self.complete = False
        self._session = session
        self._run: WandbRun | None = None
        self._read = 0

    def write(self) -> None:
        """Write what has come since the last time."""
        with self.spool.open("rb") as stream:
            stream.seek(self._read)
            lines = [line for line in stream if line.endswith(b"\n")]
        self._read += sum(map(len, lines))
        events = [event for line in lines if (event := _event(line)) is not None]
        for place, event in enumerate(events):
            self._take(event, last=place == len(events) - 1)

    def _take(self, event: dict[str, Any], *, last: bool) -> None:
        kind = event.pop("event")
        if kind == "began":
            if self._run is None:
                self._run = WandbRun(self._session, event)
        elif self._run is None:
            raise ValueError(f"{self.spool} does not begin with a beginning")
        elif kind in ENDS:
            # An attempt that failed and was followed by another is no end.
            self.complete = last
            if last:
                getattr(self._run, kind)(**event)
        else:
            getattr(self._run, kind)(**event)


def _event(line: bytes) -> dict[str, Any] | None:
    """What a line tells; None for one that was cut off when its stage was killed."""
    try:
        return cast(dict[str, Any], json.loads(line))
    except ValueError:
        return None


@contextmanager
def claimed(spool: Path) -> Iterator[bool]:
    """Whether the spool is this process's to write: one at a time."""
    with spool.open("rb") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True


def mark_written(spool: Path) -> None:
    """Note how much of a spool W&B has."""
    spool.with_suffix(".written").write_text(str(spool.stat().st_size), encoding="ascii")


def is_left(spool: Path) -> bool:
    """Whether a spool is complete, and W&B does not have all of it yet."""
    mark = spool.with_suffix(".written")
    written = mark.exists() and mark.read_text(encoding="ascii") == str(spool.stat().st_size)
    return not written and last_event(spool) in ENDS


def say(line: str) -> None:
    """Tell the stage, or the person at the terminal."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    # What wandb and `storage.fetch` keep in temporary folders is removed here, as their exit hooks do not run: wandb's
    # would wait for a server that does not answer, and the session is closed by now.
    with tempfile.TemporaryDirectory(prefix="mlapp-wandb-", ignore_cleanup_errors=True) as scratch:
        tempfile.tempdir = os.environ["TMPDIR"] = scratch
        take_secrets()
        main()
    sys.stdout.flush()
    os._exit(0)
