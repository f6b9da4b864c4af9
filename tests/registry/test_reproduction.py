"""The command on the card: run again, it gives the stages the very settings they had."""

from __future__ import annotations

import json
import shlex
import subprocess
from pathlib import Path
from typing import Any

from mlapp import config
from mlapp.policy import policy_of
from mlapp.registry.reproduction import SECTIONS, command
from mlapp.result import StageResult

ROOT = Path(__file__).parents[2]


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


HOSTILE = (
    *("'; touch X;'", '"; touch X; "', "$(touch X)", "`touch X`", "${IFS}", "$(shell touch X)", "a\\", "!!", "#x", "%"),
    *("snow\N{SNOWMAN}", "two  spaces", "&& touch X", "--eval=x", "*"),
)


def pasted(line: str, folder: Path, make: str) -> list[str]:
    """What make is given when a person pastes the line into bash, with a make of our own."""
    (folder / "bin").mkdir()
    (folder / "bin" / "make").write_text(make)
    (folder / "bin" / "make").chmod(0o755)
    environ = {"PATH": f"{folder / 'bin'}:/usr/bin:/bin", "HOME": str(folder)}
    subprocess.run(["bash"], input=f"{line}\n", text=True, check=True, cwd=folder, env=environ)
    assert {path.name for path in folder.iterdir()} == {"bin", "told"}, "something else ran"
    return (folder / "told").read_text().split("\0")[:-1]


def test_the_command_can_be_pasted_into_bash_whatever_strangers_called_their_classes(tmp_path: Path) -> None:
    changes = {"data.name": "mine", "data.source": "/data/my $(touch X) 'set'", "data.classes": HOSTILE}
    told = command(results("standard", **changes), "mine")
    assert "\n" not in told
    run, preset, conf = pasted(told, tmp_path, "#!/bin/sh\nprintf '%s\\0' \"$@\" >told\n")
    assert (run, preset) == ("run", "PRESET=standard")
    given = json.loads(conf.removeprefix("CONF="))
    assert given.pop("promotion.name") == "mine"
    assert tuple(given["data.classes"]) == HOSTILE
    assert config.load("standard", given, environ={}) == config.load("standard", changes, environ={})


def test_the_real_make_hands_it_on_as_it_was_pasted(tmp_path: Path) -> None:
    """Given make's own way with $ and #, and the Makefile's lines that hand CONF on, then nothing of it is expanded."""
    makefile = (ROOT / "Makefile").read_text()
    taken = [
        line for line in makefile.splitlines() if "CONF" in line and line.startswith(("override", "export", "CONF"))
    ]
    recipe = "run:\n\t@printf '%s\\0' \"$$CONF\" >told"
    (tmp_path / "Makefile").write_text("\n".join([*taken, recipe, ""]))
    line = command(results("standard", **{"data.name": "mine", "data.classes": HOSTILE}), "mine")
    subprocess.run(["bash"], input=f"{line}\n", text=True, check=True, cwd=tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"Makefile", "told"}
    assert tuple(json.loads((tmp_path / "told").read_text().rstrip("\0"))["data.classes"]) == HOSTILE


def test_the_command_names_the_model_that_it_made() -> None:
    assert command(results("quick"), "shoes") == """make run PRESET=quick CONF='{"promotion.name": "shoes"}'"""
