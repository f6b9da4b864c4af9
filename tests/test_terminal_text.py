"""What strangers called their files, runs and stages is shown as text: no line of its own, no terminal's commands."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mlapp import summary
from mlapp.candidate import read_candidates
from mlapp.etl import gcp_dataloader, quality
from mlapp.experiments import main
from mlapp.result import StageResult
from mlapp.run_record import StageRecord
from mlapp.vetting import frontier_plot
from mlapp.vetting.frontier import Placed

ROOT = Path(__file__).parents[1]
HOSTILE = "x\x1b]0;title\x07\x1b[2J\x9b31m\u202e\nverdict     promote"


def is_text(told: str) -> bool:
    return told.replace("\n", "").isprintable()


@pytest.fixture
def area(tmp_path: Path) -> Path:
    """Two runs whose folders, records and figures have hostile names, and a damaged one."""
    for run in ("a\x1b[2J", "b"):
        for stage in ("train", "vet", "promote"):
            folder = tmp_path / "experiments" / run / "stages" / f"{stage}-12345678"
            folder.mkdir(parents=True)
            record = StageRecord(
                stage=stage,
                key="12345678",
                state="failed" if stage == "train" else "done",
                reason=HOSTILE,
                headline=HOSTILE,
                began="2026-01-01T12:00:00+00:00",
                result=f"/models/{HOSTILE}/result.json",
                config={"name": HOSTILE},
                metrics={f"{HOSTILE}.accuracy": {"value": 0.5 if run == "b" else 0.4}},
            )
            (folder / "stage.json").write_text(record.model_dump_json())
    damaged = tmp_path / "experiments" / "c\x1b[2J" / "stages" / "x\x1b[1m"
    damaged.mkdir(parents=True)
    (damaged / "stage.json").write_text("{")
    return tmp_path / "experiments"


@pytest.mark.parametrize("command", [["list"], ["show", "a"], ["show", "b"], ["show", "c"], ["compare", "a", "b"]])
@pytest.mark.parametrize("form", [[], ["--json"]])
def test_runs(area: Path, capsys: pytest.CaptureFixture[str], command: list[str], form: list[str]) -> None:
    main([*command, f"--experiments={area}", *form])
    told = capsys.readouterr().out
    assert is_text(told)
    assert form or not any(line.startswith("verdict     promote") for line in told.splitlines())
    assert not form or json.loads(told)


def test_a_stages_log_and_the_summary(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.tiny_stage", f"--text={HOSTILE}", f"--workdir={tmp_path}"]
    environ = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}", "MLAPP_TRACKING__WANDB": "off"}
    done = subprocess.run(command, check=True, cwd=ROOT, env=environ, capture_output=True, text=True)
    assert "title" in done.stderr
    assert is_text(done.stderr)
    assert len(done.stderr.splitlines()) == 1
    for stage in ("tiny", "vet"):
        result = StageResult.load(str(tmp_path)).model_copy(update={"stage": stage})
        table = summary.table([result], None, HOSTILE)
        assert is_text(table)
        assert sum(line.startswith("verdict ") for line in table.splitlines()) == (stage == "vet")


def test_names_of_pictures(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for number in range(60):
        folder = tmp_path / "source" / ("train" if number < 40 else "test") / "ab"[number % 2]
        folder.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(number // 2 if number < 2 else number).integers(0, 255, (8, 8), np.uint8)
        name = HOSTILE.replace("/", "") if number == 2 else str(number)
        pixels = pixels if number != 2 else np.asarray(Image.open(tmp_path / "source" / "train" / "a" / "0.png"))
        Image.fromarray(pixels).save(folder / f"{name}.png")
    source = str(tmp_path / "source")
    raw = gcp_dataloader.run(gcp_dataloader.Extract(name="ab", source=source, image_size=8), tmp_path / "raw")
    found = quality.run(
        quality.Validate(raw=raw.uri, max_duplicates=0.5, max_leaked=1, min_class_count=1), tmp_path / "report"
    )
    assert "title" in caplog.text + found.local("page").read_text(encoding="utf-8")
    for name in ("page", "report", "findings"):
        assert is_text(found.local(name).read_text(encoding="utf-8")), name
    assert is_text(caplog.text)


def test_a_model_on_the_plot_of_the_frontier(planted_teacher: StageResult, tmp_path: Path) -> None:
    """Given a candidate whose name is no formula that matplotlib can set, then it is written as it is."""
    named = read_candidates(planted_teacher)[0].model_copy(update={"name": r"$\frac$"})
    placed = [Placed(candidate=named, result="r", on_frontier=True, obstacle=None)]
    frontier_plot.draw(placed, placed[0], named, 0.5, tmp_path / "plot.png")
    assert (tmp_path / "plot.png").exists()
