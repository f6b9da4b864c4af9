"""Validate: refuse raw data that no model should be trained on, and report what is in it.

Checked: IDX headers, shapes, equal counts, label range, least images of every class, exact duplicates within the
training and test files and across them, one-valued images. Leaves report (quality.json) and page (quality.html).
"""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from pydantic import Field

from mlapp import schema, storage
from mlapp.errors import UserError
from mlapp.etl import checks
from mlapp.etl.checks import Survey
from mlapp.etl.quality_page import render
from mlapp.etl.raw_data import Part, RawData, open_raw
from mlapp.result import Metric, Outcome, ResultUri
from mlapp.stage import stage

log = logging.getLogger("mlapp")
EXAMPLES = 5


class Validate(schema.Quality):
    """What to validate, and what to tolerate."""

    raw: ResultUri = Field(description="result of the extract stage")


@stage("validate", area="processed", section="quality")
def run(config: Validate, workdir: Path) -> Outcome:
    """Validate the raw data; a `UserError` gives the figures of every limit that is exceeded."""
    with open_raw(config.raw) as raw:
        return _validated(raw, config, workdir)


def _validated(raw: RawData, config: Validate, workdir: Path) -> Outcome:
    checks.check_form(raw)
    surveys = {part: checks.survey(files, len(raw.classes)) for part, files in raw.parts.items()}
    for part, found in surveys.items():
        checks.check_classes(raw, part, found.per_class, config.min_class_count if part == "train" else 1)
    findings = _findings(raw, surveys, config)
    report = _report(raw, surveys, findings)
    storage.write_text(workdir / "quality.json", json.dumps(report, indent=2, ensure_ascii=False) + "\n")
    storage.write_text(workdir / "quality.html", render(report, raw))
    for finding in findings:
        log.info("validate: %s: %d of %d", finding["check"], finding["count"], finding["of"])
    return Outcome(
        artifacts={"report": workdir / "quality.json", "page": workdir / "quality.html"},
        metrics={
            **{f"{part}_images": Metric(value=len(files.labels), unit="images") for part, files in raw.parts.items()},
            **{
                finding["check"].replace(" ", "_"): Metric(value=finding["count"], n=finding["of"], unit="images")
                for finding in findings
            },
        },
        headline=f"{raw.name} is sound: {_told(findings)}",
    )


def _told(findings: list[dict[str, Any]]) -> str:
    told = [f"{finding['count']:,} {finding['check']}" for finding in findings if finding["count"]]
    return ", ".join(told) or "no duplicates, no leaks, no constant images"


def _findings(raw: RawData, surveys: dict[Part, Survey], config: Validate) -> list[dict[str, Any]]:
    """Every count with its limit, if there is one; a `UserError` lists those over theirs."""
    findings = []
    for part, found in surveys.items():
        labels, first = raw.parts[part].labels, checks.firsts(found.digests)
        repeated, contradicted = np.flatnonzero(first != np.arange(len(first))), np.flatnonzero(labels != labels[first])
        findings += [
            _finding(f"{part} duplicates", repeated, len(labels), config.max_duplicates),
            _finding(f"{part} contradictions", contradicted, len(labels), None),
            _finding(f"{part} constant", found.constant, len(labels), config.max_constant),
        ]
    if "test" in surveys:
        numbers = checks.leaked(surveys["test"].digests, surveys["train"].digests)
        findings.append(_finding("test leaked", numbers, len(surveys["test"].digests), config.max_leaked))
    limits = {"duplicates": "max_duplicates", "constant": "max_constant", "leaked": "max_leaked"}
    over = [
        f"{one['check']}: {one['count']:,} of {one['of']:,} images ({one['share']:.2%}, at most {one['limit']:.2%}, "
        f"quality.{limits[one['check'].split()[1]]}; for instance number {one['examples'][0]})"
        for one in findings
        if one["limit"] is not None and one["share"] > one["limit"]
    ]
    if over:
        raise UserError(f"the data is not sound: {'; '.join(over)}. Clean the source, or raise the limit")
    return findings


def _finding(check: str, numbers: npt.NDArray[np.intp], of: int, limit: float | None) -> dict[str, Any]:
    examples = [int(number) for number in numbers[:EXAMPLES]]
    share = len(numbers) / of
    return {"check": check, "count": len(numbers), "of": of, "share": share, "limit": limit, "examples": examples}


def _report(raw: RawData, surveys: dict[Part, Survey], findings: list[dict[str, Any]]) -> dict[str, Any]:
    parts = {
        part: {
            "images": len(found.digests),
            "per_class": dict(zip(raw.classes, found.per_class.tolist(), strict=True)),
            "pixels": found.pixels,
        }
        for part, found in surveys.items()
    }
    return {
        "name": raw.name,
        "origin": raw.origin,
        "raw": raw.digest,
        "classes": raw.classes,
        "shape": raw.parts["train"].images.shape[1:],
        "parts": parts,
        "findings": findings,
    }


if __name__ == "__main__":
    run.main()
