"""How the DAGs wire stages: a line each, with the settings from the run's own config.json."""

from __future__ import annotations

import os
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from airflow.sdk import XComArg, task
from pydantic import TypeAdapter
from stage_operator import StageOperator
from training_assets import config_of_data

from mlapp import plain
from mlapp.configure import read_setting
from mlapp.errors import UserError

MINUTES = timedelta(minutes=30)
HOURS = timedelta(hours=8)
RUN = {"run": "{{ run_id }}"}
# Whom the registry's history names for a move of the pointer.
STARTED_BY = "{{ ', started by ' ~ dag_run.triggering_user_name if dag_run.triggering_user_name else '' }}"
BY = f"{{{{ dag_run.dag_id }}}} {{{{ run_id }}}}{STARTED_BY}"
ROLES = "MLAPP_ROLES"
Roles = TypeAdapter(dict[str, dict[str, dict[str, list[str]]]])
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
    },
    "user_defined_macros": {"setting": read_setting, "config_of_data": config_of_data},
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


class Stages:
    """The tasks of one DAG. The first, configure, resolves the run's settings; every other stage reads them.

    The second, image, has the container image ready that the others run in, where they do not run on the worker.
    """

    def __init__(self, **arguments: Any) -> None:
        arguments |= {"conf": "{{ params | tojson }}", "day": "{{ dag_run.run_after | ds }}", **RUN}
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
        """A task that runs a stage once; its output is the URI of the result."""
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
            placed="{{ ti.xcom_pull('configure').removesuffix('config.json') }}placed",
            workdir="{{ ti.xcom_pull('configure').removesuffix('/config.json') }}",
            **RUN,
        )
