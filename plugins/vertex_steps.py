"""The steps of a stage over the ladder of places, and what is remembered between two looks at its job."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

from stage_runner import Ended
from vertex_spec import hop

from mlapp.cloud_errors import brief
from mlapp.stage import HOPS

Hops = tuple[dict[str, str], ...]


@dataclass(frozen=True)
class Onward:
    """Where on the ladder to submit next: from which rung on, how often that one lost its machine, what was tried."""

    rung: int = 0
    preempted: int = 0
    hops: Hops = ()

    @classmethod
    def of(cls, content: Mapping[str, Any]) -> Onward:
        """The same after its way through Airflow's database."""
        return cls(content["rung"], content["preempted"], tuple(content["hops"]))


@dataclass(frozen=True)
class Waiting:
    """A job to be looked at again, and what is known of it: nothing else is remembered between two looks.

    ``job`` is its resource name, empty where it must be found first; ``onward`` is where to go on if there is none.
    """

    job: str
    seen: str = ""  # the state it was seen in last
    lost: int = 0  # how often it lost its machine
    leaving: str = ""  # why its place is given up
    unseen: str = ""  # since when nobody says how it is
    absent: str = ""  # since when there seems to be no such job
    alerted: bool = False
    fresh: bool = False
    onward: dict[str, Any] | None = None


@dataclass(frozen=True)
class Fallback:
    """No place has room but the worker itself; what was tried before it."""

    hops: Hops

    @property
    def environ(self) -> dict[str, str]:
        """What tells the stage how it came there."""
        return {HOPS: json.dumps([*self.hops, hop("local", "ran")], ensure_ascii=False)}


Step = Waiting | Ended | Fallback


def unseen(
    waiting: Waiting,
    error: Exception,
    minutes: float,
    cure: str,
    say: Callable[[str], object],
    alert: Callable[[str], object],
) -> Waiting:
    """What to wait for after a look that failed; after some minutes of such, a person hears of it, once."""
    now, told = datetime.now(UTC), brief(error)
    since = datetime.fromisoformat(waiting.unseen) if waiting.unseen else now
    say(f"Vertex AI does not say how the job is ({told}): looking again later")
    late = not waiting.alerted and now - since >= timedelta(minutes=minutes)
    if late:
        what = waiting.job or "the task's job"
        cure = cure or f"{told}: see https://status.cloud.google.com and the network"
        alert(
            f"no answer about {what} for {minutes:g} minutes; it goes on, and is looked at until the deadline: {cure}"
        )
    return replace(waiting, unseen=since.isoformat(), alerted=waiting.alerted or late)
