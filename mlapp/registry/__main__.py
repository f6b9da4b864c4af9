"""Look into the registry of promoted models, and move the pointer to the champion.

BUNDLE is a bundle's id; in show and diff it may be cut short, and is the champion where it is left out.
"""

from __future__ import annotations

import argparse
import re
import signal
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from mlapp import config as configuration
from mlapp import storage
from mlapp.errors import TryAgainError, UserError
from mlapp.registry import catalogue, moves, signature
from mlapp.registry.bundle import MANIFEST, verify
from mlapp.registry.pointer import Pointer
from mlapp.schema import NAME


def main(argv: Sequence[str] | None = None) -> None:
    """The command line. Exit codes: 0 done, 1 `verify` found something wrong, 2 something the user can mend."""
    parser = build_parser()
    arguments = parser.parse_args(argv)
    try:
        settings = configuration.load()
        arguments.registry = arguments.registry or settings.storage.registry
        arguments.name = _name(arguments.name or settings.promotion.name)
        arguments.keys = settings.signing
        with storage.explained():
            told = arguments.command(arguments)
    except (UserError, TryAgainError) as error:
        parser.exit(2 if isinstance(error, UserError) else 75, f"{parser.prog}: error: {error}\n")
    sys.stdout.write(f"{told}\n")


def build_parser() -> argparse.ArgumentParser:
    """The parser: one command for each thing to do."""
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--name", help="name of the model in the registry; default: promotion.name")
    common.add_argument("--registry", metavar="URI", help="folder of the bundles; default: storage.registry")
    parser = argparse.ArgumentParser(
        prog="python -m mlapp.registry", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(required=True, metavar="list|show|diff|verify|sign|promote|rollback")
    told = commands.add_parser("list", parents=[common], help="all bundles, the last promoted first")
    told.set_defaults(command=listed)
    told = commands.add_parser("show", parents=[common], help="one bundle: figures, gates, how it became champion")
    told.add_argument("bundle", nargs="?", metavar="BUNDLE")
    told.set_defaults(command=shown)
    told = commands.add_parser("diff", parents=[common], help="what differs between two bundles")
    told.add_argument("bundle", metavar="BUNDLE")
    told.add_argument("other", nargs="?", metavar="BUNDLE")
    told.set_defaults(command=compared)
    told = commands.add_parser("verify", parents=[common], help="whether every bundle and the history are whole")
    told.set_defaults(command=verified)
    told = commands.add_parser("sign", parents=[common], help="sign a bundle that is whole, with signing.private_key")
    told.add_argument("bundle", metavar="BUNDLE")
    told.set_defaults(command=signed)
    told = commands.add_parser("promote", parents=[common], help="make a bundle the champion that was it before")
    told.add_argument("bundle", metavar="BUNDLE")
    told.set_defaults(command=moved)
    told = commands.add_parser("rollback", parents=[common], help="make the champion's predecessor the champion")
    told.set_defaults(command=moved, bundle=None)
    for name in ("promote", "rollback"):
        commands.choices[name].add_argument("--why", default="by hand", help="for the history (%(default)s)")
        commands.choices[name].add_argument("--by", help="for the history; default: the user and the machine")
    return parser


def _name(given: str) -> str:
    """A model's name, which becomes a folder's."""
    if not re.fullmatch(NAME, given):
        raise UserError(f"{given!r} is no model's name: give small letters, digits and underscores")
    return given


def listed(arguments: argparse.Namespace) -> str:
    """A line a bundle."""
    if arguments.name not in (known := catalogue.names(arguments.registry)):
        raise UserError(
            f"{arguments.registry} holds no model {arguments.name!r}: give --name, of {', '.join(known) or 'none yet'}"
        )
    return catalogue.listed(catalogue.entries(arguments.registry, arguments.name))


def shown(arguments: argparse.Namespace) -> str:
    """One bundle."""
    return catalogue.shown(catalogue.find(arguments.registry, arguments.name, arguments.bundle))


def compared(arguments: argparse.Namespace) -> str:
    """Two bundles."""
    pair = [catalogue.find(arguments.registry, arguments.name, name) for name in (arguments.bundle, arguments.other)]
    return catalogue.compared(*pair)


def verified(arguments: argparse.Namespace) -> str:
    """Whether all is whole; ends the process with 1 if it is not."""
    if found := catalogue.damage(arguments.registry, arguments.name, arguments.keys):
        sys.stdout.write("".join(f"{line}\n" for line in found))
        raise SystemExit(1)
    return f"{arguments.name}: all whole"


def signed(arguments: argparse.Namespace) -> str:
    """Sign a bundle that was made without a key, or with another."""
    if not arguments.keys.private_key:
        raise UserError("signing.private_key is not set: give MLAPP_SIGNING__PRIVATE_KEY, a file or a secret's name")
    pointer = Pointer(arguments.registry, arguments.name)
    place = pointer.folder / moves.bundle_named(pointer, arguments.bundle)
    verify(place)
    with tempfile.TemporaryDirectory() as folder:
        manifest = Path(folder, MANIFEST)
        manifest.write_bytes((place / MANIFEST).read_bytes())
        storage.copy(storage.at(signature.sign(manifest, arguments.keys.private_key)), place / signature.SIGNATURE)
    return f"{arguments.name}: {place.name} is signed"


def moved(arguments: argparse.Namespace) -> str:
    """Move the pointer."""
    former, new = moves.rollback(
        arguments.registry,
        arguments.name,
        arguments.bundle,
        by=arguments.by,
        why=arguments.why,
        keys=arguments.keys,
    )
    told = "is the champion already" if former == new else f"is the champion again, no longer {former}"
    return f"{arguments.name}: {new} {told}"


if __name__ == "__main__":
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # for a reader that wants the first lines only
    main()
