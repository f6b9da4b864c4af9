"""The command line of every stage, through the least one."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import planted
import pytest

from mlapp import command_line, storage
from mlapp.command_line import build_parser, main, overrides_apart, prepare
from mlapp.config import load
from mlapp.dl import dnn_trainer, knowledge_distiller
from mlapp.result import StageResult
from tests import tiny_stage

ROOT = Path(__file__).parents[1]


def trainer(*arguments: str):
    """The trainer's config and work directory, as its command line would have them."""
    return prepare(dnn_trainer.run, build_parser(dnn_trainer.run).parse_intermixed_args(list(arguments)))


@pytest.fixture
def data(tmp_path) -> str:
    """URI of a prepared data set."""
    return planted.data(tmp_path / "data").uri


def ended(arguments: list[str]) -> int:
    with pytest.raises(SystemExit) as stop:
        main(tiny_stage.run, arguments)
    return int(str(stop.value.code))


def test_a_stage_runs_and_says_where_its_result_is(tmp_path):
    answer = tmp_path / "answer"
    main(tiny_stage.run, ["--text=abc", f"--workdir={tmp_path / 'work'}", f"--ended-to={answer}"])
    told = json.loads(answer.read_text())
    place = tmp_path / "work" / "result.json"
    assert told == {"exit_code": 0, "uri": f"{place}#sha256={storage.sha256(place)}", "reason": ""}
    assert StageResult.load(told["uri"]).config["text"] == "abc"


def test_stdout_is_the_uri_alone_whatever_libraries_and_child_processes_print(tmp_path, capfd):
    """So that ``DATA=$(python -m …)`` works."""

    def resolve(config: tiny_stage.Tiny) -> tiny_stage.Tiny:
        sys.stdout.write("a library\n")
        os.write(1, b"native code\n")
        subprocess.run(["echo", "a child"], check=True)
        return config

    main(dataclasses.replace(tiny_stage.run, resolve=resolve), [f"--workdir={tmp_path}"])
    out, err = capfd.readouterr()
    assert out == f"{tmp_path / 'result.json'}\n"
    assert all(line in err for line in ("a library", "native code", "a child"))


def test_an_override_behind_a_flag_of_several_values_is_one(data, tmp_path):
    arguments = ["--others", data, f"{tmp_path}/date=1/a.b=2", "storage.models=/m", "--text=a", "tracking.wandb=off"]
    parsed = overrides_apart(tiny_stage.run, build_parser(tiny_stage.run).parse_intermixed_args(arguments))
    assert parsed.others == [data, f"{tmp_path}/date=1/a.b=2"]
    assert sorted(parsed.overrides) == ["storage.models=/m", "tracking.wandb=off"]


@pytest.mark.parametrize("override", ["training.epochs=3", "trainning.epochs=3"])
def test_an_override_behind_such_a_flag_is_refused_like_any_other(data, tmp_path, capsys, override):
    assert ended(["--others", data, override, f"--workdir={tmp_path}"]) == 2
    assert (
        f"tiny takes no overrides but those of storage and tracking, not {override.split('.')[0]}"
        in capsys.readouterr().err
    )


def test_without_a_width_each_of_the_settings_is_run(capsys, monkeypatch):
    told, result = [], SimpleNamespace(uri="uri", reference="uri#sha256=0")
    monkeypatch.setattr(command_line, "perform", lambda stage, arguments: told.append(arguments.width) or result)
    given = ["--data=a", "--teacher=b", "distillation.widths=[0.5, 0.25]"]
    main(knowledge_distiller.run, given)
    assert (told, capsys.readouterr().out) == (["0.5", "0.25"], "uri\nuri\n")
    with pytest.raises(SystemExit):
        main(knowledge_distiller.run, [*given, "--workdir=/w"])
    assert "give one of distillation.widths, 0.5, 0.25" in capsys.readouterr().err


def test_without_a_work_directory_it_is_in_its_area_by_its_key(tmp_path, monkeypatch):
    monkeypatch.setenv("MLAPP_STORAGE__MODELS", str(tmp_path / "models"))
    for text in ("a", "b", "a"):
        main(tiny_stage.run, [f"--text={text}"])
    assert len(list((tmp_path / "models" / "tiny").glob("*/result.json"))) == 2


def test_a_stage_takes_its_section_and_the_others_that_it_holds_from_every_layer(data, monkeypatch):
    monkeypatch.setenv("MLAPP_TRAINING__PATIENCE", "3")
    config, _ = trainer(f"--data={data}", "--preset=smoke", "training.batch_size=64", "export.latency_runs=30")
    assert (config.patience, config.batch_size) == (3, 64)
    assert (config.export.latency_runs, config.export.representative_images) == (30, 50)
    assert config.data == data


def test_a_resolved_config_replaces_preset_and_environment(data, tmp_path, monkeypatch):
    (tmp_path / "config.json").write_text(load("smoke", {"training.epochs": 7}, {}).model_dump_json())
    monkeypatch.setenv("MLAPP_TRAINING__EPOCHS", "9")
    config, _ = trainer(f"--data={data}", f"--config={tmp_path / 'config.json'}")
    assert config.epochs == 7
    config, _ = trainer(f"--data={data}", f"--config={tmp_path / 'config.json'}", "training.epochs=8")
    assert config.epochs == 8


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--do=refuse"], "the text is too short: give a longer one"),
        (["--do=fill the disk"], "no space left for "),
        (["--do=jump"], "do: input should be 'write', 'refuse'"),
        (["training.epochs=3"], "tiny takes no overrides but those of storage"),
        (["training"], "cannot read 'training': write an override as section.field=value"),
        (["--preset=qick"], "no preset 'qick': choose one of "),
        (["--earlier=/nowhere"], "no result at /nowhere/result.json: run the stage that makes it first"),
        (["--config=/nowhere.json"], "no configuration at /nowhere.json: give the URI of a resolved config.json"),
    ],
)
def test_what_a_user_can_mend_is_one_line_and_exit_code_2(tmp_path, capsys, arguments, told):
    assert ended([f"--workdir={tmp_path}", *arguments]) == 2
    error = capsys.readouterr().err
    assert f"error: {told}" in error
    assert error.count("\n") == 1
    assert not (tmp_path / "result.json").exists()


@pytest.mark.parametrize(
    ("content", "told"), [("{", "is not JSON"), ('{"training": {"epohcs": 1}}', "unknown setting training.epohcs")]
)
def test_a_config_file_that_is_none_is_named(tmp_path, capsys, content, told):
    (tmp_path / "config.json").write_text(content)
    assert ended([f"--config={tmp_path / 'config.json'}"]) == 2
    error = capsys.readouterr().err
    assert told in error
    assert "config.json" in error


def test_bad_input_ends_a_real_process_with_exit_code_2_and_no_traceback(tmp_path):
    command = [sys.executable, "-m", "tests.tiny_stage", "--do=refuse", f"--workdir={tmp_path}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr == "python -m tests.tiny_stage: error: the text is too short: give a longer one\n"


def test_a_bug_keeps_its_traceback(tmp_path):
    with pytest.raises(ValueError, match="a bug"):
        main(tiny_stage.run, ["--do=crash", f"--workdir={tmp_path}"])


def test_schema_prints_the_json_schema_of_the_stages_config(capsys):
    main(dnn_trainer.run, ["--schema"])
    properties = json.loads(capsys.readouterr().out)["properties"]
    assert properties["epochs"]["minimum"] == 1
    assert {"data", "export", "architecture"} <= set(properties)


def test_a_connection_that_breaks_after_the_schema_was_printed_does_not_end_the_process(capsys):
    before = signal.getsignal(signal.SIGPIPE)
    main(dnn_trainer.run, ["--schema"])
    assert signal.getsignal(signal.SIGPIPE) is before is signal.SIG_IGN


def test_help_names_every_setting_with_its_bounds_and_every_input():
    told = build_parser(dnn_trainer.run).format_help()
    for name in ("--data URI", "training.epochs=", "export.latency_runs=", "(≥ 1, ≤ 1000)", "MLAPP_TRAINING__FIELD"):
        assert name in told
    assert "--export" not in told


def test_what_the_world_decides_is_asked_for_once(tmp_path: Path) -> None:
    """Where the answer comes from a server, a second question costs seconds."""
    asked = []

    def resolve(config: tiny_stage.Tiny) -> tiny_stage.Tiny:
        asked.append(config)
        return config.model_copy(update={"text": "as resolved"})

    main(dataclasses.replace(tiny_stage.run, resolve=resolve), [f"--workdir={tmp_path}"])
    assert len(asked) == 1
    assert StageResult.load(str(tmp_path)).config["text"] == "as resolved"
