"""The figures of bundles, read from verdicts that are what the bundles' names say.

A bundle's content never changes, so what was verified of a remote one is kept on this machine, in the project's
``.cache``, and read from there the next time. That is made again where it is missing, and nothing but `list` uses it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from pydantic import BaseModel, RootModel, ValidationError
from upath import UPath

from mlapp import storage
from mlapp.candidate import Count
from mlapp.errors import UserError
from mlapp.registry import files
from mlapp.registry.bundle import MANIFEST, Manifest
from mlapp.result import Metric

VERDICT = "verdict.json"
CACHE = Path(__file__).parents[2] / ".cache" / "registry"


class Scored(BaseModel):
    """The figures of a model that a list shows."""

    accuracy: Metric
    bytes: Count
    latency_us: Metric


class Figures(BaseModel):
    """The part of a verdict that a list shows; nothing else of the file is looked at."""

    challenger: Scored


class Known(RootModel[dict[str, Scored]]):
    """What was verified before, by the bundle's id."""


def figures(folder: UPath, bundles: Sequence[str]) -> list[Scored | UserError | None]:
    """The figures of each bundle, or what is wrong with it; None for one that is being written, or removed."""
    known = {} if storage.is_local(folder) else _load(folder)
    wanted = [bundle for bundle in bundles if bundle not in known]
    read = files.read_all([folder / bundle / name for bundle in wanted for name in (MANIFEST, VERDICT)])
    found: dict[str, Scored | UserError | None] = dict(known)
    for bundle, manifest, verdict in zip(wanted, read[::2], read[1::2], strict=True):
        try:
            found[bundle] = _checked(folder / bundle, manifest, verdict)
        except UserError as error:
            found[bundle] = error
    if wanted and not storage.is_local(folder):
        _save(folder, {bundle: each for bundle, each in found.items() if isinstance(each, Scored)})
    return [found[bundle] for bundle in bundles]


def content(place: UPath, manifest: Manifest) -> bytes:
    """A bundle's verdict, as its manifest says."""
    if VERDICT not in manifest.files:
        raise UserError(unreadable(place))
    found, _ = files.read(place / VERDICT)
    if hashlib.sha256(found).hexdigest() != manifest.files[VERDICT].sha256:
        raise UserError(f"bundle {place}: {VERDICT} was altered; restore the bundle from a copy")
    return found


def unreadable(place: object) -> str:
    """What to say of a bundle whose verdict is none."""
    return f"bundle {place} has no verdict that can be read: restore it from a copy"


def _checked(place: UPath, manifest: bytes | Exception, verdict: bytes | Exception) -> Scored | None:
    if isinstance(manifest, FileNotFoundError):
        return None
    for error in (manifest, verdict):
        if isinstance(error, UserError):
            raise error
        if isinstance(error, Exception) and not isinstance(error, FileNotFoundError):
            raise storage.explain(error) or UserError(f"bundle {place} cannot be read ({error}): restore it")
    if isinstance(manifest, Exception) or isinstance(verdict, Exception):
        raise UserError(unreadable(place))
    made = Manifest.parse(manifest, place / MANIFEST)
    if made.id != place.name:
        raise UserError(f"{place / MANIFEST} was altered: restore the bundle from a copy")
    if VERDICT not in made.files:
        raise UserError(unreadable(place))
    if hashlib.sha256(verdict).hexdigest() != made.files[VERDICT].sha256:
        raise UserError(f"bundle {place}: {VERDICT} was altered; restore the bundle from a copy")
    try:
        return Figures.model_validate_json(verdict).challenger
    except ValidationError as error:
        raise UserError(unreadable(place)) from error


def _place(folder: UPath) -> Path:
    return CACHE / f"{hashlib.sha256(str(folder).encode()).hexdigest()[:16]}.json"


def _load(folder: UPath) -> dict[str, Scored]:
    try:
        return Known.model_validate_json(_place(folder).read_bytes()).root
    except (OSError, ValidationError):
        return {}


def _save(folder: UPath, known: dict[str, Scored]) -> None:
    with suppress(OSError):  # where the project's folder cannot be written, each list reads all of them
        storage.write_text(_place(folder), Known(known).model_dump_json())
