"""How far a long step is: a bar on a terminal, a plain log line every few seconds elsewhere."""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from tqdm import tqdm

log = logging.getLogger("mlapp")
SECONDS_BETWEEN_LINES = 5.0


@contextmanager
def progress(label: str, total: int | None, unit: str, done: int = 0) -> Iterator[Callable[[int], object]]:
    """Yield a function to call with each further amount done, of ``total`` in all where that is known."""
    if sys.stderr.isatty():
        with tqdm(desc=label, total=total, initial=done, unit=unit, unit_scale=True) as bar:
            yield bar.update
    else:
        lines = _Lines(label, total, unit, done)
        yield lines.advance
        lines.end()


class _Lines:
    def __init__(self, label: str, total: int | None, unit: str, done: int) -> None:
        self.label, self.total, self.unit, self.done = label, total, unit, done
        self.told_at, self.told = time.monotonic(), 0

    def advance(self, amount: int) -> None:
        self.done += amount
        if time.monotonic() - self.told_at >= SECONDS_BETWEEN_LINES:
            self.tell()

    def end(self) -> None:
        """The last line, left out where the whole step was over before a first one."""
        if 0 < self.told < self.done:
            self.tell()

    def tell(self) -> None:
        self.told_at, self.told = time.monotonic(), self.done
        of = f" of {tqdm.format_sizeof(self.total)}" if self.total else ""
        log.info("%s: %s%s %s", self.label, tqdm.format_sizeof(self.done), of, self.unit)
