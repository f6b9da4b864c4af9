"""Promote: file the vetted challenger as an immutable bundle with its model card, then move the pointer to it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from pydantic import Field
from upath import UPath

from mlapp.dataset import Dataset
from mlapp.errors import UserError
from mlapp.registry import history, model_card, moves
from mlapp.registry.bundle import MANIFEST, Draft, Manifest, describe, install, verify, write_json
from mlapp.registry.pointer import Pointer, manifest_of
from mlapp.result import Outcome, ResultUri, ResultUris, StageResult
from mlapp.schema import NAME, Promotion, Signing
from mlapp.stage import stage
from mlapp.vetting.frontier import Placed
from mlapp.vetting.verdict import Verdict

APPROVED, CARD = "approved", "MODEL_CARD.md"
ALREADY = "already the champion"
MODELS = {"int8": "model.int8.tflite", "float32": "model.float32.tflite", "keras": "model.keras"}


class PromoterConfig(Promotion):
    """The `promotion` settings, and what to promote."""

    name: str = Field("my_fashion_mnist", pattern=NAME, description="name of the model in the registry")
    verdict: ResultUri = Field(description="result of verdict")
    challenger: ResultUri = Field(description="result of selector")
    data: ResultUri = Field(description="result of image_etl")
    results: ResultUris = Field((), description="results of all earlier stages, for the bundle's provenance")
    registry: str = Field(
        "production_models", description="folder or gs:// prefix of promoted bundles; default: storage.registry"
    )
    by: str | None = Field(None, description="who or what promotes, for the history; unset: the user and the machine")
    answer: str = Field("", description="what a person said who was asked; empty: nobody was")
    signing: Signing = Signing()
    again: bool = Field(False, description="promote even a bundle that was promoted before and rolled back")


@stage("promote", area="models", section="promotion", cached=False)
def run(config: PromoterConfig, workdir: Path) -> Outcome:
    """Move the champion if the verdict says so; otherwise the registry stays as it is."""
    vetted, challenger = StageResult.load_verified(config.verdict), StageResult.load_verified(config.challenger)
    verdict = read_verdict(vetted)
    model = challenger.artifacts["model"].sha256
    if verdict.challenger.sha256 != model or verdict.data != StageResult.load(config.data).digest():
        raise UserError(
            f"the verdict {vetted.uri} is of another model or of other data: give the --challenger and --data it vetted"
        )
    pointer = Pointer(config.registry, config.name)
    if verdict.decision != "promote":
        return _unchanged(pointer, verdict.decision)
    present = pointer.settle(config.signing)
    champion = manifest_of(config.registry, config.name, present)
    if champion and Manifest.load(champion).model_sha256 == model:
        return _outcome(champion.parent, ALREADY)
    earlier = [move["champion"] for move in pointer.history() if move.get("model") == model]
    if earlier and not config.again:
        return Outcome(headline=rolled_back(earlier[-1]))
    if (config.approval or config.answer) and not config.answer.startswith(APPROVED):
        return _unchanged(pointer, f"hold ({config.answer or 'nobody was asked, and promotion.approval is on'})")
    refuse_stale(verdict, present)
    place = pointer.folder / earlier[-1] if earlier else _filed(config, pointer, verdict, vetted, challenger)
    why = "; ".join(filter(None, (vetted.headline, config.answer)))
    manifest = verify(place, config.signing)
    entry = moves.entry(config.by, why, place, manifest) | {"verdict": vetted.key}
    pointer.swap(present, manifest.id, entry, config.signing)
    return _outcome(place, f"promoted {config.name}/{place.name}")


def unneeded(verdict: Verdict, registry: str, name: str) -> str | None:
    """Why no person need be asked about a verdict to promote: what comes of it is settled; None where it is open.

    A `UserError` if it is of another champion than the present one, and so nothing that a person should decide on.
    """
    pointer = Pointer(registry, name)
    present, model = pointer.read(), verdict.challenger.sha256
    champion = manifest_of(registry, name, present)
    if champion and Manifest.load(champion).model_sha256 == model:
        return ALREADY
    if earlier := [move["champion"] for move in pointer.history() if move.get("model") == model]:
        return rolled_back(earlier[-1])
    refuse_stale(verdict, present)
    return None


def rolled_back(bundle: str) -> str:
    """What becomes of a model that was champion once and is no longer."""
    return f"hold: {bundle} was promoted before and rolled back; --again true promotes it again"


def refuse_stale(verdict: Verdict, present: str | None) -> None:
    """A `UserError` if the champion is no longer the one that the verdict is about."""
    if present != verdict.champion_before:
        raise UserError(
            f"the champion changed since the vetting (from {verdict.champion_before} to {present}): "
            "run the DAG again, so that the challenger is vetted against the present one"
        )


def _filed(
    config: PromoterConfig, pointer: Pointer, verdict: Verdict, vetted: StageResult, challenger: StageResult
) -> UPath:
    """The challenger's bundle, in its place beside the pointer."""
    with Draft(pointer.folder) as draft:
        manifest = fill(draft, config, verdict, vetted, challenger, history.head(pointer.history_text()))
        if manifest.model_sha256 != challenger.artifacts["model"].sha256:
            raise UserError(f"{challenger.artifact('model')} changed while it was copied: run the DAG again")
        return install(draft, manifest, pointer.folder, config.signing)


def read_verdict(vetted: StageResult) -> Verdict:
    """The verdict behind a vet stage's result; a `UserError` if it is of a form that this code does not know."""
    return vetted.content("verdict", Verdict)


def fill(
    draft: Path,
    config: PromoterConfig,
    verdict: Verdict,
    vetted: StageResult,
    challenger: StageResult,
    head: str | None = None,
) -> Manifest:
    """Write everything that a bundle of this challenger holds into a draft; returns the manifest.

    ``head`` is the hash of the history's last line, where the bundle is to be promoted.
    """
    dataset = Dataset.open(config.data)
    for name, file in MODELS.items():
        shutil.copyfile(challenger.local(name), draft / file)
    chosen = challenger.content("challenger", Placed).candidate.model_dump(mode="json")
    if chosen["artifact"] not in MODELS:
        raise UserError(f"{challenger.uri} chose {chosen['name']}, which is compared with only: run choose again")
    served = MODELS[chosen["artifact"]]
    shutil.copyfile(challenger.local("frontier_plot"), draft / "frontier.png")
    (draft / "labels.json").write_text(json.dumps(list(dataset.classes), indent=2) + "\n", encoding="utf-8")
    write_json(draft / "preprocessing.json", _preprocessing(dataset))
    write_json(draft / "verdict.json", verdict.model_dump(mode="json"))
    write_json(draft / "metrics.json", {name: metric.model_dump() for name, metric in vetted.metrics.items()})
    stages = [StageResult.load(uri) for uri in dict.fromkeys((*config.results, config.challenger, config.verdict))]
    (draft / "frontier.json").write_text(json.dumps(_frontier(challenger), indent=2) + "\n", encoding="utf-8")
    about = {
        "name": config.name,
        "model": served,
        "predecessor": verdict.champion_before,
        "created": vetted.finished,
        "data": _data(dataset),
        "stages": {
            f"{result.stage}/{result.key[:8]}": {"key": result.key, "finished": result.finished, **result.environment}
            for result in stages
        },
        "history": head,
    }
    model_card.write(draft, about, verdict, chosen, stages)
    return describe(draft, **about)


def _frontier(challenger: StageResult) -> list[dict[str, Any]]:
    """The candidates as the choice placed them, each with its stage and key, wherever they lay."""
    placed = [entry.model_dump(mode="json") for entry in challenger.content("frontier", list[Placed])]
    made = {uri: StageResult.load(uri) for uri in dict.fromkeys(entry["result"] for entry in placed)}
    return [{**entry, "result": f"{made[entry['result']].stage}/{made[entry['result']].key[:8]}"} for entry in placed]


def _preprocessing(dataset: Dataset) -> dict[str, Any]:
    return {
        "input_shape": [1, *dataset.shape],
        "int8": {"input_dtype": "uint8", "output_dtype": "int8", "pixels": "0..255, as they are"},
        "float32": {"input_dtype": "float32", "output_dtype": "float32", "pixels": "0..255, not scaled"},
        "output": "one logit a class, in the order of labels.json; the largest decides",
    }


def _data(dataset: Dataset) -> dict[str, Any]:
    digests = {name: artifact.sha256 for name, artifact in dataset.result.artifacts.items()}
    return {"description": dataset.description, "sha256": digests}


def _unchanged(pointer: Pointer, why: str) -> Outcome:
    """Nothing was promoted: which champion stays, and where its card lies."""
    champion = pointer.read()
    if champion is None:
        return Outcome(headline=f"{why}: there still is no champion")
    card = pointer.folder / champion / CARD
    return Outcome(
        artifacts={"model_card": str(card)},
        headline=f"{why}: {pointer.folder.name}/{champion} stays the champion; {card}",
    )


def _outcome(place: Any, told: str) -> Outcome:
    card = place / CARD
    return Outcome(artifacts={"manifest": str(place / MANIFEST), "model_card": str(card)}, headline=f"{told}; {card}")


if __name__ == "__main__":
    run.main()
