"""Find the jobs whose task is over, and cancel them: Airflow tells nobody when a deferred task is killed."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Iterable
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from airflow.sdk import get_current_context
from airflow.sdk.exceptions import AirflowException

from mlapp import plain
from mlapp.cloud_errors import brief, could_not_look
from mlapp.errors import UserError

if TYPE_CHECKING:
    from vertex_jobs import Jobs

    from mlapp.schema import Config

log = logging.getLogger("airflow.task")
PROJECT = re.compile(r"[a-z][a-z0-9.:-]{4,60}")
MOST = 200  # regions of other projects that are looked in
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
    looks = [_reaped(project, sorted(regions)) for project, regions in places.items()]
    if looks and not any(looked for looked, _ in looks):
        raise AirflowException("no region could be looked in, so there may be orphans: see the errors above")
    return [name for _, reaped in looks for name in reaped]


def _reaped(project: str | None, regions: Iterable[str]) -> tuple[list[str], list[str]]:
    """The regions of a project that could be looked in, and the jobs that were cancelled there."""
    from vertex_errand import installation
    from vertex_jobs import CANCELLING, Jobs, is_over, state_of
    from vertex_spec import MARK

    looked, reaped = [], []
    for region in regions:
        try:
            jobs = Jobs(project, (region,), log.warning)
            found = jobs.find({**MARK, "mlapp_airflow": installation(jobs.project)})
        except Exception as error:
            if not (isinstance(error, UserError) or could_not_look(error)):
                raise
            log.log(
                logging.ERROR, "%s, %s: could not look for jobs (%s)", project or "the project", region, brief(error)
            )
            continue
        active = [job for job in found if not is_over(job) and state_of(job) != CANCELLING]
        here = [job.name for job in active if _is_reaped(job, jobs)]
        log.info("%s, %s: %d active jobs, %d cancelled", jobs.project, region, len(active), len(here))
        looked.append(region)
        reaped += here
    return looked, reaped


def _is_reaped(job: Any, jobs: Jobs) -> bool:
    """Whether a job was an orphan, and is cancelled; one that cannot be judged is left to the next run."""
    try:
        if not is_orphan(task_of(job), get_current_context()["ti"]):
            return False
        log.info("%s (%s) belongs to a task that is over: it is cancelled", job.name, job.display_name)
        jobs.cancel(job.name)
    except (LookupError, StopIteration, TypeError, ValueError) as error:
        log.warning("%s does not say which task it is for (%r): cancel it by hand if nobody needs it", job.name, error)
        return False
    except Exception as error:
        if not could_not_look(error):
            raise
        log.warning("%s could not be cancelled now: %s", job.name, brief(error))
        return False
    return True


def _places(settings: Config) -> dict[str | None, set[str]]:
    """The regions to look in by project: what was ever submitted there, what settings and deployments name.

    The settings' own project comes first, whatever else is noted.
    """
    from vertex_records import REGIONS, jobs_area

    own = settings.cloud.project
    found: dict[str | None, set[str]] = {own: {each.region for each in settings.placement.places if each != "local"}}
    noted = _noted(f"{jobs_area(settings)}/{REGIONS}")
    others = [pair for pair in noted if pair[0] != own]
    if len(others) > MOST:
        log.error("%d regions of other projects are noted, the first %d are looked in", len(others), MOST)
    for project, region in [*(pair for pair in noted if pair[0] == own), *others[:MOST]]:
        found.setdefault(project, set()).add(region)
    if any(found.values()):
        found[own] |= _of_deployments()
    return {project: regions for project, regions in found.items() if regions}


def _noted(folder: str) -> list[tuple[str, str]]:
    """Projects and regions by the names of the notes; jobs may write here too, so what names none is passed over."""
    from mlapp import storage
    from mlapp.vertex_machines import region_refusal

    place = storage.at(folder)
    try:
        names = sorted(path.rpartition("/")[2] for path in place.fs.find(place.path) if path.endswith(".json"))
    except Exception as error:
        if not could_not_look(error):
            raise
        log.log(logging.ERROR, "%s cannot be read (%s): regions that a run named are left out", folder, brief(error))
        return []
    pairs = [(project, region) for name in names for project, _, region in [name[:-5].rpartition("--")]]
    found = [pair for pair in pairs if PROJECT.fullmatch(pair[0]) and not region_refusal(pair[1])]
    if len(found) < len(names):
        log.warning("%d notes in %s name no project and region: remove them", len(names) - len(found), folder)
    return found


def _of_deployments() -> set[str]:
    from mlapp.config import DEPLOYMENTS, preset_names, read_preset

    contents = [read_preset(name, "deployment", DEPLOYMENTS) for name in preset_names(DEPLOYMENTS)]
    places = [place for content in contents for place in content.get("placement", {}).get("places", ())]
    return {place["region"] for place in places if isinstance(place, dict) and "region" in place}


def task_of(job: Any) -> dict[str, Any]:
    """The task instance that a job was submitted for: its `TaskKey`, by its fields."""
    from vertex_errand import TaskKey
    from vertex_spec import TASK

    environ = job.job_spec.worker_pool_specs[0].container_spec.env
    told = plain.from_json(next(variable.value for variable in environ if variable.name == TASK))
    return asdict(TaskKey(**told))


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
