"""Remove what is old: runs, intermediate models, bundles that were never promoted. Shows them; --yes removes them.

Kept whatever its age: a run that is at work, every work directory that a kept run used, and every bundle that the
pointer, the history or another kept bundle names.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterator, Sequence, Set
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from upath import UPath

from mlapp import config as configuration
from mlapp import run_history, storage
from mlapp.errors import TryAgainError, UserError
from mlapp.registry import catalogue
from mlapp.registry.bundle import MANIFEST, Manifest
from mlapp.registry.pointer import BUNDLE_ID, Pointer
from mlapp.result import RESULT
from mlapp.run_history import Run
from mlapp.schema import Storage
from mlapp.text_table import table

WORK = re.compile(r"[0-9a-f]{16}")  # a work directory is named for its key


@dataclass(frozen=True)
class Old:
    """A folder to remove: its kind, and the file that goes first, so that no half of it is taken for whole."""

    kind: str
    folder: UPath
    bytes: int
    first: str


def main(argv: Sequence[str] | None = None) -> None:
    """The command line. Exit codes: 0 done, 2 something the user can mend."""
    parser = argparse.ArgumentParser(
        prog="python -m mlapp.retention", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--older-than", type=days, default=90, metavar="DAYS", help="what is old (%(default)s days)")
    parser.add_argument("--yes", action="store_true", help="remove it")
    arguments = parser.parse_args(argv)
    try:
        with storage.explained():
            areas = configuration.load().storage
            found = old(areas, datetime.now(UTC) - timedelta(days=arguments.older_than))
            for each in found if arguments.yes else []:
                remove(each)
    except (UserError, TryAgainError) as error:
        parser.exit(2 if isinstance(error, UserError) else 75, f"{parser.prog}: error: {error}\n")
    sys.stdout.write(f"{_told(found, removed=arguments.yes)}\n")


def days(text: str) -> float:
    """An age from the command line: 0 to 36,500."""
    age = float(text)
    if not 0 <= age <= 36_500:
        raise ValueError
    return age


def old(areas: Storage, cutoff: datetime) -> list[Old]:
    """Everything that is older than ``cutoff`` and that nothing younger needs."""
    runs = run_history.read_all(areas.experiments) if storage.at(areas.experiments).exists() else []
    aged = [(run, _is_old(run, cutoff)) for run in runs]
    used = {stage.result.removesuffix(f"/{RESULT}") for run, gone in aged if not gone for stage in run.stages}
    found = [_measured("run", run.folder, run_history.SUMMARY)[0] for run, gone in aged if gone]
    found += _work(areas.models, used, cutoff)
    for name in catalogue.names(areas.registry):
        found += _bundles(Pointer(areas.registry, name), cutoff)
    return found


def remove(each: Old) -> None:
    """Remove a folder, beginning with the file that makes it count."""
    storage.remove(each.folder / each.first)
    each.folder.fs.rm(each.folder.path, recursive=True)


def _is_old(run: Run, cutoff: datetime) -> bool:
    at_work = any(stage.state_now == "running" for stage in run.stages)
    return run.when is not None and run.when < cutoff and not at_work


def _work(area: str, used: Set[str], cutoff: datetime) -> Iterator[Old]:
    """Work directories, of every stage, that are not used and in which nothing has changed since."""
    folder = storage.at(area)
    for stage in folder.iterdir() if folder.is_dir() else ():
        for place in stage.iterdir() if stage.is_dir() else ():
            if WORK.fullmatch(place.name) and str(place) not in used:
                each, changed = _measured("work directory", place, RESULT)
                if changed < cutoff:
                    yield each


def _bundles(pointer: Pointer, cutoff: datetime) -> Iterator[Old]:
    """Bundles that nothing names; a `UserError`, before anything is removed, where pointer or history are damaged."""
    named = {pointer.read(), *(bundle for move in pointer.history() for bundle in (move["champion"], move["before"]))}
    places = {path.name: path for path in pointer.folder.iterdir() if BUNDLE_ID.fullmatch(path.name)}
    named |= {Manifest.load(places[bundle] / MANIFEST).predecessor for bundle in named & places.keys()}
    for name in sorted(places.keys() - named):
        each, changed = _measured("bundle", places[name], MANIFEST)
        if changed < cutoff:
            yield each


def _measured(kind: str, folder: UPath, first: str) -> tuple[Old, datetime]:
    """A folder with its size, and when anything in it last changed."""
    files = folder.fs.find(folder.path, detail=True).values()
    changed = [folder.fs.modified(file["name"]) for file in files]
    latest = max((moment if moment.tzinfo else moment.replace(tzinfo=UTC) for moment in changed), default=None)
    return Old(kind, folder, sum(file["size"] or 0 for file in files), first), latest or datetime.min.replace(
        tzinfo=UTC
    )


def _told(found: Sequence[Old], removed: bool) -> str:
    if not found:
        return "nothing is old"
    rows = [("what", "MB", "folder"), *((each.kind, f"{each.bytes / 1e6:,.1f}", str(each.folder)) for each in found)]
    total = f"{len(found):,} folders, {sum(each.bytes for each in found) / 1e6:,.1f} MB"
    return f"{table(rows, right=(1,), width=None)}\n{total} {'removed' if removed else 'would go; --yes removes them'}"


if __name__ == "__main__":
    main()
