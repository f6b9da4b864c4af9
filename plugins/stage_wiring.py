"""How the DAGs wire stages: a line each, with the settings from the run's own config.json."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any

from airflow.sdk import XComArg, task
from pydantic import TypeAdapter
from stage_operator import NO_SECOND_TRY, BadInput, StageOperator
from training_assets import config_of_data

from mlapp import plain
from mlapp.configure import read_setting
from mlapp.errors import UserError
from mlapp.reference import folder

MINUTES = timedelta(minutes=30)
HOURS = timedelta(hours=8)
RUN = {"run": "{{ run_id }}"}
# Whom the registry's history names for a move of the pointer.
STARTED_BY = "{{ ', started by ' ~ dag_run.triggering_user_name if dag_run.triggering_user_name else '' }}"
BY = f"{{{{ dag_run.dag_id }}}} {{{{ run_id }}}}{STARTED_BY}"
SETTINGS = "{{ settings_of(params, dag_run) }}"
ROLES = "MLAPP_ROLES"
Roles = TypeAdapter(dict[str, dict[str, dict[str, list[str]]]])


def settings_of(params: Mapping[str, Any], dag_run: Any) -> str:
    """What a run was given, as JSON: its form's values, with those of its conf in their place.

    An Airflow with ``dag_run_conf_overrides_params=False`` leaves the conf out of ``params``, and the run would go on
    with other settings than those it was asked for: that is refused.
    """
    conf = dag_run.conf or {}
    ignored = [name for name, value in conf.items() if name not in params or params[name] != value]
    if ignored:
        raise BadInput(
            f"error: Airflow does not hand on the run's conf ({', '.join(sorted(ignored)[:10])}): set [core] "
            "dag_run_conf_overrides_params = True, and trigger the run again"
        )
    return json.dumps(dict(params))


# What every DAG of the project has in common.
COMMON: dict[str, Any] = {
    "start_date": datetime(2026, 1, 1),
    "catchup": False,
    "max_active_runs": 1,
    "default_args": {
        "owner": "ml-platform",
        "retries": 1,
        "retry_delay": timedelta(seconds=30),
        "execution_timeout": MINUTES,
        "retry_policy": NO_SECOND_TRY,
    },
    "user_defined_macros": {
        "setting": read_setting,
        "config_of_data": config_of_data,
        "folder_of": folder,
        "settings_of": settings_of,
    },
}


def access_to(dag_id: str) -> dict[str, dict[str, list[str]]] | None:
    """Who may do what with a DAG, as its ``access_control``: what MLAPP_ROLES says of it, in JSON.

    ``{"model_registry": {"releasers": {"DAGs": ["can_read", "can_edit"], "DAG Runs": ["can_create"]}}}``, in the words
    of the auth manager that knows roles. The simple one has none, and takes no notice.
    """
    try:
        roles = plain.from_json(os.environ.get(ROLES) or "{}")
        return Roles.validate_python(roles).get(dag_id)
    except ValueError as error:
        told = " ".join(str(error).split())[:200]
        raise UserError(
            f'{ROLES} in the environment is not of the form {{"DAG": {{"ROLE": {{"DAGs": ["can_read"]}}}}}} ({told})'
        ) from error


def setting_of(name: str) -> str:
    """The Jinja expression for one of the run's settings."""
    return f"setting(ti.xcom_pull('configure'), '{name}')"


def asked(expression: str) -> str:
    """The template that renders an expression."""
    return f"{{{{ {expression} }}}}"


RUNNER = setting_of("placement.runner")
RUN_FOLDER = "folder_of(ti.xcom_pull('configure'))"


class Stages:
    """The tasks of one DAG. The first, configure, resolves the run's settings; every other stage reads them.

    The second, image, has the container image ready that the others run in, where they do not run on the worker.
    """

    def __init__(self, **arguments: Any) -> None:
        arguments |= {"conf": SETTINGS, "day": "{{ dag_run.run_after | ds }}", **RUN}
        arguments["dag"] = "{{ dag.dag_id }}"
        configure = StageOperator(task_id="configure", module="mlapp.configure", arguments=arguments)
        self.config: XComArg = configure.output
        image = StageOperator(
            task_id="image",
            module="mlapp.images.builder",
            config=self.config,
            wanted=asked(f"{RUNNER} == 'vertex'"),
            execution_timeout=HOURS,
        )
        self.placed: dict[str, Any] = {"config": self.config, "image": image.output, "runner": asked(RUNNER)}

    def one(self, name: str, module: str, limit: timedelta = MINUTES, /, **arguments: Any) -> XComArg:
        """A task that runs a stage once; its output is the reference of the result."""
        operator = StageOperator(
            task_id=name, module=module, arguments=arguments, execution_timeout=limit, **self.placed
        )
        return operator.output

    def here(self, name: str, module: str, /, **arguments: Any) -> XComArg:
        """A task of seconds, which runs on the worker wherever the others run."""
        operator = StageOperator(
            task_id=name, module=module, arguments=arguments, execution_timeout=MINUTES, config=self.config
        )
        return operator.output

    def optional(self, name: str, module: str, setting: str, /, **arguments: Any) -> XComArg:
        """A task that runs a stage if this setting is set to anything; else it succeeds at once."""
        operator = StageOperator(
            task_id=name,
            module=module,
            arguments=arguments,
            wanted=asked(f"{setting_of(setting)} not in (None, False)"),
            **self.placed,
        )
        return operator.output

    def tuned(self, trainer: str, **inputs: Any) -> XComArg:
        """The task that searches a trainer's settings, as far as the run's own ask for it."""
        return self.one(f"tune_{trainer}", "mlapp.tune.tuner", HOURS, trainer=trainer, **inputs)

    def each(self, name: str, module: str, /, *, over: str, setting: str, **arguments: Any) -> XComArg:
        """A mapped task: a stage for each value of a setting, handed over as the flag ``over``."""
        listed = task(task_id=setting.partition(".")[2])(read_setting)
        operators = StageOperator.partial(
            task_id=name,
            module=module,
            arguments=arguments,
            over=over,
            execution_timeout=HOURS,
            map_index_template="{{ task.over }} {{ task.item }}",
            **self.placed,
        )
        return operators.expand(item=listed(self.config, setting)).output

    def data(self) -> tuple[XComArg, XComArg, XComArg]:
        """Extract, validate, transform: the raw data, the report on them, and the training-ready splits."""
        raw = self.one("extract", "mlapp.etl.gcp_dataloader")
        report = self.one("validate", "mlapp.etl.quality", raw=raw)
        return raw, report, self.one("transform", "mlapp.etl.image_etl", raw=raw, report=report)

    def summary(self, results: Sequence[Any]) -> XComArg:
        """The task that ends a run: its table, in the run's own folder."""
        return self.one(
            "summarise",
            "mlapp.summary",
            results=results,
            started="{{ dag_run.start_date.isoformat() }}",
            placed=asked(f"{RUN_FOLDER} ~ '/placed'"),
            workdir=asked(RUN_FOLDER),
            **RUN,
        )
