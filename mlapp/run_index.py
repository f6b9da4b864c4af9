"""An index of the runs in an experiments area: what a list shows of each, so that listing thousands reads one file.

It is a cache of the run folders, which are the truth: what it lacks, or cannot be read in it, is read from them again,
and whoever may not write it reads without. In a local area every file behind a line is compared by time and size. In a
bucket, where that would be a request for each, runs are compared by name, and each record that is written leaves a file
in `.changed`, which is removed once the index has taken it up.
"""

from __future__ import annotations

import hashlib
import logging
import os
import shutil
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from os.path import isdir
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError
from upath import UPath

from mlapp import gcs, run_history, small_file, storage
from mlapp.errors import UserError
from mlapp.result import Metric, Record
from mlapp.run_history import FILES, Run, is_name
from mlapp.run_record import CHANGED, RECORD, STAGES, Moment

log = logging.getLogger("mlapp")
INDEX, VERSION = ".index.jsonl", "1"
DATASET = "dataset.json"  # the copy of the data set's description in the folder of its stage
TOP = tuple(name for name in FILES if name != RECORD)
AT_ONCE = 16  # runs that are fetched at the same time
MANY = 200  # runs that take long enough to say so


class Accuracy(Metric):
    """An accuracy, and the split that it was measured on."""

    split: Literal["test", "validation"]


class Overview(Record):
    """A line of the index: what a list shows of a run. ``stamp`` is of the files that it was read from."""

    run: str
    when: Moment | None
    preset: str
    state: str
    outcome: str = Field(description="promoted, held, rejected, failed, stopped, running …")
    verdict: str
    model: str
    data: str
    data_digest: str
    seconds: float
    damaged: list[str]
    teacher: Accuracy | None
    challenger: Accuracy | None
    stamp: str = ""

    @classmethod
    def of(cls, run: Run, stamp: str = "") -> Overview:
        """The line of a run."""
        figures = {who: run.accuracy(who) for who in ("teacher", "challenger")}
        found = {
            who: Accuracy(split="test" if on_test else "validation", **metric.model_dump()) if metric else None
            for who, (metric, on_test) in figures.items()
        }
        return cls(
            run=run.name,
            when=run.when.isoformat() if run.when else None,
            preset=run.preset,
            state=run.state,
            outcome=run.outcome,
            verdict=run.verdict,
            model=run.model,
            data=run.data,
            data_digest=run.data_digest,
            seconds=round(run.seconds, 1),
            damaged=run.damage,
            stamp=stamp,
            **found,
        )

    @property
    def is_settled(self) -> bool:
        """Whether time alone cannot change it."""
        return self.outcome != "running"


def read(area: str) -> list[Overview]:
    """Every run of the area, the newest first; a `UserError` if there is no such area."""
    folder = storage.at(area)
    found = _local(folder) if storage.is_local(folder) else _remote(folder)
    first = datetime.min.replace(tzinfo=UTC)
    return sorted(
        found, key=lambda run: (datetime.fromisoformat(run.when) if run.when else first, run.run), reverse=True
    )


def _local(folder: UPath) -> list[Overview]:
    if not folder.is_dir():
        raise run_history.no_area(folder)
    with os.scandir(folder.path) as entries:
        stamps = {entry.name: _stamp(entry.path) for entry in entries if is_name(entry.name) and isdir(entry.path)}
    index = folder / INDEX
    try:
        known = _parsed(small_file.written(index))
    except (FileNotFoundError, UserError):
        known = {}

    def read_one(name: str) -> Overview:
        return Overview.of(run_history.read(folder / name), stamps[name])

    def is_fresh(run: Overview) -> bool:
        return run.is_settled and run.stamp == stamps[run.run]

    found, changed = _updated(folder, known, stamps, is_fresh, lambda names: map(read_one, names))
    if changed:
        _attempt(index, lambda: storage.write_text(index, _text(found)))
    return found


def _remote(folder: UPath) -> list[Overview]:
    """In an order in which no change is lost: read what changed, index, runs; write the index, remove what it has."""
    fs, root = folder.fs, folder.path.rstrip("/")
    listed = _listed(folder)
    markers = fs.find(f"{root}/{CHANGED}") if CHANGED in listed else []
    text, generation = _text_of(folder / INDEX) if INDEX in listed else ("", 0)
    names = listed - {INDEX, CHANGED}
    if not names:
        raise run_history.no_area(folder)
    stale = {marker.rpartition("/")[2].partition("~")[0] for marker in markers}

    def read_all(names: Iterable[str]) -> Iterator[Overview]:
        with ThreadPoolExecutor(AT_ONCE) as pool:
            yield from pool.map(lambda name: _fetched(folder / name), names)

    found, changed = _updated(
        folder,
        _parsed(text),
        names,
        lambda run: run.is_settled and run.run not in stale,
        read_all,
    )
    if (changed or markers) and storage.in_gcs(folder):

        def write() -> None:
            if gcs.replace(folder / INDEX, _text(found), generation):
                with ThreadPoolExecutor(AT_ONCE) as pool:
                    list(pool.map(lambda marker: storage.remove(folder / marker.removeprefix(f"{root}/")), markers))

        _attempt(folder / INDEX, write)
    return found


def _updated(
    folder: UPath,
    known: Mapping[str, Overview],
    names: Iterable[str],
    is_fresh: Callable[[Overview], bool],
    read_all: Callable[[list[str]], Iterable[Overview]],
) -> tuple[list[Overview], bool]:
    """The runs of these names, those that are not known or not fresh read; and whether the index differs from them."""
    names = list(names)
    fresh = {name: known[name] for name in names if name in known and is_fresh(known[name])}
    missing = [name for name in names if name not in fresh]
    if len(missing) >= MANY:
        sys.stderr.write(f"reading {len(missing):,} runs of {folder} for its index; this is done once\n")
    again = {run.run: run for run in read_all(missing)}
    found = fresh | again
    return list(found.values()), found != known


def _text_of(index: UPath) -> tuple[str, int]:
    """An index, and a generation that is no newer: one that was replaced in between is not replaced by us.

    Not by `gcs.read`, whose library takes a second to import.
    """
    generation = int(index.fs.info(index.path).get("generation", 0))
    return index.fs.cat_file(index.path).decode("utf-8", errors="replace"), generation


def _listed(folder: UPath) -> set[str]:
    """The names of the folders in a remote area, and that of its index."""
    try:
        found = folder.fs.ls(folder.path, detail=True)
    except FileNotFoundError:
        raise run_history.no_area(folder) from None
    names = {str(entry["name"]).rstrip("/").rpartition("/")[2]: entry["type"] for entry in found}
    return {name for name, kind in names.items() if name and (kind == "directory" or name == INDEX)}


def _fetched(folder: UPath) -> Overview:
    copied = storage.fetch_named(folder, (*FILES, DATASET))
    try:
        return Overview.of(run_history.at_home(run_history.read(copied), folder))
    finally:
        shutil.rmtree(Path(copied.path), ignore_errors=True)


def _stamp(folder: str) -> str:
    """Time and size of every file that a line is read from."""
    digest = hashlib.blake2b(digest_size=8)
    stages = f"{folder}/{STAGES}"
    try:
        with os.scandir(stages) as entries:
            places = sorted(entry.name for entry in entries)
    except OSError:
        places = []
    described = [f"{stages}/{place}/{DATASET}" for place in places if place.startswith("transform")]
    records = [f"{stages}/{place}/{RECORD}" for place in places]
    for path in (*(f"{folder}/{name}" for name in TOP), *records, *described):
        try:
            seen = os.stat(path)
            told = f"{path[len(folder) :]} {seen.st_mtime_ns} {seen.st_size} {seen.st_ino}\n"
        except OSError:
            told = f"{path[len(folder) :]}\n"
        digest.update(os.fsencode(told))
    return digest.hexdigest()


def _parsed(text: str) -> dict[str, Overview]:
    """The lines of an index by name; those that cannot be read, or all of another version, count as missing."""
    version, *lines = text.split("\n")
    found: dict[str, Overview] = {}
    for line in lines if version == VERSION else ():
        try:
            run = Overview.model_validate_json(line)
        except ValidationError:
            continue
        found[run.run] = run
    return found


def _text(found: Iterable[Overview]) -> str:
    lines = (run.model_dump_json() for run in sorted(found, key=lambda run: run.run))
    return "\n".join((VERSION, *lines)) + "\n"


def _attempt(index: UPath, write: Callable[[], object]) -> None:
    """Write the index, if that is possible: who may only read an area still gets a list."""
    try:
        write()
    except Exception as error:
        reason = storage.explain(error)
        if reason is None:
            raise
        log.warning("%s could not be written, so the next list reads what changed again: %s", index, reason)
