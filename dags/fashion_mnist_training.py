"""
### Fashion-MNIST, from raw files to a vetted model

A run is started by hand, or by new data: `fashion_mnist_data` announces them, and data that were trained on already
start nothing (**wanted**). The run's settings are resolved once (**configure**). The data set is fetched
(**extract**), held against the champion that it is to replace (**check_champion**), checked (**validate**) and split
(**transform**). A teacher network learns from it (**train**), students of several widths learn from the teacher
(**distill**), and the best student loses filters or weights at several sparsities (**prune**). Settings may be
searched for first (**tune_…**, where `tuning.trials` is above 0), and boosted trees stand beside the networks, to
compare them with (**baseline**). The smallest candidate that is nearly as good as the teacher on the validation split
becomes the challenger (**choose**). It meets the champion on the frozen test set (**vet**) and takes its place if it
earned it (**promote**) and, where the run asks for that, a person approves (**approve**). The run ends by telling
which data it trained on (**announce**), and with a table of what came of it (**summarise**), in
`experiments/<date>-<run>/`. If the run asks for it, Vertex AI is shown the model (**register**) and the run
(**log_experiment**).

Stages run on the worker, or as Vertex AI jobs where the settings say so (`placement.runner`); for those an image is had
ready first (**image**).

A stage whose code, settings and inputs have not changed since an earlier run is not computed again.

**Settings:** pick a preset, then override what you like; what stays empty is as the preset says. From the command line:
`airflow dags test fashion_mnist_training --conf '{"preset": "smoke", "training.epochs": 2}'`.

**When it fails:** a red task's log ends with one line that says what is wrong and what to do. Clear the task to go on
from there.
"""

from datetime import timedelta

from airflow.sdk import dag, task
from approval import Approval
from stage_wiring import BY, COMMON, HOURS, RUN_FOLDER, Stages, access_to, asked, setting_of
from training_assets import DATA, MODEL, announce_model, as_announced, is_news
from trigger_form import show_form, trigger_form


@dag(
    dag_id="fashion_mnist_training",
    doc_md=__doc__,
    # New data start it; nothing else that it depends on changes by itself.
    schedule=[DATA],
    dagrun_timeout=timedelta(days=5),  # of which a person may take three to approve
    tags=["training", "fashion-mnist"],
    access_control=access_to("fashion_mnist_training"),
    **COMMON,
)
def fashion_mnist_training() -> None:
    """Configure, prepare the data, make candidates, choose, vet, promote, tell."""
    wanted = task.short_circuit(task_id="wanted", inlets=[MODEL])(is_news)()
    stages = Stages(data_of="{{ config_of_data(triggering_asset_events) }}")
    wanted >> stages.config
    raw, report, prepared = stages.data()
    checked = stages.here("check_champion", "mlapp.registry.check_champion", raw=raw)
    checked >> report
    data = task(task_id="as_announced")(as_announced)(prepared)
    tuned = stages.tuned("train", data=data)
    teacher = stages.one("train", "mlapp.dl.dnn_trainer", HOURS, data=data, tuned=tuned)
    tuned_baseline = stages.tuned("baseline", data=data)
    baseline = stages.one("baseline", "mlapp.ml.xgboost_trainer", HOURS, data=data, tuned=tuned_baseline)
    tuned_students = stages.tuned("distill", data=data, teacher=teacher)
    students = stages.each(
        "distill",
        "mlapp.dl.knowledge_distiller",
        over="width",
        setting="distillation.widths",
        data=data,
        teacher=teacher,
        tuned=tuned_students,
    )
    pruned = stages.each(
        "prune",
        "mlapp.dl.dnn_pruner",
        over="sparsity",
        setting="pruning.sparsities",
        data=data,
        teacher=teacher,
        students=students,
    )
    searches = [tuned, tuned_baseline, tuned_students]
    models = [baseline, teacher, students, pruned]
    challenger = stages.one("choose", "mlapp.vetting.selector", results=models)
    registry = asked(setting_of("storage.registry"))
    verdict = stages.one(
        "vet",
        "mlapp.vetting.verdict",
        challenger=challenger,
        baseline=baseline,
        data=data,
        registry=registry,
        name=asked(setting_of("promotion.name")),
    )
    answer = Approval(
        task_id="approve",
        config=stages.config,
        verdict=verdict,
        wanted=asked(setting_of("promotion.approval")),
        hours=asked(setting_of("promotion.approval_hours")),
    ).output
    promoted = stages.one(
        "promote",
        "mlapp.registry.promoter",
        verdict=verdict,
        answer=answer,
        challenger=challenger,
        data=data,
        registry=registry,
        results=[raw, report, data, *searches, *models],
        by=BY,
    )
    task(task_id="announce", outlets=[MODEL])(announce_model)(data, promoted)
    summary = stages.summary([raw, report, data, *searches, *models, challenger, verdict, promoted])
    registered = stages.optional(
        "register", "mlapp.registry.vertex_registry", "registration.model_registry", promoted=promoted
    )
    logged = stages.optional(
        "log_experiment",
        "mlapp.registry.vertex_experiment",
        "registration.experiment",
        folder=asked(RUN_FOLDER),
    )
    [summary, registered] >> logged


show_form(fashion_mnist_training(), trigger_form())
