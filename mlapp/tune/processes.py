"""The processes of a local Ray: which they are, that they come up in time, and that none is left."""

from __future__ import annotations

import contextlib
import logging
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

log = logging.getLogger("mlapp")
GONE_S = 5.0


def children() -> set[int]:
    """The processes that this one has now, and theirs."""
    import psutil

    return {process.pid for process in psutil.Process().children(recursive=True)}


def born_since(before: set[int]) -> list[Any]:
    """Ray's processes: those that came since, and theirs; found while they still have their parents.

    A tracker's side process may come at any time too, and lives on.
    """
    import psutil

    born = [process for process in psutil.Process().children() if process.pid not in before and not _tracks(process)]
    return [*born, *(child for process in born for child in _children(process))]


def kill(born: list[Any]) -> None:
    """End what Ray's own shutdown left to end by itself: agents notice only after some seconds."""
    import psutil

    for process in born:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(born, timeout=GONE_S)


@contextmanager
def overdue(before: set[int], seconds: float, why: Callable[[], str]) -> Iterator[threading.Event]:
    """Kill Ray's processes if the block takes longer than this, so that Ray's start fails instead of hanging.

    Yields an event that is set if that happened. ``why`` is logged before, as Ray's own code may end this process then.
    """
    happened = threading.Event()

    def give_up() -> None:
        happened.set()
        log.warning("Ray has not come up within %g s (%s): giving up", seconds, why())
        kill(born_since(before))

    timer = threading.Timer(seconds, give_up)
    timer.daemon = True
    timer.start()
    try:
        yield happened
    finally:
        timer.cancel()


def _tracks(process: Any) -> bool:
    import psutil

    with contextlib.suppress(psutil.NoSuchProcess):
        return any(argument.startswith("mlapp.trackers") for argument in process.cmdline())
    return False


def _children(process: Any) -> list[Any]:
    import psutil

    with contextlib.suppress(psutil.NoSuchProcess):
        return list(process.children(recursive=True))
    return []
