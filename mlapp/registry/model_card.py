"""The model card: what a person needs to know before trusting the model, as Markdown and as one HTML file.

After Mitchell et al. (2019), Model Cards for Model Reporting.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mlapp import storage
from mlapp.errors import printable
from mlapp.registry.reproduction import command
from mlapp.registry.training_cost import Cost, cost
from mlapp.result import Metric, StageResult
from mlapp.text_table import interval, percent
from mlapp.vetting.near_duplicates import CORRELATION
from mlapp.vetting.verdict import Verdict

TEMPLATES = Path(__file__).parent / "templates"
MARKUP = re.compile(r"[\\`*_\[\]<>|&~#$]")
PREFERRED = {"smallest": ("smallest", "a smaller"), "most_accurate": ("most accurate", "a more accurate")}


def write(
    folder: Path, about: dict[str, Any], verdict: Verdict, chosen: dict[str, Any], stages: Sequence[StageResult]
) -> None:
    """Write ``MODEL_CARD.md``, ``model_card.html`` and the confusion matrix's plot into a bundle's draft.

    The HTML file holds its pictures itself; the Markdown file refers to those in the folder.
    """
    from jinja2 import Environment, FileSystemLoader, StrictUndefined, select_autoescape

    # What was not searched for has a result too; it stands in the manifest, and would tell a reader nothing.
    stages = [stage for stage in stages if stage.stage != "tune" or "trials" in stage.artifacts]
    draw_confusion(verdict, folder / "confusion.png")
    environment = Environment(
        loader=FileSystemLoader(TEMPLATES),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        autoescape=select_autoescape(("html.j2",)),
        finalize=lambda value: printable(value) if isinstance(value, str) else value,
    )
    environment.filters |= {
        "percent": percent,
        "share": share,
        "interval": interval,
        "points": points,
        "moment": moment,
        "seconds": seconds,
        "plain": markdown,
    }
    candidates = _candidates(stages)
    models = _compared(verdict, chosen, candidates)
    pictures = {
        name: "data:image/png;base64," + base64.b64encode((folder / f"{name}.png").read_bytes()).decode()
        for name in ("confusion", "frontier")
    }
    for template, file in {"model_card.md.j2": "MODEL_CARD.md", "model_card.html.j2": "model_card.html"}.items():
        text = environment.get_template(template).render(
            about=about,
            verdict=verdict,
            chosen=chosen,
            stages=[stage for stage in stages if stage.timings],
            hops=[(stage, hop) for stage in stages for hop in stage.hops],
            models=models,
            near_duplicate=CORRELATION,
            apart=[
                f"{model['title']}: {percent(apart)} ({interval(apart)})"
                for model in models
                if (apart := model["scored"].accuracy_apart)
            ],
            candidates=candidates,
            preferred=PREFERRED[_preference(stages)],
            pictures=pictures,
            command=command(stages, about["name"]),
            settings={f"{stage.stage} {stage.key[:12]}": _settings(stage) for stage in stages},
            weakest=int(np.argmin([metric.value for metric in verdict.challenger.recall])),
        )
        storage.write_text(folder / file, text)


def markdown(text: str) -> str:
    """A text of others as Markdown that shows it as it is: no markup of its own, no HTML, no table's end, one line."""
    return MARKUP.sub(r"\\\g<0>", printable(text))


def share(value: float) -> str:
    """``91.2 %``."""
    return f"{100 * value:.1f} %"


def points(metric: Metric) -> str:
    """A difference of shares as ``+0.42 points (0.10 to 0.74)``."""
    return f"{100 * metric.value:+.2f} points ({100 * (metric.low or 0):+.2f} to {100 * (metric.high or 0):+.2f})"


def moment(iso: str) -> str:
    """``2026-08-26 14:05 UTC``."""
    return f"{iso[:10]} {iso[11:16]} UTC"


def seconds(spent: Cost | None) -> str:
    """``631 (1,547)``: a model's own CPU-seconds, and in brackets those with all it learnt from, where it did."""
    if spent is None:
        return "–"
    told = f"{spent.own:,.0f}"
    return told if spent.with_forebears == spent.own else f"{told} ({spent.with_forebears:,.0f})"


def draw_confusion(verdict: Verdict, path: Path) -> None:
    """The confusion matrix in percent of each true class; the diagonal is recall, so errors get the colour."""
    from matplotlib.figure import Figure

    counts = np.array(verdict.challenger.confusion)
    shares = 100 * counts / counts.sum(1, keepdims=True)
    errors = shares.copy()
    np.fill_diagonal(errors, 0)
    figure = Figure(figsize=(6.4, 5.6), layout="constrained")
    axes = figure.subplots()
    darkest = max(10.0, float(errors.max()))
    axes.imshow(errors, cmap="Oranges", vmin=0, vmax=darkest)
    for (row, column), share in np.ndenumerate(shares):
        if share > 0.5:
            axes.text(
                column,
                row,
                f"{share:.0f}",
                ha="center",
                va="center",
                fontsize=8,
                fontweight="bold" if row == column else "normal",
                color="white" if errors[row, column] > 0.6 * darkest else "black",
            )
    names = [printable(name) for name in verdict.classes]
    axes.set_xticks(range(len(counts)), names, rotation=45, ha="right", fontsize=8, parse_math=False)
    axes.set_yticks(range(len(counts)), names, fontsize=8, parse_math=False)
    axes.set(xlabel="predicted", ylabel="true class")
    axes.set_title("Where the errors go (% of each true class)", fontsize=10)
    figure.savefig(path, format="png", dpi=110)


def _settings(stage: StageResult) -> str:
    """A stage's settings as JSON, without inputs (digests name them), the registry's place and the keys."""
    left_out = {*stage.inputs, "registry", "signing"}
    return json.dumps({name: value for name, value in stage.config.items() if name not in left_out}, ensure_ascii=False)


def _preference(stages: Sequence[StageResult]) -> str:
    """What the choice preferred; results of before there was a setting for it chose the smallest."""
    config = next((stage.config for stage in stages if "frontier" in stage.artifacts), {})
    return str(config.get("prefer", "smallest"))


def _candidates(stages: Sequence[StageResult]) -> list[dict[str, Any]]:
    """The candidates as the choice placed them, each with what it cost."""
    for stage in stages:
        if "frontier" in stage.artifacts:
            placed = stage.content("frontier", list[dict[str, Any]])
            return [{**entry, "cost": cost(entry["result"], stages)} for entry in placed]
    return []


def _compared(verdict: Verdict, chosen: dict[str, Any], candidates: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The models that were scored on the test images, this one first, each with what it cost where that is known."""
    costs = {"this model": next((entry["cost"] for entry in candidates if entry["candidate"] == chosen), None)}
    titles = {"teacher": "teacher, float32", "baseline": "baseline, boosted trees"}
    for entry in candidates:
        costs.setdefault(titles.get(entry["candidate"]["kind"], ""), entry["cost"])
    rows = [
        ("this model", verdict.challenger, None),
        ("former champion", verdict.champion, verdict.against_champion),
        (titles["teacher"], verdict.teacher, verdict.against_teacher),
        (titles["baseline"], verdict.baseline, verdict.against_baseline),
    ]
    return [
        {"title": title, "scored": scored, "against": against, "cost": costs.get(title)}
        for title, scored, against in rows
        if scored
    ]
