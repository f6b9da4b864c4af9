"""Find the jobs whose task is over, and cancel them: Airflow tells nobody when a deferred task is killed."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from typing import Any

from airflow.sdk import get_current_context

log = logging.getLogger("airflow.task")
FINISHED = frozenset({"success", "failed", "skipped", "upstream_failed", "removed"})


def reap(conf: str) -> list[str]:
    """Cancel every active job of this Airflow, in the regions of the settings, whose task does not wait for it."""
    from vertex_errand import installation
    from vertex_jobs import Jobs, is_over
    from vertex_spec import MARK

    from mlapp.config import DEFAULT_PRESET
    from mlapp.configure import read_conf, resolve

    settings = resolve(DEFAULT_PRESET, read_conf(conf))
    regions = [place.region for place in settings.placement.places if not isinstance(place, str)]
    if not regions:
        log.info("placement.places names no region: there are no jobs to look for")
        return []
    jobs = Jobs(settings.cloud.project, regions, log.info)
    active = [job for job in jobs.find({**MARK, "mlapp_airflow": installation()}) if not is_over(job)]
    orphans = [job for job in active if is_orphan(task_of(job), get_current_context()["ti"])]
    for job in orphans:
        log.info("%s (%s) belongs to a task that is over: it is cancelled", job.name, job.display_name)
        jobs.cancel(job.name)
    log.info("%d active jobs, %d cancelled", len(active), len(orphans))
    return [job.name for job in orphans]


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
