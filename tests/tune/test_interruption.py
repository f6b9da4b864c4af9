"""A search that is stopped or killed leaves nothing running, and the same command goes on where it stood."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from mlapp.result import StageResult
from tests.tune.conftest import ROOT, ray_processes, session_folders


@pytest.fixture
def command(planted_data: StageResult, tmp_path: Path) -> list[str]:
    return [
        *(sys.executable, "-m", "tests.tune.tiny_tuner", "--trainer", "train", "--data", planted_data.uri),
        *("--workdir", str(tmp_path / "work"), "tuning.trials=6", "tuning.concurrency=2", "training.epochs=5"),
        *("tuning.memory_per_trial_mb=200", "tracking.wandb=off"),  # its side process may end a little later
    ]


@pytest.fixture
def environment(tmp_path: Path, temporary: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    tiny = {"TINY_NOTES": str(tmp_path / "notes"), "TINY_SECONDS": "0.4", "MLAPP_CHILD_ENV": "TINY_*"}
    return {**kept, **tiny, "PYTHONUNBUFFERED": "1"}


def start_until(line: str, command: list[str], environment: dict[str, str]) -> subprocess.Popen[str]:
    """The command, running, its output read up to a line that holds ``line``."""
    process = subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    assert process.stdout
    read = []
    for text in process.stdout:
        read.append(text)
        if line in text:
            return process
    raise AssertionError("".join(read))


def gone(processes: list[psutil.Process], within_s: float) -> bool:
    return not psutil.wait_procs(processes, timeout=within_s)[1]


def test_a_killed_search_goes_on_and_repeats_no_finished_trial(
    command: list[str], environment: dict[str, str], temporary: Path, tmp_path: Path
) -> None:
    process = start_until("trial 4/6:", command, environment)
    time.sleep(0.6)
    rays = ray_processes(psutil.Process(process.pid))
    process.kill()
    process.wait()
    before = [json.loads(path.read_text()) for path in sorted((tmp_path / "work").glob("search-*/trial-*.json"))]
    over = [trial for trial in before if trial["state"] != "running"]
    fitted_before = (tmp_path / "notes").read_text().count("fit")
    assert len(over) >= 2
    # Its workers too, so that none writes beside those of the next search.
    assert gone([ray for ray in rays if ray.name().startswith(("raylet", "gcs_server", "ray::Implicit"))], within_s=10)
    assert session_folders(temporary)

    done = subprocess.run(
        command, cwd=ROOT, env={**environment, "TINY_SECONDS": "0"}, capture_output=True, text=True, check=True
    )
    assert f"{6 - len(over)} trials to make" in done.stderr
    trials = json.loads((tmp_path / "work" / "trials.json").read_text())
    assert [trial["number"] for trial in trials] == [1, 2, 3, 4, 5, 6]
    assert [trial for trial in trials if trial["number"] in {each["number"] for each in over}] == over
    assert len({json.dumps(trial["parameters"]) for trial in trials}) == 6
    assert (tmp_path / "notes").read_text().count("fit") == fitted_before + 6 - len(over)

    # A trial that was cut off went on from its last epoch: no line of the notes, an epoch of a trial, stands twice.
    epochs = [line for line in (tmp_path / "notes").read_text().splitlines() if line.startswith("epoch")]
    assert len(epochs) == len(set(epochs))
    assert not list((tmp_path / "work").glob("search-*"))
    assert session_folders(temporary) == []


@pytest.mark.parametrize("line", ["trial 3/6:", "starting Ray"])
def test_sigterm_ends_ray_with_all_its_processes(
    command: list[str], environment: dict[str, str], temporary: Path, tmp_path: Path, line: str
) -> None:
    process = start_until(line, command, environment)
    time.sleep(2 if line == "starting Ray" else 0.5)
    rays = ray_processes(psutil.Process(process.pid))
    assert session_folders(temporary)
    assert any(ray.name() == "gcs_server" for ray in rays)
    process.send_signal(signal.SIGTERM)
    output, _ = process.communicate(timeout=30)
    assert process.returncode == 143
    assert output.strip().splitlines()[-1].endswith("stopped; the same command takes the work up again")
    assert "Traceback" not in output
    assert gone(rays, within_s=0.5)
    assert session_folders(temporary) == []
    assert not (tmp_path / "work" / "result.json").exists()
