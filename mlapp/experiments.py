"""Look at earlier runs in the terminal: list them, show one, compare several.

RUN is a run's name, the beginning of it if no other run begins so, or `latest`.
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
from collections.abc import Sequence
from typing import Any

from upath import UPath

from mlapp import pins, run_comparison, run_history, run_index, run_pages, storage, text_table
from mlapp.errors import OneLineError, UserError
from mlapp.quiet import answer
from mlapp.run_history import Run
from mlapp.run_index import Overview

MOST_RUNS = 5


def main(argv: Sequence[str] | None = None) -> None:
    """The command line. Exit codes: 0 done, 2 something the user can mend."""
    parser = build_parser()
    arguments = parser.parse_args(argv)
    try:
        area = arguments.experiments or pins.load().storage.experiments
        with storage.explained():
            runs = run_index.read(area)
            if "run" not in arguments:
                answer(arguments.command(runs, area, arguments.json))
                return
            names = [run.run for run in runs]
            chosen = [run_history.read_named(area, run_history.find(names, name, area)) for name in arguments.run]
        answer(arguments.command(chosen, arguments.json))
    except OneLineError as error:
        parser.exit(error.exit_code, f"{parser.prog}: error: {error}\n")


def build_parser() -> argparse.ArgumentParser:
    """The parser: one command for each thing to do."""
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--experiments", metavar="URI", help="folder of the runs; default: storage.experiments")
    common.add_argument("--json", action="store_true", help="for machines")
    parser = argparse.ArgumentParser(
        prog="python -m mlapp.experiments", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(required=True, metavar="list|show|compare")
    told = commands.add_parser("list", parents=[common], help="all runs, the newest first")
    told.set_defaults(command=listed)
    told = commands.add_parser("show", parents=[common], help="one run: settings, stages, verdict, paths")
    told.add_argument("run", nargs=1, metavar="RUN")
    told.set_defaults(command=shown)
    told = commands.add_parser("compare", parents=[common], help="what differs between runs")
    told.add_argument("run", nargs="+", metavar="RUN")
    told.set_defaults(command=compared)
    return parser


def listed(runs: list[Overview], area: str, as_json: bool) -> str:
    """A line a run; cut to the terminal's width only where it goes to one."""
    if as_json:
        return _dumped([_overview(run, storage.at(area) / run.run) for run in runs])
    return run_pages.overview(runs, text_table.WIDTH if sys.stdout and sys.stdout.isatty() else None)


def shown(runs: list[Run], as_json: bool) -> str:
    """One run."""
    (run,) = runs
    if not as_json:
        return run_pages.details(run)
    settings = {name: setting.model_dump() for name, setting in run.changed().items()}
    stages = [stage.model_dump(mode="json") for stage in run.stages]
    return _dumped({**_overview(Overview.of(run), run.folder), "settings": settings, "stages": stages})


def compared(runs: list[Run], as_json: bool) -> str:
    """Several runs, each with the first."""
    if not 2 <= len(runs) <= MOST_RUNS or len({run.name for run in runs}) < len(runs):
        raise UserError(f"compare takes 2 to {MOST_RUNS} different runs, not {', '.join(run.name for run in runs)}")
    if not as_json:
        return run_pages.comparison(runs)
    settings, rows = run_comparison.differing_settings(runs), run_comparison.rows(runs)
    overviews = [_overview(Overview.of(run), run.folder) for run in runs]
    return _dumped({"runs": overviews, "settings": settings, "metrics": _json_rows(rows)})


def _overview(run: Overview, folder: UPath) -> dict[str, Any]:
    return {**run.model_dump(mode="json", exclude={"stamp"}), "folder": str(folder)}


def _json_rows(rows: list[run_comparison.Row]) -> list[dict[str, Any]]:
    return [
        {
            "stage": row.stage,
            "name": row.name,
            "values": [metric.model_dump() if metric else None for metric in row.figures],
            "differences": [by.model_dump() if by else None for by in row.differences()],
        }
        for row in rows
    ]


def _dumped(value: Any) -> str:
    return json.dumps(value, indent=2)  # in ASCII: a terminal shows what it holds, and acts on none of it


if __name__ == "__main__":
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # for a reader that wants the first lines only
    main()
