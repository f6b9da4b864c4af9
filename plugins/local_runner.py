"""Run a stage as a subprocess of the worker: its lines stream into the log, and whatever happens no process is left."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from stage_runner import Ended

POLL_S = 0.1
NOTHING: Mapping[str, str] = {}


class LocalRunner:
    """Runs one stage at a time in a process group of its own.

    ``grace_s`` is the time between SIGTERM and SIGKILL. Airflow's supervisor kills the worker 5 s after it asked it to
    end a task, so the stage must be gone before that.
    """

    def __init__(self, say: Callable[[str], object], grace_s: float = 4.0) -> None:
        self.say = say
        self.grace_s = grace_s
        self._process: subprocess.Popen[str] | None = None
        self._deadline: float | None = None
        self._last = self._error = ""

    def run(self, module: str, arguments: Sequence[str], environ: Mapping[str, str] = NOTHING) -> Ended:
        """Run the stage in the project's root and wait for it, with how it ended read from ``--ended-to``."""
        # Not above: this module finds the package without importing it.
        from mlapp.child_environment import handed_to_tracker, of_stage
        from mlapp.death_signal import tied

        root = project_root()
        paths = [str(root), *filter(None, [os.environ.get("PYTHONPATH")])]
        with (
            tempfile.TemporaryDirectory(prefix="mlapp-stage-", ignore_cleanup_errors=True) as scratch,
            handed_to_tracker() as (tracker, files),
        ):
            answer = Path(scratch, "ended.json")
            process = self._process = subprocess.Popen(
                [*tied(signal.SIGTERM), sys.executable, "-m", module, *arguments, f"--ended-to={answer}"],
                cwd=root,
                env={
                    **of_stage(module),
                    **environ,
                    **tracker,
                    "PYTHONPATH": os.pathsep.join(paths),
                    "PYTHONUNBUFFERED": "1",
                    "TMPDIR": scratch,  # of a stage that is killed nothing stays
                },
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                encoding="utf-8",
                errors="replace",
                start_new_session=True,
                pass_fds=files,
            )
            reader = threading.Thread(target=self._tell, args=(process,), daemon=True)
            reader.start()
            try:
                self._wait(process)
            finally:
                self._end(process)
                reader.join(timeout=1)
            told = json.loads(answer.read_text(encoding="utf-8")) if answer.exists() else {}
        reason = told.get("reason") or self._error or self._last
        return Ended(process.returncode, told.get("uri", ""), reason)

    def kill(self) -> None:
        """SIGTERM to the stage's whole process group, once; `run` follows with SIGKILL after the grace."""
        if self._process and self._process.poll() is None and self._deadline is None:
            self._deadline = time.monotonic() + self.grace_s
            _signal_group(self._process, signal.SIGTERM)

    def _tell(self, process: subprocess.Popen[str]) -> None:
        for line in process.stdout or ():
            text = line.rstrip()
            if text:
                self._last = text
                self._error = text if ": error: " in text else self._error
                self.say(text)

    def _wait(self, process: subprocess.Popen[str]) -> None:
        while process.poll() is None and (self._deadline is None or time.monotonic() < self._deadline):
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(POLL_S)

    def _end(self, process: subprocess.Popen[str]) -> None:
        try:
            self.kill()
            self._wait(process)
        finally:
            _signal_group(process, signal.SIGKILL)
            process.wait()


def project_root() -> Path:
    """The folder that holds the mlapp package, found without importing it."""
    spec = importlib.util.find_spec("mlapp")
    if spec is None or not spec.submodule_search_locations:
        raise RuntimeError("the mlapp package is not on the path: set PYTHONPATH to the folder that holds it")
    return Path(next(iter(spec.submodule_search_locations))).absolute().parent


def _signal_group(process: subprocess.Popen[str], number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, number)
