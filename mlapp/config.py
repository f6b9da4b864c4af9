"""Resolve the configuration of a run: defaults < preset < deployment < environment < overrides, unknown keys rejected.

A deployment is a file like a preset, of settings that belong to where a run happens and not to what it learns:
``deploy/presets/NAME.yaml``, named by MLAPP_DEPLOYMENT or by a run's conf.

Every layer speaks the same names: ``training: {epochs: 10}`` in a preset, ``MLAPP_TRAINING__EPOCHS=10`` in the
environment, ``training.epochs=10`` on the command line, ``{"training.epochs": 10}`` or nested in a DAG run's conf.
"""

from __future__ import annotations

import difflib
import functools
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails
from pydantic_settings import EnvSettingsSource, SettingsError

from mlapp import address, plain
from mlapp.errors import UserError
from mlapp.schema import UNQUOTED, Config

PRESETS = Path(__file__).parent / "presets"
DEPLOYMENTS = Path(__file__).parents[1] / "deploy" / "presets"
DEPLOYMENT = "MLAPP_DEPLOYMENT"
DEFAULT_PRESET = "quick"
ENVIRONMENT, OVERRIDES = "the environment", "the overrides"
MOST_TOLD = 10  # of what is wrong, in one line
LONGEST_QUOTE = 200
M = TypeVar("M", bound=BaseModel)


def load(
    preset: str = DEFAULT_PRESET,
    overrides: Mapping[str, Any] | None = None,
    environ: Mapping[str, str] | None = None,
    deployment: str | None = None,
) -> Config:
    """The validated configuration from all layers; a `UserError` names each wrong key or value and its layer."""
    return combine(layers(preset, overrides, environ, deployment))


def layers(
    preset: str,
    overrides: Mapping[str, Any] | None = None,
    environ: Mapping[str, str] | None = None,
    deployment: str | None = None,
) -> dict[str, dict[str, Any]]:
    """What each layer above the defaults sets, by the layer's name, the lowest first."""
    environ = os.environ if environ is None else environ
    return {
        f"preset {preset}": read_preset(preset),
        **operators_layers(environ, deployment),
        OVERRIDES: nest(overrides or {}),
    }


def operators_layers(environ: Mapping[str, str], deployment: str | None = None) -> dict[str, dict[str, Any]]:
    """What the environment sets, and below it the deployment: that of a run, else the one the environment names."""
    chosen = deployment or environ.get(DEPLOYMENT)
    return {
        **({f"deployment {chosen}": read_preset(chosen, "deployment", DEPLOYMENTS)} if chosen else {}),
        ENVIRONMENT: _from_environment(environ),
    }


def combine(layers: Mapping[str, Mapping[str, Any]]) -> Config:
    """The validated configuration that the layers make together."""
    merged: dict[str, Any] = {}
    for layer in layers.values():
        merged = merge(merged, layer)
    return validate(Config, merged, layers)


def layer_of(location: Sequence[str], layers: Mapping[str, Mapping[str, Any]]) -> str | None:
    """Name of the topmost layer that sets the value at this location; None where it is the default."""
    return next((name for name in reversed(list(layers)) if _stands_in(location, layers[name])), None)


def preset_names(folder: Path = PRESETS) -> list[str]:
    """Names of the presets that ship with the project; with `DEPLOYMENTS`, of its deployments."""
    return sorted(path.stem for path in folder.glob("*.yaml"))


def read_preset(preset: str, kind: str = "preset", folder: Path = PRESETS) -> dict[str, Any]:
    """A preset's settings: one of `preset_names`, or the path of a YAML file of the same shape."""
    by_path = preset.endswith((".yaml", ".yml"))
    path = Path(preset) if by_path else folder / f"{preset}.yaml"
    names = preset_names(folder)
    if by_path and (wrong := address.fault(preset, address.LOCAL)):
        raise UserError(f"{kind}: {wrong}")
    if not (path.exists() or path.is_symlink() if by_path else preset in names):
        raise UserError(f"no {kind} {preset!r}: choose one of {', '.join(names)}, or give a .yaml file")
    from mlapp import small_file, storage  # not above: the DAGs import this module, and that one takes its time

    try:
        with storage.explained():
            content = plain.from_yaml(small_file.read(storage.at(path))) or {}
    except ValueError as error:
        raise UserError(f"{kind} {path} is not YAML: {error}") from error
    if not isinstance(content, dict):
        raise UserError(f"{kind} {path} must map sections to settings, not be a {type(content).__name__}")
    return nest(content)


def parse_overrides(arguments: Iterable[str]) -> dict[str, Any]:
    """``["training.epochs=10"]`` as nested settings; values are read as YAML, so lists and null work too."""
    flat: dict[str, Any] = {}
    for argument in arguments:
        name, equals, value = argument.partition("=")
        if not equals or not name:
            raise UserError(f"cannot read {argument!r}: write an override as section.field=value")
        try:
            flat[name] = plain.from_yaml(value)
        except ValueError as error:
            raise UserError(f"cannot read the value of {name}: {value!r} is not YAML") from error
    return nest(flat)


def nest(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Spell dotted keys out as nested ones: ``{"a.b": 1}`` becomes ``{"a": {"b": 1}}``."""
    nested: dict[str, Any] = {}
    for name, value in settings.items():
        *parents, leaf = str(name).split(".")
        if len(parents) > plain.DEEPEST:
            raise UserError(f"{str(name)[:40]}… has {len(parents):,} dots: no setting lies so deep")
        branch: Any = nest(value) if isinstance(value, Mapping) else value
        for key in (leaf, *reversed(parents)):
            branch = {key: branch}
        _refuse_twice(nested, branch)
        nested = merge(nested, branch)
    return nested


def _refuse_twice(first: Mapping[str, Any], second: Mapping[str, Any], within: str = "") -> None:
    """A `UserError` where the dotted and the nested spelling of one setting say different things."""
    for key in first.keys() & second.keys():
        one, other = first[key], second[key]
        if isinstance(one, Mapping) and isinstance(other, Mapping):
            _refuse_twice(one, other, f"{within}{key}.")
        elif one != other and one is not None and other is not None:
            raise UserError(
                f"{_short(within + key)} is set twice, to {_short(repr(one))} and {_short(repr(other))}: give it once"
            )


def validate(model: type[M], values: Mapping[str, Any], layers: Mapping[str, Mapping[str, Any]]) -> M:
    """Validate settings, turning pydantic's report into one line that names every field, its layer and the fix."""
    try:
        return model.model_validate(values)
    except ValidationError as error:
        told = list(dict.fromkeys(_explain(model, dict(detail), layers) for detail in _apart(error)))
        more = [f"and {len(told) - MOST_TOLD:,} more"] if len(told) > MOST_TOLD else []
        raise UserError("; ".join([*told[:MOST_TOLD], *more])) from error


def _apart(error: ValidationError) -> list[ErrorDetails]:
    """The report without what only follows from another line of it: a list lacks the items that are wrong."""
    places = [detail["loc"] for detail in error.errors()]
    return [
        detail
        for detail in error.errors()
        if detail["type"] != "too_short" or not any(detail["loc"] == place[:-1] for place in places)
    ]


def _from_environment(environ: Mapping[str, str]) -> dict[str, Any]:
    prefix = str(Config.model_config["env_prefix"])
    for name in environ:
        section = name.removeprefix(prefix).split("__")[0].lower()
        if name.startswith(prefix) and "__" in name and section not in Config.model_fields:
            raise UserError(f"{name} in the environment sets an unknown section{nearest(section, Config.model_fields)}")
        if name in (close := _with_one_underscore(prefix)):
            raise UserError(f"{name} in the environment sets nothing: write {close[name]}")
    source = EnvSettingsSource(Config, case_sensitive=False)
    source.env_vars = {name.lower(): value for name, value in environ.items() if name.startswith(prefix)}
    try:
        return source()
    except SettingsError as error:
        raise UserError(f"{error} (give lists and maps as JSON)") from error


@functools.cache
def _with_one_underscore(prefix: str) -> dict[str, str]:
    """The environment's name of each setting, by the one that it is easily mistaken for."""
    return {
        f"{prefix}{section}_{name}".upper(): f"{prefix}{section}__{name}".upper()
        for section, field in Config.model_fields.items()
        for name in getattr(field.annotation, "model_fields", ())
    }


def merge(base: Mapping[str, Any], top: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of ``base`` overlaid by those of ``top``, section by section."""
    merged = dict(base)
    for key, value in top.items():
        below = merged.get(key)
        merged[key] = merge(below, value) if isinstance(below, Mapping) and isinstance(value, Mapping) else value
    return merged


def _explain(model: type[BaseModel], detail: dict[str, Any], layers: Mapping[str, Mapping[str, Any]]) -> str:
    location = [str(part) for part in detail["loc"]]
    name = _short(".".join(location))
    origin = layer_of(location, layers)
    origin = f" (from {origin})" if origin else ""
    if detail["type"] == "extra_forbidden":
        return f"unknown setting {name}{origin}{nearest(location[-1], _siblings(model, location))}"
    reason = _short(detail["msg"][0].lower() + detail["msg"][1:], 5 * LONGEST_QUOTE)
    whole = detail["type"] == "value_error" and isinstance(detail["input"], Mapping)  # settings that do not go together
    quoted = not (whole or detail["type"] == "missing" or UNQUOTED.intersection(location))
    given = f", not {_short(address.masked(repr(detail['input'])))}" if quoted else ""
    return f"{f'{name}: ' if name else ''}{reason}{given}{origin}"


def _short(text: str, longest: int = LONGEST_QUOTE) -> str:
    return text if len(text) <= longest else f"{text[:longest]}… ({len(text):,} characters)"


def _stands_in(location: Sequence[str], layer: Any) -> bool:
    for part in location:
        if not isinstance(layer, Mapping):
            return True
        if part not in layer:
            return False
        layer = layer[part]
    return True


def _siblings(model: type[BaseModel], location: list[str]) -> Iterable[str]:
    for part in location[:-1]:
        inner = model.model_fields[part].annotation
        if not (isinstance(inner, type) and issubclass(inner, BaseModel)):
            return ()
        model = inner
    return model.model_fields


def nearest(name: str, known: Iterable[str]) -> str:
    """The end of a message on an unknown name: the one that may be meant, or all that are known."""
    match = difflib.get_close_matches(name.lower(), list(known), n=1)
    return f": did you mean {match[0]}?" if match else f": known are {', '.join(sorted(known))}"
