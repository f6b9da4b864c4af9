"""The command line that every stage has."""

from __future__ import annotations

import argparse
import json
import logging
import re
import signal
import sys
from collections.abc import Iterable
from typing import Any

from pydantic.fields import FieldInfo

from mlapp import config as configuration
from mlapp import ended, ledger, pins, storage, tracking
from mlapp.errors import Dismissed, OneLineError, OneLineFormatter, Terminated, UserError, raise_terminated
from mlapp.quiet import answer, stdout_to_stderr
from mlapp.result import StageResult
from mlapp.schema import Config
from mlapp.section import Section
from mlapp.stage import Stage
from mlapp.trackers import installed
from mlapp.tracking import tracked_by

log = logging.getLogger("mlapp")
# Flags of stages that say the same as a setting, which is what they are where they are not given.
SETTING_OF = {"registry": "storage.registry", "name": "promotion.name"}
# An override among the values of a flag: no path or URI has a dotted name before its first "=" and no slash there.
OVERRIDE = re.compile(r"[A-Za-z_]+\.[A-Za-z_.]+=")
OF_EVERY_STAGE = {"storage", "tracking"}


def main(stage: Stage[Any], argv: list[str]) -> None:
    """Run a stage from its command line; prints the URI of its result to stdout, everything else to stderr.

    Exit codes: 0 done, 2 the user can mend it, 75 start again, 143 terminated.
    """
    signal.signal(signal.SIGTERM, raise_terminated)
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(OneLineFormatter("%(asctime)s %(message)s", "%H:%M:%S"))
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    parser = build_parser(stage)
    arguments = overrides_apart(stage, parser.parse_intermixed_args(argv))
    try:
        if arguments.schema:
            before = signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # for a reader that wants the first lines only
            answer(json.dumps(stage.config.model_json_schema(), indent=2))
            signal.signal(signal.SIGPIPE, before)
            return
        for one in each_of(stage, arguments):
            if result := perform(stage, one):
                ended.tell(arguments.ended_to, 0, uri=result.reference)
                answer(result.uri)
    except OneLineError as error:
        line = f"{parser.prog}: error: {error}"
        print(line, file=sys.stderr)
        ended.tell(arguments.ended_to, error.exit_code, reason=line)
        sys.exit(error.exit_code)
    except (Terminated, KeyboardInterrupt):
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # another one must not cut the end short
        line = f"{parser.prog}: stopped; the same command takes the work up again"
        print(line, file=sys.stderr)
        ended.tell(arguments.ended_to, 143, reason=line)
        sys.exit(143)
    except Exception as error:
        ended.tell(arguments.ended_to, 1, reason=f"{type(error).__name__}: {error}")
        raise


def overrides_apart(stage: Stage[Any], arguments: argparse.Namespace) -> argparse.Namespace:
    """The parsed arguments, with the overrides taken out of the flags that take several values and swallowed them."""
    for name in _own_fields(stage):
        values = getattr(arguments, name)
        if isinstance(values, list):
            swallowed = [value for value in values if OVERRIDE.match(value)]
            setattr(arguments, name, [value for value in values if value not in swallowed] or None)
            arguments.overrides = [*arguments.overrides, *swallowed]
    return arguments


def each_of(stage: Stage[Any], arguments: argparse.Namespace) -> list[argparse.Namespace]:
    """The arguments, once for each of the values in the settings where a stage has such and was given none."""
    if stage.each is None or getattr(arguments, stage.each[0]) is not None:
        return [arguments]
    name, setting = stage.each
    with storage.explained():
        values = getattr(getattr(settle(stage, arguments), str(stage.section)), setting)
    if len(values) > 1 and (arguments.workdir or arguments.ended_to):
        listed = ", ".join(f"{value:g}" for value in values)
        raise UserError(
            f"--{name} is missing: with --workdir or --ended-to give one of {stage.section}.{setting}, {listed}"
        )
    return [argparse.Namespace(**{**vars(arguments), name: str(value)}) for value in values]


def perform(stage: Stage[Any], arguments: argparse.Namespace) -> StageResult | None:
    """Run the stage and return its result, or None where another process writes it."""
    try:
        with stdout_to_stderr():
            result = tracked(stage, arguments)
    except Dismissed as told:
        log.info("%s: %s", stage.name, told)
        return None
    log.info("%s: %s", stage.name, result.headline or "done")
    return result


def tracked(stage: Stage[Any], arguments: argparse.Namespace) -> StageResult:
    """Run the stage with the trackers that its settings ask for listening."""
    with storage.explained():
        settings = settle(stage, arguments)
    with tracked_by(*installed.of_run(settings, stage.name)):
        try:
            with storage.explained():
                config, workdir = prepare(stage, arguments, settings)
            with tracked_by(*installed.of_stage(settings, workdir)), ledger.kept_in(settings.storage.experiments):
                return stage.run_resolved(config, workdir, force=arguments.force)
        except UserError as error:
            tracking.failed(f"UserError: {error}")
            raise


def settle(stage: Stage[Any], arguments: argparse.Namespace) -> Config:
    """The whole configuration that a stage is run with: the run's own, or preset and environment; then overrides."""
    overrides = configuration.parse_overrides(arguments.overrides)
    if stage.section is None and set(overrides) - OF_EVERY_STAGE:
        raise UserError(
            f"{stage.name} takes no overrides but those of storage and tracking, not {', '.join(overrides)}"
        )
    return pins.read(arguments.config, overrides) if arguments.config else pins.load(arguments.preset, overrides)


def prepare(stage: Stage[Any], arguments: argparse.Namespace, settings: Config | None = None) -> tuple[Section, str]:
    """The stage's validated config and its work directory, from parsed arguments."""
    resolved = settings or settle(stage, arguments)
    section = getattr(resolved, stage.section).model_dump() if stage.section else {}
    embedded = {name: getattr(resolved, name) for name in _embedded_sections(stage)}
    own = {name: getattr(arguments, name) for name in _own_fields(stage) if getattr(arguments, name) is not None}
    for name in SETTING_OF.keys() & _own_fields(stage).keys():
        theirs = pins.value_of(resolved, SETTING_OF[name])
        own[name] = pins.hold_value(SETTING_OF[name], own[name], theirs) if name in own else theirs
    for name, field in _own_fields(stage).items():
        if field.is_required() and name not in own:
            raise UserError(f"--{name.replace('_', '-')} is missing: give the {field.description}")
    config = stage.resolved(
        configuration.validate(stage.config, {**section, **embedded, **own}, {"the command line": own})
    )
    area = storage.at(getattr(resolved.storage, stage.area))
    return config, arguments.workdir or str(area / stage.name / stage.key(config)[:16])


def build_parser(stage: Stage[Any]) -> argparse.ArgumentParser:
    """The parser of a stage: common flags, one flag for each field of its own, and overrides of its section."""
    parser = argparse.ArgumentParser(
        prog=f"python -m {stage.module}",
        description=sys.modules[stage.body.__module__].__doc__,
        epilog=_section_help(stage),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    for name, field in _own_fields(stage).items():
        parser.add_argument(
            f"--{name.replace('_', '-')}",
            dest=name,
            help=field.description,
            metavar="URI" if name in stage.inputs else name.upper(),
            nargs="+" if "tuple" in str(field.annotation) else None,
        )
    parser.add_argument(
        "--workdir", help="work directory, local or gs://; default: in its storage area, by content key"
    )
    parser.add_argument(
        "--preset", default=configuration.DEFAULT_PRESET, help="preset name or .yaml file (%(default)s)"
    )
    parser.add_argument("--config", help="resolved configuration (JSON), by URI or URI#sha256=…, instead of a preset")
    parser.add_argument("--force", action="store_true", help="compute again even if a valid result stands")
    parser.add_argument("--schema", action="store_true", help="print the JSON Schema of this stage's config and exit")
    parser.add_argument("--ended-to", metavar="URI", help="also write exit code, result's URI and reason there (JSON)")
    parser.add_argument("overrides", nargs="*", metavar="section.field=value", help="overrides of the configuration")
    return parser


def _own_fields(stage: Stage[Any]) -> dict[str, FieldInfo]:
    section = Config.model_fields[stage.section].annotation.model_fields if stage.section else {}  # type: ignore[union-attr]
    known = {*section, *_embedded_sections(stage)}
    return {name: field for name, field in stage.config.model_fields.items() if name not in known}


def _embedded_sections(stage: Stage[Any]) -> list[str]:
    """Other sections that the stage's config holds under their own names."""
    sections = {name: field.annotation for name, field in Config.model_fields.items()}
    return [name for name, field in stage.config.model_fields.items() if field.annotation is sections.get(name)]


def _section_help(stage: Stage[Any]) -> str:
    lines = []
    for section in [*([stage.section] if stage.section else []), *_embedded_sections(stage)]:
        lines.append(f"settings of {section} (defaults < preset < MLAPP_{section.upper()}__FIELD < override):")
        for name, field in Config.model_fields[section].annotation.model_fields.items():  # type: ignore[union-attr]
            default = "required" if field.is_required() else json.dumps(field.get_default(call_default_factory=True))
            lines += [f"  {section}.{name}={default}", f"      {field.description}{_bounds(field.metadata)}"]
    return "\n".join(lines)


def _bounds(marks: Iterable[object]) -> str:
    signs = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}
    told = [f"{sign} {getattr(mark, name)}" for mark in marks for name, sign in signs.items() if hasattr(mark, name)]
    return f" ({', '.join(told)})" if told else ""
