"""The command on the card: run again, it gives the stages the very settings they had."""

from __future__ import annotations

import json
import shlex
from typing import Any

from mlapp import config
from mlapp.policy import policy_of
from mlapp.registry.reproduction import SECTIONS, command
from mlapp.result import StageResult


def result(stage: str, **settings: Any) -> StageResult:
    return StageResult(
        stage=stage,
        key="0",
        config=settings,
        inputs={},
        artifacts={},
        metrics={},
        timings={},
        environment={},
        finished="2026-01-01T00:00:00+00:00",
    )


def results(preset: str, **overrides: Any) -> list[StageResult]:
    """What the stages of a run record: a student and a pruning for each of the settings' lists."""
    settings = config.load(preset, overrides, environ={}).model_dump(mode="json")
    found = []
    for stage, section in SECTIONS.items():
        own = {**settings[section], "data": "/some/where/result.json"}
        if stage == "vet":
            policy = policy_of(config.load(preset, overrides, environ={}).vetting)
            own["gates"] = {measure: bound.model_dump(mode="json") for measure, bound in policy.items()}
        if stage == "distill":
            found += [result(stage, **{**own, "widths": [width], "width": width}) for width in own["widths"]]
        elif stage == "prune":
            found += [result(stage, **{**own, "sparsities": [each]}) for each in own["sparsities"]]
        else:
            found.append(result(stage, **own, **({"export": settings["export"]} if stage == "train" else {})))
    return found


def test_a_presets_run_is_told_by_its_name_alone() -> None:
    for preset in ("quick", "best", "reference", "tiny"):
        assert command(results(preset)) == f"make run PRESET={preset}"


def test_what_differs_from_the_preset_is_told_and_gives_the_same_configuration() -> None:
    changes = {"training.epochs": 7, "distillation.widths": [0.3, 0.2], "export.latency_runs": 77, "data.name": "mine"}
    changes |= {"vetting.policy": "strict", "vetting.gates": {"bytes": {"at_most": 1000.0, "otherwise": "hold"}}}
    told = command(results("standard", **changes))
    make, run, preset, conf = shlex.split(told)
    assert (make, run, preset) == ("make", "run", "PRESET=standard")
    given = json.loads(conf.removeprefix("CONF="))
    assert config.load("standard", given, environ={}) == config.load("standard", changes, environ={})


def test_stages_that_were_left_out_change_nothing() -> None:
    assert command([each for each in results("quick") if each.stage != "baseline"]) == "make run PRESET=quick"


def test_inputs_and_places_are_no_settings() -> None:
    assert "/some/where" not in command(results("smoke", **{"training.epochs": 3}))
