"""What the operator's keys say of the bundles of one model."""

from __future__ import annotations

from dataclasses import dataclass

from upath import UPath

from mlapp.errors import UserError
from mlapp.registry import files, signature, trust
from mlapp.registry.keys import Keyring, keyring
from mlapp.registry.state import HISTORY
from mlapp.schema import Signing


@dataclass(frozen=True)
class Judge:
    """The trusted keys, and what the history's signed lines say of them."""

    ring: Keyring
    trust: trust.Trust

    @classmethod
    def of(cls, folder: UPath, keys: Signing) -> Judge:
        """Of the bundles in a model's folder; a bundle that was copied elsewhere has no history beside it."""
        try:
            text = files.read(folder / HISTORY)[0].decode()
        except FileNotFoundError:
            text = ""
        except UnicodeDecodeError as error:
            raise UserError(f"{folder / HISTORY} is not a history of promotions: restore it from a copy") from error
        return cls.by(folder, text, keyring(keys))

    @classmethod
    def by(cls, folder: UPath, text: str, ring: Keyring) -> Judge:
        """The same, where history and keys have been read."""
        return cls(ring, trust.read(text, folder / HISTORY, ring))

    def check(self, place: UPath, digest: str) -> None:
        """A `UserError` unless the bundle at ``place``, of which this is the manifest's digest, may be trusted."""
        _, why = self.look(place, digest)
        if why:
            raise UserError(why)

    def look(self, place: UPath, digest: str) -> tuple[str, str]:
        """How a bundle is signed, in a word or two, and why it may not be trusted, if so."""
        again = f"sign it with `{trust.command(f'sign {place.name}', place.parent)}`, if you trust it"
        try:
            signed = files.read(place / signature.SIGNATURE)[0]
        except FileNotFoundError:
            return "unsigned", f"bundle {place} is not signed: {again}" if self.ring else ""
        except UserError as error:
            return "signature not trusted", str(error)
        if not self.ring:
            return "signature not checked", ""
        try:
            signer = signature.signer_of_manifest(files.read(place / "manifest.json")[0], signed, self.ring)
            self.trust.check_signer(signer, digest)
        except ValueError as error:
            why = f"bundle {place} is not signed by the holder of {self.ring.place} ({error}): {again}"
            return "signature not trusted", why
        return "signed", ""
