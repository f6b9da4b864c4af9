"""Who signs what this process adds to a registry, and by which keys it judges what is there."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property, partial
from typing import TYPE_CHECKING

from mlapp.errors import UserError
from mlapp.registry import signature
from mlapp.registry.keys import UNSIGNED, Keyring, fingerprint, keyring, private_key
from mlapp.schema import Signing

if TYPE_CHECKING:
    from mlapp.registry.trust import Trust


UNABLE_TO_SIGN = (
    "signing.public_key is set, so each move must be signed: set signing.private_key, a file or a secret's name"
)


class Signer:
    """The section `signing` at work: keys are read once, and only where there are any."""

    def __init__(self, keys: Signing | None) -> None:
        self.settings = keys or UNSIGNED
        self._key = private_key(self.settings)

    @cached_property
    def ring(self) -> Keyring:
        """The keys that are trusted: signing.public_key, or the public half of the key that signs."""
        own = Keyring()
        if self._key and self.fingerprint:
            own[self.fingerprint] = self._key.public_key()
        return keyring(self.settings) or own

    @cached_property
    def fingerprint(self) -> str | None:
        """The fingerprint of the key that signs, if there is one."""
        return fingerprint(self._key.public_key()) if self._key else None

    @property
    def sign(self) -> Callable[[str], str] | None:
        """What makes the signature of a line, if there is a key."""
        return partial(signature.sign_text, key=self._key) if self._key else None

    def sign_manifest(self, manifest: bytes) -> bytes:
        """The content of a bundle's ``manifest.sig``."""
        if not self._key:
            raise UserError(
                "signing.private_key is not set: give MLAPP_SIGNING__PRIVATE_KEY, a file or a secret's name"
            )
        return signature.sign_manifest(manifest, self._key)

    def check(self, trust: Trust) -> None:
        """A `UserError` if what this process writes would not be trusted."""
        if not self.ring:
            return
        if not self._key:
            raise UserError(UNABLE_TO_SIGN)
        if self.fingerprint not in trust.in_force:
            since = trust.retired.get(str(self.fingerprint))
            why = f"is retired since line {since} of the history" if since else "is none of signing.public_key"
            raise UserError(
                f"the key of signing.private_key ({str(self.fingerprint)[:12]}) {why}: set the one in force"
            )
