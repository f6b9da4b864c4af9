"""How many trials run at once and what each is given, so that none waits for what no machine has."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass

from mlapp.errors import UserError
from mlapp.schema import Tuning

log = logging.getLogger("mlapp")
MB = 2**20


@dataclass(frozen=True)
class Node:
    """What one machine has to give."""

    cpus: float
    memory: float
    gpus: float = 0.0


@dataclass(frozen=True)
class Plan:
    """How many trials are at work at once, and what each is given."""

    concurrency: int
    cpus: int
    memory: int
    gpus: float = 0.0

    @property
    def resources(self) -> dict[str, float]:
        """A trial's share, in Ray's words."""
        return {"CPU": self.cpus, "memory": self.memory, **({"GPU": self.gpus} if self.gpus else {})}


def plan(config: Tuning, nodes: list[Node], *, own: bool) -> Plan:
    """Fit the trials into the machines: none may wait for ever for what no machine has.

    On a machine of one's ``own`` a trial that asks for too much gets what there is, and that is said; what a cluster
    cannot give is a `UserError`.
    """
    most = int(max(node.cpus for node in nodes))
    if not most:
        raise UserError("no machine of the Ray cluster has a processor to give: add one, or unset RAY_ADDRESS")
    cpus = max(1, min(config.cpus_per_trial, most))
    if cpus < config.cpus_per_trial:
        log.warning("a trial gets %d processors, not %d: no machine has more", cpus, config.cpus_per_trial)
    memory = config.memory_per_trial_mb * MB
    room = sum(min(int(node.cpus // cpus), int(node.memory // memory)) for node in nodes)
    if not room:
        largest = max(node.memory for node in nodes) / MB
        if not own:
            raise UserError(
                f"no machine of the Ray cluster has {config.memory_per_trial_mb} MB for a trial, the largest has "
                f"{largest:.0f} MB: lower tuning.memory_per_trial_mb"
            )
        log.warning("%.0f MB of memory are free and a trial may need %d: one at a time", largest, memory / MB)
        room = 1
    concurrency = min(room, config.trials, config.concurrency or room)
    if config.concurrency and concurrency < min(config.concurrency, config.trials):
        log.warning("%d trials at once, not %d: there is no room for more", concurrency, config.concurrency)
    return Plan(concurrency, cpus, memory, share(sum(node.gpus for node in nodes), concurrency))


def share(gpus: float, concurrency: int) -> float:
    """What a trial gets of the GPUs there are: as many trials on each as need be."""
    return 1 / math.ceil(concurrency / gpus) if gpus else 0.0
