"""Validate: refuse raw data that no model should be trained on, and report what is in it.

Checked: IDX headers, shapes, equal counts, label range, least images of every class, exact duplicates within the
training and test files and across them, one-valued images, uneven classes. Leaves report (quality.json), page
(quality.html) and findings (findings.csv): every image that a check found, and its partner. The last one is there
after a refusal too.
"""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

from pydantic import Field

from mlapp import schema, storage
from mlapp.dataset import are_uneven
from mlapp.errors import UserError
from mlapp.etl import checks
from mlapp.etl.checks import Survey
from mlapp.etl.findings import Finding, find
from mlapp.etl.leftovers import removed_on_refusal
from mlapp.etl.quality_page import render
from mlapp.etl.raw_data import Part, RawData, open_raw
from mlapp.etl.report_table import report_table
from mlapp.result import Metric, Outcome, ResultUri
from mlapp.stage import stage

log = logging.getLogger("mlapp")
FINDINGS = "findings.csv"
EXAMPLES, SHOWN = 5, 10


class Validate(schema.Quality):
    """What to validate, and what to tolerate."""

    raw: ResultUri = Field(description="result of the extract stage")


@stage("validate", area="processed", section="quality")
def run(config: Validate, workdir: Path) -> Outcome:
    """Validate the raw data; a `UserError` gives the figures of every limit that is exceeded."""
    (workdir / FINDINGS).unlink(missing_ok=True)  # of an earlier attempt
    with removed_on_refusal(workdir, keep=(FINDINGS,)), open_raw(config.raw) as raw:
        return _validated(raw, config, workdir)


def _validated(raw: RawData, config: Validate, workdir: Path) -> Outcome:
    checks.check_form(raw)
    surveys = {part: checks.survey(files, len(raw.classes)) for part, files in raw.parts.items()}
    for part, found in surveys.items():
        checks.check_classes(raw, part, found.per_class, config.min_class_count if part == "train" else 1)
    findings = find(raw, surveys, config)
    rows = [row for finding in findings for row in finding.rows(raw)]
    listed = report_table(workdir / FINDINGS, ("check", "image", "label", "partner", "partner_label"), rows)
    _require_sound(raw, findings, str(listed))
    uneven = _uneven(raw, surveys)
    report = _report(raw, surveys, findings, uneven)
    storage.write_text(workdir / "quality.json", json.dumps(report, indent=2, ensure_ascii=False) + "\n")
    storage.write_text(workdir / "quality.html", render(report, raw))
    for finding in findings:
        log.info("validate: %s: %d of %d%s", finding.check, finding.count, finding.of, _examples(raw, finding, 3))
    if uneven:
        log.warning("validate: %s", uneven)
    return Outcome(
        artifacts={
            "report": workdir / "quality.json",
            "page": workdir / "quality.html",
            "findings": workdir / FINDINGS,
        },
        metrics={
            **{f"{part}_images": Metric(value=len(files.labels), unit="images") for part, files in raw.parts.items()},
            **{
                finding.check.replace(" ", "_"): Metric(value=finding.count, n=finding.of, unit="images")
                for finding in findings
            },
        },
        headline=f"{raw.name} is sound: {_told(findings)}" + (f"; {uneven}" if uneven else ""),
    )


def _told(findings: list[Finding]) -> str:
    told = [f"{finding.count:,} {finding.check}" for finding in findings if finding.count]
    return ", ".join(told) or "no duplicates, no leaks, no constant images"


def _require_sound(raw: RawData, findings: list[Finding], listed: str) -> None:
    """A `UserError` with the figures of every limit that is exceeded, and the first images of each."""
    over = [
        f"{one.check}: {one.count:,} of {one.of:,} images ({one.share:.2%}, at most {one.limit:.2%}, {one.setting}"
        f"{_examples(raw, one, SHOWN)})"
        for one in findings
        if one.limit is not None and one.share > one.limit
    ]
    if over:
        raise UserError(
            f"the data is not sound: {'; '.join(over)}. All are in {listed}: clean the source, or raise the limit"
        )


def _examples(raw: RawData, finding: Finding, most: int) -> str:
    told = finding.describe(raw, most)
    more = f" and {finding.count - most:,} more" if finding.count > most else ""
    return f"; {', '.join(told)}{more}" if told else ""


def _uneven(raw: RawData, surveys: dict[Part, Survey]) -> str | None:
    """What to warn of where classes are so uneven that accuracy alone misleads."""
    counts = surveys["train"].per_class
    most, least = int(counts.argmax()), int(counts.argmin())
    if not are_uneven(counts):
        return None
    return (
        f"classes are uneven: {counts[most]:,} training images of {raw.classes[most]}, {counts[least]:,} of "
        f"{raw.classes[least]}; look at the balanced accuracy and the worst class"
    )


def _report(raw: RawData, surveys: dict[Part, Survey], findings: list[Finding], uneven: str | None) -> dict[str, Any]:
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
        "findings": [finding.report(raw, EXAMPLES) for finding in findings],
        **({"uneven": uneven} if uneven else {}),
        **({"pictures": raw.pictures} if raw.pictures else {}),
    }


if __name__ == "__main__":
    run.main()
