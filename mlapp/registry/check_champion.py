"""Check that a new model could meet the champion at all, as soon as the data are there and before anything is trained.

The data and the champion must have the same classes in the same order and the same shape, and the champion must be
whole, and signed where a key is set.
"""

from __future__ import annotations

from pathlib import Path

from pydantic import Field

from mlapp import plain, storage
from mlapp.etl import idx
from mlapp.registry import moves
from mlapp.registry.comparable import refuse_other_questions
from mlapp.registry.pointer import Pointer, manifest_of
from mlapp.result import Outcome, ResultUri, StageResult
from mlapp.schema import NAME, Promotion, Signing
from mlapp.stage import stage

COLOURED = 3  # dimensions of an image whose channels its file spells out


class CheckConfig(Promotion):
    """The name that is to be promoted, and the data that its model is to learn from."""

    name: str = Field("my_fashion_mnist", pattern=NAME, description="name of the model in the registry")
    raw: ResultUri = Field(description="result of gcp_dataloader")
    registry: str = Field(
        "production_models", description="folder or gs:// prefix of promoted bundles; default: storage.registry"
    )
    signing: Signing = Signing()


@stage("check_champion", area="models", section="promotion", cached=False)
def run(config: CheckConfig, workdir: Path) -> Outcome:
    """Compare what the champion answers with what the data ask."""
    manifest = manifest_of(config.registry, config.name, Pointer(config.registry, config.name).read())
    if manifest is None:
        return Outcome(headline=f"{config.name} has no champion yet")
    classes, shape = question_of(config.raw)
    refuse_other_questions(manifest.parent, classes, shape, config.signing)
    moves.check(config.registry, config.name, config.signing)
    told = "×".join(map(str, shape))
    return Outcome(headline=f"{config.name}/{manifest.parent.name}: {len(classes)} classes, {told}, like the data")


def question_of(uri: str) -> tuple[tuple[str, ...], tuple[int, ...]]:
    """Classes and shape of extracted data; of the images themselves only the header is read."""
    result = StageResult.load(uri)
    source = plain.from_json(result.local("source").read_text(encoding="utf-8"))
    with storage.explained(), result.artifact("train_images").open("rb") as stream:
        _, *shape = idx.read_header(stream, "train_images").shape
    return tuple(source["classes"]), tuple(shape if len(shape) == COLOURED else (*shape, 1))


if __name__ == "__main__":
    run.main()
