"""Registries that are made in a moment, without a training: bundles with the verdict of a shipped one."""

from __future__ import annotations

from pathlib import Path

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from upath import UPath

from mlapp.registry import moves
from mlapp.registry.bundle import Draft, describe, install
from mlapp.registry.pointer import Pointer
from mlapp.schema import Signing

NAME = "fashion_mnist"
SHIPPED = Path(__file__).parents[2] / "production_models" / "fashion_mnist_tiny" / "f3c603bae2fa"


def pair(folder: Path, name: str) -> Signing:
    """A new key, private and public, in two PEM files."""
    private = ec.generate_private_key(ec.SECP256R1())
    pem, plain = serialization.Encoding.PEM, serialization.NoEncryption()
    path = folder / f"{name}.pem"
    path.write_bytes(private.private_bytes(pem, serialization.PrivateFormat.PKCS8, plain))
    path.chmod(0o600)
    public = private.public_key().public_bytes(pem, serialization.PublicFormat.SubjectPublicKeyInfo)
    (folder / f"{name}.pub").write_bytes(public)
    return Signing(private_key=str(path), public_key=str(folder / f"{name}.pub"))


def file_bundle(registry: str, content: str, keys: Signing | None = None, name: str = NAME) -> UPath:
    """A bundle in its place, which nothing names yet; it knows the history's end."""
    pointer = Pointer(registry, name)
    from mlapp.registry import history

    with Draft(pointer.folder) as draft:
        (draft / "model.int8.tflite").write_text(content)
        (draft / "labels.json").write_text("[]")
        (draft / "verdict.json").write_bytes((SHIPPED / "verdict.json").read_bytes())
        about = {"name": name, "model": "model.int8.tflite", "predecessor": pointer.read(), "created": "2026-08-26"}
        made = describe(draft, **about, data={}, stages={}, history=history.head(pointer.history_text()))
        return install(draft, made, pointer.folder, keys or Signing())


def promote(registry: str, content: str, keys: Signing | None = None, name: str = NAME) -> str:
    """File a bundle and make it the champion; returns its id."""
    from mlapp.registry.bundle import verify

    place = file_bundle(registry, content, keys, name)
    pointer = Pointer(registry, name)
    entry = moves.entry("Ada", f"promote: {content}", place, verify(place))
    pointer.swap(pointer.read(), place.name, entry, keys)
    return place.name
