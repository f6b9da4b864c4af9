"""Find the jobs whose task is over, and cancel them: Airflow tells nobody when a deferred task is killed."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from airflow.sdk import get_current_context

from mlapp.cloud_errors import brief, could_not_look

if TYPE_CHECKING:
    from vertex_jobs import Jobs

    from mlapp.schema import Config

log = logging.getLogger("airflow.task")
PROJECT, REGION = re.compile(r"[a-z][a-z0-9.:-]{4,60}"), re.compile(r"[a-z]+(-[a-z]+)+[0-9]{1,2}")
MOST = 200  # regions that are looked in
FINISHED = frozenset({"success", "failed", "skipped", "upstream_failed", "removed"})


def reap(conf: str) -> list[str]:
    """Cancel every active job of this Airflow whose task does not wait for it, in all the regions it ever used.

    A look that fails cancels nothing: the next run looks again.
    """
    from mlapp.config import DEFAULT_PRESET
    from mlapp.configure import read_conf, resolve

    settings = resolve(DEFAULT_PRESET, read_conf(conf))
    places = _places(settings)
    if not places:
        log.info("placement.places names no region, and no job was submitted: there are no jobs to look for")
    return [name for project, regions in places.items() for name in _reaped(project, sorted(regions))]


def _reaped(project: str | None, regions: Iterable[str]) -> list[str]:
    from vertex_errand import installation
    from vertex_jobs import Jobs, is_over
    from vertex_spec import MARK

    jobs = Jobs(project, regions, log.warning)
    found = jobs.find({**MARK, "mlapp_airflow": installation(jobs.project)}, ())
    active = [job for job in found if not is_over(job)]
    reaped = [job.name for job in active if _is_reaped(job, jobs)]
    log.info("%s: %d active jobs in %s, %d cancelled", jobs.project, len(active), ", ".join(regions), len(reaped))
    return reaped


def _is_reaped(job: Any, jobs: Jobs) -> bool:
    """Whether a job was an orphan, and is cancelled; one that cannot be judged is left to the next run."""
    try:
        if not is_orphan(task_of(job), get_current_context()["ti"]):
            return False
        log.info("%s (%s) belongs to a task that is over: it is cancelled", job.name, job.display_name)
        jobs.cancel(job.name)
    except (LookupError, StopIteration, ValueError) as error:
        log.warning("%s does not say which task it is for (%r): cancel it by hand if nobody needs it", job.name, error)
        return False
    except Exception as error:
        if not could_not_look(error):
            raise
        log.warning("%s could not be cancelled now: %s", job.name, brief(error))
        return False
    return True


def _places(settings: Config) -> dict[str | None, set[str]]:
    """The regions to look in by project: what was ever submitted there, what settings and deployments name."""
    from vertex_records import REGIONS, jobs_area

    named = {place.region for place in settings.placement.places if not isinstance(place, str)}
    found: dict[str | None, set[str]] = {settings.cloud.project: named} if named else {}
    for noted in _noted(f"{jobs_area(settings)}/{REGIONS}"):
        found.setdefault(noted["project"], set()).add(noted["region"])
    if found:
        found.setdefault(settings.cloud.project, set()).update(_of_deployments())
    return found


def _noted(folder: str) -> list[dict[str, str]]:
    """The notes that name a project and a region; jobs may write here too, so one that does not is passed over."""
    from mlapp import storage

    place = storage.at(folder)
    try:
        if not place.exists():
            return []
        told = {str(path): _note(str(path)) for path in place.iterdir() if path.suffix == ".json"}
    except Exception as error:
        if not could_not_look(error):
            raise
        log.warning("%s cannot be read: %s", folder, brief(error))
        return []
    if bad := [uri for uri, note in told.items() if not note]:
        log.warning("%d notes name no project and region, such as %s: remove them", len(bad), bad[0])
    return [note for note in told.values() if note][:MOST]


def _note(uri: str) -> dict[str, str] | None:
    from mlapp import plain, storage
    from mlapp.errors import UserError

    try:
        told = plain.from_json(storage.read_referenced(uri)[0])
    except (UserError, ValueError):
        return None
    if not isinstance(told, dict):
        return None
    is_good = PROJECT.fullmatch(str(told.get("project"))) and REGION.fullmatch(str(told.get("region")))
    return {name: str(told[name]) for name in ("project", "region")} if is_good else None


def _of_deployments() -> set[str]:
    from mlapp.config import DEPLOYMENTS, preset_names, read_preset

    contents = [read_preset(name, "deployment", DEPLOYMENTS) for name in preset_names(DEPLOYMENTS)]
    places = [place for content in contents for place in content.get("placement", {}).get("places", ())]
    return {place["region"] for place in places if isinstance(place, dict) and "region" in place}


def task_of(job: Any) -> dict[str, Any]:
    """The task instance that a job was submitted for: its `TaskKey`, by its fields."""
    from vertex_spec import TASK

    environ = job.job_spec.worker_pool_specs[0].container_spec.env
    return dict(json.loads(next(variable.value for variable in environ if variable.name == TASK)))


def is_orphan(key: dict[str, Any], airflow: Any) -> bool:
    """Whether a task instance is gone or over; ``airflow`` is any running task instance, through which one can ask."""
    dag_id, run_id, task_id, map_index = (key[name] for name in ("dag_id", "run_id", "task_id", "map_index"))
    ask: Callable[..., Any] = airflow.get_task_states
    states = ask(dag_id=dag_id, task_ids=[task_id], run_ids=[run_id], map_index=map_index).get(run_id, {})
    name = task_id if map_index < 0 else f"{task_id}_{map_index}"
    if name not in states:
        return True
    if states[name] is None:  # not scheduled yet: cleared, unless its run is over
        return str(airflow.get_dagrun_state(dag_id=dag_id, run_id=run_id)) in FINISHED
    return states[name] in FINISHED
