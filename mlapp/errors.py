"""The exception for what a user can mend, and the one for being told to stop."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class UserError(Exception):
    """Bad input or a bad environment, told in one line: what is wrong, then what to do.

    A stage that raises it ends with exit code 2 and that line, without a traceback. Anything else that escapes a
    stage is a bug and keeps its traceback.
    """


class Terminated(BaseException):
    """SIGTERM arrived. A BaseException, so that no ``except Exception`` swallows it on the way to a checkpoint."""


def raise_terminated(signum: int, frame: FrameType | None) -> None:
    """The handler of SIGTERM in every stage process."""
    raise Terminated


@contextmanager
def termination_deferred() -> Iterator[None]:
    """Finish a short piece of bookkeeping before a SIGTERM that arrives meanwhile is acted on.

    Does nothing where the stage command line has not installed its handler (in tests and notebooks).
    """
    if signal.getsignal(signal.SIGTERM) is not raise_terminated:
        yield
        return
    arrived: list[int] = []
    signal.signal(signal.SIGTERM, lambda signum, _: arrived.append(signum))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, raise_terminated)
    if arrived:
        raise Terminated
