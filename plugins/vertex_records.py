"""What jobs leave behind: how their stage ended, and once a task has heard of it, where it ran and what it cost."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

from pydantic import TypeAdapter
from stage_runner import Ended
from vertex_errand import Attempt
from vertex_jobs import is_over
from vertex_prices import cost
from vertex_spec import ENDED, ENDED_WORKER, hop, place_name

from mlapp import plain, storage
from mlapp.errors import UserError
from mlapp.ledger import FOLDER
from mlapp.schema import Config
from mlapp.schema_cloud import Place
from mlapp.vertex_machines import region_refusal

PLACED, SUBMITTED, REGIONS = "placed", "submitted", "regions"


def jobs_area(config: Config) -> str:
    """The folder of all jobs' records: not in the models area, because a record names the hash of the result there."""
    return f"{config.storage.experiments.rstrip('/')}/{FOLDER}/jobs"


class Records:
    """The records of one task's jobs: beside each job's own end, and of all jobs of the run in the run's folder.

    ``placed.json`` beside a job's end says that a task has heard of it: no other one takes the same result again.
    """

    def __init__(self, config: Config, config_uri: str, task: str, say: Callable[[str], object]) -> None:
        self.settings = config.placement
        self.prefix = jobs_area(config)
        self.run_folder = storage.at(config_uri).parent
        self.task = task
        self.say = say

    def submitting(self, attempt: Attempt, task: str, project: str, region: str) -> None:
        """Note, before a job is created, where it may come to be: what is not noted need not be looked for.

        ``submitted/`` holds the attempts of each task whose end is not known yet, ``regions/`` every region ever used,
        in which the reaper looks.
        """
        where = json.dumps({"project": project, "region": region, "identity": attempt.identity})
        regional = storage.at(f"{self.prefix}/{REGIONS}/{project}--{region}.json")
        if not regional.exists():
            storage.write_text(regional, json.dumps({"project": project, "region": region}))
        storage.write_text(self._noted(task, attempt.number), where)

    def settled(self, task: str, number: str) -> None:
        """Forget an attempt: there is no such job, or it is over and a task has heard of it."""
        storage.remove(self._noted(task, number))

    def unsettled(self, task: str) -> dict[str, dict[str, str]]:
        """Where the jobs of a task may be that no task has heard the end of, by the number of the attempt."""
        folder = storage.at(f"{self.prefix}/{SUBMITTED}/{task}")
        names = sorted(path.rpartition("/")[2] for path in folder.fs.find(folder.path) if path.endswith(".json"))
        found = {name.removesuffix(".json"): _where(f"{folder}/{name}") for name in names}
        if bad := [f"{folder}/{name}.json" for name, where in found.items() if not where]:
            self.say(f"{len(bad)} notes do not say where a job is, such as {bad[0]}: remove them")
        return {number: where for number, where in found.items() if where}

    def of(self, attempt: Attempt) -> Ended | None:
        """How the stage itself said that it ended, the chief before the others; None where it could not."""
        return self.at(attempt.folder(self.prefix))

    def at(self, folder: str) -> Ended | None:
        """The same, by the folder that the attempt was given."""
        for name in (ENDED, ENDED_WORKER):
            path = storage.at(f"{folder}/{name}")
            if path.exists():
                return _ended(path)
        return None

    def is_told(self, job: Any) -> bool:
        """Whether a task has heard of this job's end."""
        return is_over(job) and bool(self._placed(Attempt.of(job)).exists())

    def tell(self, job: Any, place: Place, outcome: str) -> None:
        """Keep what became of a job that is over, and what it cost."""
        attempt = Attempt.of(job)
        spent = cost(job, place, self.settings)
        if spent:
            self.say(f"{place_name(place)}: cost {spent:.2f} {self.settings.currency} by the listed prices")
        content = {
            "task": self.task,
            "job": job.name,
            "place": place_name(place),
            "outcome": outcome,
            "hops": [*attempt.hops[:-1], hop(place, outcome)],
            "started": job.start_time.isoformat() if job.start_time else None,
            "ended": job.end_time.isoformat() if job.end_time else None,
            "cost": spent,
            "currency": self.settings.currency,
        }
        text = json.dumps(content, indent=2, ensure_ascii=False) + "\n"
        storage.write_text(self.run_folder / PLACED / f"{attempt.number}.json", text)
        storage.write_text(self._placed(attempt), text)
        self.settled(job.labels["mlapp_task"], attempt.number)

    def _noted(self, task: str, number: str) -> Any:
        return storage.at(f"{self.prefix}/{SUBMITTED}/{task}/{number}.json")

    def _placed(self, attempt: Attempt) -> Any:
        return storage.at(f"{attempt.folder(self.prefix)}/{PLACED}.json")


def _where(uri: str) -> dict[str, str] | None:
    """The note of an attempt; None for one that is none: jobs may write here too, and its region becomes an address."""
    try:
        told = plain.from_json(storage.read_referenced(uri)[0])
    except (UserError, ValueError):
        return None
    if not isinstance(told, dict) or region_refusal(str(told.get("region"))):
        return None
    return {name: str(told.get(name)) for name in ("project", "region", "identity")}


def _ended(path: Any) -> Ended:
    """The record in a file; a `UserError` if it is none."""
    try:
        return TypeAdapter(Ended).validate_python(plain.from_json(storage.read_text(path)))
    except ValueError as error:
        raise UserError(f"{path} is not the record of a stage's end: remove it, and clear the task") from error
