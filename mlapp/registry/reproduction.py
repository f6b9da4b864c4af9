"""The command that makes a bundle again, told from what its stages recorded: a preset, and what differs from it."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

from mlapp import config as configuration
from mlapp.policy import policy_of
from mlapp.result import StageResult

GATES = "vetting.gates"
ACTIVE = re.compile(r"['$`!#\x7f]")  # in JSON they stand in texts only, where a code means the same
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


def command(stages: Sequence[StageResult], name: str | None = None) -> str:
    """``make run PRESET=… CONF='…'``, of the preset that the stages' settings differ least from.

    It can be pasted into a shell whatever the settings hold, class names and paths of strangers included. What a search
    found stands there as settings: the command repeats the training, not the search. ``name`` is the model's.
    """
    wanted = _settings(stages) | ({"promotion.name": name} if name else {})
    differing = {preset: _difference(wanted, preset) for preset in configuration.preset_names()}
    preset = min(differing, key=lambda name: (len(differing[name]), name))
    conf = f" CONF={shlex.quote(_harmless(differing[preset]))}" if differing[preset] else ""
    return f"make run PRESET={shlex.quote(preset)}{conf}"


def _harmless(settings: Mapping[str, Any]) -> str:
    """JSON in which everything that a shell or make takes for more than a character is written as its code."""
    return ACTIVE.sub(lambda found: f"\\u{ord(found[0]):04x}", json.dumps(settings))


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
