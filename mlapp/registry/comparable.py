"""Whether a champion and a data set are about the same thing."""

from __future__ import annotations

from typing import Any

from upath import UPath

from mlapp import plain, small_file, storage
from mlapp.errors import UserError
from mlapp.registry.bundle import verify
from mlapp.registry.keys import UNSIGNED
from mlapp.schema import Signing

LABELS, PREPROCESSING = "labels.json", "preprocessing.json"
SHOWN = 5
CURE = "promote this model under another promotion.name (unset, it is data.name)"


def refuse_other_questions(
    place: UPath, classes: tuple[str, ...], shape: tuple[int, ...], keys: Signing = UNSIGNED
) -> None:
    """A `UserError` unless the bundle answers for these classes, in this order, on images of this shape.

    It must be whole, and signed where ``keys`` name a public key.
    """
    verify(place, keys)
    known = _read(place, LABELS)
    if known != list(classes):
        raise UserError(f"the champion {place} answers {_listed(known)}, the data ask for {_listed(classes)}: {CURE}")
    taken = _read(place, PREPROCESSING)
    expected = taken.get("input_shape") if isinstance(taken, dict) else None
    if expected != [1, *shape]:
        raise UserError(f"the champion {place} takes images of shape {expected}, the data's have {[1, *shape]}: {CURE}")


def _read(place: UPath, name: str) -> Any:
    """A small JSON file of a bundle that was verified."""
    with storage.explained():
        try:
            return plain.from_json(small_file.read(place / name))
        except ValueError as error:
            raise UserError(f"{place / name} is not JSON: restore the bundle from a copy") from error


def _listed(classes: Any) -> str:
    names = [str(name) for name in classes] if isinstance(classes, list | tuple) else []
    more = ", …" if len(names) > SHOWN else ""
    return f"{len(names)} classes ({', '.join(names[:SHOWN])}{more})"
