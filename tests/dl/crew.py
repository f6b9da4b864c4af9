"""A chief and a worker as two real processes on this machine, joined by TF_CONFIG over loopback."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path


class Crew:
    """Starts ``module`` with the same arguments in both processes; what each says is kept in a file."""

    ROLES = ("chief", "worker")

    def __init__(self, module: str, arguments: list[str], logs: Path) -> None:
        self._command = [sys.executable, "-m", module, *arguments]
        self._logs = logs
        self._processes: list[subprocess.Popen[bytes]] = []

    def start(self, roles: tuple[str, ...] = ROLES, more: dict[str, list[str]] | None = None) -> None:
        """Start these of the two, on ports that are free now, some with ``more`` arguments."""
        sockets = [socket.create_server(("127.0.0.1", 0)) for _ in self.ROLES]
        addresses = [f"127.0.0.1:{each.getsockname()[1]}" for each in sockets]
        for each in sockets:
            each.close()
        cluster = {role: [address] for role, address in zip(self.ROLES, addresses, strict=True)}
        self._processes = []
        for role in roles:
            config = {"cluster": cluster, "task": {"type": role, "index": 0}}
            environment = {**os.environ, "TF_CONFIG": json.dumps(config)}
            with (self._logs / f"{role}.log").open("wb") as log:
                self._processes.append(
                    subprocess.Popen(
                        [*self._command, *(more or {}).get(role, [])],
                        stdout=log,
                        stderr=subprocess.STDOUT,
                        env=environment,
                    )
                )

    def said(self, role: str) -> str:
        """All that one of them has written since it was started."""
        return (self._logs / f"{role}.log").read_text()

    def wait_for(self, text: str, role: str = "chief", seconds: float = 120) -> None:
        """Wait until one of them has written this."""
        end = time.monotonic() + seconds
        while text not in self.said(role):
            assert time.monotonic() < end, self.said(role)
            assert any(process.poll() is None for process in self._processes), self.said(role)
            time.sleep(0.05)

    def signal(self, number: signal.Signals, *roles: str) -> None:
        """Send a signal to these."""
        for role in roles:
            self._processes[self.ROLES.index(role)].send_signal(number)

    def codes(self, seconds: float = 120) -> list[int]:
        """Wait for all to end; their exit codes."""
        try:
            return [process.wait(seconds) for process in self._processes]
        finally:
            self.end()

    def end(self) -> None:
        """Leave no process behind."""
        for process in self._processes:
            process.kill()
            process.wait()
