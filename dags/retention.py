"""
### Shows what is old, and removes it if you ask for that

Every run leaves work directories (in the raw, processed and models areas) and a folder of its own. Once a week this DAG
lists those in which nothing has changed for 90 days and which no younger run and no bundle of the registry was made of
(**clean**); its log has the table. It removes nothing unless the form says `remove`. A run that is at work stays at any
age, and so does all that a kept run or a bundle was made of; links are not followed.

It is switched off until you switch it on, and then only shows. Bundles that were never promoted are removed by command
alone: `python -m mlapp.retention --older-than 90 --yes`.

**Settings:** `storage` says where to look, by `MLAPP_DEPLOYMENT`, or from the form.
"""

from airflow.sdk import Param, dag, task
from retention_task import clean
from stage_wiring import COMMON, HOURS, access_to
from trigger_form import show_form, trigger_form

WHAT = {
    "older_than_days": Param(
        90, type="number", minimum=1, maximum=36_500, description="days without a change: 1 to 36,500"
    ),
    "remove": Param(False, type="boolean", description="remove what is listed; off: only list it"),
}


@dag(
    dag_id="retention",
    doc_md=__doc__,
    # Sundays, before the data of the day are fetched.
    schedule="0 3 * * 0",
    is_paused_upon_creation=True,
    dagrun_timeout=HOURS,
    tags=["maintenance"],
    access_control=access_to("retention"),
    **COMMON,
)
def retention() -> None:
    """Clean."""
    task(task_id="clean")(clean)("{{ params | tojson }}")


show_form(retention(), {**WHAT, **trigger_form("storage")})
