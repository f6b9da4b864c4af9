"""
### Cancels Vertex AI jobs that no task waits for any more

A task that waits for its job frees its worker meanwhile (it is deferred). If somebody marks such a task as failed or
done, or deletes its run, Airflow tells nobody who could cancel the job, and the job goes on and costs. Every quarter of
an hour this DAG asks Vertex AI for the active jobs of this Airflow, in all the regions that a job was ever submitted to
or that settings and deployments name, asks
Airflow for the state of each job's task, and cancels those whose task is over or gone (**reap**). The job of a task
that runs, waits, or is about to be tried again is left alone; so are the jobs of any other Airflow. A region that does
not answer is an error line in the task's log; where none answers, the task fails.

In Cloud Composer it is on from the start, elsewhere off until you switch it on; where all stages run on the worker
there is nothing to do.

**Settings:** `cloud.project`, `storage.experiments`, where the regions are noted, and `placement.places`: by
`MLAPP_DEPLOYMENT`, or from the form.
"""

import os
from datetime import timedelta

from airflow.sdk import dag, task
from stage_wiring import COMMON, MINUTES, SETTINGS, access_to
from trigger_form import show_form, trigger_form
from vertex_orphans import reap


@dag(
    dag_id="vertex_reaper",
    doc_md=__doc__,
    # As long as an orphan may go on: a quarter of an hour of one machine.
    schedule=timedelta(minutes=15),
    is_paused_upon_creation="COMPOSER_ENVIRONMENT" not in os.environ,
    dagrun_timeout=MINUTES,
    tags=["maintenance"],
    access_control=access_to("vertex_reaper"),
    **COMMON,
)
def reaper() -> None:
    """Reap."""
    task(task_id="reap")(reap)(SETTINGS)


show_form(reaper(), trigger_form("cloud", "placement", "storage"))
