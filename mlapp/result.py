"""What a stage leaves behind: `result.json`, the only thing that passes from one stage to the next."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError
from upath import UPath

from mlapp import plain, reference, storage
from mlapp.errors import UserError
from mlapp.storage import Written

RESULT = "result.json"
T = TypeVar("T")


class Input:
    """Marks a stage config's field that holds the reference of an earlier result (or of a bundle's manifest).

    The stage's key takes the digest of what it points to, not the reference itself.
    """


ResultUri = Annotated[str, Input()]
ResultUris = Annotated[tuple[str, ...], Input()]


class Record(BaseModel):
    """A frozen piece of a result."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Artifact(Record):
    """A file that a stage wrote. ``uri`` is relative to the result's own folder, or absolute outside it."""

    uri: str
    sha256: str
    bytes: int = Field(ge=0)


class Metric(Record):
    """A measured figure, with the number of observations behind it and its 95 % interval where there is one."""

    value: float
    n: int | None = None
    low: float | None = None
    high: float | None = None
    unit: str = ""


Timings = dict[str, Annotated[float, Field(ge=0, le=1e12)]]


class Hop(Record):
    """A place that was tried for a stage, and what came of it: ``ran``, or why the next one was tried."""

    place: str
    outcome: str


class Outcome(BaseModel):
    """What a stage's body hands back: files it wrote (under its work directory, or anywhere by URI) and figures.

    One that was hashed as it was written is handed back as `Written`: it is not read again. An earlier stage's file is
    handed on as that stage's own `Artifact`, with the hash that was verified.
    """

    artifacts: dict[str, Path | UPath | str | Written | Artifact] = Field(default_factory=dict)
    metrics: dict[str, Metric] = Field(default_factory=dict)
    headline: str = ""

    model_config = ConfigDict(arbitrary_types_allowed=True)


class StageResult(Record):
    """The content of `result.json`."""

    stage: str
    key: str
    headline: str = ""
    config: dict[str, Any]
    inputs: dict[str, str] = Field(description="input reference by name, as given")
    artifacts: dict[str, Artifact]
    metrics: dict[str, Metric]
    timings: Timings = Field(description="wall_s and cpu_s, of all tries that the work took, and peak_rss_mb")
    environment: dict[str, str]
    hops: list[Hop] = Field(
        default_factory=list, description="places that were tried, the last is where it ran; empty on a worker"
    )
    finished: str = Field(description="when, ISO 8601 in UTC")
    folder: str = Field("", exclude=True, description="URI of the folder that the result was read from")
    sha256: str | None = Field(None, exclude=True, description="SHA-256 of the result.json that it was read from")

    @classmethod
    def load(cls, uri: str) -> StageResult:
        """Read a result by the reference or the URI of its `result.json` (or of the folder that holds it).

        A `UserError` if a reference names another content. The result's files are verified when they are opened.
        """
        path = storage.at(uri)
        path = path if path.name.endswith(".json") else path / RESULT
        if found := cls.find(path, reference.parse(uri).sha256):
            return found
        raise storage.missing(path, f"no result at {path}: run the stage that makes it first")

    @classmethod
    def load_verified(cls, uri: str) -> StageResult:
        """The result, once every one of its files was verified; a `UserError` names the first that is not whole."""
        result = cls.load(uri)
        if damage := result.damage():
            raise UserError(
                f"the {result.stage} result cannot be trusted, {damage}: run the {result.stage} stage again"
            )
        return result

    @classmethod
    def find(cls, path: UPath, sha256: str | None = None) -> StageResult | None:
        """The result in this `result.json`, if there is one; a `UserError` if it has another SHA-256 than is given."""
        try:
            text, found = storage.read_referenced(str(reference.Reference(str(path), sha256)))
            return cls.model_validate({**plain.from_json(text), "folder": str(path.parent), "sha256": found})
        except FileNotFoundError:
            return None
        except (ValueError, ValidationError, TypeError) as error:
            raise UserError(f"{path} is not a stage result: delete its folder and run that stage again") from error

    @property
    def uri(self) -> str:
        """The URI of this result's own `result.json`."""
        return str(storage.at(self.folder) / RESULT)

    @property
    def reference(self) -> str:
        """What is handed on to later stages: the URI of this result's `result.json`, and its SHA-256."""
        return str(reference.Reference(self.uri, self.sha256))

    def artifact(self, name: str) -> UPath:
        """Where the artifact of this name lies, unverified; a `UserError` names the missing one."""
        if name not in self.artifacts:
            raise UserError(
                f"{self.uri} ({self.stage}) has no artifact {name!r}: give the result of the stage that makes it"
            )
        return self._locate(self.artifacts[name])

    def local(self, name: str) -> Path:
        """A local path of the artifact, fetched where it is remote; verified before anything opens it."""
        return storage.fetch(self.artifact(name), self.artifacts[name].sha256)

    def content(self, name: str, kind: type[T]) -> T:
        """A JSON artifact as a value of this type; a `UserError` if it is of another form."""
        path = self.local(name)
        if path.stat().st_size > storage.LARGEST_TEXT:
            raise UserError(f"{path} is larger than {storage.LARGEST_TEXT:,} bytes: run the {self.stage} stage again")
        try:
            return TypeAdapter(kind).validate_python(plain.from_json(path.read_text(encoding="utf-8")))
        except ValueError as error:
            raise UserError(f"{path} is not a {name} of this version: run the {self.stage} stage again") from error

    def handed_on(self, name: str) -> Artifact:
        """The artifact as a later stage's own: the same file, by the hash that this result has of it."""
        place = self.artifact(name)
        return self.artifacts[name].model_copy(update={"uri": str(place)})

    def digest(self) -> str:
        """Hash of what this result stands for, whenever and wherever it was computed."""
        content = {name: artifact.sha256 for name, artifact in self.artifacts.items()}
        return hashlib.sha256(json.dumps([self.stage, self.key, content], sort_keys=True).encode()).hexdigest()

    def damage(self) -> str | None:
        """What is wrong with the artifacts on disk (the first missing or altered file); None when all are whole."""
        for name, artifact in self.artifacts.items():
            path = self._locate(artifact)
            match storage.damage(path, artifact.bytes, artifact.sha256):
                case "missing":
                    return f"{name} is missing ({path})"
                case "altered":
                    return f"{name} was altered ({path})"
        return None

    def _locate(self, artifact: Artifact) -> UPath:
        absolute = "://" in artifact.uri or artifact.uri.startswith("/")
        return storage.at(artifact.uri) if absolute else storage.at(self.folder) / artifact.uri


def input_digest(uri: str) -> str:
    """The digest an input enters a stage's key with: a result's own, or the hash of any other file."""
    path = storage.at(uri)
    if path.name == RESULT or not path.suffix:
        return StageResult.load(uri).digest()
    try:
        found = storage.sha256(path)
    except FileNotFoundError as error:
        raise storage.missing(path, f"no input at {path}: give the URI of an existing file") from error
    if (reference.parse(uri).sha256 or found) != found:
        raise UserError(f"{path} is not the file that was handed over, its SHA-256 differs: give the present one")
    return found
