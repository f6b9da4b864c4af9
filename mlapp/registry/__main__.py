"""Look into the registry of promoted models, and move the pointer to the champion.

BUNDLE is a bundle's id; in show and diff it may be cut short, and is the champion where it is left out. KEY is the file
of a public key; revoke takes its fingerprint too (`sha256sum` of that file).
"""

from __future__ import annotations

import argparse
import re
import signal
import sys
from collections.abc import Sequence

from mlapp import pins, storage
from mlapp.errors import OneLineError, UserError, printable
from mlapp.quiet import answer
from mlapp.registry import catalogue, integrity, moves, rekeying, restoring, trust
from mlapp.registry.pointer import Pointer
from mlapp.schema import NAME, Config


def main(argv: Sequence[str] | None = None) -> None:
    """The command line. Exit codes: 0 done, 1 `verify` found something wrong, 2 something the user can correct,
    75 a store does not answer for now.
    """
    parser = build_parser()
    arguments = parser.parse_args(argv)
    try:
        settings = pins.load()
        registry, name = settings.storage.registry, settings.model_name
        arguments.registry = pins.hold_value("storage.registry", arguments.registry or registry, registry)
        pins.hold_value("promotion.name", arguments.name or name, name)
        arguments.keys = settings.signing
        with storage.explained():
            if arguments.command is not verified or arguments.name or arguments.bundle:
                arguments.name = _name(arguments.name or _default_name(arguments.registry, settings))
            answer(arguments.command(arguments))
    except OneLineError as error:
        parser.exit(error.exit_code, f"{parser.prog}: error: {error}\n")


def build_parser() -> argparse.ArgumentParser:
    """The parser: one command for each thing to do."""
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--name", help="name of the model in the registry; default: promotion.name")
    common.add_argument("--registry", metavar="URI", help="folder of the bundles; default: storage.registry")
    why = argparse.ArgumentParser(add_help=False)
    why.add_argument("--why", required=True, help="for the history")
    why.add_argument("--by", help="for the history; default: the user and the machine")
    parser = argparse.ArgumentParser(
        prog="python -m mlapp.registry", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(
        required=True, metavar="list|show|diff|verify|promote|rollback|sign|adopt|rotate|revoke|restore"
    )
    made = commands.add_parser("list", parents=[common], help="all bundles, the last promoted first")
    made.set_defaults(command=listed)
    made = commands.add_parser("show", parents=[common], help="one bundle: figures, gates, how it became champion")
    made.add_argument("bundle", nargs="?", metavar="BUNDLE")
    made.set_defaults(command=shown)
    made = commands.add_parser("diff", parents=[common], help="what differs between two bundles")
    made.add_argument("bundle", metavar="BUNDLE")
    made.add_argument("other", nargs="?", metavar="BUNDLE")
    made.set_defaults(command=compared)
    made = commands.add_parser(
        "verify", parents=[common], help="whether all is as it was: every model, one (--name), or one BUNDLE"
    )
    made.add_argument("bundle", nargs="?", metavar="BUNDLE")
    made.set_defaults(command=verified)
    made = commands.add_parser("promote", parents=[common, why], help="make a bundle the champion that was it before")
    made.add_argument("bundle", metavar="BUNDLE")
    made.set_defaults(command=moved)
    made = commands.add_parser("rollback", parents=[common, why], help="make the champion's predecessor the champion")
    made.set_defaults(command=moved, bundle=None)
    made = commands.add_parser("sign", parents=[common], help="sign a bundle, or each of the history's that is not yet")
    made.add_argument("bundle", nargs="?", metavar="BUNDLE")
    made.set_defaults(command=signed)
    made = commands.add_parser(
        "adopt",
        parents=[common, why],
        help="take over history and pointer as they are; signed, where there is a key",
    )
    made.set_defaults(command=adopted)
    made = commands.add_parser(
        "rotate", parents=[common, why], help="with the old key: let only this new KEY sign from now on"
    )
    made.add_argument("key", metavar="KEY")
    made.set_defaults(command=rotated)
    made = commands.add_parser("revoke", parents=[common, why], help="nothing counts that this KEY signs from now on")
    made.add_argument("key", metavar="KEY")
    made.set_defaults(command=revoked)
    made = commands.add_parser(
        "restore", parents=[common], help="bring a bucket's versions of a moment back; --yes does"
    )
    made.add_argument("--at", required=True, metavar="TIME", help="when all was well: 2026-11-28T12:00:00Z")
    made.add_argument("--yes", action="store_true", help="do it; else only show what would be done")
    made.set_defaults(command=restored)
    return parser


def _name(given: str) -> str:
    """A model's name, which becomes a folder's."""
    if not re.fullmatch(NAME, given):
        raise UserError(f"{given!r} is no model's name: give small letters, digits and underscores")
    return given


def _default_name(registry: str, settings: Config) -> str:
    """The model that the settings speak of, and that the registry holds; a `UserError` where that leaves a choice."""
    known = catalogue.names(registry)
    asked = [name for name in (settings.promotion.name, settings.data.name) if name]
    if found := [name for name in asked if name in known] or (known if len(known) == 1 else []):
        return found[0]
    raise _unknown(registry, asked[0], known)


def _unknown(registry: str, name: str, known: Sequence[str]) -> UserError:
    return UserError(f"{registry} holds no model {name!r}: give --name, of {', '.join(known) or 'none yet'}")


def listed(arguments: argparse.Namespace) -> str:
    """A line a bundle."""
    if arguments.name not in (known := catalogue.names(arguments.registry)):
        raise _unknown(arguments.registry, arguments.name, known)
    return catalogue.listed(catalogue.rows(arguments.registry, arguments.name, arguments.keys))


def shown(arguments: argparse.Namespace) -> str:
    """One bundle."""
    return catalogue.shown(catalogue.find(arguments.registry, arguments.name, arguments.bundle, arguments.keys))


def compared(arguments: argparse.Namespace) -> str:
    """Two bundles."""
    asked = (arguments.bundle, arguments.other)
    pair = [catalogue.find(arguments.registry, arguments.name, name, arguments.keys) for name in asked]
    return catalogue.compared(*pair)


def verified(arguments: argparse.Namespace) -> str:
    """Whether all is whole; ends the process with 1 if it is not."""
    only = arguments.bundle
    if only:
        moves.bundle_named(Pointer(arguments.registry, arguments.name), only)
    told, damaged = [], False
    names = known = catalogue.names(arguments.registry)
    if arguments.name:
        names = [arguments.name]
        if arguments.name not in known:
            raise _unknown(arguments.registry, arguments.name, known)
    for name in names:
        report = integrity.inspect(arguments.registry, name, arguments.keys, only, _progress(name))
        damaged |= bool(report.damage)
        told += [printable(line) for line in report.damage] or [f"{name}: all whole, {report.summary}"]
        told += [f"{name}: note: {printable(note)}" for note in report.notes]
    if damaged:
        answer("\n".join(told))
        raise SystemExit(1)
    return "\n".join(told) or f"{arguments.registry} holds no model yet"


def _progress(name: str) -> integrity.Progress:
    """Where a person looks on: how far it is, in one line that goes when it is done."""

    def show(done: int, of: int) -> None:
        if sys.stderr.isatty() and of > 20:
            sys.stderr.write(f"\r{name}: {done:,} of {of:,} bundles" if done < of else "\r\033[K")
            sys.stderr.flush()

    return show


def signed(arguments: argparse.Namespace) -> str:
    """Sign bundles that were made without a key, or with one that no longer counts."""
    pointer = Pointer(arguments.registry, arguments.name)
    bundle = moves.bundle_named(pointer, arguments.bundle) if arguments.bundle else None
    done = rekeying.sign_bundles(pointer, arguments.keys, bundle)
    if not done:
        return f"{arguments.name}: every bundle of the history is signed already"
    return f"{arguments.name}: {', '.join(done)} {'is' if len(done) == 1 else 'are'} signed"


def adopted(arguments: argparse.Namespace) -> str:
    """Take over a history."""
    champion = rekeying.adopt(arguments.registry, arguments.name, arguments.keys, by=arguments.by, why=arguments.why)
    how = "signed" if arguments.keys.private_key else "unsigned, for signing.private_key is not set"
    return f"{arguments.name}: adopted with {champion} as the champion ({how})"


def rotated(arguments: argparse.Namespace) -> str:
    """Rotate to another key."""
    given = (arguments.registry, arguments.name, arguments.keys, arguments.key)
    new = rekeying.rotate(*given, by=arguments.by, why=arguments.why)
    return f"{arguments.name}: from now on {new} signs; set signing.private_key to it"


def revoked(arguments: argparse.Namespace) -> str:
    """Revoke a key."""
    given = (arguments.registry, arguments.name, arguments.keys, arguments.key)
    old = rekeying.revoke(*given, by=arguments.by, why=arguments.why)
    sign = trust.command("sign", Pointer(arguments.registry, arguments.name).folder)
    done = f"{arguments.name}: {old} is revoked"
    return f"{done}; take it out of signing.public_key, then `{sign}` signs its bundles again"


def restored(arguments: argparse.Namespace) -> str:
    """Restore from versions."""
    steps = restoring.plan(arguments.registry, arguments.name, restoring.moment(arguments.at))
    if not steps:
        return f"{arguments.name}: all is as it was then"
    if arguments.yes:
        restoring.carry_out(arguments.registry, arguments.name, steps)
    done = "done, now run verify" if arguments.yes else "would be done, --yes does it"
    return "\n".join([*(printable(str(step)) for step in steps), f"{arguments.name}: {len(steps)} steps {done}"])


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
