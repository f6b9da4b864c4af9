"""
### Fashion-MNIST, from its source to training-ready splits

The data set is fetched if its source has changed (**extract**), checked (**validate**), split (**transform**) and
described (**profile**: class counts, what the classes look like, drift between the splits). Then they are announced
(**announce**): an event of the asset `fashion_mnist_data` with the data's digest, class counts and quality figures.

**A training follows.** `fashion_mnist_training` is scheduled on that asset, and trains when the digest is one that it
has not trained on. A trial (`transform.limit` is set, as by the preset `smoke`) is never announced, and neither is a
run of a terminal, unless it is asked to (`make run ANNOUNCE=1`).

**It runs when it is triggered.** By the clock it runs only where MLAPP_DATA_SCHEDULE, in the environment of the DAG
processor, holds a cron expression, such as `0 4 * * *`; so to switch this DAG on or off starts nothing by itself.

A stage whose code, settings and inputs have not changed since an earlier run is not computed again, so a day on which
nothing changed costs seconds. Days that were missed are not made up for: there is one source, and it is as it is now.

**Settings:** what stays empty is as the preset says. The training that follows takes the data's settings from here.

**When it fails:** a red task's log ends with one line that says what is wrong and what to do. Bad data stop here, and
no training starts.
"""

import os

from airflow.sdk import dag, task
from stage_wiring import COMMON, HOURS, Stages, access_to
from training_assets import DATA, announce_data
from trigger_form import show_form, trigger_form


@dag(
    dag_id="fashion_mnist_data",
    doc_md=__doc__,
    # Scheduled runs start trainings. A switch would not do: Airflow's trigger dialog throws it on the way.
    schedule=os.environ.get("MLAPP_DATA_SCHEDULE") or None,
    is_paused_upon_creation=False,
    dagrun_timeout=HOURS,
    tags=["data", "fashion-mnist"],
    access_control=access_to("fashion_mnist_data"),
    **COMMON,
)
def fashion_mnist_data() -> None:
    """Configure, extract, validate, transform, profile, announce."""
    stages = Stages()
    raw, report, data = stages.data()
    profile = stages.one("profile", "mlapp.etl.profile", report=report, data=data)
    task(task_id="announce", outlets=[DATA])(announce_data)(profile, stages.config)
    stages.summary([raw, report, data, profile])


FOLLOWS = "the settings to start from. A training on these data follows, unless transform.limit is set (as smoke does)"
SECTIONS = ("storage", "data", "quality", "transform", "cloud", "placement", "images")
show_form(fashion_mnist_data(), trigger_form(*SECTIONS, preset=FOLLOWS))
