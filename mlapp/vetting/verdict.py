"""Vet the challenger on the frozen test set: promote it, hold it, or reject it, with the evidence."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import numpy as np
import numpy.typing as npt
from pydantic import Field

from mlapp import statistics, storage
from mlapp.dataset import Dataset, Split
from mlapp.errors import UserError
from mlapp.ml import xgboost_model
from mlapp.registry.bundle import Manifest, verify
from mlapp.registry.pointer import Pointer, manifest_of
from mlapp.result import Input, Metric, Outcome, Record, ResultUri, StageResult
from mlapp.schema import Vetting
from mlapp.stage import stage
from mlapp.vetting.gates import Decision, Gate, at_least, at_most, decide, improvement
from mlapp.vetting.intact import intact
from mlapp.vetting.near_duplicates import near_duplicates
from mlapp.vetting.scorer import latency_us, score

LATENCY_RUNS = 200


class VetConfig(Vetting):
    """The `vetting` settings, the challenger, and where the champion lives."""

    challenger: ResultUri = Field(description="result of selector")
    data: ResultUri = Field(description="result of image_etl")
    baseline: ResultUri | None = Field(None, description="result of xgboost_trainer, to compare the challenger with")
    registry: str = Field("production_models", description="folder or gs:// prefix of promoted bundles")
    name: str = Field(
        "fashion_mnist", pattern=r"^[a-z][a-z0-9_]{0,39}$", description="name of the model in the registry"
    )
    champion: Annotated[str | None, Input()] = Field(
        None, description="manifest.json of the champion to compare with; default: the registry's"
    )


class Scored(Record):
    """How one model did on the test set."""

    label: str
    sha256: str = Field(description="hash of the model file that was scored")
    accuracy: Metric
    accuracy_apart: Metric | None = Field(
        None, description="on the test images that are no near-duplicates; unset where all are"
    )
    recall: list[Metric]
    confusion: list[list[int]]
    bytes: int
    latency_us: Metric


class Comparison(Record):
    """Challenger against another model on the same images."""

    difference: Metric
    only_challenger_right: int
    only_other_right: int
    p_value: float


class Verdict(Record):
    """The decision with everything it rests on. Accuracies are of the test set, which nothing was chosen on."""

    decision: Decision
    gates: list[Gate]
    classes: list[str]
    challenger: Scored
    champion: Scored | None
    teacher: Scored
    baseline: Scored | None = None
    against_champion: Comparison | None
    against_teacher: Comparison
    against_baseline: Comparison | None = None
    near_duplicates: Metric | None = Field(
        None, description="test images of which nearly the same one is among those trained or chosen on"
    )
    data: str = Field(description="digest of the data set that it was scored on")
    champion_before: str | None = Field(description="id of the bundle that the pointer named, if any")


def with_champion(config: VetConfig) -> VetConfig:
    """The config with the champion that this challenger would replace.

    If the challenger already is the champion, that is the champion's predecessor: an unchanged run asks the same
    question again, finds the same key, and is skipped.
    """
    if config.champion is not None:
        return config
    model = StageResult.load(config.challenger).artifacts["model"].sha256
    champion = manifest_of(config.registry, config.name, Pointer(config.registry, config.name).read())
    if champion and Manifest.load(champion).model_sha256 == model:
        champion = manifest_of(config.registry, config.name, Manifest.load(champion).predecessor)
    return config.model_copy(update={"champion": str(champion) if champion else None})


@stage("vet", area="models", section="vetting", resolve=with_champion)
def run(config: VetConfig, workdir: Path) -> Outcome:
    """Score challenger, champion, teacher and baseline anew on the same images, and decide."""
    if config.beat_baseline and config.baseline is None:
        raise UserError("vetting.beat_baseline needs a baseline: give --baseline the result of xgboost_trainer")
    chosen = intact(config.challenger)
    dataset = Dataset.open(intact(config.data).uri)
    test = dataset.split("test")
    champion = _champion(config.champion, dataset)
    paths = {"challenger": chosen.local("model"), "teacher": chosen.local("teacher_float32")}
    paths |= {"champion": champion[1]} if champion else {}
    paths |= {"baseline": intact(config.baseline).local("model")} if config.baseline else {}
    answers = {who: _score(who, path, test).argmax(-1) for who, path in paths.items()}
    apart = ~near_duplicates(test, [dataset.split("train"), dataset.split("validation")])
    scored = {who: _scored(who, path, answers[who], test, dataset, apart) for who, path in paths.items()}
    against = {who: _compare(answers["challenger"], answers[who], test, config) for who in paths if who != "challenger"}
    gates = _gates(scored, against, dataset.classes, config)
    verdict = Verdict(
        decision=decide(gates),
        gates=gates,
        classes=list(dataset.classes),
        challenger=scored["challenger"],
        champion=scored.get("champion"),
        teacher=scored["teacher"],
        baseline=scored.get("baseline"),
        against_champion=against.get("champion"),
        against_teacher=against["teacher"],
        against_baseline=against.get("baseline"),
        near_duplicates=Metric(value=int((~apart).sum()), n=len(test), unit="images"),
        data=dataset.result.digest(),
        champion_before=champion[0] if champion else None,
    )
    storage.write_text(workdir / "verdict.json", verdict.model_dump_json(indent=2) + "\n")
    with storage.atomic_file(workdir / "predictions.npy") as draft, draft.open("wb") as stream:
        np.save(stream, np.stack([answers[who] for who in paths]).astype(np.uint8), allow_pickle=False)
    return Outcome(
        artifacts={"verdict": workdir / "verdict.json", "predictions": workdir / "predictions.npy"},
        metrics={f"{who}.test_accuracy": model.accuracy for who, model in scored.items()}
        | {f"difference_to_{who}": comparison.difference for who, comparison in against.items()},
        headline=headline(verdict),
    )


def headline(verdict: Verdict) -> str:
    """The verdict in one line."""
    accuracy = verdict.challenger.accuracy
    told = f"{verdict.decision}: {percent(accuracy)} on {accuracy.n:,} test images"
    told += f" (teacher {percent(verdict.teacher.accuracy)}"
    told += f", baseline {percent(verdict.baseline.accuracy)}" if verdict.baseline else ""
    told += f", champion {percent(verdict.champion.accuracy)})" if verdict.champion else ", no champion yet)"
    failed = [gate.name for gate in verdict.gates if not gate.passed]
    return told + (f"; failed: {', '.join(failed)}" if failed else "")


def percent(metric: Metric) -> str:
    """A share as a percentage."""
    return f"{100 * metric.value:.2f} %"


def _champion(uri: str | None, dataset: Dataset) -> tuple[str, Path] | None:
    if uri is None:
        return None
    folder = storage.at(uri).parent
    manifest = verify(folder)
    labels = json.loads((folder / "labels.json").read_text(encoding="utf-8"))
    if labels != list(dataset.classes):
        raise UserError(
            f"the champion {folder} tells {len(labels)} other classes than the data set's {len(dataset.classes)}: "
            "promote this model under another promotion.name"
        )
    return manifest.id, storage.fetch(folder / manifest.model)


def _score(who: str, path: Path, test: Split) -> npt.NDArray[np.float32]:
    return xgboost_model.score(path, test.images) if who == "baseline" else score(path, test.images)


def _latency(who: str, path: Path, test: Split) -> Metric:
    time_of = xgboost_model.latency_us if who == "baseline" else latency_us
    return time_of(path, test.images[0], LATENCY_RUNS)


def _scored(
    who: str,
    path: Path,
    answers: npt.NDArray[np.int64],
    test: Split,
    dataset: Dataset,
    apart: npt.NDArray[np.bool_],
) -> Scored:
    confusion = statistics.confusion_matrix(test.labels, answers, len(dataset.classes))
    hits = answers == test.labels
    return Scored(
        label=who,
        sha256=storage.sha256(path),
        accuracy=statistics.proportion(int(hits.sum()), len(test)),
        accuracy_apart=statistics.proportion(int(hits[apart].sum()), int(apart.sum())) if apart.any() else None,
        recall=statistics.class_recall(confusion),
        confusion=confusion.tolist(),
        bytes=path.stat().st_size,
        latency_us=_latency(who, path, test),
    )


def _compare(
    challenger: npt.NDArray[np.int64], other: npt.NDArray[np.int64], test: Split, config: Vetting
) -> Comparison:
    paired = statistics.Paired.of(challenger == test.labels, other == test.labels)
    return Comparison(
        difference=statistics.difference(paired, config.bootstrap_samples, config.seed),
        only_challenger_right=paired.b,
        only_other_right=paired.c,
        p_value=statistics.mcnemar(paired),
    )


def _gates(
    scored: dict[str, Scored], against: dict[str, Comparison], classes: tuple[str, ...], config: Vetting
) -> list[Gate]:
    challenger = scored["challenger"]
    recalls = [metric.value for metric in challenger.recall]
    weakest = int(np.argmin(recalls))
    gates = [
        at_least("accuracy", challenger.accuracy.value, config.min_accuracy),
        at_least("lowest recall of a class", recalls[weakest], config.min_class_recall, classes[weakest]),
        at_most("file size (bytes)", challenger.bytes, config.max_bytes),
        at_most("latency (µs, one thread)", challenger.latency_us.value, config.max_latency_us),
    ]
    if champion := against.get("champion"):
        drops = [before.value - after for before, after in zip(scored["champion"].recall, recalls, strict=True)]
        most = int(np.argmax(drops))
        gates.append(at_most("most recall lost by a class", drops[most], config.max_class_drop, classes[most]))
        gates += improvement(champion.difference, champion.p_value, config.significance)
    if config.beat_baseline:
        baseline = against["baseline"]
        gates += improvement(baseline.difference, baseline.p_value, config.significance, over="baseline")
    return gates


if __name__ == "__main__":
    run.main()
