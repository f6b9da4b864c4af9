"""Whether a champion and a data set are about the same thing, by the champion's small files alone."""

from __future__ import annotations

from typing import Any

from upath import UPath

from mlapp import plain, small_file, storage
from mlapp.errors import UserError
from mlapp.registry import signature
from mlapp.registry.bundle import MANIFEST, UNSIGNED, Manifest
from mlapp.schema import Signing

LABELS, PREPROCESSING = "labels.json", "preprocessing.json"
SHOWN = 5
CURE = "promote this model under another promotion.name (unset, it is data.name)"


def refuse_other_questions(
    place: UPath, classes: tuple[str, ...], shape: tuple[int, ...], keys: Signing = UNSIGNED
) -> None:
    """A `UserError` unless the bundle answers for these classes, in this order, on images of this shape.

    Its files must have the hashes of its manifest, and where ``keys`` name a public key, the manifest its signature.
    """
    manifest = Manifest.load(place / MANIFEST)
    if manifest.id != place.name:
        raise UserError(f"{place / MANIFEST} was altered: restore the bundle from a copy")
    if keys.public_key:
        signature.check(place, keys.public_key)
    known = _read(place, manifest, LABELS)
    if known != list(classes):
        raise UserError(f"the champion {place} answers {_listed(known)}, the data ask for {_listed(classes)}: {CURE}")
    taken = _read(place, manifest, PREPROCESSING)
    expected = taken.get("input_shape") if isinstance(taken, dict) else None
    if expected != [1, *shape]:
        raise UserError(f"the champion {place} takes images of shape {expected}, the data's have {[1, *shape]}: {CURE}")


def _read(place: UPath, manifest: Manifest, name: str) -> Any:
    """A small JSON file of a bundle, if it is as the manifest says."""
    file = manifest.files.get(name)
    path = place / name
    with storage.explained():
        if file is None or storage.damage(path, file.bytes, file.sha256):
            raise UserError(f"bundle {place}: {name} is missing or was altered; restore the bundle from a copy")
        try:
            return plain.from_json(small_file.read(path))
        except ValueError as error:
            raise UserError(f"{path} is not JSON: restore the bundle from a copy") from error


def _listed(classes: Any) -> str:
    names = [str(name) for name in classes] if isinstance(classes, list | tuple) else []
    more = ", …" if len(names) > SHOWN else ""
    return f"{len(names)} classes ({', '.join(names[:SHOWN])}{more})"
