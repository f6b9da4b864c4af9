"""What a task of Airflow asks of Vertex AI: its stage's errand, its deadline, and that no job outlives its failure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, cast

from airflow.sdk.exceptions import AirflowException
from pydantic import BaseModel
from vertex_errand import Errand, TaskKey
from vertex_errors import explain
from vertex_ladder import Ladder, NoRoomError
from vertex_steps import Fallback, Waiting, unseen

from mlapp import pins, reference, storage
from mlapp.cloud_errors import could_not_look
from mlapp.errors import UserError
from mlapp.result import StageResult
from mlapp.schema import Config
from mlapp.schema_cloud import Placement

# Airflow executes the modules in plugins/ once more, in any order: only what comes through the same module is the same
# class. So the operator takes the ladder's steps from here.
__all__ = ["Fallback", "Waiting", "placed", "settings_of", "wait_again", "wait_on"]

if TYPE_CHECKING:
    from airflow.sdk import Context
    from stage_operator import StageOperator


class Image(BaseModel):
    """What the image step says of the image it made, as far as it is needed here."""

    image: str


def settings_of(uri: str) -> Config:
    """The run's resolved settings."""
    return pins.read(uri)


@contextmanager
def placed(operator: StageOperator, context: Context, command: Sequence[str]) -> Iterator[Ladder]:
    """The ladder for a task's stage.

    An error leaves the job as it is: the task's next try finds it, and where there is none, the job ends by its own
    time limit, or by the reaper. Only a kill ends it here: `StageOperator.on_kill`, a time limit, Ctrl-C.
    """
    config = settings_of(str(operator.config))
    _check(config)
    ladder = None
    try:
        errand = _errand(operator, context, command, config)
        ladder = Ladder(errand, config, _deadline(operator, context, config), operator.tell, operator.alert)
        operator.running = ladder
        yield ladder
    except NoRoomError as error:
        raise AirflowException(str(error)) from error
    except Exception as error:
        if told := explain(error, ladder.jobs.project if ladder else config.cloud.project or "PROJECT"):
            raise told from error
        raise
    except BaseException:
        if ladder:
            ladder.kill()
        raise


def wait_on(operator: StageOperator, waiting: Mapping[str, Any], until: str, error: BaseException) -> Waiting | None:
    """What to wait for where the ladder could not even be set up; None where that is no failed look, or it is late."""
    if not could_not_look(error) or not until or datetime.now(UTC) >= datetime.fromisoformat(until):
        return None
    minutes = Placement().alert_after_minutes
    cause = error.__cause__ or error
    return unseen(Waiting(**waiting), cast(Exception, cause), minutes, str(error), operator.tell, operator.alert)


def wait_again(operator: StageOperator, context: Context, error: BaseException) -> tuple[Waiting, str] | None:
    """The same for a task that was tried before, with the time until which to wait; None for a first try.

    A first try has no job yet, so its user hears at once what is wrong.
    """
    ti = cast(Any, context)["ti"]
    if getattr(ti, "try_number", 1) < 2:
        return None
    limit = operator.execution_timeout or timedelta(hours=Placement().deadline_hours)
    until = ((ti.start_date or datetime.now(UTC)) + limit).isoformat()
    later = wait_on(operator, asdict(Waiting("", fresh=True)), until, error)
    return (later, until) if later else None


def _errand(operator: StageOperator, context: Context, command: Sequence[str], config: Config) -> Errand:
    ti = cast(Any, context)["ti"]
    key = TaskKey(ti.dag_id, ti.run_id, ti.task_id, -1 if ti.map_index is None else ti.map_index)
    return Errand(key, operator.module, tuple(command), str(operator.config), _image(operator.image, config))


def _image(given: str | None, config: Config) -> str:
    """The image to run: a reference, or what the result of the image step names."""
    image = given or config.placement.image
    if not image:
        raise UserError("no training image: set placement.image, or hand on the result of the DAG's image step")
    if not reference.parse(image).uri.endswith(".json"):
        return image
    return StageResult.load(image).content("image", Image).image


def _deadline(operator: StageOperator, context: Context, config: Config) -> datetime:
    """When this try must be over: by the run's settings, and by the task's own limit, to which waits for room add."""
    placement = config.placement
    limit = timedelta(hours=placement.deadline_hours)
    waits = sum(place.max_wait_minutes for place in placement.places if not isinstance(place, str))
    own = (operator.execution_timeout or limit) + timedelta(minutes=waits)
    began = cast(Any, context)["ti"].start_date or datetime.now(UTC)
    return cast(datetime, began + min(limit, own))


def _check(config: Config) -> None:
    if not config.placement.places:
        raise UserError(
            "placement.runner is vertex, but placement.places is empty: name places, or take a deployment that "
            "does, as in MLAPP_DEPLOYMENT=vertex_cpu"
        )
    for area, uri in config.storage.model_dump().items():
        if storage.is_local(storage.at(uri)):
            raise UserError(
                f"placement.runner is vertex, but storage.{area} is {uri}, on this machine: set storage.{area} to "
                "a gs:// URI (gcloud storage buckets create gs://NAME makes a bucket)"
            )
