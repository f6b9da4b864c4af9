"""The command that makes a bundle again, told from what its stages recorded: a preset, and what differs from it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from mlapp import config as configuration
from mlapp.policy import policy_of
from mlapp.result import StageResult

GATES = "vetting.gates"
SECTIONS = {
    "extract": "data",
    "validate": "quality",
    "transform": "transform",
    "train": "training",
    "distill": "distillation",
    "prune": "pruning",
    "baseline": "baseline",
    "choose": "selection",
    "vet": "vetting",
    "promote": "promotion",
}


def command(stages: Sequence[StageResult]) -> str:
    """``make run PRESET=… CONF='…'``, of the preset that the stages' settings differ least from.

    What a search found stands there as settings: the command repeats the training, not the search.
    """
    wanted = _settings(stages)
    differing = {name: _difference(wanted, name) for name in configuration.preset_names()}
    preset = min(differing, key=lambda name: (len(differing[name]), name))
    conf = f" CONF='{json.dumps(differing[preset])}'" if differing[preset] else ""
    return f"make run PRESET={preset}{conf}"


def _settings(stages: Sequence[StageResult]) -> dict[str, Any]:
    """What the stages were told, by the dotted name of the setting; of several ones' lists, all there is in them."""
    found: dict[str, Any] = {}
    for result in stages:
        if result.stage not in SECTIONS:
            continue
        section = SECTIONS[result.stage]
        for name, value in result.config.items():
            if name == "export":
                found |= {f"export.{inner}": setting for inner, setting in value.items()}
            else:
                known = found.get(f"{section}.{name}")
                found[f"{section}.{name}"] = _joined(known, value) if isinstance(value, list) and known else value
    return found


def _joined(known: Sequence[Any], more: Sequence[Any]) -> list[Any]:
    return list(dict.fromkeys([*known, *more]))


def _difference(wanted: Mapping[str, Any], preset: str) -> dict[str, Any]:
    """Settings of the configuration's own sections that a preset has otherwise."""
    given = configuration.load(preset, environ={})
    same = {
        f"{section}.{name}": value
        for section, values in given.model_dump(mode="json").items()
        for name, value in values.items()
    }
    found = {name: value for name, value in sorted(wanted.items()) if name in same and not _equal(same[name], value)}
    if GATES in found:  # a verdict's settings hold all gates, those of its policy too
        policy = policy_of(given.vetting.model_copy(update={"policy": wanted["vetting.policy"]}))
        usual = {measure: bound.model_dump(mode="json") for measure, bound in policy.items()}
        found[GATES] = {measure: bound for measure, bound in found[GATES].items() if bound != usual.get(measure)}
    return {name: value for name, value in found.items() if name != GATES or value}


def _equal(left: Any, right: Any) -> bool:
    return sorted(left) == sorted(right) if isinstance(left, list) and isinstance(right, list) else left == right
