"""What the operator pins holds: settings that no conf, form, preset, run-named deployment or policy file changes.

``MLAPP_PINNED`` lists them, comma-separated: sections (``signing``), settings (``placement.image``), ``deployment``,
and ``default``, which stands for `DEFAULT`. Where Airflow is Composer's and the variable is not set, `DEFAULT` is
pinned. A pinned setting has the operator's value: that of the environment, of the deployment that MLAPP_DEPLOYMENT
names there, or the default. The policy is pinned as a minimum: a run may make gates stricter, never looser.

A run is refused when it is configured; and since its configuration lies in a file, every stage that runs with the pins
in its environment checks again what it read.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from mlapp import config as configuration
from mlapp import plain, storage
from mlapp.child_environment import is_given_keys
from mlapp.errors import UserError
from mlapp.policy import looser, policy_of
from mlapp.schema import Config
from mlapp.schema_policy import Vetting

PINNED = "MLAPP_PINNED"
COMPOSER = ("COMPOSER_ENVIRONMENT", "COMPOSER_LOCATION")
DEPLOYMENT, VETTING = "deployment", ("vetting.policy", "vetting.gates")
DEFAULT = (
    *("quality", "signing", "storage", "images", "vetting", "cloud.project", "data.allow_private_addresses"),
    *("promotion.approval", "promotion.approval_hours", "promotion.unattended", "promotion.starter_may_approve"),
    *("placement.image", "placement.service_account", "placement.promotion_service_account", "placement.local_tasks"),
    *("placement.network", "placement.kms_key", "tracking.wandb_secret"),
    *(DEPLOYMENT, "placement.runner", "placement.places"),  # else a run moves to the worker what belongs elsewhere
    *("registration.model_id", "registration.serving_image", "registration.artifacts", "registration.experiment"),
)
SHOWN = 10
Layers = Mapping[str, Mapping[str, Any]]


def pinned(environ: Mapping[str, str] | None = None) -> tuple[str, ...]:
    """What is pinned, by the name of a section or of a setting; a `UserError` names what is neither."""
    environ = os.environ if environ is None else environ
    on_composer = any(environ.get(name) for name in COMPOSER)
    given = environ.get(PINNED, "default" if on_composer else "")
    named = [name.strip() for name in given.split(",") if name.strip()]
    listed = dict.fromkeys(each for name in named for each in (DEFAULT if name == "default" else (name,)))
    if unknown := [name for name in listed if not _is_known(name)]:
        known = {*Config.model_fields, *_settings(), DEPLOYMENT, "default"}
        told = "; ".join(f"{name}{configuration.nearest(name, known)}" for name in unknown)
        raise UserError(f"{PINNED} in the environment names what is no setting: {told}")
    return tuple(listed)


def handed_on(module: str, environ: Mapping[str, str] | None = None) -> dict[str, str]:
    """What a stage's process needs to have the same pins: it may not know whose Airflow started it.

    A stage that is not given the names of the signing keys cannot compare them; they were compared when the run was
    configured, and the hash of what was written then is handed on with it.
    """
    names = pinned(environ)
    kept = [name for name in names if is_given_keys(module) or name.partition(".")[0] != "signing"]
    return {PINNED: ",".join(kept)} if names else {}


def load(
    preset: str = configuration.DEFAULT_PRESET,
    overrides: Mapping[str, Any] | None = None,
    environ: Mapping[str, str] | None = None,
) -> Config:
    """`mlapp.config.load`, held to the operator's pins."""
    return combine(layers_of(preset, overrides, environ), environ)


def layers_of(
    preset: str,
    overrides: Mapping[str, Any] | None = None,
    environ: Mapping[str, str] | None = None,
    deployment: str | None = None,
) -> dict[str, dict[str, Any]]:
    """`mlapp.config.layers`, without what a preset that ships says of a vetting that the operator has pinned.

    So the preset `smoke` runs where the policy is pinned, and its model is judged like any other; stricter gates, as of
    `tiny`, stay. Gates that a conf or somebody's own preset loosens are refused by `hold`.
    """
    environ = os.environ if environ is None else environ
    layers = configuration.layers(preset, overrides, environ, deployment)
    names, vetting = {*pinned(environ)}, layers[f"preset {preset}"].get("vetting", {})
    if not vetting or preset not in configuration.preset_names():
        return layers
    free = {name: value for name, value in vetting.items() if not {"vetting", f"vetting.{name}"} & names}
    if "gates" in vetting and _holds_policy(names):
        gates = vetting["gates"]
        theirs = configuration.combine(configuration.operators_layers(environ)).vetting
        least = policy_of(theirs)
        given = policy_of(Vetting.model_validate({"policy": theirs.policy, "gates": gates}))
        weak = set(looser(given, {name: bound for name, bound in least.items() if name in gates}))
        free["gates"] = {name: bound for name, bound in gates.items() if name not in weak}
    layers[f"preset {preset}"]["vetting"] = free
    return layers


def combine(layers: Layers, environ: Mapping[str, str] | None = None) -> Config:
    """The validated configuration that the layers make together, held to the operator's pins."""
    return hold(configuration.combine(layers), layers, environ)


def read(uri: str, overrides: Mapping[str, Any] | None = None) -> Config:
    """A run's resolved configuration by its reference or plain URI, held to the operator's pins."""
    path = storage.at(uri)
    try:
        with storage.explained():
            content = plain.from_json(storage.read_referenced(uri)[0])
    except FileNotFoundError as error:
        raise storage.missing(path, f"no configuration at {path}: give the URI of a resolved config.json") from error
    except ValueError as error:
        raise UserError(f"{path} is not JSON: {error}") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} is not a configuration: give the URI of a resolved config.json")
    layers = {str(path): content, configuration.OVERRIDES: overrides or {}}
    merged = configuration.merge(content, layers[configuration.OVERRIDES])
    return hold(configuration.validate(Config, merged, layers), layers)


def hold(config: Config, layers: Layers, environ: Mapping[str, str] | None = None) -> Config:
    """The configuration, if it has the operator's value of everything pinned; a `UserError` names all that differs."""
    environ = os.environ if environ is None else environ
    if not (names := pinned(environ)):
        return config
    theirs = configuration.combine(configuration.operators_layers(environ))
    changed = [f"{name}{_origin(name, layers)}" for name in _changed(config, theirs, names)]
    if DEPLOYMENT in names:
        wanted = f"deployment {environ.get(configuration.DEPLOYMENT)}"
        changed += [name for name in layers if name.startswith("deployment ") and name != wanted]
    if _holds_policy(names):
        least = policy_of(theirs.vetting)
        for gate in looser(policy_of(config.vetting), least):
            asked = ", ".join(f"{part}: {value}" for part, value in least[gate].model_dump().items())
            changed.append(f"vetting.gates.{gate}{_origin(f'vetting.gates.{gate}', layers)} asks less than {{{asked}}}")
    if changed:
        told = "; ".join(changed[:SHOWN]) + (f"; and {len(changed) - SHOWN} more" if len(changed) > SHOWN else "")
        raise UserError(
            f"the operator has pinned what this run would change: {told}. Leave these out, or have the operator change "
            f"them in Airflow's environment ({PINNED} lists what is pinned)"
        )
    return config


def hold_value(name: str, value: str, theirs: str) -> str:
    """A flag that says the same as a setting: its value, which must be the setting's own where that is pinned."""
    if {name, name.partition(".")[0]} & set(pinned()) and value != theirs:
        raise UserError(f"{name} is pinned by the operator ({PINNED}) to {theirs}: do not give {value}")
    return value


def value_of(config: Config, name: str) -> Any:
    """A setting's value by its dotted name."""
    section, _, field = name.partition(".")
    return getattr(getattr(config, section), field)


def _changed(ours: Config, theirs: Config, names: tuple[str, ...]) -> Iterator[str]:
    """The pinned settings that differ, but for the policy."""
    for name in _settings():
        is_pinned = name not in VETTING and {name.partition(".")[0], name} & set(names)
        if is_pinned and value_of(ours, name) != value_of(theirs, name):
            yield name


def _holds_policy(names: Collection[str]) -> bool:
    return bool({"vetting", *VETTING} & set(names))


def _origin(name: str, layers: Layers) -> str:
    origin = configuration.layer_of(name.split("."), layers)
    return f" (from {origin})" if origin else ""


def _is_known(name: str) -> bool:
    return name == DEPLOYMENT or name in Config.model_fields or name in _settings()


def _settings() -> list[str]:
    """Every setting by its dotted name."""
    sections: dict[str, Any] = {name: field.annotation for name, field in Config.model_fields.items()}
    return [f"{section}.{field}" for section, model in sections.items() for field in model.model_fields]
