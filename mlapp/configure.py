"""Resolve a run's configuration once, at its start: every stage of the run then reads the same config.json.

Beside it stands origins.json, with where each value comes from; what differs from the defaults is printed.

What a run is given (`conf`) is nested, ``{"training": {"epochs": 3}}``, or dotted, ``{"training.epochs": 3}``, and may
name the ``preset`` and the ``deployment``; null means "as those say".
"""

from __future__ import annotations

import argparse
import hashlib
import re
import sys
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from mlapp import config as configuration
from mlapp import ended, origins, plain, storage
from mlapp.errors import TryAgainError, UserError
from mlapp.policy import policy_of
from mlapp.schema import Config

LONGEST_NAME = 100
AIRFLOWS = re.compile(
    r"(manual|scheduled|backfill|asset_triggered|asset_materialization)"
    r"__\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d{6})?\+00:00(_[A-Za-z0-9]+)?"
)
LIKE_AIRFLOWS = re.compile(r"T\d\d-\d\d-\d\d")
DATA_SECTIONS = ("storage", "data", "quality", "transform")


def configure(
    preset: str,
    conf: Mapping[str, Any],
    uri: str,
    *,
    data: Mapping[str, Any] | None = None,
    run: str = "by-hand",
    group: str | None = None,
) -> tuple[Config, origins.Origins]:
    """Write the validated configuration to ``uri``, and beside it where each value comes from.

    ``data`` are the settings of data that are prepared already, which only the conf may change. ``group`` names the
    run's folder and its group in trackers, where no setting does. A `UserError` names every wrong key or value.
    """
    chosen, layers = _layers(preset, conf, data)
    if group is not None:
        layers = {origins.RUN: {"tracking": {"group": group}}, **layers}
    config = configuration.combine(layers)
    policy_of(config.vetting)  # a policy that cannot be read is told now, not after the training
    kept = origins.Origins(
        run=run,
        preset=chosen,
        configured=datetime.now(UTC).isoformat(timespec="seconds"),
        settings=origins.settings_of(config, layers),
    )
    path = storage.at(uri)
    with storage.explained():
        storage.write_text(path.parent / origins.ORIGINS, kept.text())
        storage.write_text(path, config.model_dump_json(indent=2) + "\n")
    return config, kept


def resolve(preset: str, conf: Mapping[str, Any], data: Mapping[str, Any] | None = None) -> Config:
    """The configuration of a run: its preset, the environment, then its conf, whose own ``preset`` goes first."""
    return configuration.combine(_layers(preset, conf, data)[1])


def read_conf(text: str) -> dict[str, Any]:
    """A run's conf from JSON."""
    try:
        conf = plain.from_json(text)
    except ValueError as error:
        raise UserError(f'conf is not JSON ({error}): write it like {{"training.epochs": 3}}') from error
    if not isinstance(conf, dict):
        raise UserError(f'conf must map settings to values, like {{"training.epochs": 3}}, not be {text}')
    return conf


def read_setting(uri: str, name: str) -> Any:
    """One value of a resolved configuration by its dotted name."""
    with storage.explained():
        value = plain.from_json(storage.read_text(storage.at(uri)))
    for part in name.split("."):
        value = value[part]
    return value


def data_settings(uri: str) -> dict[str, Any]:
    """What an earlier run's configuration says of its data, for a run that takes up these very data."""
    try:
        with storage.explained():
            config = plain.from_json(storage.read_text(storage.at(uri)))
        return {section: config[section] for section in DATA_SECTIONS}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{uri} is not the configuration of a run ({error}): give the URI of its config.json"
        ) from error


def run_folder(config: Config, run: str, day: str) -> str:
    """URI of the folder that keeps what a run was and what came of it."""
    return str(storage.at(config.storage.experiments) / (config.tracking.group or folder_name(run, day)))


def folder_name(run: str, day: str) -> str:
    """The name of a run's folder: safe in paths and URLs, and never that of another run.

    So a hash stands at the end of what had to be changed or cut, unless it is of the form that Airflow itself makes.
    """
    name = re.sub(r"[^A-Za-z0-9]+", "-", f"{day}-{run}").strip("-")
    own = AIRFLOWS.fullmatch(run) or (name == f"{day}-{run}" and not LIKE_AIRFLOWS.search(run))
    if not own or len(name) > LONGEST_NAME:
        name = f"{name[: LONGEST_NAME - 9]}-{hashlib.sha256(run.encode(errors='replace')).hexdigest()[:8]}"
    return name


def main(argv: list[str] | None = None) -> None:
    """Configure a run from the command line. Exit codes: 0 done, 2 something the user can mend."""
    parser = argparse.ArgumentParser(
        prog="python -m mlapp.configure", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--preset", default=configuration.DEFAULT_PRESET, help="preset name or .yaml (%(default)s)")
    parser.add_argument("--conf", default="{}", metavar="JSON", help="settings on top of the preset")
    parser.add_argument("--data-of", default="", metavar="URI", help="config.json to take the data's settings from")
    parser.add_argument("--to", metavar="URI", help="file to write; default: config.json in the run's own folder")
    parser.add_argument("--run", help="name of the run, for its folder; default: by-hand and the time of day")
    parser.add_argument("--day", help="day of the run, YYYY-MM-DD, for its folder; default: today (UTC)")
    parser.add_argument("--ended-to", metavar="URI", help="also write exit code, config's URI and reason there (JSON)")
    arguments = parser.parse_args(argv)
    try:
        conf = read_conf(arguments.conf)
        data = data_settings(arguments.data_of) if arguments.data_of else None
        now = datetime.now(UTC)
        run, day = arguments.run or f"by-hand-{now:%H%M%S}", arguments.day or f"{now:%Y-%m-%d}"
        folder = run_folder(resolve(arguments.preset, conf, data), run, day)
        uri = str(storage.at(arguments.to or f"{folder}/config.json"))
        _, kept = configure(arguments.preset, conf, uri, data=data, run=run, group=folder_name(run, day))
        ended.tell(arguments.ended_to, 0, uri=uri)
    except (UserError, TryAgainError) as error:
        told, code = f"{parser.prog}: error: {error}", 2 if isinstance(error, UserError) else 75
        ended.tell(arguments.ended_to, code, reason=told)
        parser.exit(code, f"{told}\n")
    sys.stdout.write(f"{origins.summary(kept)}\nconfiguration: {uri}\n".lstrip())


def _layers(
    preset: str, conf: Mapping[str, Any], data: Mapping[str, Any] | None
) -> tuple[str, dict[str, Mapping[str, Any]]]:
    """The name of the preset, and what each layer of a run's configuration sets."""
    given = _set(configuration.nest(conf))
    chosen = given.pop("preset", preset)
    if not isinstance(chosen, str):
        raise UserError(f"preset: give one of {', '.join(configuration.preset_names())}, not {chosen!r}")
    deployment = given.pop("deployment", None)
    if not isinstance(deployment, str | None):
        names = configuration.preset_names(configuration.DEPLOYMENTS)
        raise UserError(f"deployment: give one of {', '.join(names)}, not {deployment!r}")
    layers: dict[str, Mapping[str, Any]] = {**configuration.layers(chosen, given, deployment=deployment)}
    if data:
        conf_layer = layers.pop(configuration.OVERRIDES)
        layers |= {origins.DATA: data, configuration.OVERRIDES: conf_layer}
    return chosen, layers


def _set(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that are set at all: without nulls."""
    return {
        name: _set(value) if isinstance(value, Mapping) else value
        for name, value in settings.items()
        if value is not None
    }


if __name__ == "__main__":
    main()
