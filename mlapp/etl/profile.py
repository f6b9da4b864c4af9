"""Profile: describe the prepared data, so that a person knows them before any model does.

Class counts, brightness and how it differs between the splits, what each class looks like on average, which of its
images are the most typical and the oddest, and which classes are hard to tell apart. The test split is looked at for
its labels and brightness only. Leaves profile (profile.json) and page (profile.html).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pydantic import Field
from scipy.stats import ks_2samp

from mlapp import storage
from mlapp.dataset import SPLITS, Dataset, content_digest
from mlapp.etl import class_looks
from mlapp.etl.class_looks import Looks
from mlapp.etl.profile_page import render
from mlapp.result import Metric, Outcome, ResultUri, StageResult
from mlapp.section import Section
from mlapp.stage import stage


class Profile(Section):
    """What to describe."""

    report: ResultUri = Field(description="result of the validate stage on the raw data")
    data: ResultUri = Field(description="result of the transform stage")


@stage("profile", area="processed")
def run(config: Profile, workdir: Path) -> Outcome:
    """Describe the splits, and the looks of the classes in the training split."""
    dataset = Dataset.open(config.data)
    brightness = {name: class_looks.brightness(dataset.split(name).images) for name in SPLITS}
    looks = class_looks.survey(dataset.split("train"), len(dataset.classes))
    content = _content(dataset, brightness, looks, StageResult.load(config.report))
    storage.write_text(workdir / "profile.json", json.dumps(content, indent=2, ensure_ascii=False) + "\n")
    storage.write_text(workdir / "profile.html", render(content, looks, brightness))
    closest = content["most_alike"][0]
    return Outcome(
        artifacts={"profile": workdir / "profile.json", "page": workdir / "profile.html"},
        metrics={
            **{f"{name}_images": Metric(value=len(values), unit="images") for name, values in brightness.items()},
            **{f"{name}_brightness_shift": Metric(**shift) for name, shift in content["brightness_shift"].items()},
        },
        headline=f"{dataset.name} {content['digest']}: most alike are {closest['classes'][0]} and "
        f"{closest['classes'][1]}",
    )


def _content(
    dataset: Dataset, brightness: dict[Any, class_looks.Values], looks: list[Looks], validated: StageResult
) -> dict[str, Any]:
    report = validated.content("report", dict[str, Any])
    return {
        "name": dataset.name,
        "digest": content_digest(dataset.result),
        "origin": dataset.description["origin"],
        "shape": dataset.shape,
        "class_counts": {name: dataset.description["splits"][name]["per_class"] for name in SPLITS},
        "quality": {finding["check"]: finding["count"] for finding in report["findings"]},
        "brightness": {
            name: {"mean": float(values.mean()), "std": float(values.std())} for name, values in brightness.items()
        },
        "brightness_shift": {name: _shift(brightness["train"], brightness[name]) for name in SPLITS if name != "train"},
        "most_alike": class_looks.most_alike(looks, dataset.classes),
    }


def _shift(train: class_looks.Values, other: class_looks.Values) -> dict[str, float]:
    """Kolmogorov-Smirnov distance between two splits' brightness: 0 the same distribution, 1 without overlap."""
    return {"value": float(ks_2samp(train, other, method="asymp").statistic), "n": len(other)}


if __name__ == "__main__":
    run.main()
