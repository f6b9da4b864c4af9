"""Where each setting of a run comes from: shown when the run is configured, and kept beside its configuration."""

from __future__ import annotations

import json
import os
import textwrap
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, ValidationError
from upath import UPath

from mlapp import config as configuration
from mlapp import small_file
from mlapp.errors import UserError
from mlapp.run_record import Moment
from mlapp.schema import Config
from mlapp.section import Section

ORIGINS = "origins.json"
DEFAULT, RUN, DATA = "default", "run", "data as announced"
WIDTH = 110


def _listed(value: object) -> object:
    """Names from one line, as `Origins.text` writes them."""
    return value.split(", ") if isinstance(value, str) else value


class Setting(Section):
    """One value, and who set it.

    That is ``default``, ``preset NAME``, ``deployment NAME``, ``environment MLAPP_…``, ``data as announced``,
    ``override`` or ``run``.
    """

    value: Any
    origin: str


class Origins(Section):
    """The content of `origins.json`: how a run was configured, and every setting by its dotted name."""

    run: str = Field(description="name of the run, as its scheduler gave it")
    preset: str
    configured: Moment
    dag: str = Field("", description="id of the DAG that the run is of; empty for one from the command line")
    pinned: Annotated[tuple[str, ...], BeforeValidator(_listed)] = Field(
        (), description="settings and sections that the operator pinned"
    )
    settings: dict[str, Setting]

    def changed(self) -> dict[str, Setting]:
        """The settings that someone chose otherwise than the schema's default."""
        usual = flat(Config())
        return {
            name: setting
            for name, setting in self.settings.items()
            if setting.value != usual.get(name) and setting.origin not in (RUN, DEFAULT)
        }

    def text(self) -> str:
        """JSON with one setting a line, so that a person can read it and `diff` can compare it."""
        about = {"run": self.run, "preset": self.preset, "configured": self.configured}
        about |= {"dag": self.dag} if self.dag else {}
        about |= {"pinned": ", ".join(self.pinned)} if self.pinned else {}
        head = json.dumps(about, indent=2)
        lines = [f"    {json.dumps(name)}: {setting.model_dump_json()}" for name, setting in self.settings.items()]
        return head.removesuffix("\n}") + ',\n  "settings": {\n' + ",\n".join(lines) + "\n  }\n}\n"


def settings_of(config: Config, layers: Mapping[str, Mapping[str, Any]]) -> dict[str, Setting]:
    """Every setting of a configuration with the layer that it was taken from."""
    return {
        name: Setting(value=value, origin=_told(name, configuration.layer_of(name.split("."), layers)))
        for name, value in flat(config).items()
    }


def flat(config: Config) -> dict[str, Any]:
    """The values of a configuration by dotted name, as JSON holds them."""
    return dotted(config.model_dump(mode="json"))


def dotted(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """The values of a configuration's sections by dotted name, also those in maps of their own."""
    found: dict[str, Any] = {}
    for name, value in settings.items():
        found |= dotted(value, f"{prefix}{name}.") if isinstance(value, Mapping) and value else {prefix + name: value}
    return found


def read(folder: UPath) -> Origins | None:
    """The origins kept in a run's folder; None where there are none, a `UserError` where they cannot be read."""
    path = folder / ORIGINS
    try:
        return Origins.model_validate_json(small_file.written(path))
    except FileNotFoundError:
        return None
    except ValidationError as error:
        raise UserError(f"{path} is not of this version, or damaged") from error


def summary(origins: Origins) -> str:
    """What is not at its default, in a paragraph for each origin."""
    by_origin: dict[str, list[str]] = {}
    for name, setting in origins.changed().items():
        group = setting.origin.split(" MLAPP_")[0]
        by_origin.setdefault(group, []).append(f"{name}={compact(setting.value)}")
    ranked = sorted(by_origin.items(), key=lambda entry: _rank(entry[0]))
    pinned = [("pinned by the operator", list(origins.pinned))] if origins.pinned else []
    return "\n".join(
        textwrap.fill(
            f"{origin}: {'  '.join(named)}",
            width=WIDTH,
            subsequent_indent="  ",
            break_long_words=False,
            break_on_hyphens=False,
        )
        for origin, named in (*ranked, *pinned)
    )


def compact(value: Any) -> str:
    """A value as one would write it in an override, without spaces."""
    return value if isinstance(value, str) else json.dumps(value, separators=(",", ":"), ensure_ascii=False)


def _rank(origin: str) -> int:
    """The layers' own order, the lowest first."""
    return ["preset", "deployment", "environment", "data", "override"].index(origin.split(" ", maxsplit=1)[0])


def _told(name: str, layer: str | None) -> str:
    if layer == configuration.ENVIRONMENT:
        variable = f"MLAPP_{name.replace('.', '__').upper()}"
        given = {name.upper() for name in os.environ}
        return f"environment {variable if variable in given else variable.split('__', maxsplit=1)[0]}"
    return {None: DEFAULT, configuration.OVERRIDES: "override"}.get(layer, str(layer))
