"""The form of Airflow's trigger page, made from the schema of the configuration: types, bounds, choices, sections."""

from __future__ import annotations

from typing import Any

from airflow.sdk import DAG, Param

from mlapp.config import DEFAULT_PRESET, DEPLOYMENTS, preset_names
from mlapp.schema import Config

# What of a JSON Schema the form shows, or Airflow checks when a run is triggered.
SHOWN = {
    *("enum", "pattern", "items", "minItems", "maxItems", "propertyNames", "additionalProperties"),
    *("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"),
}
PRESET = "the settings to start from: a preset that ships, or the path of a .yaml file"
# A text with two proposals: Airflow's own switch stands at off where nothing is set, and cannot set that.
SWITCH = {"examples": ["true", "false"], "pattern": "^(true|false)$"}


def trigger_form(*sections: str, preset: str = PRESET) -> dict[str, Param]:
    """One Param for each setting of these sections, or of all; left empty, the preset decides.

    A Param is named as a run's conf names the setting, ``training.epochs``. ``preset`` describes the first field.
    Preset and deployment may be files, so their names are proposals.
    """
    form = {"preset": Param(DEFAULT_PRESET, type="string", **_named(preset_names()), description=preset)}
    form["deployment"] = Param(
        None,
        type=["string", "null"],
        **_named(preset_names(DEPLOYMENTS)),
        description="where it runs and what that needs, by name or as the path of a .yaml file; empty: as the "
        "environment says, else on this machine",
    )
    for name in sections or Config.model_fields:
        model: Any = Config.model_fields[name].annotation
        schema = model.model_json_schema()
        for field, given in schema["properties"].items():
            form[f"{name}.{field}"] = _param(given, section=f"{name.capitalize()}: {_purpose(model)}")
    return form


def _named(names: list[str]) -> dict[str, Any]:
    """What a text must be to name one of these files, or another one by its path; the names are proposed."""
    return {"examples": names, "pattern": rf"^({'|'.join(names)}|.+\.ya?ml)$"}


def show_form(made: DAG, form: dict[str, Param]) -> None:
    """Give a DAG its form, once its tasks are made: each task takes and serializes a copy of what the DAG has by then.

    22 copies of 150 settings were 1.3 of the training DAG's 1.4 MB, and 2.2 CPU-seconds of each parsing. What a task
    sees as ``params`` are its DAG's in any case.
    """
    made.params = form


def _purpose(model: type) -> str:
    return (model.__doc__ or "").strip().splitlines()[0].rstrip(".")


def _param(given: dict[str, Any], section: str) -> Param:
    kind = next((part for part in given.get("anyOf", ()) if part["type"] != "null"), given)
    rules = {name: value for name, value in kind.items() if name in SHOWN}
    types = [kind["type"], "null"]
    if "enum" in rules:
        rules |= {"enum": [*rules["enum"], None], "values_display": {"null": "as the preset says"}}
    if kind["type"] == "boolean":
        types, rules = ["string", "boolean", "null"], SWITCH
    return Param(None, description=given.get("description"), section=section, type=types, **rules)
