"""A process beside the stage, that may fail or hang without the stage noticing more than a line in its log."""

from __future__ import annotations

import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

from mlapp.child_environment import for_tracker
from mlapp.death_signal import tied

log = logging.getLogger("mlapp")
NICE = 10


class SideProcess:
    """``python -m module``, started ``after_s`` seconds from now unless `finish` comes first.

    What it prints becomes warnings of the stage, a line each; its stderr goes to the file ``log``. It runs in a session
    of its own, at a lower priority unless the stage already waits for it, and dies with the stage, however that ends.
    """

    def __init__(self, module: str, arguments: Sequence[str], *, log: Path, after_s: float) -> None:
        self._command = [sys.executable, "-m", module, *arguments]
        self._log = log
        self._name = module.rpartition(".")[2]
        self._environ, self._files = for_tracker()  # as it is now: a search changes the stage's own for a while
        self._after_s = after_s
        self._process: subprocess.Popen[str] | None = None
        self._lock = threading.Lock()
        self._due, self._cancelled = threading.Event(), False
        # The thread that starts the process also waits for its end: the kernel ties a process to a thread.
        self._thread = threading.Thread(target=self._run, name=self._name, daemon=True)
        self._thread.start()

    def finish(self, patience_s: float, *, start: bool) -> bool:
        """Wait at most ``patience_s`` for the end; False if it did not come, and the process had to be killed.

        One that is not started yet is started only if ``start``.
        """
        with self._lock:
            self._cancelled = self._process is None and not start
        self._due.set()
        if self._cancelled:
            return True
        self._thread.join(patience_s)
        return not self._killed()

    def _killed(self) -> bool:
        with self._lock:
            self._cancelled = True
            if self._process is None:
                return True  # it never came to be
            if self._process.poll() is not None:
                return False
            os.killpg(self._process.pid, signal.SIGKILL)
            return True

    def _run(self) -> None:
        awaited = self._due.wait(self._after_s)
        try:
            with self._log.open("a", encoding="utf-8") as errors, self._lock:
                if self._cancelled:
                    return
                self._process = self._start(errors.fileno(), nice=0 if awaited else NICE)
            for line in self._process.stdout or ():
                log.warning("%s", line.rstrip())
            code = self._process.wait()
        except OSError as error:
            log.warning("%s could not be started (%s): the stage goes on without it", self._name, error)
            return
        if code and not self._cancelled:
            log.warning("%s ended with %s, see %s: the stage goes on without it", self._name, _told(code), self._log)

    def _start(self, errors: int, nice: int) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [*tied(signal.SIGKILL, nice=nice), *self._command],
            env=self._environ,
            pass_fds=self._files,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            encoding="utf-8",
            errors="replace",
            start_new_session=True,
        )


def _told(code: int) -> str:
    return signal.Signals(-code).name if code < 0 else f"exit code {code}"
