"""
### Makes another bundle the champion, by hand

**rollback** makes the champion's predecessor the champion again, **promote** any bundle that was champion once. The
bundle is verified before the pointer moves, nothing is deleted, and the history keeps who moved it and why (**move**).
A model that was rolled back is not promoted again by itself.

What there is: `python -m mlapp.registry list`.
"""

from airflow.sdk import Param, dag, task
from registry_moves import move
from stage_wiring import BY, COMMON, MINUTES, SETTINGS, access_to
from trigger_form import show_form, trigger_form

WHAT = {
    # Without defaults: nobody moves the champion by pressing a button unread.
    "action": Param(
        type="string",
        enum=["rollback", "promote"],
        description="to the champion's predecessor, or to a bundle; required",
    ),
    "bundle": Param(
        None, type=["string", "null"], pattern="^[0-9a-f]{12}$", description="of promote: the id of the bundle"
    ),
    "why": Param(
        type="string", minLength=3, maxLength=500, pattern=r"\S", description="the reason, for the history; required"
    ),
}


@dag(
    dag_id="model_registry",
    doc_md=__doc__,
    schedule=None,
    dagrun_timeout=MINUTES,
    tags=["maintenance"],
    access_control=access_to("model_registry"),
    **COMMON,
)
def model_registry() -> None:
    """Move."""
    task(task_id="move")(move)(SETTINGS, BY)


show_form(model_registry(), {**WHAT, **trigger_form("storage", "promotion", "signing")})
