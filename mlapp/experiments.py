"""Look at earlier runs in the terminal: list them, show one, compare several.

RUN is a run's name, the beginning of it if no other run begins so, or `latest`.
"""

from __future__ import annotations

import argparse
import json
import signal
from collections.abc import Sequence
from typing import Any

from mlapp import config as configuration
from mlapp import run_comparison, run_history, run_pages, storage
from mlapp.errors import TryAgainError, UserError
from mlapp.run_history import Run

MOST_RUNS = 5


def main(argv: Sequence[str] | None = None) -> None:
    """The command line. Exit codes: 0 done, 2 something the user can mend."""
    parser = build_parser()
    arguments = parser.parse_args(argv)
    try:
        area = arguments.experiments or configuration.load().storage.experiments
        with storage.explained():
            runs = run_history.read_all(area)
        chosen = [run_history.find(runs, name, area) for name in getattr(arguments, "run", [])]
        print(arguments.command(chosen if "run" in arguments else runs, arguments.json))
    except (UserError, TryAgainError) as error:
        parser.exit(2 if isinstance(error, UserError) else 75, f"{parser.prog}: error: {error}\n")


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


def listed(runs: list[Run], as_json: bool) -> str:
    """A line a run."""
    return _dumped([_overview(run) for run in runs]) if as_json else run_pages.overview(runs)


def shown(runs: list[Run], as_json: bool) -> str:
    """One run."""
    (run,) = runs
    if not as_json:
        return run_pages.details(run)
    settings = {name: setting.model_dump() for name, setting in run.changed().items()}
    stages = [stage.model_dump(mode="json") for stage in run.stages]
    return _dumped({**_overview(run), "settings": settings, "stages": stages})


def compared(runs: list[Run], as_json: bool) -> str:
    """Several runs, each with the first."""
    if not 2 <= len(runs) <= MOST_RUNS or len({run.name for run in runs}) < len(runs):
        raise UserError(f"compare takes 2 to {MOST_RUNS} different runs, not {', '.join(run.name for run in runs)}")
    if not as_json:
        return run_pages.comparison(runs)
    settings, rows = run_comparison.differing_settings(runs), run_comparison.rows(runs)
    return _dumped({"runs": [_overview(run) for run in runs], "settings": settings, "metrics": _json_rows(rows)})


def _overview(run: Run) -> dict[str, Any]:
    accuracies = {who: run.accuracy(who) for who in ("teacher", "challenger")}
    return {
        "run": run.name,
        "when": run.when.isoformat() if run.when else None,
        "preset": run.preset,
        "state": run.state,
        "verdict": run.verdict,
        "seconds": round(run.seconds, 1),
        "folder": str(run.folder),
        "damaged": run.damage,
        **{
            who: {"split": "test" if on_test else "validation", **metric.model_dump()} if metric else None
            for who, (metric, on_test) in accuracies.items()
        },
    }


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
    return json.dumps(value, indent=2, ensure_ascii=False)


if __name__ == "__main__":
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # for a reader that wants the first lines only
    main()
