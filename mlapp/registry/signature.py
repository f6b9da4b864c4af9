"""Signatures of bundles, after the OpenSSF model signing specification, and of the history's lines, by the same keys.

What is signed of a bundle is its manifest, which has the hash of every file. Anybody can check that without this
project: ``model_signing verify key BUNDLE/manifest.json --signature BUNDLE/manifest.sig --public_key KEY``. The format
is written and read here, because that library takes private keys from files only, and two seconds to import. Nothing
needs a network.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
from typing import TYPE_CHECKING, Any

from mlapp import plain
from mlapp.registry.keys import fingerprint

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey, EllipticCurvePublicKey

    from mlapp.registry.keys import Keyring

SIGNATURE = "manifest.sig"
BUNDLE = "application/vnd.dev.sigstore.bundle.v0.3+json"
STATEMENT = "https://in-toto.io/Statement/v1"
PREDICATE = "https://model_signing/signature/v1.0"
PAYLOAD = "application/vnd.in-toto+json"
IGNORED = [".git", ".gitattributes", ".github", ".gitignore"]  # as model_signing itself says of every model


def sign_manifest(manifest: bytes, key: EllipticCurvePrivateKey) -> bytes:
    """The content of ``manifest.sig``: a signed statement of the manifest's hash."""
    payload = json.dumps(_statement(manifest), indent=2).encode()
    signed = key.sign(_envelope(payload), _algorithm(key.public_key()))
    signature = {
        "mediaType": BUNDLE,
        "verificationMaterial": {"publicKey": {"hint": fingerprint(key.public_key())}, "tlogEntries": []},
        "dsseEnvelope": {
            "payload": base64.b64encode(payload).decode(),
            "payloadType": PAYLOAD,
            "signatures": [{"sig": base64.b64encode(signed).decode(), "keyid": ""}],
        },
    }
    return json.dumps(signature).encode()


def signer_of_manifest(manifest: bytes, signature: bytes, ring: Keyring) -> str:
    """The fingerprint of the key in ``ring`` that signed this manifest; a `ValueError` says why there is none."""
    from cryptography.exceptions import InvalidSignature

    try:
        return _signer(plain.from_json(signature.decode()), manifest, ring)
    except InvalidSignature as error:
        raise ValueError("it does not fit the key") from error
    except (KeyError, TypeError, AttributeError, UnicodeDecodeError, binascii.Error, json.JSONDecodeError) as error:
        raise ValueError("it is no signature") from error


def sign_text(text: str, key: EllipticCurvePrivateKey) -> str:
    """A signature (ECDSA of SHA-256, in base64) of a text."""
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec

    return base64.b64encode(key.sign(text.encode(), ec.ECDSA(hashes.SHA256()))).decode()


def signer_of_text(text: str, signature: str, ring: Keyring) -> str | None:
    """The fingerprint of the key in ``ring`` that signed this text, if one did."""
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec

    for name, key in ring.items():
        try:
            key.verify(base64.b64decode(signature, validate=True), text.encode(), ec.ECDSA(hashes.SHA256()))
        except (InvalidSignature, ValueError):
            continue
        return name
    return None


def _signer(given: dict[str, Any], manifest: bytes, ring: Keyring) -> str:
    hint, envelope = given["verificationMaterial"]["publicKey"]["hint"], given["dsseEnvelope"]
    payload = base64.b64decode(envelope["payload"], validate=True)
    [one] = envelope["signatures"]
    signed = base64.b64decode(one["sig"], validate=True)
    if envelope["payloadType"] != PAYLOAD or given["mediaType"] != BUNDLE:
        raise ValueError("it is of another type")
    if hint not in ring:
        raise ValueError("it was made with another key")
    ring[hint].verify(signed, _envelope(payload), _algorithm(ring[hint]))
    if not _is_of(plain.from_json(payload.decode()), manifest):
        raise ValueError("it is of another manifest")
    return str(hint)


def _statement(manifest: bytes) -> dict[str, Any]:
    digest = hashlib.sha256(manifest)
    serialization = {"method": "files", "hash_type": "sha256", "allow_symlinks": False, "ignore_paths": IGNORED}
    return {
        "_type": STATEMENT,
        "subject": [{"name": "manifest.json", "digest": {"sha256": _root(digest.digest())}}],
        "predicateType": PREDICATE,
        "predicate": {
            "serialization": serialization,
            "resources": [{"algorithm": "sha256", "digest": digest.hexdigest(), "name": "."}],
        },
    }


def _is_of(statement: dict[str, Any], manifest: bytes) -> bool:
    """Whether a statement says what we would of this manifest, whatever files its maker ignored."""
    ours = _statement(manifest)
    kept = ("_type", "predicateType")
    return (
        all(statement[name] == ours[name] for name in kept)
        and [subject["digest"] for subject in statement["subject"]] == [ours["subject"][0]["digest"]]
        and statement["predicate"]["resources"] == ours["predicate"]["resources"]
    )


def _root(digest: bytes) -> str:
    """The specification's hash of a model of one file: that of the file's hash."""
    return hashlib.sha256(digest).hexdigest()


def _envelope(payload: bytes) -> bytes:
    """The bytes that are signed (DSSE's pre-authentication encoding)."""
    return b"DSSEv1 %d %s %d %s" % (len(PAYLOAD), PAYLOAD.encode(), len(payload), payload)


def _algorithm(key: EllipticCurvePublicKey) -> Any:
    from cryptography.hazmat.primitives import hashes
    from cryptography.hazmat.primitives.asymmetric import ec

    return ec.ECDSA({256: hashes.SHA256(), 384: hashes.SHA384(), 521: hashes.SHA512()}[key.curve.key_size])
