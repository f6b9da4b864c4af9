"""Signatures of bundles, after the OpenSSF model signing specification, and of the history's lines, by the same keys.

What is signed is the manifest, which has the hash of every file of its bundle. Anybody can check one without this
project: ``model_signing verify key BUNDLE/manifest.json --signature BUNDLE/manifest.sig --public_key KEY``. Keys are
elliptic-curve ones; nothing needs a network.
"""

from __future__ import annotations

import base64
import importlib
import os
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from upath import UPath

from mlapp import authenticate, storage
from mlapp.errors import UserError
from mlapp.quiet import quiet

SIGNATURE = "manifest.sig"


def sign(manifest: Path, key: str) -> Path:
    """Sign a manifest with the private ``key``, a PEM file or the name of a secret that holds one."""
    place = manifest.parent / SIGNATURE
    library = _library("signing")
    with _private(key) as path, _told(f"cannot sign with {key}"), quiet():
        library.Config().use_elliptic_key_signer(private_key=path).sign(manifest, place)
    return place


def check(place: UPath, public_key: str) -> None:
    """A `UserError` unless the bundle at ``place`` is signed by whoever holds the private half of ``public_key``."""
    library = _library("verifying")
    if not (place / SIGNATURE).exists():
        raise UserError(
            f"bundle {place} is not signed: sign it with `python -m mlapp.registry sign {place.name}`, if you trust it"
        )
    with tempfile.TemporaryDirectory() as folder, quiet():
        for name in ("manifest.json", SIGNATURE):
            Path(folder, name).write_bytes((place / name).read_bytes())
        key = Path(folder, "key.pem")
        key.write_bytes(_read(storage.at(public_key)))
        with _told(f"bundle {place} is not signed by the holder of {public_key}, or its key cannot be read"):
            verifier = library.Config().use_elliptic_key_verifier(public_key=key)
            verifier.verify(Path(folder, "manifest.json"), Path(folder, SIGNATURE))


def sign_text(text: str, key: str) -> str:
    """A signature (ECDSA of SHA-256, in base64) of a text with the private ``key``."""
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    with _private(key) as path, _told(f"cannot sign with {key}"):
        private: Any = serialization.load_pem_private_key(path.read_bytes(), password=None)
        return base64.b64encode(private.sign(text.encode(), ec.ECDSA(hashes.SHA256()))).decode()


def check_text(text: str, signature: str, public_key: str, what: str) -> None:
    """A `UserError` about ``what`` unless the text was signed by whoever holds the private half of ``public_key``."""
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    with _told(f"{what} is not signed by the holder of {public_key}, or its key cannot be read"):
        public: Any = serialization.load_pem_public_key(_read(storage.at(public_key)))
        public.verify(base64.b64decode(signature, validate=True), text.encode(), ec.ECDSA(hashes.SHA256()))


def _library(module: str) -> Any:
    """A module of model-signing, whose import takes two seconds."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # that Google's libraries will leave Python 3.11
        try:
            return importlib.import_module(f"model_signing.{module}")
        except ModuleNotFoundError as error:
            raise UserError(
                f"signatures need the package model-signing, and {error.name} is missing: install it here, or let the "
                "stage run in the training image, which has it"
            ) from error


def _read(path: UPath) -> bytes:
    try:
        return bytes(path.read_bytes())
    except FileNotFoundError as error:
        raise UserError(f"there is no key {path}: mend the signing settings") from error


@contextmanager
def _private(key: str) -> Iterator[Path]:
    """The file of a private key; one out of Secret Manager stands for a moment in a file that only we can read."""
    if not authenticate.SECRET.fullmatch(key):
        path = Path(key)
        if not path.is_file():
            raise UserError(f"there is no key {key}: mend signing.private_key")
        yield path
        return
    handle, name = tempfile.mkstemp(prefix="mlapp-key-")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(authenticate.secret(key).get_secret_value())
        yield Path(name)
    finally:
        Path(name).unlink()


@contextmanager
def _told(what: str) -> Iterator[None]:
    """The library's errors in one line, without what a key's file holds; whatever goes wrong, nothing is trusted."""
    try:
        yield
    except Exception as error:
        raise UserError(f"{what} ({type(error).__name__}: {' '.join(str(error).split())[:120]})") from error
