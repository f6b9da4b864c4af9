"""
### Fashion-MNIST, from raw files to a vetted model

The run's settings are resolved once (**configure**). The data set is fetched (**extract**), checked (**validate**) and
split (**transform**). A teacher network learns from it (**train**), students of several widths learn from the teacher
(**distill**), and the best student loses filters or weights at several sparsities (**prune**). The smallest candidate
that is nearly as good as the teacher on the validation split becomes the challenger (**choose**). It meets the
champion on the frozen test set (**vet**), takes its place if it earned it (**promote**), and the run ends with a table
of what came of it (**summarise**), in `experiments/<date>-<run>/`.

A stage whose code, settings and inputs have not changed since an earlier run is not computed again.

**Settings:** pick a preset, then override what you like; what stays empty is as the preset says. From the command line:
`airflow dags test fashion_mnist_training --conf '{"preset": "smoke", "training.epochs": 2}'`.

**When it fails:** a red task's log ends with one line that says what is wrong and what to do. Clear the task to go on
from there.
"""

from datetime import datetime, timedelta
from typing import Any

from airflow.sdk import XComArg, dag, task
from stage_operator import StageOperator
from trigger_form import trigger_form

from mlapp.configure import read_setting

MINUTES = timedelta(minutes=30)
HOURS = timedelta(hours=8)
RUN = {"run": "{{ run_id }}"}


@dag(
    dag_id="fashion_mnist_training",
    doc_md=__doc__,
    start_date=datetime(2026, 1, 1),
    # Only by hand for now: nothing that it depends on changes by the clock.
    schedule=None,
    catchup=False,
    max_active_runs=1,
    dagrun_timeout=timedelta(hours=24),
    default_args={"owner": "ml-platform", "retries": 1, "retry_delay": timedelta(seconds=30)},
    params=trigger_form(),
    user_defined_macros={"setting": read_setting},
    tags=["training", "fashion-mnist"],
)
def fashion_mnist_training() -> None:
    """Configure, prepare the data, make candidates, choose, vet, promote, tell."""
    configured = StageOperator(
        task_id="configure",
        module="mlapp.configure",
        arguments={"conf": "{{ params | tojson }}", "day": "{{ dag_run.run_after | ds }}", **RUN},
        execution_timeout=timedelta(minutes=5),
    )
    config = configured.output

    def stage(name: str, module: str, limit: timedelta = MINUTES, /, **arguments: Any) -> XComArg:
        operator = StageOperator(
            task_id=name, module=module, arguments=arguments, config=config, execution_timeout=limit
        )
        return operator.output

    def stages(name: str, module: str, /, *, over: str, setting: str, **arguments: Any) -> XComArg:
        listed = task(task_id=setting.partition(".")[2], execution_timeout=MINUTES)(read_setting)
        operators = StageOperator.partial(
            task_id=name,
            module=module,
            arguments=arguments,
            config=config,
            over=over,
            execution_timeout=HOURS,
            map_index_template="{{ task.over }} {{ task.item }}",
        )
        return operators.expand(item=listed(config, setting)).output

    raw = stage("extract", "mlapp.etl.gcp_dataloader")
    report = stage("validate", "mlapp.etl.quality", raw=raw)
    data = stage("transform", "mlapp.etl.image_etl", raw=raw, report=report)
    teacher = stage("train", "mlapp.dl.dnn_trainer", HOURS, data=data)
    students = stages(
        "distill",
        "mlapp.dl.knowledge_distiller",
        over="width",
        setting="distillation.widths",
        data=data,
        teacher=teacher,
    )
    pruned = stages(
        "prune",
        "mlapp.dl.dnn_pruner",
        over="sparsity",
        setting="pruning.sparsities",
        data=data,
        teacher=teacher,
        students=students,
    )
    models = [teacher, students, pruned]
    challenger = stage("choose", "mlapp.vetting.selector", results=models)
    registry = "{{ setting(ti.xcom_pull('configure'), 'storage.registry') }}"
    verdict = stage(
        "vet",
        "mlapp.vetting.verdict",
        challenger=challenger,
        data=data,
        registry=registry,
        name="{{ setting(ti.xcom_pull('configure'), 'promotion.name') }}",
    )
    promoted = stage(
        "promote",
        "mlapp.registry.promoter",
        verdict=verdict,
        challenger=challenger,
        data=data,
        registry=registry,
        results=[raw, report, data, *models],
    )
    stage(
        "summarise",
        "mlapp.summary",
        results=[raw, report, data, *models, challenger, verdict, promoted],
        started="{{ dag_run.start_date.isoformat() }}",
        workdir="{{ ti.xcom_pull('configure').removesuffix('/config.json') }}",
        **RUN,
    )


fashion_mnist_training()
