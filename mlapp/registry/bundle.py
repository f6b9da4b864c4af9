"""Bundles: everything a promoted model needs, in one immutable folder named by the hash of its content."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, ValidationError, model_validator
from upath import UPath

from mlapp import storage
from mlapp.errors import UserError
from mlapp.registry import files, signature
from mlapp.registry.history import BUNDLE_ID
from mlapp.registry.judge import Judge
from mlapp.registry.keys import UNSIGNED
from mlapp.registry.signing import Signer
from mlapp.result import Record
from mlapp.schema import NAME, Signing

MANIFEST = "manifest.json"
FILE = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,99}$"


class File(Record):
    """One file of a bundle."""

    sha256: str
    bytes: int


class Manifest(Record):
    """What a bundle holds and what it came from; none of its names leads out of the bundle's folder."""

    name: str = Field(pattern=NAME)
    files: dict[Annotated[str, Field(pattern=FILE)], File]
    model: str
    predecessor: str | None = Field(pattern=f"^{BUNDLE_ID.pattern}$")
    created: str
    data: dict[str, Any]
    stages: dict[str, dict[str, str]]
    history: str | None = Field(None, description="hash of the last line of the registry's history when it was made")

    @model_validator(mode="after")
    def _serves_one_of_its_files(self) -> Manifest:
        if self.model not in self.files:
            raise ValueError(f"{self.model} is none of its files")
        return self

    @property
    def digest(self) -> str:
        """SHA-256 over all that the manifest says, and so over the content of every file."""
        return hashlib.sha256(self.model_dump_json(exclude_unset=True).encode()).hexdigest()

    @property
    def id(self) -> str:
        """The digest's first twelve digits, which name the bundle's folder; the history holds all of it."""
        return self.digest[:12]

    @property
    def model_sha256(self) -> str:
        """Hash of the model file that is served."""
        return self.files[self.model].sha256

    @classmethod
    def load(cls, path: UPath | Path) -> Manifest:
        """Read a manifest; a `UserError` if it is missing or is none."""
        try:
            return cls.parse(files.read(storage.at(path))[0], path)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise UserError(f"bundle {path.parent} has no manifest: restore the bundle, or remove it") from error

    @classmethod
    def parse(cls, content: bytes, path: UPath | Path) -> Manifest:
        """The manifest that a file with this content holds; a `UserError` if it is none."""
        try:
            return cls.model_validate_json(content)
        except ValidationError as error:
            raise UserError(
                f"{path} is not a bundle's manifest: restore it from a copy, or move the pointer"
            ) from error


def describe(folder: Path, **about: Any) -> Manifest:
    """The manifest of the files in ``folder``."""
    files = {
        path.name: File(sha256=storage.sha256(path), bytes=path.stat().st_size)
        for path in sorted(folder.iterdir())
        if path.name not in (MANIFEST, signature.SIGNATURE)
    }
    return Manifest(files=files, **about)


def install(draft: Path, manifest: Manifest, parent: UPath, keys: Signing = UNSIGNED) -> UPath:
    """Sign a finished draft, where there is a key, and move it to its place at once.

    An identical bundle that stands there already is left as it is. A remote folder cannot be moved to: files are
    uploaded one by one, the manifest last, and a bundle is what has one.
    """
    place = parent / manifest.id
    (draft / MANIFEST).write_text(manifest.model_dump_json(indent=2, exclude_unset=True) + "\n", encoding="utf-8")
    if keys.private_key:
        (draft / signature.SIGNATURE).write_bytes(Signer(keys).sign_manifest((draft / MANIFEST).read_bytes()))
    local = storage.is_local(place)
    files.check_folder(place)
    if (place if local else place / MANIFEST).exists():
        verify(place, keys)
    elif local:
        _flush(draft)
        draft.chmod(0o755)
        try:
            os.replace(draft, place.path)
        except OSError:
            if not (place / MANIFEST).exists():  # else somebody with the same bundle was faster
                raise
            verify(place, keys)
    else:
        last = [name for name in (signature.SIGNATURE, MANIFEST) if (draft / name).exists()]
        for name in (*manifest.files, *last):
            storage.put(draft / name, place / name)
    return place


def _flush(folder: Path) -> None:
    """Have the disk hold every file of a folder before anything names it: a power cut must not empty them."""
    for path in folder.iterdir():
        with path.open("rb") as stream:
            os.fsync(stream.fileno())


def verify(place: UPath, keys: Signing = UNSIGNED, judge: Judge | None = None) -> Manifest:
    """The manifest of a bundle whose every file is as it says; a `UserError` names the one that is not.

    Where ``keys`` name public keys, it must be signed with one of them that is in force. ``judge`` is what they say of
    the bundle's registry, where that is known already.
    """
    manifest = whole(place)
    if keys.public_key:
        (judge or Judge.of(place.parent, keys)).check(place, manifest.digest)
    return manifest


def whole(place: UPath) -> Manifest:
    """The same, without a look at the signature."""
    files.check_folder(place)
    manifest = Manifest.load(place / MANIFEST)
    if manifest.id != place.name:
        raise UserError(f"{place / MANIFEST} was altered: restore the bundle from a copy")
    present = set(files.names(place)) - {MANIFEST, signature.SIGNATURE}
    if odd := sorted(present ^ set(manifest.files)):
        raise UserError(
            f"bundle {place}: {odd[0]} is {'extra' if odd[0] in present else 'missing'}; restore the bundle"
        )
    for name, file in manifest.files.items():
        if files.sha256(place / name, file.bytes) != file.sha256:
            raise UserError(f"bundle {place}: {name} was altered; restore the bundle from a copy")
    return manifest


class Draft:
    """A temporary folder beside the bundles, removed unless it was installed; so are those that a kill left behind.

    Beside remote bundles there is no such place: then it lies in the system's temporary folder.
    """

    def __init__(self, bundles: UPath) -> None:
        self.handle = None
        if not storage.is_local(bundles):
            self.folder = Path(tempfile.mkdtemp(prefix=".draft-"))
            return
        parent = Path(bundles.path)
        with files.locked(bundles):
            for left in parent.glob(".draft-*"):
                if files.kind(left) != files.FOLDER:
                    raise files.odd(left)
                if (handle := _held(left)) is not None:  # nobody works in it any more
                    shutil.rmtree(left)
                    os.close(handle)
            self.folder = Path(tempfile.mkdtemp(prefix=".draft-", dir=parent))
            self.handle = _held(self.folder)

    def __enter__(self) -> Path:
        return self.folder

    def __exit__(self, *_: object) -> None:
        shutil.rmtree(self.folder, ignore_errors=True)
        if self.handle is not None:
            os.close(self.handle)


def _held(folder: Path) -> int | None:
    """A handle of a folder that is locked as long as it is open; None where another process has one."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    if files.try_lock(handle):
        return handle
    os.close(handle)
    return None


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a readable JSON file of a draft."""
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
