"""The first task of a run: its settings, resolved and kept, or refused in a second."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mlapp import origins, storage
from mlapp.config import DEPLOYMENTS, load, preset_names
from mlapp.configure import configure, folder_name, main, read_conf, read_setting, resolve, run_folder
from mlapp.errors import UserError
from mlapp.schema import Config, Tracking


@pytest.mark.parametrize("conf", [{"training.epochs": 3}, {"training": {"epochs": 3}}])
def test_a_runs_conf_goes_over_its_preset(conf):
    assert resolve("smoke", conf) == load("smoke", {"training.epochs": 3})


def test_the_confs_own_preset_goes_first():
    assert resolve("quick", {"preset": "smoke"}) == load("smoke")


def test_null_means_as_the_preset_says():
    """The trigger form sends every field, null where nothing was entered."""
    conf = {"training.epochs": None, "training": {"patience": None}, "data.sha256": None, "preset": None}
    assert resolve("smoke", conf) == load("smoke")


def test_what_is_written_is_the_whole_configuration(tmp_path):
    uri = str(tmp_path / "run" / "config.json")
    config, _ = configure("smoke", {"distillation.widths": [0.3]}, uri)
    assert json.loads((tmp_path / "run" / "config.json").read_text()) == config.model_dump(mode="json")
    assert read_setting(uri, "distillation.widths") == [0.3]
    assert read_setting(uri, "transform.limit") == 1000


def test_each_settings_origin_is_kept_beside_it(tmp_path, monkeypatch):
    monkeypatch.setenv("MLAPP_TRAINING__PATIENCE", "4")
    monkeypatch.setenv("MLAPP_QUALITY", '{"max_leaked": 0.5}')
    conf = {"distillation": {"widths": [0.3]}, "training.epochs": 5}
    config, _ = configure("smoke", conf, str(tmp_path / "config.json"), run="manual__1", group="2026-01-01-manual-1")
    text = (tmp_path / "origins.json").read_text()
    kept = json.loads(text)
    assert {name: kept[name] for name in ("run", "preset")} == {"run": "manual__1", "preset": "smoke"}
    settings = kept["settings"]
    assert settings["training.epochs"] == {"value": 5, "origin": "override"}
    assert settings["distillation.widths"] == {"value": [0.3], "origin": "override"}
    assert settings["training.patience"] == {"value": 4, "origin": "environment MLAPP_TRAINING__PATIENCE"}
    assert settings["quality.max_leaked"] == {"value": 0.5, "origin": "environment MLAPP_QUALITY"}
    assert settings["training.batch_size"] == {"value": 16, "origin": "preset smoke"}
    assert settings["training.warmup"] == {"value": Config().training.warmup, "origin": "default"}
    assert settings["tracking.group"] == {"value": "2026-01-01-manual-1", "origin": "run"}
    assert {name: setting["value"] for name, setting in settings.items()} == origins.flat(config)
    assert sum('"training.epochs"' in line for line in text.splitlines()) == 1
    assert len(text.splitlines()) == len(settings) + 7


def test_what_differs_from_the_defaults_is_told_by_its_origin(tmp_path, monkeypatch):
    monkeypatch.setenv("MLAPP_TRAINING__PATIENCE", "4")
    preset = tmp_path / "mine.yaml"
    preset.write_text(f"training: {{epochs: 3, batch_size: {Config().training.batch_size}}}\n")
    conf = {"data.name": "parts", "data.source": "/data/parts"}
    _, kept = configure(str(preset), conf, str(tmp_path / "config.json"), group="g")
    assert origins.summary(kept).splitlines() == [
        f"preset {preset}: training.epochs=3",
        "environment: training.patience=4",
        "override: data.name=parts  data.source=/data/parts",
    ]


def test_a_long_list_is_broken_into_lines(tmp_path):
    _, kept = configure("smoke", {}, str(tmp_path / "config.json"))
    lines = origins.summary(kept).splitlines()
    assert len(lines) > 2
    assert max(map(len, lines)) <= 110
    assert all(line.startswith("  ") for line in lines[1:])


def test_a_group_that_is_set_names_the_runs_folder():
    config = load("smoke", {"tracking.group": "mine", "storage.experiments": "/e"})
    assert run_folder(config, "manual__1", "2026-01-01") == "/e/mine"


def test_an_overlong_name_is_cut_to_one_of_its_own():
    names = {folder_name(f"{'x' * 200}{number}", "2026-01-01") for number in range(2)}
    assert len(names) == 2
    assert all(name.startswith("2026-01-01-xxx") and len(name) == 100 for name in names)
    Tracking(group=names.pop())


def test_nothing_is_written_when_a_setting_is_wrong(tmp_path):
    with pytest.raises(UserError):
        configure("smoke", {"training.epochs": 0}, str(tmp_path / "config.json"))
    assert list(tmp_path.iterdir()) == []


def test_a_file_in_the_way_is_told_in_one_line(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="in the way"):
        configure("smoke", {}, str(tmp_path / "file" / "config.json"))


def test_a_runs_folder_is_dated_and_safe_as_a_name():
    config = load("smoke", {"storage.experiments": "/e"})
    run = "manual__2026-01-01T00:00:00+00:00/../x y"
    assert run_folder(config, run, "2026-01-01") == "/e/2026-01-01-manual-2026-01-01T00-00-00-00-00-x-y-f82e012a"


@pytest.mark.parametrize("text", ["{", "[1]", "3", '"x"', "null", "", '{"a": 1, "a": 1}'])
def test_conf_that_is_no_json_object_is_refused(text):
    with pytest.raises(UserError, match="conf"):
        read_conf(text)


@pytest.mark.parametrize(
    ("conf", "told"),
    [
        ('{"training.epohcs": 3}', "unknown setting training.epohcs (from the overrides): did you mean epochs?"),
        ('{"training": {"epochs": 0}}', "training.epochs: input should be greater than or equal to 1, not 0"),
        ('{"training.epochs": "three"}', "training.epochs: input should be a valid integer"),
        ('{"preset": "qick"}', "no preset 'qick': choose one of best, quick, "),
        ('{"preset": 3}', "preset: give one of best, quick, "),
        ("nonsense", "conf is not JSON"),
    ],
)
def test_a_wrong_conf_ends_with_exit_code_2_and_one_line(tmp_path, capsys, conf, told):
    with pytest.raises(SystemExit) as stop:
        main([f"--conf={conf}", f"--to={tmp_path / 'config.json'}"])
    assert stop.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith(f"python -m mlapp.configure: error: {told}")
    assert error.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_the_command_keeps_the_configuration_in_the_runs_folder_and_says_where(tmp_path):
    """As the DAG calls it; a wrong setting must be known in about a second, so must a right one."""
    answer = tmp_path / "answer"
    conf = json.dumps({"preset": "smoke", "storage.experiments": str(tmp_path / "e"), "training.epochs": None})
    began = time.monotonic()
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "mlapp.configure",
            f"--conf={conf}",
            "--run=r-1",
            "--day=2026-01-01",
            f"--ended-to={answer}",
        ],
        check=True,
        capture_output=True,
        text=True,
    )
    assert time.monotonic() - began < 5
    uri, _, digest = json.loads(answer.read_text())["uri"].partition("#sha256=")
    assert digest == storage.sha256(storage.at(uri))
    lines = done.stderr.splitlines()
    assert lines[0].startswith("preset smoke: ")
    assert lines[-1] == f"override: storage.experiments={tmp_path / 'e'}"
    assert done.stdout == f"{uri}\n"
    assert uri == str(tmp_path / "e" / "2026-01-01-r-1" / "config.json")
    assert read_setting(uri, "transform.limit") == 1000
    assert read_setting(uri, "tracking.group") == "2026-01-01-r-1"


def test_a_run_takes_up_the_settings_of_data_that_are_prepared_already(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Given a data run with settings of its own, when a training takes it up, then only its conf may change them."""
    monkeypatch.setenv("MLAPP_STORAGE__EXPERIMENTS", str(tmp_path))
    prepared = {"transform.limit": 500, "transform.seed": 3, "training.epochs": 7}
    configure("quick", prepared, str(tmp_path / "data" / "config.json"))
    main(
        [
            *("--preset", "smoke", "--conf", '{"transform.seed": 4}', "--to", str(tmp_path / "config.json")),
            f"--data-of={tmp_path / 'data' / 'config.json'}",
        ]
    )
    config = json.loads((tmp_path / "config.json").read_text())
    assert (config["transform"]["limit"], config["transform"]["seed"], config["training"]["epochs"]) == (500, 4, 2)
    kept = json.loads((tmp_path / "origins.json").read_text())["settings"]
    assert kept["transform.limit"]["origin"] == "data as announced"
    assert kept["transform.seed"]["origin"] == "override"


def test_what_is_no_configuration_of_data_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLAPP_STORAGE__EXPERIMENTS", str(tmp_path))
    with pytest.raises(SystemExit) as stop:
        main([f"--data-of={tmp_path / 'nowhere.json'}", "--to", str(tmp_path / "config.json")])
    assert stop.value.code == 2
    assert "is not the configuration of a run" in capsys.readouterr().err


@pytest.mark.parametrize(
    "elsewhere", ["evil/config.json", "experiments-2/config.json", "experiments/../evil/config.json"]
)
def test_settings_of_data_come_from_where_runs_are_kept_only(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, elsewhere: str
) -> None:
    """An event can name any file, and a file from elsewhere could set where models are written to."""
    monkeypatch.setenv("MLAPP_STORAGE__EXPERIMENTS", str(tmp_path / "experiments"))
    (tmp_path / "experiments").mkdir()
    configure("quick", {}, str(tmp_path / elsewhere))
    with pytest.raises(SystemExit) as stop:
        main([f"--data-of={tmp_path / elsewhere}", "--to", str(tmp_path / "config.json")])
    assert stop.value.code == 2
    assert "where the runs of these settings are kept" in capsys.readouterr().err
    assert not (tmp_path / "config.json").exists()


def test_a_deployment_stands_between_preset_and_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Given a deployment, its settings go over the preset, under the environment, and are told as its own."""
    deployment = tmp_path / "ours.yaml"
    deployment.write_text("training: {epochs: 5, batch_size: 64}\nplacement: {poll_seconds: 7}\n")
    monkeypatch.setenv("MLAPP_TRAINING__BATCH_SIZE", "32")
    config, kept = configure("quick", {"deployment": str(deployment)}, str(tmp_path / "config.json"))
    assert (config.training.epochs, config.training.batch_size, config.placement.poll_seconds) == (5, 32, 7)
    assert kept.settings["training.epochs"].origin == f"deployment {deployment}"
    monkeypatch.setenv("MLAPP_DEPLOYMENT", "vertex_cpu")
    assert resolve("quick", {}).placement.places
    monkeypatch.setenv("MLAPP_DEPLOYMENT", "vertex_cup")
    with pytest.raises(UserError, match=r"no deployment 'vertex_cup': choose one of .*vertex_cpu"):
        resolve("quick", {})


@pytest.mark.parametrize("deployment", sorted(preset_names(DEPLOYMENTS)))
def test_every_deployment_that_ships_is_valid(deployment: str) -> None:
    assert resolve("quick", {"deployment": deployment}).placement.runner == "vertex"
