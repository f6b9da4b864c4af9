"""Bring a model's part of a registry in Cloud Storage back to how it was at some moment, from the bucket's versions.

What was changed or deleted since is put back, and what was added to bundles of that time is removed; bundles that are
newer stay. Nothing is lost by it: in a bucket with versions, each state in between can be brought back as well.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from upath import UPath

from mlapp import storage
from mlapp.errors import UserError
from mlapp.registry.bundle import MANIFEST
from mlapp.registry.pointer import HISTORY, POINTER, Pointer

PRECONDITION_FAILED = 412
LAST = (MANIFEST, HISTORY, POINTER)  # in this order, after what they name


@dataclass(frozen=True)
class Step:
    """One object to put back from an earlier generation, or to remove (``source`` is None)."""

    name: str
    source: int | None
    present: int

    def __str__(self) -> str:
        return f"remove {self.name}" if self.source is None else f"put back {self.name}, generation {self.source}"


def moment(text: str) -> datetime:
    """A time as ISO 8601, in UTC where it names no zone."""
    try:
        found = datetime.fromisoformat(text)
    except ValueError as error:
        raise UserError(f"{text!r} is no time: write it as 2026-11-28T12:00:00Z") from error
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def plan(registry: str, name: str, when: datetime) -> list[Step]:
    """What has to be done to have the model's part of the registry as it was then."""
    folder = Pointer(registry, name).folder
    if not storage.in_gcs(folder):
        raise UserError(f"{folder} is not in Cloud Storage, which alone keeps versions: restore it from a backup")
    versions: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for each in _versions(registry, name):
        versions[each["name"]].append(each)
    then = {path: live for path, all_of in versions.items() if (live := _live(all_of, when))}
    now = {path: live for path, all_of in versions.items() if (live := _live(all_of, None))}
    if not any(path.endswith(f"/{POINTER}") for path in then):
        raise UserError(f"the versions of {folder} do not reach back to {when.isoformat()}: give a later time")
    steps = []
    for path in versions:
        before, present = then.get(path), now.get(path)
        if before and (not present or "md5Hash" not in before or before["md5Hash"] != present.get("md5Hash")):
            steps.append(Step(path, int(before["generation"]), int(present["generation"]) if present else 0))
        elif present and not before and f"{path.rpartition('/')[0]}/{MANIFEST}" in then:
            steps.append(Step(path, None, int(present["generation"])))
    return sorted(steps, key=lambda step: (_rank(step.name), step.name))


def carry_out(registry: str, name: str, steps: list[Step]) -> None:
    """Do it; a `UserError` if somebody writes an object at the same time."""
    folder = Pointer(registry, name).folder
    bucket = folder.path.partition("/")[0]
    for step in steps:
        try:
            _do(folder, bucket, step)
        except Exception as error:
            if getattr(error, "code", None) != PRECONDITION_FAILED:
                raise
            raise UserError(f"{step.name} was written meanwhile: see what else writes there, then run again") from error


def _do(folder: UPath, bucket: str, step: Step) -> None:
    if step.source is None:
        folder.fs.call("DELETE", "b/{}/o/{}", bucket, step.name, ifGenerationMatch=step.present)
        return
    folder.fs.call(
        "POST",
        "b/{}/o/{}/copyTo/b/{}/o/{}",
        *(bucket, step.name, bucket, step.name),
        sourceGeneration=step.source,
        ifGenerationMatch=step.present,
        headers={"Content-Type": "application/json"},
        json_out=True,
    )


def _versions(registry: str, name: str) -> Iterator[dict[str, Any]]:
    """All versions of all objects of a model."""
    folder = Pointer(registry, name).folder
    bucket, _, prefix = folder.path.partition("/")
    page: dict[str, str] = {}
    while True:
        asked = {"prefix": f"{prefix.rstrip('/')}/", "versions": "true", "maxResults": 1000, **page}
        found = folder.fs.call("GET", "b/{}/o", bucket, json_out=True, **asked)
        yield from found.get("items", [])
        if not (token := found.get("nextPageToken")):
            return
        page = {"pageToken": token}


def _live(versions: list[dict[str, Any]], when: datetime | None) -> dict[str, Any] | None:
    """The version that was there at that moment, or is there now."""
    for each in versions:
        made, gone = each["timeCreated"], each.get("timeDeleted")
        if when is None and not gone:
            return each
        if when and datetime.fromisoformat(made) <= when and (not gone or when < datetime.fromisoformat(gone)):
            return each
    return None


def _rank(path: str) -> int:
    file = path.rpartition("/")[2]
    return LAST.index(file) + 1 if file in LAST else 0
