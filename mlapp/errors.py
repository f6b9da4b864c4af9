"""The exceptions that end a stage on purpose: what a user can mend, what another start mends, being told to stop."""

from __future__ import annotations

import logging
import signal
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from types import FrameType

FEW = 10


def printable(text: str) -> str:
    """The text in one line: line breaks, terminal escapes and other control characters are escaped."""
    return text if text.isprintable() else "".join(each if each.isprintable() else ascii(each)[1:-1] for each in text)


def first_few(names: Iterable[str], between: str = ", ") -> str:
    """The first ten, and how many more there are."""
    every = [*names]
    return between.join(every[:FEW]) + f" and {len(every) - FEW:,} more" * (len(every) > FEW)


class OneLineFormatter(logging.Formatter):
    """Log messages in one line each, whatever they quote; only a traceback below one has more."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 (the name is logging's)
        """The line of a record."""
        return printable(super().formatMessage(record))


class OneLineError(Exception):
    """An error in one line, whatever it quotes, and the exit code of a command that ends with it."""

    exit_code = 2

    def __init__(self, line: str) -> None:
        super().__init__(printable(line))


class UserError(OneLineError):
    """Bad input or a bad environment: what is wrong, then what to do.

    A stage that raises it ends with exit code 2 and that line, without a traceback. Anything else that escapes a
    stage is a bug and keeps its traceback.
    """


class TryAgainError(OneLineError):
    """What is needed is away for now; starting again mends it.

    A stage that raises it ends with exit code 75 (EX_TEMPFAIL of sysexits.h) and that line, without a traceback.
    """

    exit_code = 75


class WorkerLostError(TryAgainError):
    """Of several workers that train together one is gone or never came."""


class Dismissed(BaseException):
    """This process has done its part, another one writes the result; the stage's command ends with exit code 0."""


class Terminated(BaseException):
    """SIGTERM arrived. A BaseException, so that no ``except Exception`` swallows it on the way to a checkpoint."""


def raise_terminated(signum: int, frame: FrameType | None) -> None:
    """The handler of SIGTERM in every stage process."""
    raise Terminated


@contextmanager
def termination_deferred() -> Iterator[list[int]]:
    """Finish a piece of work before a SIGTERM that arrives meanwhile is acted on; yields what has arrived so far.

    Does nothing where the stage command line has not installed its handler (in tests and notebooks).
    """
    arrived: list[int] = []
    if signal.getsignal(signal.SIGTERM) is not raise_terminated:
        yield arrived
        return
    signal.signal(signal.SIGTERM, lambda signum, _: arrived.append(signum))
    try:
        yield arrived
    finally:
        signal.signal(signal.SIGTERM, raise_terminated)
    if arrived:
        raise Terminated
