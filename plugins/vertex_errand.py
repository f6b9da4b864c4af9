"""Who a custom job is for: a task instance of Airflow, its stage's command, and which attempt at it this is."""

from __future__ import annotations

import hashlib
import json
import os
import re
import socket
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from mlapp import storage
from mlapp.stage import HOPS

# Apart from the notes beside it, which are kept: what lies here is deleted by age (deploy/lifecycle-experiments.json).
ATTEMPTS = "attempts"


@dataclass(frozen=True)
class TaskKey:
    """A task instance of Airflow, whichever try of it."""

    dag_id: str
    run_id: str
    task_id: str
    map_index: int = -1

    @property
    def digest(self) -> str:
        """A hash of it that a label can hold."""
        return _digest(asdict(self))

    @property
    def name(self) -> str:
        """How people are told of it."""
        return self.task_id if self.map_index < 0 else f"{self.task_id}[{self.map_index}]"


@dataclass(frozen=True)
class Errand:
    """A stage's command with all that it depends on, on behalf of a task instance."""

    task: TaskKey
    module: str
    arguments: tuple[str, ...]
    config: str
    image: str

    @property
    def identity(self) -> str:
        """The same for every try at the same work, another one as soon as arguments, settings or image change."""
        settings, _ = storage.read_referenced(self.config)
        return _digest([asdict(self.task), self.module, self.arguments, settings, self.image])


@dataclass(frozen=True)
class Attempt:
    """One job of an errand: which it is, where it runs, and what was tried before it."""

    identity: str
    number: str
    rung: int
    preempted: int
    hops: tuple[dict[str, str], ...]

    @classmethod
    def of(cls, job: Any) -> Attempt:
        """What a job of ours tells of itself: nothing else remembers it."""
        container = job.job_spec.worker_pool_specs[0].container_spec
        environ = {variable.name: variable.value for variable in container.env}
        labels = job.labels
        return cls(
            identity=labels["mlapp_identity"],
            number=labels["mlapp_attempt"],
            rung=int(labels["mlapp_rung"]),
            preempted=int(labels["mlapp_preempted"]),
            hops=tuple(json.loads(environ[HOPS])),
        )

    def folder(self, prefix: str) -> str:
        """URI of the folder that this attempt leaves its end in."""
        return folder_of(prefix, self.identity, self.number)


def folder_of(prefix: str, identity: str, number: str) -> str:
    """URI of the folder of an attempt that may be known by a note only."""
    return f"{prefix}/{ATTEMPTS}/{identity}/{number}"


# Which Composer environment this is: two of one name may be in two projects or regions. The bucket's name is unique.
COMPOSER = ("GCP_PROJECT", "GOOGLE_CLOUD_PROJECT", "COMPOSER_LOCATION", "COMPOSER_ENVIRONMENT", "GCS_BUCKET")


def installation(project: str = "") -> str:
    """Which Airflow this is, with its jobs in ``project``: a reaper must not take those of another one for orphans."""
    from airflow.sdk.configuration import conf

    url = conf.get("api", "base_url", fallback="")
    if os.environ.get("COMPOSER_ENVIRONMENT") or os.environ.get("COMPOSER_LOCATION"):
        return _digest([project, *(os.environ.get(name, "") for name in COMPOSER)])
    shared = url and not re.search(r"//(localhost|127\.)", url)
    return _digest([project, url] if shared else [project, socket.gethostname(), os.environ.get("AIRFLOW_HOME")])


def _digest(content: Sequence[Any] | Mapping[str, Any] | str) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:32]
