"""Lines of the history about keys: adopt one that is not signed, rotate to another key, revoke a key."""

from __future__ import annotations

import shlex

from mlapp import storage
from mlapp.errors import UserError
from mlapp.registry import files, trust
from mlapp.registry.bundle import MANIFEST, Manifest, whole
from mlapp.registry.judge import Judge
from mlapp.registry.keys import FINGERPRINT, keyring, read_public
from mlapp.registry.moves import about, reason
from mlapp.registry.pointer import HISTORY, Pointer
from mlapp.registry.signature import SIGNATURE
from mlapp.registry.signing import Signer
from mlapp.schema import Signing


def adopt(registry: str, name: str, keys: Signing, *, by: str | None, why: str) -> str:
    """Take over the history and the pointer as they are; where there is a key, vouch for both and sign the champion.

    The champion's bundle must be whole. Returns its id. What is not signed before the line counts from now on; bundles
    other than the champion are for `sign_bundles`.
    """
    given = reason(by, why)
    pointer, signer = Pointer(registry, name), Signer(keys)
    state = pointer.state()
    if state.champion is None:
        raise UserError(f"{pointer.folder} has no champion: there is nothing to adopt")
    manifest = whole(place := pointer.folder / state.champion)
    if manifest.name != name:
        raise UserError(f"bundle {place} is one of {manifest.name}, so it cannot be champion of {name}")
    signer.check(trust.read(state.text, pointer.folder / HISTORY, signer.ring))
    pointer.record({**given, **about(place, manifest), trust.EVENT: trust.ADOPT}, keys, adopt=manifest.id)
    if signer.fingerprint:
        sign_bundles(pointer, keys, manifest.id)
    return manifest.id


def rotate(registry: str, name: str, keys: Signing, new: str, *, by: str | None, why: str) -> str:
    """Put the public key at ``new`` in force instead of all others; the old key signs that. Returns its fingerprint."""
    if len(given := read_public(new)) != 1:
        raise UserError(f"{new} holds {len(given)} keys: give a file with the new public key alone")
    [fingerprint] = given
    if fingerprint not in keyring(keys):
        append = f"cat {shlex.quote(new)} >> KEYS.pub"
        raise UserError(f"signing.public_key does not hold the new key yet: append it there first with `{append}`")
    if fingerprint in _trust(registry, name, keys).revoked:
        raise UserError(f"{new} holds a key that was revoked: make another one")
    _record(registry, name, keys, {trust.EVENT: trust.ROTATE, trust.KEY: fingerprint}, by, why)
    return fingerprint


def revoke(registry: str, name: str, keys: Signing, key: str, *, by: str | None, why: str) -> str:
    """Let nothing count that a key signs from now on, given by fingerprint or file; vouch for all lines before."""
    given = [key] if FINGERPRINT.fullmatch(key) else list(read_public(key))
    if len(given) != 1 or given[0] == Signer(keys).fingerprint:
        raise UserError(f"{key} is not one key other than that of signing.private_key: sign with the key that stays")
    if given[0] not in keyring(keys):
        raise UserError(f"{key} is none of the keys of signing.public_key: give one of {', '.join(keyring(keys))}")
    _record(registry, name, keys, {trust.EVENT: trust.REVOKE, trust.KEY: given[0]}, by, why)
    return given[0]


def sign_bundles(pointer: Pointer, keys: Signing, bundle: str | None = None) -> list[str]:
    """Sign one bundle, or every one that the history names and the keys do not vouch for; returns their ids.

    Each must be whole, and the one that the history names.
    """
    signer, state = Signer(keys), pointer.state()
    judge, moves = Judge.by(pointer.folder, state.text, keyring(keys)), state.moves
    if judge.trust.problem and not bundle:
        raise UserError(judge.trust.problem)
    signed = []
    for each in [bundle] if bundle else dict.fromkeys(move["champion"] for move in moves):
        place = pointer.folder / each
        manifest = whole(place)
        if any(move.get("manifest", manifest.digest) != manifest.digest for move in moves if move["champion"] == each):
            raise UserError(f"bundle {place} is not the one that was promoted: restore it from a copy")
        if bundle or judge.look(place, manifest.digest)[0] != "signed":
            content = signer.sign_manifest(_same(place, manifest))
            with storage.atomic_file(place / SIGNATURE) as draft:
                draft.write_bytes(content)
            signed.append(each)
    return signed


def _same(place: object, manifest: Manifest) -> bytes:
    """The manifest's bytes, if they still say what was verified."""
    path = storage.at(str(place)) / MANIFEST
    content = files.read(path)[0]
    if Manifest.parse(content, path).digest != manifest.digest:
        raise UserError(f"{path} was altered: restore the bundle from a copy")
    return content


def _trust(registry: str, name: str, keys: Signing) -> trust.Trust:
    pointer = Pointer(registry, name)
    return Judge.by(pointer.folder, pointer.history_text(), keyring(keys)).trust


def _record(registry: str, name: str, keys: Signing, what: dict[str, str], by: str | None, why: str) -> None:
    if not keys.private_key or not keys.public_key:
        raise UserError("signing.private_key and signing.public_key must both be set: the line about a key is signed")
    Pointer(registry, name).record({**reason(by, why), **what}, keys)
