"""Resolve a run's configuration once, at its start: every stage of the run then reads the same config.json.

What a run is given (`conf`) is nested, ``{"training": {"epochs": 3}}``, or dotted, ``{"training.epochs": 3}``, and may
name the ``preset``; null means "as the preset says".
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Mapping
from typing import Any

from mlapp import config as configuration
from mlapp import storage
from mlapp.errors import UserError
from mlapp.schema import Config

DATA_SECTIONS = ("storage", "data", "quality", "transform")


def configure(preset: str, conf: Mapping[str, Any], uri: str) -> Config:
    """Write the validated configuration to ``uri`` and return it; a `UserError` names every wrong key or value."""
    config = resolve(preset, conf)
    try:
        storage.write_text(storage.at(uri), config.model_dump_json(indent=2) + "\n")
    except OSError as error:
        raise storage.explain(error) or error from error
    return config


def resolve(preset: str, conf: Mapping[str, Any]) -> Config:
    """The configuration of a run: its preset, the environment, then its conf, whose own ``preset`` goes first."""
    given = _set(configuration.nest(conf))
    chosen = given.pop("preset", preset)
    if not isinstance(chosen, str):
        raise UserError(f"preset: give one of {', '.join(configuration.preset_names())}, not {chosen!r}")
    return configuration.load(chosen, given)


def read_conf(text: str) -> dict[str, Any]:
    """A run's conf from JSON."""
    try:
        conf = json.loads(text)
    except ValueError as error:
        raise UserError(f'conf is not JSON ({error}): write it like {{"training.epochs": 3}}') from error
    if not isinstance(conf, dict):
        raise UserError(f'conf must map settings to values, like {{"training.epochs": 3}}, not be {text}')
    return conf


def read_setting(uri: str, name: str) -> Any:
    """One value of a resolved configuration by its dotted name."""
    value = json.loads(storage.at(uri).read_text(encoding="utf-8"))
    for part in name.split("."):
        value = value[part]
    return value


def data_settings(uri: str) -> dict[str, Any]:
    """What an earlier run's configuration says of its data, for a run that takes up these very data."""
    try:
        config = json.loads(storage.at(uri).read_text(encoding="utf-8"))
        return {section: config[section] for section in DATA_SECTIONS}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{uri} is not the configuration of a run ({error}): give the URI of its config.json"
        ) from error


def run_folder(config: Config, run: str, day: str) -> str:
    """URI of the folder that keeps what a run was and what came of it."""
    name = re.sub(r"[^A-Za-z0-9]+", "-", run).strip("-")
    return str(storage.at(config.storage.experiments) / f"{day}-{name}")


def main(argv: list[str] | None = None) -> None:
    """Configure a run from the command line. Exit codes: 0 done, 2 something the user can mend."""
    parser = argparse.ArgumentParser(
        prog="python -m mlapp.configure", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--preset", default=configuration.DEFAULT_PRESET, help="preset name or .yaml (%(default)s)")
    parser.add_argument("--conf", default="{}", metavar="JSON", help="settings on top of the preset")
    parser.add_argument("--data-of", default="", metavar="URI", help="config.json to take the data's settings from")
    parser.add_argument("--to", metavar="URI", help="file to write; default: config.json in the run's own folder")
    parser.add_argument("--run", default="by-hand", help="name of the run, for its folder (%(default)s)")
    parser.add_argument("--day", default="undated", help="day of the run, YYYY-MM-DD, for its folder")
    parser.add_argument("--uri-to", metavar="FILE", help="also write the URI of config.json to this file")
    arguments = parser.parse_args(argv)
    try:
        conf = read_conf(arguments.conf)
        if arguments.data_of:
            conf = configuration.merge(data_settings(arguments.data_of), configuration.nest(_set(conf)))
        folder = run_folder(resolve(arguments.preset, conf), arguments.run, arguments.day)
        uri = str(storage.at(arguments.to or f"{folder}/config.json"))
        configure(arguments.preset, conf, uri)
        if arguments.uri_to:
            storage.write_text(storage.at(arguments.uri_to), uri)
    except UserError as error:
        parser.exit(2, f"{parser.prog}: error: {error}\n")
    sys.stdout.write(f"configuration: {uri}\n")


def _set(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that are set at all: without nulls."""
    return {
        name: _set(value) if isinstance(value, Mapping) else value
        for name, value in settings.items()
        if value is not None
    }


if __name__ == "__main__":
    main()
