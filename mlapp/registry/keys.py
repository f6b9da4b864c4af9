"""The keys of the section `signing`: the one that signs, and those whose signatures are trusted.

Trust comes from the operator's settings alone; nothing in a registry can add a key. Private keys stay in memory: they
are read, used and forgotten, and no error names where one was read from. Keys are elliptic-curve ones in PEM.
"""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mlapp import authenticate, storage
from mlapp.errors import UserError
from mlapp.schema import Signing

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey, EllipticCurvePublicKey

UNSIGNED = Signing()
FINGERPRINT = re.compile(r"[0-9a-f]{64}")
CURVES = ("secp256r1", "secp384r1", "secp521r1")  # those of the model signing specification
PUBLIC = re.compile(rb"-----BEGIN PUBLIC KEY-----.*?-----END PUBLIC KEY-----", re.DOTALL)

log = logging.getLogger("mlapp")


class Keyring(dict[str, "EllipticCurvePublicKey"]):
    """Public keys by fingerprint, and where they came from."""

    place = "signing.public_key"


def keyring(signing: Signing) -> Keyring:
    """The public keys of signing.public_key by fingerprint; empty where none is set."""
    return read_public(signing.public_key) if signing.public_key else Keyring()


def read_public(place: str) -> Keyring:
    """The public keys, one PEM block each, of a file, a URI or a secret."""
    from cryptography.hazmat.primitives.serialization import load_pem_public_key

    if authenticate.SECRET.fullmatch(place):
        text = authenticate.secret(place).get_secret_value().encode()
    else:
        try:
            text = bytes(storage.at(place).read_bytes())
        except FileNotFoundError as error:
            raise UserError(f"there is no key {place}: correct signing.public_key") from error
    with _in_one_line(f"signing.public_key names {place}, which holds no elliptic-curve public key in PEM"):
        found = [_supported(load_pem_public_key(block)) for block in PUBLIC.findall(text)]
        if not found:
            raise ValueError("no BEGIN PUBLIC KEY")
    ring = Keyring((fingerprint(key), key) for key in found)
    ring.place = place
    return ring


def private_key(signing: Signing) -> EllipticCurvePrivateKey | None:
    """The key that signs, from a file or from Secret Manager; None where none is set."""
    from cryptography.hazmat.primitives.serialization import load_pem_private_key

    if not (place := signing.private_key):
        return None
    if authenticate.SECRET.fullmatch(place):
        text = authenticate.secret(place).get_secret_value().encode()
    else:
        if not (path := Path(place)).is_file():
            raise UserError("there is no file that signing.private_key names: correct the setting")
        if path.stat().st_mode & 0o077:
            log.warning("other users of this machine may read the file of signing.private_key: run `chmod 600` on it")
        text = path.read_bytes()
    with _in_one_line("signing.private_key holds no elliptic-curve private key in PEM without a password"):
        key: EllipticCurvePrivateKey = _supported(load_pem_private_key(text, password=None))
    return key


def fingerprint(public: EllipticCurvePublicKey) -> str:
    """SHA-256 of a public key's PEM, as `sha256sum` gives of openssl's file, and as a signature's hint has it."""
    from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

    return hashlib.sha256(public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)).hexdigest()


def _supported(key: Any) -> Any:
    if getattr(getattr(key, "curve", None), "name", None) not in CURVES:
        raise ValueError(f"not a key of {', '.join(CURVES)}")
    return key


@contextmanager
def _in_one_line(what: str) -> Iterator[None]:
    """The library's errors by their kind only: their text may quote what a key's file holds."""
    try:
        yield
    except Exception as error:
        raise UserError(f"{what} ({type(error).__name__}): correct the signing settings") from error
