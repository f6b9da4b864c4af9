"""What a person sees of earlier runs: complete ones, broken-off ones, damaged ones."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from mlapp import run_index, run_pages, run_record, storage
from mlapp.configure import configure
from mlapp.data_digest import data_digest
from mlapp.experiments import main
from mlapp.result import Metric
from mlapp.run_comparison import difference
from mlapp.run_record import StageRecord
from mlapp.statistics import proportion

TIMINGS = {"wall_s": 100.0, "cpu_s": 150.0, "peak_rss_mb": 1234.5}


def make(area: Path, name: str, conf: dict[str, Any], *stages: StageRecord, preset: str = "smoke") -> Path:
    """A run's folder with these stages."""
    folder = area / name
    configure(preset, conf, str(folder / "config.json"), run=f"manual__{name}", group=name)
    for stage in stages:
        run_record.write(storage.at(folder), stage)
    return folder


def stage(name: str, state: str = "done", minute: int = 0, **told: Any) -> StageRecord:
    given: dict[str, Any] = {
        "key": f"{name}{'0' * 64}"[:64],
        "began": f"2026-01-01T12:{minute:02}:00+00:00",
        "timings": TIMINGS if state in ("done", "reused") else {},
        "result": f"/models/{name}/result.json",
        **told,
    }
    return StageRecord(stage=name, state=state, **given)


def chain(right: int) -> list[StageRecord]:
    """The stages of a run whose challenger is right on so many of 10,000 test images."""
    found = proportion(right, 10_000)
    return [
        stage("transform", "reused", 0),
        stage("train", "done", 1, metrics={"float32.validation_accuracy": proportion(right // 2, 5000)}),
        stage("distill", "done", 2, config={"widths": [0.5]}, metrics={"epochs": Metric(value=4)}),
        stage("choose", "done", 3, metrics={"validation_accuracy": proportion(right // 2, 5000)}),
        stage(
            "vet",
            "done",
            4,
            headline=f"promote: {right / 100:.2f} % on 10,000 test images",
            metrics={"teacher.test_accuracy": proportion(9000, 10_000), "challenger.test_accuracy": found},
        ),
    ]


@pytest.fixture
def area(tmp_path: Path) -> Path:
    """Two complete runs, one that failed, one that was vetted by nobody, one damaged."""
    area = tmp_path / "experiments"
    first = make(area, "2026-01-01-a", {"training.epochs": 3}, *chain(9000))
    second = make(area, "2026-01-02-b", {"training.epochs": 5}, *chain(9200))
    for folder in (first, second):
        (folder / "summary.json").write_text("{}")
    make(area, "2026-01-03-c", {}, *chain(9000)[:2], stage("distill", "failed", 9, reason="the loss is nan"))
    make(area, "2026-01-04-d", {}, *chain(9100)[:4], preset="quick")
    damaged = make(area, "2026-01-05-e", {}, *chain(9000)[:2])
    (damaged / "origins.json").write_text("{")
    (damaged / "stages" / "train-train000" / "stage.json").write_text("[]")
    (area / "notes.txt").touch()
    return area


def told(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    main(list(arguments))
    return capsys.readouterr().out


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    with pytest.raises(SystemExit) as stop:
        main(list(arguments))
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    return error.removeprefix("python -m mlapp.experiments: error: ").rstrip()


def test_the_list_has_a_line_a_run_with_how_it_went(area: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = told(capsys, "list", f"--experiments={area}")
    lines = {line.split()[0]: line for line in text.splitlines()}
    assert re.split("  +", lines["2026-01-02-b"])[2:] == [
        "smoke",
        "vetted",
        "done",
        "90.00 %",
        "92.00 %",
        "my_fashion_mnist",
        "fashion_mnist",
        "6 min 40 s",
    ]
    assert re.split("  +", lines["2026-01-03-c"])[3:5] == ["failed", "distill failed"]
    assert "~91.00 %" in lines["2026-01-04-d"]
    assert "quick" in lines["2026-01-04-d"]
    assert text.splitlines()[-1] == "damaged: 2026-01-05-e: cannot read origins.json, stages/train-train000"
    assert "notes.txt" not in text


def test_show_tells_settings_with_origin_stages_verdict_and_paths(
    area: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = told(capsys, "show", "2026-01-02", f"--experiments={area}")
    lines = [line.split() for line in text.splitlines()]
    assert ["training.epochs", "5", "override", "8"] in lines
    assert ["transform.limit", "1000", "preset", "smoke", "null"] in lines
    assert ["distill", "0.5", "done", "100.0", "s", "150", "s", "1,234", "MB"] in lines
    assert "verdict     promote: 92.00 % on 10,000 test images" in text.splitlines()
    assert ["vet", "/models/vet"] in lines


def test_show_tells_where_a_run_stopped_and_why(area: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = told(capsys, "show", "2026-01-03-c", f"--experiments={area}")
    assert "state       distill failed" in text
    assert "why         the loss is nan" in text


def test_compare_tells_differing_settings_and_figures_with_intervals(
    area: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = told(capsys, "compare", "2026-01-01", "2026-01-02", f"--experiments={area}")
    lines = [line.split() for line in text.splitlines()]
    assert ["training.epochs", "3", "5"] in lines
    assert not [line for line in lines if line[:1] in (["tracking.group"], ["training.width"])]
    (row,) = [line for line in text.splitlines() if line.startswith("  challenger.test_accuracy")]
    assert row.split(maxsplit=1)[1].strip() == (
        "90.00 % [89.40, 90.57]  92.00 % [91.45, 92.52]  +2.00 pp [+1.21, +2.79]"
    )
    assert "teacher.test_accuracy" not in text
    assert re.split("  +", text.splitlines()[2])[1:] == [
        "2026-01-02-b",
        "smoke",
        "done",
        "90.00 %",
        "92.00 %",
        "vetted",
    ]
    assert max(map(len, text.splitlines())) <= 120


def test_more_than_two_are_compared_with_the_first(area: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = ("2026-01-01", "2026-01-02", "2026-01-04")
    text = told(capsys, "compare", *names, f"--experiments={area}")
    (row,) = [line for line in text.splitlines() if line.startswith("  challenger.test_accuracy")]
    assert re.split("  +", row.strip())[1:] == ["90.00 %", "92.00 % (+2.00 pp*)"]
    (row,) = [line for line in text.splitlines() if line.startswith("  float32.validation_accuracy")]
    assert re.split("  +", row.strip())[1:] == ["90.00 %", "92.00 % (+2.00 pp*)", "91.00 % (+1.00 pp)"]
    assert max(map(len, text.splitlines())) <= 120


def test_runs_on_other_data_are_told_as_such(area: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "different data" not in told(capsys, "compare", "2026-01-01", "2026-01-02", f"--experiments={area}")
    make(area, "2026-01-06-f", {}, stage("transform", key="1" * 64))
    assert "different data" in told(capsys, "compare", "2026-01-01", "2026-01-06", f"--experiments={area}")


def test_a_difference_has_newcombes_interval() -> None:
    """The worked example of Newcombe (1998), table II, example (a): 56/70 less 48/80, method 10."""
    by = difference(proportion(48, 80), proportion(56, 70))
    assert (by.value, by.low, by.high) == (
        pytest.approx(0.2),
        pytest.approx(0.0524, abs=5e-5),
        pytest.approx(0.3339, abs=5e-5),
    )
    assert difference(Metric(value=1), Metric(value=3)).low is None


@pytest.mark.parametrize("moment", ["yesterday", "2026-11-39T07:00:00+00:00", "2026-11-21T07:00:00", ""])
def test_a_time_that_is_none_damages_one_run_not_the_list(
    area: Path, capsys: pytest.CaptureFixture[str], moment: str
) -> None:
    path = area / "2026-01-01-a" / "origins.json"
    path.write_text(re.sub(r'"configured": ".*?"', f'"configured": "{moment}"', path.read_text()))
    text = told(capsys, "list", f"--experiments={area}")
    assert "damaged: 2026-01-01-a: cannot read origins.json" in text.splitlines()


def test_json_is_for_machines(area: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = (f"--experiments={area}", "--json")
    runs = {run["run"]: run for run in json.loads(told(capsys, "list", *flags))}
    assert runs["2026-01-02-b"]["challenger"]["value"] == 0.92
    assert runs["2026-01-04-d"]["challenger"]["split"] == "validation"
    assert runs["2026-01-05-e"]["damaged"] == ["origins.json", "stages/train-train000"]
    shown = json.loads(told(capsys, "show", "2026-01-02", *flags))
    assert shown["settings"]["training.epochs"] == {"value": 5, "origin": "override"}
    compared = json.loads(told(capsys, "compare", "2026-01-01", "2026-01-02", *flags))
    assert compared["settings"]["training.epochs"] == [3, 5]
    (row,) = [row for row in compared["metrics"] if row["name"] == "challenger.test_accuracy"]
    assert row["differences"][0]["value"] == pytest.approx(0.02)


def test_latest_is_the_newest_run(area: Path, capsys: pytest.CaptureFixture[str]) -> None:
    origins = area / "2026-01-03-c" / "origins.json"
    origins.write_text(origins.read_text().replace('"configured": "20', '"configured": "21'))
    assert "2026-01-03-c" in told(capsys, "show", "latest", f"--experiments={area}").splitlines()[0]


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (["show", "2026-01-02-x"], "no run '2026-01-02-x' in {area}: did you mean 2026-01-02-b?"),
        (["show", "2026-01-0"], "2026-01-0 fits 5 runs: 2026-01-0"),
        (["compare", "2026-01-01"], "compare takes 2 to 5 different runs, not 2026-01-01-a"),
        (["compare", "2026-01-01", "2026-01-01-a"], "compare takes 2 to 5 different runs"),
        (["list", "--experiments=/nowhere"], "no experiments at /nowhere: give --experiments URI, or run something"),
        (["show", "x", "--experiments={area}/2026-01-01-a/stages/vet-vet00000"], "no runs at "),
    ],
)
def test_what_cannot_be_found_is_one_line(
    area: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], error: str
) -> None:
    flags = [argument.format(area=area) for argument in arguments]
    default = [] if "experiments" in flags[-1] else [f"--experiments={area}"]
    assert refused(capsys, *flags, *default).startswith(error.format(area=area))


def test_an_empty_area_is_no_error(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert told(capsys, "list", f"--experiments={tmp_path}") == "no runs yet\n"


def test_in_a_terminal_long_names_are_cut_but_never_to_another_runs(tmp_path: Path) -> None:
    names = [f"2026-01-01-manual-{'x' * 60}{letter}-{'y' * 20}" for letter in "ab"]
    for name in names:
        make(tmp_path, name, {})
    lines = run_pages.overview(run_index.read(str(tmp_path)), 120).splitlines()
    assert max(map(len, lines)) <= 120
    for line in lines[1:]:
        shown = line.split("…")[0].split()[0]
        assert sum(name.startswith(shown) for name in names) == 1


def test_elsewhere_nothing_is_cut(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Given a pipe or a file, every name is whole, however long."""
    names = [f"2026-01-01-manual-{'x' * 90}{letter}" for letter in "ab"]
    for name in names:
        make(tmp_path, name, {"promotion.name": "m" * 40}, stage("train", "failed", reason="r"), preset="standard")
    text = told(capsys, "list", f"--experiments={tmp_path}")
    assert "…" not in text
    assert all(name in text for name in (*names, "m" * 40, "standard", "train failed"))


@pytest.mark.parametrize(
    ("headline", "outcome"),
    [
        ("promoted fashion_mnist/0123456789ab; /card", "promoted"),
        ("already the champion; /card", "already champion"),
        ("hold: fashion_mnist/0123456789ab stays the champion; /card", "held"),
        ("reject: there still is no champion", "rejected"),
        ("hold (rejected by ada): fashion_mnist/0123456789ab stays the champion; /card", "rejected"),
        ("hold (rejected: nobody answered within 24 h): there still is no champion", "held"),
        ("hold (nobody was asked, and promotion.approval is on): there still is no champion", "held"),
    ],
)
def test_the_outcome_is_what_came_of_the_model_not_the_verdict(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], headline: str, outcome: str
) -> None:
    folder = make(tmp_path, "2026-01-01-a", {}, *chain(9000), stage("promote", "done", 6, headline=headline))
    (folder / "summary.json").write_text("{}")
    (run,) = json.loads(told(capsys, "list", "--json", f"--experiments={tmp_path}"))
    assert (run["outcome"], run["verdict"]) == (outcome, "promote")
    assert f"outcome     {outcome}" in told(capsys, "show", "latest", f"--experiments={tmp_path}").splitlines()


@pytest.mark.parametrize(
    ("state", "more", "outcome", "seconds"),
    [
        ("failed", {"ended": "2026-01-01T12:07:30+00:00"}, "failed", 100 + 450),
        ("stopped", {"ended": "2026-01-01T12:01:00+00:00"}, "stopped", 100 + 60),
        ("running", {"process": f"{socket.gethostname()}:999999999"}, "stopped", 100),
        ("reused", {}, "unfinished", 100),
    ],
)
def test_a_run_that_fell_short_took_the_time_that_it_took(
    tmp_path: Path, state: str, more: dict[str, str], outcome: str, seconds: float
) -> None:
    make(tmp_path, "a", {}, stage("extract"), stage("train", state, **more))
    (run,) = run_index.read(str(tmp_path))
    assert (run.outcome, run.seconds) == (outcome, seconds)


def test_a_run_at_work_took_the_time_since_it_began(tmp_path: Path) -> None:
    began = (datetime.now(UTC) - timedelta(minutes=5)).isoformat()
    make(tmp_path, "a", {}, stage("train", "running", began=began, process=run_record.this_process()))
    (run,) = run_index.read(str(tmp_path))
    assert run.outcome == "running"
    assert 300 <= run.seconds < 330


def test_the_data_are_named_with_their_digest(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    description = {"classes": ["a"], "splits": {"train": {"sha256": {"images": "0", "labels": "1"}}}}
    folder = make(tmp_path, "2026-01-01-a", {"data.name": "shoes", "data.source": "/shoes"}, *chain(9000))
    (folder / "stages" / "transform-transfor" / "dataset.json").write_text(json.dumps(description))
    digest = data_digest(description)
    assert f"shoes@{digest}" in told(capsys, "list", f"--experiments={tmp_path}")
    (run,) = json.loads(told(capsys, "list", "--json", f"--experiments={tmp_path}"))
    assert (run["data"], run["data_digest"]) == ("shoes", digest)


def test_the_command_is_quick_and_can_be_cut_short_by_a_pipe(area: Path) -> None:
    began = time.process_time()
    done = subprocess.run(
        f"{sys.executable} -m mlapp.experiments list --experiments={area} | head -1",
        shell=True,
        capture_output=True,
        text=True,
        check=True,
    )
    assert time.process_time() - began < 5
    assert done.stdout.startswith("run ")
    assert done.stderr == ""
