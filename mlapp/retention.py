"""Remove what is old: runs, work directories, bundles that were never promoted. Shows them; --yes removes them.

Kept whatever its age: a run that is at work, every work directory (raw, processed, models) that a kept run, bundle or
work directory was made of, and every bundle that the pointer, the history or another kept bundle names. Links are not
followed.
"""

from __future__ import annotations

import argparse
import json
import os
import re
from collections.abc import Iterable, Iterator, Sequence, Set
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Literal

from upath import UPath

from mlapp import pins, run_history, small_file, storage
from mlapp.errors import OneLineError, UserError
from mlapp.quiet import answer
from mlapp.registry import catalogue, files
from mlapp.registry.bundle import MANIFEST, Manifest
from mlapp.registry.pointer import BUNDLE_ID, Pointer
from mlapp.result import RESULT
from mlapp.run_history import Run
from mlapp.schema import Storage
from mlapp.text_table import table

Kind = Literal["run", "work directory", "bundle"]
NAMED = re.compile(r"/([0-9a-f]{8})[0-9a-f]{8}/")  # a work directory in a reference to a file in it
WORK = re.compile(r"[0-9a-f]{16}")  # a work directory is named for its key, of which a record's folder has 8 digits


@dataclass(frozen=True)
class Old:
    """A folder to remove: its kind, and the file that goes first, so that no half of it is taken for whole."""

    kind: Kind
    folder: UPath
    bytes: int
    first: str


def main(argv: Sequence[str] | None = None) -> None:
    """The command line. Exit codes: 0 done, 2 something the user can fix."""
    parser = argparse.ArgumentParser(
        prog="python -m mlapp.retention", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--older-than", type=days, default=90, metavar="DAYS", help="what is old (%(default)s days)")
    parser.add_argument("--yes", action="store_true", help="remove it")
    arguments = parser.parse_args(argv)
    try:
        found = clean(pins.load().storage, arguments.older_than, remove_them=arguments.yes)
        answer(report(found, removed=arguments.yes))
    except OneLineError as error:
        parser.exit(error.exit_code, f"{parser.prog}: error: {error}\n")


def days(text: str) -> float:
    """An age from the command line: 0 to 36,500."""
    age = float(text)
    if not 0 <= age <= 36_500:
        raise ValueError
    return age


def clean(areas: Storage, older_than: float, *, remove_them: bool, bundles: bool = True) -> list[Old]:
    """Find what is older than so many days and not needed, and remove it where that is asked for."""
    with storage.explained():
        found = old(areas, datetime.now(UTC) - timedelta(days=older_than))
        found = [each for each in found if bundles or each.kind != "bundle"]
        for each in found if remove_them else []:
            remove(each)
    return found


def old(areas: Storage, cutoff: datetime) -> list[Old]:
    """Everything that is older than ``cutoff`` and that nothing younger needs.

    A `UserError` where it is not known what runs need, so that a mistyped area costs nobody their data.
    """
    has_runs = storage.at(areas.experiments).exists()
    runs = run_history.read_each(areas.experiments) if has_runs else ()
    found, used = [], set[str]()
    for run in runs:
        if _is_old(run, cutoff):
            found.append(_measured("run", run.folder, run_history.SUMMARY)[0])
        else:
            used |= _made_by(run)
    bundles: list[Old] = []
    for name in catalogue.names(areas.registry):
        gone, kept = _bundles(Pointer(areas.registry, name), cutoff)
        bundles += gone
        used |= {stage.get("key", "")[:8] for manifest in kept for stage in manifest.stages.values()}
    unused = _work(dict.fromkeys((areas.models, areas.processed, areas.raw)), used, cutoff)
    if unused and not has_runs:
        raise UserError(
            f"there are no runs at {areas.experiments}, which would say what they still need of {len(unused)} old work "
            "directories: set storage.experiments to where the runs are, or make that folder if there never were any"
        )
    return [*found, *unused, *bundles]


def remove(each: Old) -> None:
    """Remove a folder, beginning with the file that makes it count."""
    if _is_link(each.folder):
        raise UserError(f"{each.folder} is a link now: nothing behind it is removed; remove the link, and run again")
    storage.remove(each.folder / each.first)
    each.folder.fs.rm(each.folder.path, recursive=True)


def _made_by(run: Run) -> set[str]:
    """The keys of a run's stages, 8 digits each; by the name of its folder also of one whose record is damaged."""
    by_result = {stage.result.removesuffix(f"/{RESULT}").rpartition("/")[2][:8] for stage in run.stages}
    named = {key for stage in run.stages for key in NAMED.findall(json.dumps(stage.config))}
    return (
        by_result | named | {stage.key[:8] for stage in run.stages} | {name.rpartition("-")[2] for name in run.damage}
    )


def _is_old(run: Run, cutoff: datetime) -> bool:
    at_work = any(stage.state_now == "running" for stage in run.stages)
    return run.when is not None and run.when < cutoff and not at_work and not _is_link(run.folder)


def _work(areas: Iterable[str], used: Set[str], cutoff: datetime) -> list[Old]:
    """Work directories, of every stage, in which nothing has changed since, and that no run and no kept one needs."""
    found, kept = dict[str, list[Old]](), list[UPath]()
    for place in (place for area in areas for stage in _folders(storage.at(area)) for place in _folders(stage)):
        if not WORK.fullmatch(place.name):
            continue
        if place.name[:8] not in used:
            each, changed = _measured("work directory", place, RESULT)
            if changed < cutoff:
                found.setdefault(place.name[:8], []).append(each)
                continue
        kept.append(place)
    while kept:
        for key in _inputs(kept.pop()):
            kept += [each.folder for each in found.pop(key, [])]
    return [each for those in found.values() for each in those]


def _inputs(place: UPath) -> list[str]:
    """The keys, 8 digits each, that the result in a work directory names, whatever else is wrong with it."""
    try:
        return NAMED.findall(small_file.written(place / RESULT))
    except (FileNotFoundError, NotADirectoryError, UserError):
        return []


def _bundles(pointer: Pointer, cutoff: datetime) -> tuple[list[Old], list[Manifest]]:
    """Bundles that nothing names, and what is in the others.

    A `UserError`, before anything is removed, where pointer or history are damaged.
    """
    named = {pointer.read(), *(bundle for move in pointer.history() for bundle in (move["champion"], move["before"]))}
    files.check_folder(pointer.folder)
    places = {path.name: path for path in pointer.folder.iterdir() if BUNDLE_ID.fullmatch(path.name)}
    for place in places.values():
        files.check_folder(place)  # of a link, what it leads to would be removed
    named |= {Manifest.load(places[bundle] / MANIFEST).predecessor for bundle in named & places.keys()}
    measured = {name: _measured("bundle", places[name], MANIFEST) for name in sorted(places.keys() - named)}
    gone = {name: each for name, (each, changed) in measured.items() if changed < cutoff}
    return [*gone.values()], [Manifest.load(places[name] / MANIFEST) for name in sorted(places.keys() - gone)]


def _folders(folder: UPath) -> Iterator[UPath]:
    """The folders in a folder, no links to others."""
    for place in folder.iterdir() if folder.is_dir() else ():
        if not _is_link(place) and place.is_dir():
            yield place


def _is_link(place: UPath) -> bool:
    return storage.is_local(place) and os.path.islink(place.path)


def _measured(kind: Kind, folder: UPath, first: str) -> tuple[Old, datetime]:
    """A folder with its size, and when anything in it last changed."""
    if storage.is_local(folder):
        seen = [os.lstat(f"{top}/{name}") for top, _, names in os.walk(folder.path) for name in names]
        files = [(each.st_size, datetime.fromtimestamp(each.st_mtime, UTC)) for each in seen]
    else:
        found = folder.fs.find(folder.path, detail=True).values()
        files = [(each["size"] or 0, folder.fs.modified(each["name"])) for each in found]
    latest = max((moment for _, moment in files), default=datetime.min.replace(tzinfo=UTC))
    return Old(kind, folder, sum(size for size, _ in files), first), latest


def report(found: Sequence[Old], removed: bool) -> str:
    """What is old as a table."""
    if not found:
        return "nothing is old"
    rows = [("what", "MB", "folder"), *((each.kind, f"{each.bytes / 1e6:,.1f}", str(each.folder)) for each in found)]
    total = f"{len(found):,} folders, {sum(each.bytes for each in found) / 1e6:,.1f} MB"
    return f"{table(rows, right=(1,), width=None)}\n{total} {'removed' if removed else 'would go; --yes removes them'}"


if __name__ == "__main__":
    main()
