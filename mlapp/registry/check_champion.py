"""Check that a new model could meet the champion at all, as soon as the data are there and before anything is trained.

The data and the champion must have the same classes in the same order and the same shape, and the champion must be
whole, and signed where a key is set. There must be enough images for the epochs of every network; too few test images
for the policy are reported.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from pydantic import Field

from mlapp import enough, plain, storage
from mlapp.etl import idx, split
from mlapp.policy import policy_of
from mlapp.registry import moves
from mlapp.registry.comparable import refuse_other_questions
from mlapp.registry.pointer import Pointer, manifest_of
from mlapp.result import Outcome, ResultUri, StageResult
from mlapp.schema import NAME, Distillation, Promotion, Signing, Training, Transform
from mlapp.schema_policy import Measure, Vetting
from mlapp.stage import stage

log = logging.getLogger("mlapp")
COLOURED = 3  # dimensions of an image whose channels its file spells out


class CheckConfig(Promotion):
    """The name that is to be promoted, and the data that its model is to learn from."""

    name: str = Field("my_fashion_mnist", pattern=NAME, description="name of the model in the registry")
    raw: ResultUri = Field(description="result of gcp_dataloader")
    registry: str = Field(
        "production_models", description="folder or gs:// prefix of promoted bundles; default: storage.registry"
    )
    signing: Signing = Signing()
    transform: Transform = Transform()
    training: Training = Training()
    distillation: Distillation = Distillation()
    vetting: Vetting = Vetting()


@stage("check_champion", area="models", section="promotion", cached=False)
def run(config: CheckConfig, workdir: Path) -> Outcome:
    """Compare what the champion answers with what the data ask, and count the images."""
    classes, shape = question_of(config.raw)
    check_counts(config, len(classes))
    manifest = manifest_of(config.registry, config.name, Pointer(config.registry, config.name).read())
    if manifest is None:
        return Outcome(headline=f"{config.name} has no champion yet")
    refuse_other_questions(manifest.parent, classes, shape, config.signing)
    moves.check(config.registry, config.name, config.signing)
    told = "×".join(map(str, shape))
    return Outcome(headline=f"{config.name}/{manifest.parent.name}: {len(classes)} classes, {told}, like the data")


def check_counts(config: CheckConfig, classes: int) -> None:
    """A `UserError` if there are too few images to train on; a warning where there are too few to promote on."""
    result = StageResult.load(config.raw)
    of_class = {
        part: np.bincount(idx.open_idx(result.local(f"{part}_labels")).ravel(), minlength=classes)
        for part in ("train", "test")
        if f"{part}_labels" in result.artifacts
    }
    images, *test = split.expected(of_class["train"], of_class.get("test"), config.transform)
    for line in too_few_to_promote(config.vetting, *test):
        log.warning("%s", line)
    for section in (config.training, config.distillation):
        enough.fitting_batch(section, images)


def too_few_to_promote(vetting: Vetting, test: int, of_a_class: int) -> Iterator[str]:
    """What the policy asks for that so many test images, ``of_a_class`` in the smallest one, cannot give."""
    policy = policy_of(vetting)
    given: tuple[tuple[Measure, int], ...] = (("test_images", test), ("test_images_per_class", of_a_class))
    for measure, count in given:
        bound = policy.get(measure)
        if bound and bound.at_least is not None and count < bound.at_least and bound.otherwise != "note":
            yield (
                f"the verdict will be {bound.otherwise} whatever is trained: {measure} is {count}, and the policy "
                f"{vetting.policy} asks for {bound.at_least:g}: add images, raise transform.test_fraction (where the "
                f"source has no test set), or set vetting.gates.{measure}"
            )


def question_of(uri: str) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """Classes and shape of extracted data; of the images themselves only the header is read."""
    result = StageResult.load(uri)
    source = plain.from_json(result.local("source").read_text(encoding="utf-8"))
    with storage.explained(), result.artifact("train_images").open("rb") as stream:
        _, *shape = idx.read_header(stream, "train_images").shape
    return tuple(source["classes"]), tuple(shape if len(shape) == COLOURED else (*shape, 1))


if __name__ == "__main__":
    run.main()
