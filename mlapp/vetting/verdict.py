"""Vet the challenger on the frozen test set: promote it, hold it, or reject it, with the evidence."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated, NamedTuple

import numpy as np
from pydantic import Field

from mlapp import storage
from mlapp.dataset import Dataset, Split
from mlapp.errors import UserError
from mlapp.policy import Policy, policy_of
from mlapp.registry.bundle import Manifest, verify
from mlapp.registry.comparable import refuse_other_questions
from mlapp.registry.pointer import Pointer, manifest_of
from mlapp.result import Input, Metric, Outcome, Record, ResultUri, StageResult
from mlapp.schema import NAME, Signing
from mlapp.schema_policy import Vetting
from mlapp.stage import stage
from mlapp.text_table import percent
from mlapp.vetting.evidence import Comparison, Model, Scored, Scores, class_inferiority, compare, measures, scored
from mlapp.vetting.gates import Decision, Gate, Measured, decide, gates, listed
from mlapp.vetting.near_duplicates import near_duplicates

log = logging.getLogger("mlapp")


class VetConfig(Vetting):
    """The `vetting` settings, the challenger, and where the champion lives."""

    challenger: ResultUri = Field(description="result of selector")
    data: ResultUri = Field(description="result of image_etl")
    baseline: ResultUri | None = Field(None, description="result of xgboost_trainer, to compare the challenger with")
    registry: str = Field(
        "production_models", description="folder or gs:// prefix of promoted bundles; default: storage.registry"
    )
    name: str = Field(
        "my_fashion_mnist", pattern=NAME, description="name of the model in the registry; default: promotion.name"
    )
    signing: Signing = Signing()
    champion: Annotated[str | None, Input()] = Field(
        None, description="manifest.json of the champion to compare with; default: the registry's"
    )


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
    class_inferior_p: list[float] | None = Field(
        None, description="for each class, the p-value that it loses the policy's margin of recall to the champion"
    )
    near_duplicates: Metric | None = Field(
        None, description="test images of which nearly the same one is among those trained or chosen on"
    )
    data: str = Field(description="digest of the data set that it was scored on")
    champion_before: str | None = Field(description="id of the bundle that the pointer named, if any")


def resolved(config: VetConfig) -> VetConfig:
    """The config with all gates of its policy, and with the champion that this challenger would replace.

    If the challenger already is the champion, that is the champion's predecessor: an unchanged run asks the same
    question again, finds the same key, and is skipped.
    """
    config = config.model_copy(update={"gates": policy_of(config)})
    if config.champion is not None:
        return config
    model = StageResult.load(config.challenger).artifacts["model"].sha256
    champion = manifest_of(config.registry, config.name, Pointer(config.registry, config.name).read())
    if champion and Manifest.load(champion).model_sha256 == model:
        champion = manifest_of(config.registry, config.name, Manifest.load(champion).predecessor)
    return config.model_copy(update={"champion": str(champion) if champion else None})


@stage("vet", area="models", section="vetting", resolve=resolved)
def run(config: VetConfig, workdir: Path) -> Outcome:
    """Score challenger, champion, teacher and baseline anew on the same images, and decide."""
    policy = config.gates  # all of them: the config is a resolved one
    if config.baseline is None and (asked := [name for name in policy if name.startswith("baseline_")]):
        raise UserError(f"policy {config.policy} asks for {asked[0]}: give --baseline the result of xgboost_trainer")
    chosen = StageResult.load_verified(config.challenger)
    dataset = Dataset.of(StageResult.load_verified(config.data))
    test = dataset.split("test")
    champion = _champion(config.champion, config.signing, dataset)
    models = [Model("challenger", chosen.local("model")), Model("teacher", chosen.local("teacher_float32"))]
    models += [Model("champion", champion.model)] if champion else []
    models += [Model("baseline", StageResult.load_verified(config.baseline).local("model"))] if config.baseline else []
    scores = {model.who: _scores(model, test, dataset) for model in models}
    apart = ~near_duplicates(test, [dataset.split("train"), dataset.split("validation")])
    found = {model.who: scored(model, scores[model.who], test, apart, config) for model in models}
    ours = scores["challenger"]
    against = {who: compare(ours, theirs, test, apart, config) for who, theirs in scores.items() if who != "challenger"}
    inferior = _inferior(policy, ours, scores.get("champion"), test)
    measured = measures(found, against, inferior, dataset.classes, policy)
    if champion:
        measured["same_test_set"] = Measured(float(champion.same_test_set))
    passed = gates(policy, measured, champion=champion is not None)
    verdict = Verdict(
        decision=decide(passed),
        gates=passed,
        classes=list(dataset.classes),
        challenger=found["challenger"],
        champion=found.get("champion"),
        teacher=found["teacher"],
        baseline=found.get("baseline"),
        against_champion=against.get("champion"),
        against_teacher=against["teacher"],
        against_baseline=against.get("baseline"),
        class_inferior_p=inferior,
        near_duplicates=Metric(value=int((~apart).sum()), n=len(test), unit="images"),
        data=dataset.result.digest(),
        champion_before=champion.bundle if champion else None,
    )
    for line in listed(passed).splitlines():
        log.info("%s", line)
    storage.write_text(workdir / "verdict.json", verdict.model_dump_json(indent=2) + "\n")
    with storage.atomic_file(workdir / "predictions.npy") as draft, draft.open("wb") as stream:
        answers = [scores[model.who].argmax(-1) for model in models]
        np.save(stream, np.stack(answers).astype(np.uint8), allow_pickle=False)
    return Outcome(
        artifacts={"verdict": workdir / "verdict.json", "predictions": workdir / "predictions.npy"},
        metrics={f"{who}.test_accuracy": model.accuracy for who, model in found.items()}
        | {f"difference_to_{who}": comparison.difference for who, comparison in against.items()},
        headline=headline(verdict),
    )


def _scores(model: Model, test: Split, dataset: Dataset) -> Scores:
    """A model's class scores; a `UserError` if it knows another number of classes than the data set."""
    scores = model.score(test.images)
    if scores.shape[1] != len(dataset.classes):
        raise UserError(
            f"the {model.who} {model.path} gives {scores.shape[1]} scores, the data set has {len(dataset.classes)} "
            "classes: vet models that were made from this data set"
        )
    return scores


def _inferior(policy: Policy, ours: Scores, champion: Scores | None, test: Split) -> list[float] | None:
    margin = policy["class_inferior_p"].margin if "class_inferior_p" in policy else None
    return None if champion is None or margin is None else class_inferiority(ours, champion, test, margin)


def headline(verdict: Verdict) -> str:
    """The verdict in one line."""
    accuracy = verdict.challenger.accuracy
    told = f"{verdict.decision}: {percent(accuracy)} on {accuracy.n:,} test images"
    told += f" (teacher {percent(verdict.teacher.accuracy)}"
    told += f", baseline {percent(verdict.baseline.accuracy)}" if verdict.baseline else ""
    told += f", champion {percent(verdict.champion.accuracy)})" if verdict.champion else ", no champion yet)"
    missed = [gate.name for gate in verdict.gates if not gate.passed]
    return told + (f"; missed: {', '.join(missed)}" if missed else "")


class Champion(NamedTuple):
    """The bundle to compare with, its model's file, and whether it was tested on the very images that are used now."""

    bundle: str
    model: Path
    same_test_set: bool


def _champion(uri: str | None, keys: Signing, dataset: Dataset) -> Champion | None:
    if uri is None:
        return None
    folder = storage.at(uri).parent
    manifest = verify(folder, keys)
    refuse_other_questions(folder, dataset.classes, dataset.shape)
    theirs = manifest.data.get("sha256")
    files = {name: dataset.result.artifacts[name].sha256 for name in ("test_images", "test_labels")}
    same = isinstance(theirs, dict) and files.items() <= theirs.items()
    return Champion(manifest.id, storage.fetch(folder / manifest.model, manifest.model_sha256), same)


if __name__ == "__main__":
    run.main()
