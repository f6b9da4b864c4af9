"""The figures of bundles, read from verdicts that are what the bundles' names say.

The history's line about a promotion holds them too, so a list of a bucket reads no bundle that such a line is about.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import BaseModel, ValidationError
from upath import UPath

from mlapp import storage
from mlapp.candidate import Count
from mlapp.errors import UserError
from mlapp.registry import files
from mlapp.registry.bundle import MANIFEST, Manifest
from mlapp.result import Metric

VERDICT, FIGURES = "verdict.json", "figures"


class Scored(BaseModel):
    """The figures of a model that a list shows."""

    accuracy: Metric
    bytes: Count
    latency_us: Metric


class Figures(BaseModel):
    """The part of a verdict that a list shows; nothing else of the file is looked at."""

    challenger: Scored


def noted(place: UPath, manifest: Manifest) -> dict[str, Any]:
    """The figures of a bundle as the history notes them; nothing where its verdict is of another version's form."""
    try:
        found = Figures.model_validate_json(content(place, manifest))
    except (UserError, ValidationError):
        return {}
    return {FIGURES: found.challenger.model_dump(mode="json", exclude_defaults=True)}


def read_noted(move: Mapping[str, Any]) -> Scored | None:
    """The figures that a line of the history notes; None where it has none that can be read."""
    try:
        return Scored.model_validate(move.get(FIGURES))
    except ValidationError:
        return None


def figures(
    folder: UPath, bundles: Sequence[str], known: Mapping[str, Scored] | None = None
) -> list[Scored | UserError | None]:
    """The figures of each bundle, or what is wrong with it; None for one that is being written, or removed.

    What is ``known`` is not read.
    """
    known = known or {}
    wanted = [bundle for bundle in bundles if bundle not in known]
    read = files.read_all([folder / bundle / name for bundle in wanted for name in (MANIFEST, VERDICT)])
    found: dict[str, Scored | UserError | None] = dict(known)
    for bundle, manifest, verdict in zip(wanted, read[::2], read[1::2], strict=True):
        try:
            found[bundle] = _checked(folder / bundle, manifest, verdict)
        except UserError as error:
            found[bundle] = error
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
