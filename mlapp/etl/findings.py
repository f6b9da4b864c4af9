"""What the checks found in raw data, image by image: which, of which label, and which other image it contradicts."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import numpy.typing as npt

from mlapp.etl import checks
from mlapp.etl.checks import Survey
from mlapp.etl.raw_data import Part, RawData
from mlapp.schema import Quality

Numbers = npt.NDArray[np.intp]


@dataclass(frozen=True)
class Finding:
    """The images of ``part`` that a check found; where they equal others, those ``partners`` of ``partner_part``."""

    check: str
    part: Part
    numbers: Numbers
    of: int
    limit: float | None = None
    setting: str = ""
    partners: Numbers | None = None
    partner_part: Part = "train"

    @property
    def count(self) -> int:
        """How many images."""
        return len(self.numbers)

    @property
    def share(self) -> float:
        """Their share of the part."""
        return self.count / self.of

    def rows(self, raw: RawData) -> Iterator[tuple[str, str, str, str, str]]:
        """Check, image, its label, its partner, the partner's label."""
        labels = raw.parts[self.part].labels
        for place, number in enumerate(self.numbers):
            partner = ("", "")
            if self.partners is not None:
                other = int(self.partners[place])
                partner = (raw.image(self.partner_part, other), _label(raw, self.partner_part, other))
            yield self.check, raw.image(self.part, int(number)), raw.classes[labels[number]], *partner

    def describe(self, raw: RawData, most: int) -> list[str]:
        """The first of them, each in some words."""
        return [
            f"{image} ({label})" + (f" = {partner} ({partner_label})" if partner else "")
            for _, image, label, partner, partner_label in islice(self.rows(raw), most)
        ]

    def report(self, raw: RawData, most: int) -> dict[str, Any]:
        """The finding as it stands in the report, with the first images by number and in words."""
        return {
            "check": self.check,
            "count": self.count,
            "of": self.of,
            "share": self.share,
            "limit": self.limit,
            "examples": [int(number) for number in self.numbers[:most]],
            "named": self.describe(raw, most),
        }


def find(raw: RawData, surveys: dict[Part, Survey], config: Quality) -> list[Finding]:
    """Duplicates, contradictions and constant images of each part, and test images that are training images too."""
    findings = []
    for part, found in surveys.items():
        labels, first = raw.parts[part].labels, checks.firsts(found.digests)
        repeated, contradicted = np.flatnonzero(first != np.arange(len(first))), np.flatnonzero(labels != labels[first])
        of = len(labels)
        findings += [
            Finding(
                *(f"{part} duplicates", part, repeated, of, config.max_duplicates, "quality.max_duplicates"),
                partners=first[repeated],
                partner_part=part,
            ),
            Finding(f"{part} contradictions", part, contradicted, of, partners=first[contradicted], partner_part=part),
            Finding(f"{part} constant", part, found.constant, of, config.max_constant, "quality.max_constant"),
        ]
    if "test" in surveys:
        test, train = surveys["test"].digests, surveys["train"].digests
        numbers = checks.leaked(test, train)
        values, places = np.unique(train, return_index=True)
        partners = places[np.searchsorted(values, test[numbers])]
        findings.append(
            Finding(
                *("test leaked", "test", numbers, len(test), config.max_leaked, "quality.max_leaked"), partners=partners
            )
        )
    return findings


def _label(raw: RawData, part: Part, number: int) -> str:
    return raw.classes[int(raw.parts[part].labels[number])]
