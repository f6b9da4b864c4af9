"""Weights & Biases, as a stage sees it: lines appended to a file, which a side process makes W&B runs of.

W&B lives outside the training process, so that neither its imports nor a server that hangs can fail, delay or slow a
stage. The file, the *spool*, is the truth: what one side process did not get to, the next one does.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
import tempfile
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from upath import UPath

from mlapp import storage
from mlapp.result import Artifact, StageResult
from mlapp.schema import Tracking
from mlapp.trackers.side_process import SideProcess
from mlapp.tracking import Tracker, was_stopped

log = logging.getLogger("mlapp")
SPOOL = Path("wandb", "spool")
WRITER = "mlapp.trackers.wandb_writer"
START_AFTER_S = 3.0
LAST_WAITS = 3  # times as long: nothing comes after it, and what others left is written too


class WeightsAndBiases(Tracker):
    """One W&B run a stage, and one a trial of a search, in files under ``folder``.

    The side process is started once a stage has lasted some seconds. A stage that is over sooner leaves its spool to
    the next side process of the same folder, unless it trained something or is the ``last`` stage of a run: that starts
    one at its end.
    What belongs into a remote folder is made in a local one first; then the side process copies it.
    """

    def __init__(self, folder: UPath, settings: Tracking, *, last: bool) -> None:
        remote = not storage.is_local(folder)
        self.settings = settings
        self._worth_waiting = last or remote
        self._patience_s = settings.patience_s * (LAST_WAITS if last else 1)
        self._scratch = tempfile.TemporaryDirectory(prefix="mlapp-wandb-") if remote else None
        self._copy_to = [f"--copy-to={folder / 'wandb'}"] if remote else []
        self.folder = Path(self._scratch.name if self._scratch else folder.path)
        self._spool = self.folder
        self._writer: SideProcess | None = None

    def began(self, stage: str, key: str, config: Mapping[str, Any]) -> None:
        """Open the spool; that of an attempt which broke off is gone on with, as the same W&B run."""
        run = run_id(stage, key, self.settings.group)
        self._spool = self.folder / SPOOL / f"{run}.jsonl"
        self._spool.parent.mkdir(parents=True, exist_ok=True)
        if last_event(self._spool) == "ended":
            self._spool.unlink()
        elif self._spool.exists() and not self._spool.read_bytes().endswith(b"\n"):
            with self._spool.open("a", encoding="utf-8") as stream:
                stream.write("\n")  # the last line was cut off with its stage
        settings = self.settings.model_dump(mode="json")
        self._append("began", id=run, stage=stage, key=key, config=config, settings=settings, at=_now())
        arguments = [str(self.folder), f"--run={run}", *self._copy_to]
        self._writer = SideProcess(WRITER, arguments, log=self.folder / "wandb" / "writer.log", after_s=START_AFTER_S)

    def epoch(self, number: int, figures: Mapping[str, float]) -> None:
        """One line."""
        self._worth_waiting = True
        self._append("epoch", number=number, figures=figures)

    def trial(
        self, name: str, parameters: Mapping[str, Any], history: Sequence[Mapping[str, float]], stopped_early: bool
    ) -> None:
        """One line."""
        self._worth_waiting = True
        self._append("trial", name=name, parameters=parameters, history=history, stopped_early=stopped_early)

    def ended(self, result: StageResult) -> None:
        """Tell the result, then give the side process a little time."""
        self._append(
            "ended",
            headline=result.headline,
            metrics={name: metric.model_dump() for name, metric in result.metrics.items()},
            timings=result.timings,
            artifacts=[_described(name, artifact, result) for name, artifact in result.artifacts.items()],
        )
        self._finish(self._patience_s, start=self._worth_waiting)

    def failed(self, reason: str) -> None:
        """Tell why; anyone who stopped the stage is not made to wait."""
        self._append("failed", reason=reason)
        self._finish(0.0 if was_stopped(reason) else self._patience_s, start=False)

    def _finish(self, patience_s: float, *, start: bool) -> None:
        finished = self._writer is None or self._writer.finish(patience_s, start=start)
        if not finished and patience_s:
            log.warning(
                "W&B took longer than %g s: the rest waits in %s (python -m %s %s writes it)",
                *(patience_s, self._spool, WRITER, self.folder),
            )

    def _append(self, event: str, **content: Any) -> None:
        line = json.dumps({"event": event, **content}, default=str)
        with self._spool.open("a", encoding="utf-8") as stream:
            stream.write(line + "\n")


def run_id(stage: str, key: str, group: str | None) -> str:
    """Id of a stage's W&B run: the same for each attempt at the same work within one group."""
    return f"{stage}-{hashlib.sha256(f'{group}/{key}'.encode()).hexdigest()[:12]}"


def last_event(spool: Path) -> str | None:
    """The kind of the last whole line of a spool, if there is one."""
    if not spool.exists():
        return None
    whole = [line for line in spool.read_bytes().splitlines(keepends=True) if line.endswith(b"\n")]
    kind = re.match(rb'\{"event": "(\w+)"', whole[-1]) if whole else None
    return kind[1].decode() if kind else None


def _described(name: str, artifact: Artifact, result: StageResult) -> dict[str, Any]:
    """An artifact with its address; ``own`` unless it is another stage's, handed on."""
    own = not artifact.uri.startswith("/") and "://" not in artifact.uri
    return {
        "name": name,
        "uri": str(result.artifact(name)),
        "bytes": artifact.bytes,
        "sha256": artifact.sha256,
        "own": own,
    }


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
