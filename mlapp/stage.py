"""The stage contract: one way to run any piece of work, from the command line, the DAG or a container.

A stage is a function ``body(config, workdir) -> Outcome`` under the `stage` decorator, which makes it
``run(config, workdir) -> StageResult``: it skips what is already done, measures, hashes and writes `result.json` last.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import logging
import os
import platform
import resource
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any, Generic, TypeVar, get_args, get_type_hints

from mlapp import cluster, ledger, storage, tracking, workspaces
from mlapp.code_version import code_version
from mlapp.errors import Dismissed, UserError
from mlapp.result import RESULT, Artifact, Hop, Input, Outcome, StageResult, input_digest
from mlapp.section import Section
from mlapp.storage import Written
from mlapp.workspaces import Workspace

C = TypeVar("C", bound=Section)
log = logging.getLogger("mlapp")
# Where anyone who placed the stage tells it how it came there: a JSON list of hops.
HOPS = "MLAPP_HOPS"
IMAGE = "MLAPP_IMAGE"  # and the image, by its digest
LOCK = Path(__file__).parents[1] / "requirements-training.txt"


@dataclass(frozen=True)
class Stage(Generic[C]):
    """A named piece of work with a typed config; calling it runs it, or takes up a valid earlier result."""

    name: str
    config: type[C]
    section: str | None
    area: str
    body: Callable[[C, Path], Outcome]
    cached: bool = True
    resolve: Callable[[C], C] | None = None
    each: tuple[str, str] | None = None

    def __call__(self, config: C, workdir: str | os.PathLike[str], force: bool = False) -> StageResult:
        """Run in ``workdir`` and return the result; a valid result of the same key is returned as it stands."""
        return self.run_resolved(self.resolved(config), workdir, force)

    def run_resolved(self, config: C, workdir: str | os.PathLike[str], force: bool = False) -> StageResult:
        """The same for a config that is `resolved`: asking the world for it costs, where that is a server, seconds."""
        folder = storage.at(workdir)
        crew = cluster.read() if "devices" in self.config.model_fields else None
        key = self.key(config)
        with storage.explained():
            if crew and not crew.is_chief:
                return self._assist(config, workdir, key, force)
            with workspaces.workspace(folder, resumes=self.area == "models") as place, _lock(place.local):
                done = None if force or not self.cached else self.done(config, workdir, key)
                if done is not None:
                    log.info("%s: nothing to do, valid result of %s at %s", self.name, done.finished, done.uri)
                    tracking.reused(done)
                    return done
                return self._compute(config, key, place, force)

    @property
    def module(self) -> str:
        """Dotted name of the module that defines the stage, also when it was started with ``python -m``."""
        name = self.body.__module__
        spec = sys.modules["__main__"].__spec__
        return spec.name if name == "__main__" and spec else name

    def resolved(self, config: C) -> C:
        """The config with what the world decides filled in (the present champion); the same again if it already is."""
        return self.resolve(config) if self.resolve else config

    def key(self, config: C) -> str:
        """Hash of what the result depends on: this stage's code, its settings, and the content of its inputs."""
        beside = {name for name in self.config.model_fields if hasattr(getattr(config, name), "beside_the_result")}
        settings = config.model_dump(mode="json", exclude={*self.inputs, *beside})
        given = {name: [input_digest(uri) for uri in uris] for name, uris in _input_uris(config, self.inputs).items()}
        parts = {"stage": self.name, "code": code_version(self.module), "settings": settings, "inputs": given}
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    @property
    def inputs(self) -> list[str]:
        """Names of the config fields that hold URIs of earlier results."""
        fields = self.config.model_fields.items()
        return [name for name, field in fields if _marked((*field.metadata, field.annotation))]

    def done(self, config: C, workdir: str | os.PathLike[str], key: str | None = None) -> StageResult | None:
        """The valid result that already stands in ``workdir``, if any: same key, every artifact whole."""
        try:
            result = StageResult.find(storage.at(workdir) / RESULT)
        except UserError as error:
            log.warning("%s: computing again, %s", self.name, error)
            return None
        if result is None or (result.stage, result.key) != (self.name, key or self.key(config)):
            return None
        if not storage.is_local(storage.at(workdir)) and not ledger.knows(result):
            log.warning("%s: computing again, %s is not known to be the project's own", self.name, result.uri)
            return None
        if damage := result.damage():
            log.warning("%s: computing again, %s", self.name, damage)
            return None
        return result

    def main(self, argv: list[str] | None = None) -> None:
        """The stage's command line."""
        from mlapp.command_line import main

        main(self, sys.argv[1:] if argv is None else argv)

    def _assist(self, config: C, workdir: str | os.PathLike[str], key: str, force: bool) -> StageResult:
        """Work beside the chief, on its file system or another: in a scratch folder, without lock, trackers or result.

        Ends in `Dismissed`, or in the chief's result where that stands already.
        """
        if not force and (done := self.done(config, workdir, key)):
            log.info("%s: nothing to do, valid result of %s at %s", self.name, done.finished, done.uri)
            return done
        with tempfile.TemporaryDirectory(prefix="mlapp-worker-") as scratch:
            self.body(config, Path(scratch))
        raise Dismissed("done, the chief writes the result")

    def _compute(self, config: C, key: str, place: Workspace, force: bool) -> StageResult:
        local, folder = place.local, place.workdir
        storage.remove(folder / RESULT)
        spending = place.resume(key, fresh=force)
        tracking.began(self.name, key, config.model_dump(mode="json"))
        try:
            outcome = self.body(config, local)
        except BaseException as error:
            tracking.failed(f"{type(error).__name__}: {error}")
            raise
        result = StageResult(
            stage=self.name,
            key=key,
            headline=outcome.headline,
            config=config.model_dump(mode="json"),
            inputs={name: " ".join(uris) for name, uris in _input_uris(config, self.inputs).items()},
            artifacts={name: _artifact(file, local, folder) for name, file in outcome.artifacts.items()},
            metrics=outcome.metrics,
            timings={**spending.total(), "peak_rss_mb": round(_peak_rss_mb(), 1)},
            environment=_environment(self.module),
            hops=[Hop(**hop) for hop in json.loads(os.environ.get(HOPS, "[]"))],
            finished=datetime.now(UTC).isoformat(timespec="seconds"),
            folder=str(folder),
        )
        text = result.model_dump_json(indent=2) + "\n"
        result = result.model_copy(update={"sha256": hashlib.sha256(text.encode()).hexdigest()})
        storage.write_text(folder / RESULT, text)
        if place.remote:
            ledger.enter(result)
        place.forget()
        tracking.ended(result)
        return result


def stage(
    name: str,
    *,
    area: str,
    section: str | None = None,
    cached: bool = True,
    resolve: Callable[[Any], Any] | None = None,
    each: tuple[str, str] | None = None,
) -> Callable[[Callable[[C, Path], Outcome]], Stage[C]]:
    """Make a stage of ``body(config, workdir) -> Outcome``.

    ``section`` names the part of the configuration that the stage's config extends, ``area`` the storage area that
    holds its work directories. ``cached=False`` is for a stage whose effect lies outside its files (promotion): it
    is idempotent by itself and never skipped. ``resolve`` fills in config fields that depend on the world, before the
    key is taken. ``each`` names a field of the stage's own and the setting that lists its values: the command line runs
    the stage once for each, unless it is given one.
    """

    def decorate(body: Callable[[C, Path], Outcome]) -> Stage[C]:
        config = get_type_hints(body)["config"]
        return Stage(name, config, section, area, body, cached, resolve, each)

    return decorate


def _marked(parts: Iterable[Any]) -> bool:
    """Whether the mark of an input stands among these, or inside one of them, as in ``ResultUri | None``."""
    return any(isinstance(part, Input) or _marked(get_args(part)) for part in parts)


def _input_uris(config: Section, names: list[str]) -> dict[str, list[str]]:
    values = {name: getattr(config, name) for name in names}
    return {
        name: [value] if isinstance(value, str) else list(value) for name, value in values.items() if value is not None
    }


def _artifact(file: Any, local: Path, folder: Any) -> Artifact:
    if isinstance(file, Artifact):
        return file
    place = storage.at(file.path if isinstance(file, Written) else file)
    inside = storage.is_local(place) and Path(place.path).is_relative_to(local.absolute())
    relative = str(Path(place.path).relative_to(local.absolute())) if inside else str(place)
    size, digest = (place.stat().st_size, file.sha256) if isinstance(file, Written) else storage.described(place)
    if inside and not storage.is_local(folder):
        storage.put(Path(place.path), folder / relative, digest)
    return Artifact(uri=relative, sha256=digest, bytes=size)


@contextmanager
def _lock(local: Path) -> Iterator[None]:
    """One process a work directory: a second one waits, then finds the first one's result."""
    handle = os.open(local / ".lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o666)
    with os.fdopen(handle, "wb") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            log.info("another process works in %s: waiting for it", local)
            fcntl.flock(stream, fcntl.LOCK_EX)
        yield


def _peak_rss_mb() -> float:
    """Peak resident memory of this process; `getrusage` would count the parent's before exec, so Linux is asked."""
    status = Path("/proc/self/status")
    if not status.exists():
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    line = next(line for line in status.read_text(encoding="ascii").splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) / 1024


def _environment(module: str) -> dict[str, str]:
    loaded = {name.replace("_", "-") for name in sys.modules}
    packages = ["numpy", "tensorflow", "tf-keras"]
    versions = {name: metadata.version(name) for name in packages if name in loaded}
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpus": str(os.cpu_count()),
        "code": code_version(module),
        **({"lock": storage.sha256(LOCK)[:12]} if LOCK.exists() else {}),
        **({"image": os.environ[IMAGE]} if IMAGE in os.environ else {}),
        **versions,
    }
