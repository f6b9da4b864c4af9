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

from upath import UPath

from mlapp import config as configuration
from mlapp import early_checks, ended, origins, pins, plain, storage
from mlapp.errors import OneLineError, UserError
from mlapp.policy import names, policy_of
from mlapp.quiet import answer
from mlapp.reference import Reference
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
    dag: str = "",
) -> tuple[Config, origins.Origins]:
    """Write the validated configuration to ``uri``, and beside it where each value comes from.

    ``data`` are the settings of data that are prepared already, which only the conf may change. ``group`` names the
    run's folder and its group in trackers, where no setting does. A `UserError` names every wrong key or value.
    """
    chosen, layers = _layers(preset, conf, data)
    if group is not None:
        layers = {origins.RUN: {"tracking": {"group": group}}, **layers}
    config = pins.combine(layers)
    early_checks.refuse_unworkable(config)
    kept = origins.Origins(
        run=run,
        preset=chosen,
        configured=datetime.now(UTC).isoformat(timespec="seconds"),
        dag=dag,
        pinned=pins.pinned(),
        settings=origins.settings_of(config, layers),
    )
    config = with_policy(config)
    path = storage.at(uri)
    with storage.explained():
        _refuse_taken(path.parent, kept)
        storage.write_text(path.parent / origins.ORIGINS, kept.text())
        storage.write_text(path, _text_of(config))
    return config, kept


def with_policy(config: Config) -> Config:
    """The configuration with the gates that a policy's file asks for now, should the file change while the run goes on.

    Of a policy that ships with the project there is nothing to keep.
    """
    if config.vetting.policy in names():
        return config
    vetting = config.vetting.model_copy(update={"gates": policy_of(config.vetting)})
    return config.model_copy(update={"vetting": vetting})


def _refuse_taken(folder: UPath, kept: origins.Origins) -> None:
    """A `UserError` if the folder holds the record of another run, which this one would write over."""
    present = origins.read(folder)
    if present and (present.run != kept.run or (present.dag and kept.dag and present.dag != kept.dag)):
        owner = f"{present.run}{f' of the DAG {present.dag}' if present.dag else ''}"
        raise UserError(f"{folder} holds the record of the run {owner}: give this run another tracking.group")


def resolve(preset: str, conf: Mapping[str, Any], data: Mapping[str, Any] | None = None) -> Config:
    """The configuration of a run: its preset, the environment, then its conf, whose own ``preset`` goes first."""
    return pins.combine(_layers(preset, conf, data)[1])


def reference_of(config: Config, uri: str) -> str:
    """What is handed on to the run's stages: where its configuration was written, and the SHA-256 of that text."""
    return str(Reference(uri, hashlib.sha256(_text_of(config).encode()).hexdigest()))


def _text_of(config: Config) -> str:
    return config.model_dump_json(indent=2) + "\n"


def read_conf(text: str) -> dict[str, Any]:
    """A run's conf from JSON."""
    try:
        conf = plain.from_json(text, by_hand=True)
    except ValueError as error:
        raise UserError(f'conf is not JSON ({error}): write it like {{"training.epochs": 3}}') from error
    if not isinstance(conf, dict):
        raise UserError(f'conf must map settings to values, like {{"training.epochs": 3}}, not be {text}')
    return conf


def read_setting(uri: str, name: str) -> Any:
    """One value of a resolved configuration by its dotted name."""
    value = pins.read(uri).model_dump(mode="json")
    for part in name.split("."):
        value = value[part]
    return value


def data_settings(uri: str) -> dict[str, Any]:
    """What an earlier run's configuration says of its data, for a run that takes up these very data."""
    try:
        with storage.explained():
            config = plain.from_json(storage.read_referenced(uri)[0])
        return {section: config[section] for section in DATA_SECTIONS}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{uri} is not the configuration of a run ({error}): give the URI of its config.json"
        ) from error


def within(uri: str, folder: str) -> bool:
    """Whether a URI lies below a folder."""
    return str(storage.at(uri)).startswith(str(storage.at(folder)).rstrip("/") + "/")


def checked_origin(arguments: argparse.Namespace, conf: Mapping[str, Any]) -> str:
    """The URI of the earlier run's configuration, if it lies where runs are kept.

    It can come from an asset event, which says what its author likes: another place's file must set nothing here.
    """
    experiments = resolve(arguments.preset, conf).storage.experiments
    if not within(arguments.data_of, experiments):
        raise UserError(
            f"{arguments.data_of} is not in {experiments}, where the runs of these settings are kept: "
            "set storage.experiments to that run's, or start the training by hand"
        )
    return str(arguments.data_of)


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
    parser.add_argument("--dag", default="", help="id of the DAG that the run is of, for its record")
    parser.add_argument("--ended-to", metavar="URI", help="also write exit code, config's URI and reason there (JSON)")
    arguments = parser.parse_args(argv)
    try:
        conf = read_conf(arguments.conf)
        data = data_settings(checked_origin(arguments, conf)) if arguments.data_of else None
        now = datetime.now(UTC)
        run, day = arguments.run or f"by-hand-{now:%H%M%S}", arguments.day or f"{now:%Y-%m-%d}"
        folder = run_folder(resolve(arguments.preset, conf, data), run, day)
        uri = str(storage.at(arguments.to or f"{folder}/config.json"))
        about = {"run": run, "dag": arguments.dag, "group": folder_name(run, day)}
        config, kept = configure(arguments.preset, conf, uri, data=data, **about)
        ended.tell(arguments.ended_to, 0, uri=reference_of(config, uri))
        sys.stderr.write(f"{origins.summary(kept)}\n".lstrip())
        answer(uri)
    except OneLineError as error:
        told = f"{parser.prog}: error: {error}"
        ended.tell(arguments.ended_to, error.exit_code, reason=told)
        parser.exit(error.exit_code, f"{told}\n")


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
    layers: dict[str, Mapping[str, Any]] = {**pins.layers_of(chosen, given, deployment=deployment)}
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
