"""Roll back: let an earlier bundle be the champion again. Nothing is deleted, and the history keeps the move.

A model that was rolled back stays out: a later run with the same model holds it, unless promoted with --again true.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from datetime import UTC, datetime

from mlapp import config as configuration
from mlapp import storage
from mlapp.errors import UserError
from mlapp.registry.bundle import Manifest, verify
from mlapp.registry.pointer import BUNDLE_ID, Pointer, manifest_of


def rollback(registry: str, name: str, to: str | None = None) -> tuple[str, str]:
    """Point at bundle ``to``, or at the champion's predecessor; returns the former champion's id and the new one's.

    A `UserError` if there is no such bundle, if it was altered, or if the champion changes at the same moment.
    """
    pointer = Pointer(registry, name)
    present = pointer.read()
    if present is None:
        raise UserError(f"{pointer.folder} has no champion: give --name and --registry of a promoted model")
    target = to or _predecessor(registry, name, present)
    if not BUNDLE_ID.fullmatch(target):
        raise UserError(f"{target!r} is no bundle's id: give --to one of {_bundles(pointer)}")
    if not (pointer.folder / target).is_dir():
        raise UserError(f"there is no bundle {pointer.folder / target}: give --to one of {_bundles(pointer)}")
    manifest = verify(pointer.folder / target)
    if target != present:
        moment = datetime.now(UTC).isoformat(timespec="seconds")
        pointer.swap(present, target, {"at": moment, "model": manifest.model_sha256, "rollback": True})
    return present, target


def main(argv: Sequence[str] | None = None) -> None:
    """The command line. Exit codes: 0 done, 2 something the user can mend."""
    parser = argparse.ArgumentParser(
        prog="python -m mlapp.registry.rollback",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--name", help="name of the model in the registry; default: promotion.name")
    parser.add_argument("--to", metavar="BUNDLE", help="id of the bundle; default: the champion's predecessor")
    parser.add_argument("--registry", metavar="URI", help="folder of the bundles; default: storage.registry")
    arguments = parser.parse_args(argv)
    try:
        settings = configuration.load()
        registry, name = arguments.registry or settings.storage.registry, arguments.name or settings.promotion.name
        with storage.explained():
            former, new = rollback(registry, name, arguments.to)
    except UserError as error:
        parser.exit(2, f"{parser.prog}: error: {error}\n")
    if former == new:
        sys.stdout.write(f"{name}: {new} is the champion already\n")
    else:
        sys.stdout.write(f"{name}: the champion is {new} again, no longer {former}\n")


def _predecessor(registry: str, name: str, champion: str) -> str:
    path = manifest_of(registry, name, champion)
    before = Manifest.load(path).predecessor if path else None
    if before is None:
        raise UserError(f"{name}: the champion {champion} has no predecessor: give --to a bundle's id")
    return before


def _bundles(pointer: Pointer) -> str:
    """Every bundle that was champion once, the latest first."""
    return ", ".join(dict.fromkeys(str(move["champion"]) for move in reversed(pointer.history()))) or "those that exist"


if __name__ == "__main__":
    main()
