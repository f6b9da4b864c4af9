"""What a work has cost over all the tries that it took: a machine that was taken away has done its part of it too."""

from __future__ import annotations

import json
import logging
import resource
import time

from upath import UPath

from mlapp import plain, storage
from mlapp.errors import UserError

log = logging.getLogger("mlapp")
SPENT = "spent.json"
Spent = dict[str, float]
MOST = 1e9  # seconds, some thirty years: no number that somebody else wrote is taken for more
NOTHING: Spent = {"wall_s": 0.0, "cpu_s": 0.0}


class Spending:
    """Clocks that run from now on, on top of what earlier tries of the same work have noted in the file ``note``.

    What is spent after the last note of a try that is killed, since its last checkpoint, is not known.
    """

    def __init__(self, note: UPath, key: str) -> None:
        self.note, self._key = note, key
        self._earlier = NOTHING
        self._began = _clocks()

    def take_up(self) -> None:
        """Count what earlier tries have noted, if they have."""
        try:
            noted = plain.from_json(storage.read_referenced(str(self.note))[0])
            earlier = {name: float(noted[name]) for name in NOTHING}
            if noted["key"] == self._key and all(0 <= seconds < MOST for seconds in earlier.values()):
                self._earlier = earlier
        except FileNotFoundError:
            return
        except (UserError, ValueError, KeyError, TypeError, OverflowError):
            log.warning("%s does not tell what earlier tries spent: counting from now on", self.note)

    def total(self) -> Spent:
        """Seconds by the wall, and of processors, of this process and of its children that have ended."""
        return {name: round(self._earlier[name] + now - self._began[name], 3) for name, now in _clocks().items()}

    def write(self) -> None:
        """Note the total for the next try."""
        storage.write_text(self.note, json.dumps({"key": self._key, **self.total()}))


def _clocks() -> Spent:
    usages = map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return {"wall_s": time.perf_counter(), "cpu_s": sum(usage.ru_utime + usage.ru_stime for usage in usages)}
