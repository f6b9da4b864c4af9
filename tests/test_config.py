"""Layers of the configuration: which one wins, and what is said of a wrong key or value."""

from __future__ import annotations

import pytest

from mlapp import config as configuration
from mlapp.errors import UserError
from mlapp.policy import policy_of
from mlapp.schema import Config


def load(preset="quick", overrides=None, environ=None) -> Config:
    return configuration.load(preset, overrides, environ or {})


def test_each_layer_goes_over_the_one_below(tmp_path):
    preset = tmp_path / "mine.yaml"
    preset.write_text("training: {epochs: 3, batch_size: 64, patience: 2}\n")
    environ = {"MLAPP_TRAINING__EPOCHS": "4", "MLAPP_TRAINING__BATCH_SIZE": "32"}
    training = load(str(preset), {"training.epochs": 5}, environ).training
    assert (training.epochs, training.batch_size, training.patience) == (5, 32, 2)
    assert training.warmup == Config().training.warmup


@pytest.mark.parametrize("preset", configuration.preset_names())
def test_every_shipped_preset_is_valid(preset):
    assert isinstance(load(preset), Config)


def test_dotted_and_nested_settings_are_the_same():
    assert configuration.nest({"a.b": 1, "a": {"c.d": 2}}) == {"a": {"b": 1, "c": {"d": 2}}}


def test_overrides_are_read_as_yaml():
    arguments = ["training.epochs=3", "distillation.widths=[0.5, 0.25]", "data.source=null", "data.name=x"]
    assert configuration.parse_overrides(arguments) == {
        "training": {"epochs": 3},
        "distillation": {"widths": [0.5, 0.25]},
        "data": {"source": None, "name": "x"},
    }


def test_lists_and_maps_come_from_the_environment_as_json():
    environ = {"MLAPP_DISTILLATION__WIDTHS": "[0.5]", "MLAPP_DATA__SHA256": f'{{"train-images": "{"0" * 64}"}}'}
    config = load(environ=environ)
    assert config.distillation.widths == (0.5,)
    assert config.data.sha256 == {"train-images": "0" * 64}


def test_the_configuration_is_frozen():
    with pytest.raises(ValueError, match="frozen"):
        load().training.epochs = 3


def test_a_resolved_configuration_reads_back_as_itself():
    config = load("smoke", {"distillation.widths": [0.3]})
    assert Config.model_validate_json(config.model_dump_json()) == config


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        ({"training.epohcs": 3}, "unknown setting training.epohcs (from the overrides): did you mean epochs?"),
        ({"trainning.epochs": 3}, "unknown setting trainning (from the overrides): did you mean training?"),
        ({"zzz": 3}, "unknown setting zzz (from the overrides): known are baseline, cloud, data, "),
        ({"training.epochs": 0}, "training.epochs: input should be greater than or equal to 1, not 0 (from the ov"),
        ({"training.epochs": "x"}, "training.epochs: input should be a valid integer, unable to parse string as an "),
        ({"training.learning_rate": float("nan")}, "training.learning_rate: input should be "),
        ({"training": 3}, "training: input should be a valid dictionary"),
        (
            {"training.architecture": "vgg"},
            "training.architecture: input should be 'cnn3', 'convnet', 'deepnet' or",
        ),
        ({"distillation.widths": []}, "distillation.widths: tuple should have at least 1 item"),
    ],
)
def test_a_wrong_override_is_named_with_its_layer(overrides, told):
    with pytest.raises(UserError) as raised:
        load(overrides=overrides)
    assert str(raised.value).startswith(told)
    assert "\n" not in str(raised.value)


def test_every_wrong_setting_is_told_at_once():
    with pytest.raises(UserError) as raised:
        load(overrides={"training.epochs": 0, "pruning.alpha": 2, "x.y": 1})
    assert all(name in str(raised.value) for name in ("training.epochs", "pruning.alpha", "unknown setting x"))


@pytest.mark.parametrize(
    ("environ", "told"),
    [
        (
            {"MLAPP_TRAINING__EPOCHS": "0"},
            "training.epochs: input should be greater .*, not '0' .from the environment.",
        ),
        (
            {"MLAPP_TRAINING__EPOHCS": "3"},
            "unknown setting training.epohcs .from the environment.: did you mean epochs",
        ),
        ({"MLAPP_TRAINNING__EPOCHS": "3"}, "MLAPP_TRAINNING__EPOCHS .* unknown section: did you mean training"),
        ({"MLAPP_DISTILLATION__WIDTHS": "a, b"}, "distillation.*give lists and maps as JSON"),
    ],
)
def test_a_wrong_variable_of_the_environment_is_named(environ, told):
    with pytest.raises(UserError, match=told):
        load(environ=environ)


@pytest.mark.parametrize(
    "name", [f"MLAPP_{name}" for name in ("SIGNING__PRIVATE_KEY", "SIGNING__PUBLIC_KEY", "TRACKING__WANDB_SECRET")]
)
@pytest.mark.parametrize("break_", ["\n", "\\n", " "])
def test_a_secret_in_place_of_its_name_is_refused_and_not_quoted(name, break_):
    """Given a key that somebody pasted where its file's name belongs, then neither log nor run folder gets it."""
    key = break_.join(("-----BEGIN EC PRIVATE KEY-----", "MHcCAQEEIC", "-----END EC PRIVATE KEY-----"))
    for environ in ({name: key}, {"MLAPP_SIGNING": f'"{"MHcCAQEEIC" * 4}"'}):
        with pytest.raises(UserError) as error:
            load(environ=environ)
        assert "MHcCAQEEIC" not in str(error.value)
        assert "signing" in str(error.value) or "tracking.wandb_secret" in str(error.value)


def test_other_variables_of_the_environment_are_left_alone():
    assert load(environ={"MLAPP_HOME": "/x", "PATH": "/bin", "TRAINING__EPOCHS": "0"}) == load()


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("training: {epohcs: 3}", "unknown setting training.epohcs .from preset .*did you mean epochs"),
        ("training: {epochs: 0}", "training.epochs: .*from preset"),
        ("- a\n- b", "must map sections to settings, not be a list"),
        ("training: {epochs", "is not YAML"),
        (b"\xff\xfe\x00", "is not YAML"),
    ],
)
def test_a_wrong_preset_file_is_named(tmp_path, content, told):
    preset = tmp_path / "mine.yaml"
    preset.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(UserError, match=told):
        load(str(preset))


def test_an_empty_preset_file_sets_nothing(tmp_path):
    (tmp_path / "empty.yaml").touch()
    assert load(str(tmp_path / "empty.yaml")) == Config()


@pytest.mark.parametrize("preset", ["qick", "", "../presets/quick", "nowhere.yaml"])
def test_a_missing_preset_is_told_with_those_that_exist(preset):
    with pytest.raises(UserError, match=r"no preset .*: choose one of best, quick, "):
        load(preset)


@pytest.mark.parametrize("value", ["off", False])
def test_wandb_can_be_switched_off_in_yaml_and_in_json(value):
    """YAML reads a bare ``off`` as false."""
    assert load(overrides={"tracking.wandb": value}).tracking.wandb == "off"
    assert load(overrides=configuration.parse_overrides(["tracking.wandb=off"])).tracking.wandb == "off"
    with pytest.raises(UserError, match=r"tracking\.wandb: input should be 'auto', .* not True .from the overrides."):
        load(overrides=configuration.parse_overrides(["tracking.wandb=on"]))


@pytest.mark.parametrize(
    ("argument", "told"),
    [("training.epochs", "write an override as section.field=value"), ("=3", "write an"), ("a=[1", "is not YAML")],
)
def test_an_override_that_cannot_be_read_is_shown(argument, told):
    with pytest.raises(UserError, match=told):
        configuration.parse_overrides([argument])


@pytest.mark.parametrize("name", ["TRAINING.epochs", "Training.epochs", "tRACKING.wandb"])
def test_a_section_of_the_wrong_case_is_refused(name):
    with pytest.raises(UserError, match=rf"unknown setting {name.split('.')[0]} .*did you mean t"):
        load("smoke", {name: 3})


@pytest.mark.parametrize("nested_first", [True, False])
def test_a_setting_given_twice_with_two_values_is_refused(nested_first):
    both = [("training", {"epochs": 3}), ("training.epochs", 5)]
    with pytest.raises(UserError, match=r"^training.epochs is set twice, to . and .: give it once$"):
        load("smoke", dict(both if nested_first else both[::-1]))
    assert load("smoke", {"training": {"epochs": 3}, "training.epochs": 3}).training.epochs == 3


def test_a_section_given_twice_in_a_preset_is_refused(tmp_path):
    preset = tmp_path / "mine.yaml"
    preset.write_text("training: {epochs: 3}\ntraining: {batch_size: 64}\n")
    with pytest.raises(UserError, match="'training' is there twice: give it once"):
        load(str(preset))


def test_a_variable_with_one_underscore_is_not_ignored():
    with pytest.raises(UserError, match="MLAPP_TRAINING_EPOCHS in the environment sets nothing: write MLAPP_T"):
        load("smoke", environ={"MLAPP_TRAINING_EPOCHS": "3"})


@pytest.mark.parametrize("name", ["storage.models", "storage.registry", "vetting.policy"])
def test_a_path_that_only_a_shell_expands_is_refused(name):
    """It would be a folder of the name ~ in the present one."""
    with pytest.raises(UserError, match=r"~/x.* begins with ~, which only a shell expands: give the whole path"):
        policy_of(load("smoke", {name: "~/x.yaml"}).vetting)
