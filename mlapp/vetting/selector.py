"""Choose the challenger: the smallest model that stays close to the teacher, or the best, by validation alone."""

from __future__ import annotations

import json
from pathlib import Path

from pydantic import Field

from mlapp import storage
from mlapp.candidate import read_candidates
from mlapp.result import Metric, Outcome, ResultUris, StageResult
from mlapp.schema import Selection
from mlapp.stage import stage
from mlapp.vetting.frontier import Placed, accuracy_floor, choose, place, teacher_of
from mlapp.vetting.frontier_plot import draw


class SelectorConfig(Selection):
    """The `selection` settings, and the models to choose from."""

    results: ResultUris = Field(
        min_length=1, description="results of all model-making stages, the teacher's among them"
    )


@stage("choose", area="models", section="selection")
def run(config: SelectorConfig, workdir: Path) -> Outcome:
    """Lay all candidates on the frontier and pick one; the test set is not opened here."""
    results = {uri: StageResult.load_verified(uri) for uri in config.results}
    candidates = [(candidate, uri) for uri, result in results.items() for candidate in read_candidates(result)]
    teacher, teacher_uri = teacher_of(candidates)
    placed = place(candidates, config)
    chosen = choose(placed, config)
    written = {name: workdir / f"{name}.json" for name in ("frontier", "challenger")}
    storage.write_text(written["frontier"], json.dumps([entry.model_dump(mode="json") for entry in placed], indent=2))
    storage.write_text(written["challenger"], chosen.model_dump_json(indent=2))
    plot = workdir / "frontier.png"
    draw(placed, chosen, teacher, accuracy_floor(candidates, config), plot)
    source = results[chosen.result]
    models = {name: source.handed_on(name) for name in ("int8", "float32", "keras")}
    return Outcome(
        artifacts={
            **written,
            "frontier_plot": plot,
            "model": source.handed_on(chosen.candidate.artifact),
            **models,
            "teacher_float32": results[teacher_uri].handed_on("float32"),
        },
        metrics={
            "validation_accuracy": chosen.candidate.validation_accuracy,
            "latency": chosen.candidate.latency_us,
            "size": Metric(value=chosen.candidate.bytes, unit="B"),
            "candidates": Metric(value=len(placed)),
        },
        headline=_headline(chosen),
    )


def _headline(chosen: Placed) -> str:
    candidate = chosen.candidate
    accuracy = candidate.validation_accuracy
    return (
        f"{candidate.label}: {100 * accuracy.value:.2f} % on {accuracy.n:,} validation images, "
        f"{candidate.bytes / 1000:.0f} KB, {candidate.latency_us.value:.0f} µs"
    )


if __name__ == "__main__":
    run.main()
