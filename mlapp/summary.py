"""Summarise a run: the table that a person reads, kept in the run's folder."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import Field

from mlapp import storage, text_table
from mlapp.errors import UserError, printable
from mlapp.result import Outcome, ResultUris, StageResult
from mlapp.section import Section
from mlapp.stage import stage


class SummaryConfig(Section):
    """What to summarise."""

    results: ResultUris = Field(min_length=1, description="results of the run's stages, in the order of the table")
    started: str | None = Field(
        None, description="when the run began (ISO 8601, UTC unless it says): older results are told as reused"
    )
    run: str = Field("run", description="name of the run")
    placed: str | None = Field(
        None, description="folder of what the run's jobs in the cloud were and cost, if there were any"
    )


@stage("summarise", area="experiments", cached=False)
def run(config: SummaryConfig, workdir: Path) -> Outcome:
    """Write the run's table as text and as JSON."""
    results = [result for result in map(StageResult.load, config.results) if _has_something_to_tell(result)]
    jobs = placed(config.placed) if config.placed else []
    text = table(results, _started(config.started), config.run) + told(jobs)
    storage.write_text(workdir / "summary.txt", text)
    content = [
        result.model_dump(mode="json", include={"stage", "headline", "timings", "metrics"}) | {"uri": result.uri}
        for result in results
    ]
    storage.write_text(
        workdir / "summary.json", json.dumps({"run": config.run, "stages": content, "jobs": jobs}, indent=2)
    )
    print(f"\n{text}", flush=True)
    names = ("summary.txt", "summary.json")
    return Outcome(artifacts={name: workdir / name for name in names}, headline=f"{len(results)} stages")


def table(results: list[StageResult], started: datetime | None, run: str) -> str:
    """The run in about a hundred columns: a line a stage, then the verdict and where the champion lies."""
    rows = [("stage", "time", "CPU", "peak", "key metric")]
    spent = 0.0
    for result in results:
        reused = started is not None and datetime.fromisoformat(result.finished) < started
        spent += 0 if reused else result.timings.get("wall_s", 0.0)
        time, cpu, peak = text_table.costs(result.timings)
        rows.append(
            (
                result.stage,
                "reused" if reused else time,
                cpu,
                peak,
                text_table.key_metric(result.stage, result.headline),
            )
        )
    lines = text_table.table(rows, right=(1, 2, 3), width=None).split("\n")
    rule = "-" * min(max(map(len, lines)), 110)
    told = [f"run {run}", rule, lines[0], rule, *lines[1:], rule, f"stages took {spent:.0f} s"]
    by_stage = {result.stage: result for result in results}
    if "vet" in by_stage:
        told.append(f"verdict     {by_stage['vet'].headline}")
    promoted = by_stage.get("promote")
    if promoted:
        told.append(f"registry    {promoted.headline.split(';')[0]}")
        if "model_card" in promoted.artifacts:
            told.append(f"bundle      {promoted.artifact('model_card').parent}")
            told.append(f"model card  {promoted.artifact('model_card')}")
    return "\n".join(map(printable, told)) + "\n"


def placed(folder: str) -> list[dict[str, Any]]:
    """What is kept of each of the run's jobs in the cloud, in the order in which they were submitted."""
    place = storage.at(folder)
    files = sorted(place.iterdir(), key=lambda path: str(path.name)) if place.exists() else []
    return [json.loads(path.read_text(encoding="utf-8")) for path in files if path.suffix == ".json"]


def told(jobs: list[dict[str, Any]]) -> str:
    """A line on what the jobs cost, and one for each that did not do."""
    if not jobs:
        return ""
    priced = [job for job in jobs if job["cost"] is not None]
    known = f"{sum(job['cost'] for job in priced):.2f} {jobs[0]['currency']} by the listed prices"
    rest = f", {len(jobs) - len(priced)} of them not priced" if priced and len(priced) < len(jobs) else ""
    lines = [f"cloud       {len(jobs)} jobs: {known if priced else 'no prices are listed'}{rest}"]
    lines += [
        f"            {job['task']} at {job['place']}: {job['outcome']}" for job in jobs if job["outcome"] != "ran"
    ]
    return "\n".join(map(printable, lines)) + "\n"


def _has_something_to_tell(result: StageResult) -> bool:
    """Whether a stage was more than asked: a search that was not wanted leaves the settings as they are."""
    return result.stage != "tune" or "trials" in result.artifacts


def _started(value: str | None) -> datetime | None:
    try:
        moment = datetime.fromisoformat(value) if value else None
    except ValueError as error:
        raise UserError(f"started is no ISO 8601 time: {value!r}") from error
    return moment.replace(tzinfo=UTC) if moment and moment.tzinfo is None else moment


if __name__ == "__main__":
    run.main()
