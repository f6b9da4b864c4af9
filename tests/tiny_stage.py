"""The least stage that has all that a stage can have; also run for real, as ``python -m tests.tiny_stage``."""

from __future__ import annotations

import errno
import sys
import time
from pathlib import Path
from typing import Literal

from pydantic import Field

from mlapp.errors import UserError
from mlapp.result import Metric, Outcome, ResultUri, ResultUris, StageResult
from mlapp.schema import Export
from mlapp.section import Section
from mlapp.stage import stage

CALLS: list[str] = []


class Tiny(Section):
    """What to write."""

    text: str = Field("hello", description="what to write")
    do: Literal["write", "refuse", "crash", "fill the disk", "wait"] = Field("write", description="how to go about it")
    earlier: ResultUri | None = Field(None, description="a result to add to")
    others: ResultUris = Field((), description="more of them")
    export: Export = Export()


@stage("tiny", area="models")
def run(config: Tiny, workdir: Path) -> Outcome:
    """Write a text to a file."""
    CALLS.append(config.text)
    (workdir / "draft.txt").write_text("half of it")
    if config.do == "refuse":
        raise UserError("the text is too short: give a longer one")
    if config.do == "crash":
        raise ValueError("a bug")
    if config.do == "fill the disk":
        raise OSError(errno.ENOSPC, "No space left on device", str(workdir / "text.txt"))
    if config.do == "wait":
        sys.stdout.write("waiting\n")
        sys.stdout.flush()
        time.sleep(3)
    before = StageResult.load(config.earlier).local("text").read_text() if config.earlier else ""
    (workdir / "text.txt").write_text(before + config.text)
    length = Metric(value=len(config.text), n=1, unit="letters")
    return Outcome(artifacts={"text": workdir / "text.txt"}, metrics={"length": length}, headline=config.text)


if __name__ == "__main__":
    run.main()
