"""What the operator pins holds, whatever a run gives: conf, form, preset, deployment, announced data, policy file."""

from __future__ import annotations

import ast
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from mlapp import config as configuration
from mlapp import pins
from mlapp.configure import configure, main, read_setting, resolve
from mlapp.errors import UserError
from mlapp.registry.__main__ import main as registry_main
from mlapp.schema import Config
from mlapp.vetting import verdict

ROOT = Path(__file__).parents[1]
OTHERS: dict[str, Any] = {
    "signing.public_key": "/tmp/k.pem",
    "storage.registry": "/tmp/elsewhere",
    "promotion.approval": True,
    "promotion.unattended": True,
    "promotion.starter_may_approve": False,
    "placement.image": f"evil.example/image@sha256:{0:064}",
    "placement.service_account": "x@y.iam.gserviceaccount.com",
    "placement.runner": "vertex",
    "placement.places": ["local"],
    "data.allow_private_addresses": True,
    "vetting.seed": 7,  # of several, one may suit a model
    "vetting.corrupted_images": 100,
    "placement.network": "projects/1/global/networks/n",
    "images.repository": "evil.example/r/i",
    "images.build_service_account": "x@y.iam.gserviceaccount.com",
    "cloud.project": "another-project",
    "registration.serving_image": f"evil.example/serve@sha256:{0:064}",
    "registration.artifacts": "gs://evil-bucket/x",
    "tracking.wandb_secret": "projects/p/secrets/s",
}


@pytest.fixture(autouse=True)
def composer(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Composer's workers, as its documentation has them; the operator's registry lies in a folder of the test."""
    for name in ("MLAPP_DEPLOYMENT", pins.PINNED):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("COMPOSER_ENVIRONMENT", "mlapp")
    monkeypatch.setenv("MLAPP_STORAGE__REGISTRY", str(tmp_path / "registry"))


@pytest.mark.parametrize("name", OTHERS)
def test_each_pinned_setting_is_held(name: str) -> None:
    with pytest.raises(UserError, match=rf"the operator has pinned .*: {name} \(from the overrides\)"):
        resolve("quick", {name: OTHERS[name]})


def test_every_setting_that_a_run_tries_is_named_and_nothing_is_written(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["--conf", json.dumps(OTHERS | {"deployment": "vertex_cpu"}), "--to", str(tmp_path / "config.json")])
    told = capsys.readouterr().err
    assert (stop.value.code, told.count("\n"), list(tmp_path.iterdir())) == (2, 1, [])
    assert "and 10 more" in told


def test_a_runs_own_preset_is_only_a_preset(tmp_path: Path) -> None:
    preset = tmp_path / "evil.yaml"
    preset.write_text("signing: {public_key: /tmp/k}\nvetting: {gates: {accuracy: {at_least: 0.1}}}\n")
    with pytest.raises(UserError, match=rf"signing.public_key \(from preset {preset}\); vetting.gates.accuracy"):
        resolve("quick", {"preset": str(preset)})


def test_a_deployment_that_a_run_names_is_held(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    own = tmp_path / "own.yaml"
    own.write_text("tracking: {project: mine}\n")
    for deployment in ("vertex_cpu", str(own)):
        with pytest.raises(UserError, match=rf"deployment {deployment}"):
            resolve("quick", {"deployment": deployment})
    monkeypatch.setenv("MLAPP_DEPLOYMENT", "vertex_cpu")
    assert resolve("quick", {"deployment": "vertex_cpu"}).placement.places
    with pytest.raises(UserError, match="deployment vertex_gpu"):
        resolve("quick", {"deployment": "vertex_gpu"})


def test_announced_data_are_held(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"storage.registry \(from data as announced\)"):
        resolve("quick", {}, {"storage": {"registry": "/tmp/elsewhere"}})


@pytest.mark.parametrize(
    "change",
    [
        {"accuracy": {"at_least": 0.84}},
        {"churn": {"at_most": 0.21}},
        {"class_inferior_p": {"margin": 0.06}},
        {"accuracy": {"otherwise": "hold"}},
        {"churn": {"otherwise": "note"}},
    ],
)
def test_a_gate_may_not_be_looser(change: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=rf"vetting.gates.{next(iter(change))} \(from the overrides\) asks less than"):
        resolve("quick", {"vetting.gates": change})


@pytest.mark.parametrize(
    "conf",
    [
        {"vetting.policy": "strict"},
        {"vetting.gates": {"accuracy": {"at_least": 0.99}}},
        {"vetting.gates": {"churn": {"otherwise": "reject"}}},
        {"vetting.gates": {"class_inferior_p": {"margin": 0.01}}},
        {"vetting.gates": {"baseline_better_p": {"at_most": 0.025, "otherwise": "hold"}}},
        {"preset": "tiny"},
    ],
)
def test_a_gate_may_be_stricter(conf: dict[str, Any]) -> None:
    resolve("quick", conf)


def test_a_policys_file_may_not_leave_a_gate_out(tmp_path: Path) -> None:
    policy = tmp_path / "mine.yaml"
    policy.write_text("accuracy: {at_least: 0.99, otherwise: reject}\n")
    with pytest.raises(UserError, match=r"vetting.gates.class_recall asks less than .*and \d more"):
        resolve("quick", {"vetting.policy": str(policy)})


def test_the_operators_policy_may_be_stricter_than_standard(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLAPP_VETTING__POLICY", "strict")
    with pytest.raises(UserError, match="asks less than"):
        resolve("quick", {"vetting.policy": "standard"})
    assert resolve("quick", {}).vetting.policy == "strict"


def test_a_policys_file_that_changes_after_the_run_was_configured_changes_no_gate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Given a file that was strict enough when it was checked, when it is changed, then the run keeps its gates."""
    monkeypatch.setenv(pins.PINNED, "")
    policy = tmp_path / "ours.yaml"
    policy.write_text("accuracy: {at_least: 0.9, otherwise: reject}\n")
    configure("quick", {"vetting.policy": str(policy)}, str(tmp_path / "run" / "config.json"))
    policy.write_text("accuracy: {at_least: 0.1, otherwise: note}\n")
    settings = pins.read(str(tmp_path / "run" / "config.json")).vetting
    assert verdict.policy_of(settings)["accuracy"].at_least == 0.9


def test_the_preset_smoke_runs_and_is_judged_like_any_other() -> None:
    assert resolve("smoke", {}).vetting == resolve("quick", {}).vetting


@pytest.mark.parametrize(
    "named", ["vetting", "vetting.gates", "vetting.policy,vetting.seed", "vetting.corrupted_images"]
)
def test_every_preset_that_ships_runs_whatever_of_the_vetting_is_pinned(
    monkeypatch: pytest.MonkeyPatch, named: str
) -> None:
    monkeypatch.setenv(pins.PINNED, named)
    for preset in configuration.preset_names():
        resolve(preset, {})


def test_the_operators_own_value_may_be_repeated(tmp_path: Path) -> None:
    assert resolve("quick", {"storage.registry": str(tmp_path / "registry"), "promotion.approval": False})


@pytest.mark.parametrize("listed", ["", "training.depth"])
def test_the_operator_may_pin_less_or_other_settings(monkeypatch: pytest.MonkeyPatch, listed: str) -> None:
    monkeypatch.setenv(pins.PINNED, listed)
    resolve("quick", {"cloud.project": "another-project"})
    if listed:
        with pytest.raises(UserError, match=r"training\.depth"):
            resolve("quick", {"training.depth": 3})


def test_more_than_the_default_may_be_pinned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(pins.PINNED, "default, data")
    with pytest.raises(UserError, match=r"data\.name .*data\.source"):
        resolve("quick", {"data.name": "mine", "data.source": "/x"})
    with pytest.raises(UserError, match=r"cloud\.project"):
        resolve("quick", {"cloud.project": "another-project"})


def test_nothing_is_pinned_outside_of_composer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("COMPOSER_ENVIRONMENT")
    assert pins.pinned() == ()


@pytest.mark.parametrize("name", ["sining", "promotion.aproval", "storage.registry.x"])
def test_a_wrong_name_in_the_list_is_told(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(pins.PINNED, name)
    with pytest.raises(UserError, match=rf"{pins.PINNED} in the environment names what is no setting: {name}"):
        resolve("quick", {})


def test_everything_that_is_pinned_by_default_exists() -> None:
    assert set(pins.pinned()) == set(pins.DEFAULT)


def test_what_is_pinned_stands_in_the_record_and_is_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["--to", str(tmp_path / "config.json")])
    assert "pinned by the operator: quality  signing  storage" in capsys.readouterr().err
    assert json.loads((tmp_path / "origins.json").read_text())["pinned"].startswith("quality, signing, storage")


@pytest.fixture
def tampered(tmp_path: Path) -> str:
    """A run's config.json that somebody changed after it was written."""
    path = tmp_path / "run" / "config.json"
    configure("quick", {}, str(path))
    content = json.loads(path.read_text())
    content["storage"]["registry"] = "/tmp/elsewhere"
    path.write_text(json.dumps(content))
    return str(path)


def test_a_stage_and_a_template_check_what_they_read(tampered: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        verdict.run.main([f"--config={tampered}", "--challenger=/x", "--data=/x"])
    assert stop.value.code == 2
    assert "storage.registry (from " in capsys.readouterr().err
    with pytest.raises(UserError, match=r"pinned .*storage\.registry"):
        read_setting(tampered, "storage.registry")


@pytest.mark.parametrize(
    "argument", ["--registry=/tmp/elsewhere", "storage.registry=/tmp/elsewhere", "signing.public_key=/tmp/k"]
)
def test_a_stages_flags_and_overrides_are_held(capsys: pytest.CaptureFixture[str], argument: str) -> None:
    with pytest.raises(SystemExit) as stop:
        verdict.run.main([argument, "--challenger=/x", "--data=/x"])
    assert stop.value.code == 2
    assert "pinned" in capsys.readouterr().err


def test_the_registrys_command_is_held(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(pins.PINNED, "storage,promotion.name")
    for arguments in (["list", "--registry", "/tmp/elsewhere"], ["list", "--name", "other"]):
        with pytest.raises(SystemExit) as stop:
            registry_main(arguments)
        assert stop.value.code == 2
        assert "pinned by the operator" in capsys.readouterr().err


def test_the_dag_that_moves_the_pointer_is_held() -> None:
    sys.path.insert(0, str(ROOT / "plugins"))
    from registry_moves import move
    from stage_operator import BadInput

    conf = json.dumps({"action": "rollback", "why": "x", "storage.registry": "/tmp/elsewhere"})
    with pytest.raises(BadInput, match=r"pinned .*storage\.registry"):
        move(conf, "me")


def test_a_stages_process_is_handed_the_pins(monkeypatch: pytest.MonkeyPatch) -> None:
    """Given a worker of Composer, whose stages are not told that it is one, then they hold the same pins."""
    promoter, trainer = "mlapp.registry.promoter", "mlapp.dl.dnn_trainer"
    assert pins.pinned(pins.handed_on(promoter)) == pins.DEFAULT
    assert {*pins.DEFAULT} - {*pins.pinned(pins.handed_on(trainer))} == {"signing"}
    monkeypatch.setenv(pins.PINNED, "data")
    assert pins.pinned(pins.handed_on(trainer)) == ("data",)
    monkeypatch.delenv(pins.PINNED)
    monkeypatch.delenv("COMPOSER_ENVIRONMENT")
    assert pins.handed_on(trainer) == {}


def test_every_configuration_is_made_or_read_where_the_pins_are_checked() -> None:
    """Whoever needs a configuration goes through `mlapp.pins`; only what compares presets with each other does not."""
    makers = {"load", "combine", "layers", "validate"}
    found = set()
    for path in [*(ROOT / "mlapp").rglob("*.py"), *(ROOT / "plugins").glob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
                continue
            owner = node.func.value
            of_config = isinstance(owner, ast.Name) and owner.id in ("config", "configuration")
            whole = node.func.attr != "validate" or (bool(node.args) and ast.unparse(node.args[0]) == "Config")
            if of_config and node.func.attr in makers and whole:
                found.add(str(path.relative_to(ROOT)))
    assert found == {"mlapp/pins.py", "mlapp/registry/reproduction.py"}


def test_the_operators_layers_are_those_of_the_environment() -> None:
    theirs = configuration.operators_layers({"MLAPP_DEPLOYMENT": "vertex_cpu", "MLAPP_CLOUD__PROJECT": "our-project"})
    assert list(theirs) == ["deployment vertex_cpu", configuration.ENVIRONMENT]
    assert configuration.combine(theirs).cloud.project == "our-project"
    assert Config().cloud.project is None
