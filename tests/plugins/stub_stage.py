"""``python -m stub_stage --do SCENE``: each scene is one way in which a stage can behave."""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TextIO

DEAF = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); time.sleep(60)"


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--do", default="succeed")
    parser.add_argument("--ended-to", type=Path)
    parser.add_argument("--file", type=Path)
    known, rest = parser.parse_known_args()
    globals()[known.do](known, rest)


def say(line: str, stream: TextIO = sys.stdout) -> None:
    stream.write(f"{line}\n")


def succeed(known: argparse.Namespace, rest: list[str]) -> None:
    """Say what was given and where, then leave a URI."""
    hops = json.loads(os.environ.get("MLAPP_HOPS", "[]"))
    say(json.dumps({"arguments": rest, "cwd": os.getcwd(), "hops": hops}))
    known.ended_to.write_text(json.dumps({"exit_code": 0, "uri": "memory://somewhere/result.json"}))


def refuse(known: argparse.Namespace, rest: list[str]) -> None:
    """Refuse the input, with noise after the one line."""
    say("stub_stage: error: labels out of range: give labels of 0 to 9", sys.stderr)
    say("a library says goodbye")
    sys.exit(2)


def crash(known: argparse.Namespace, rest: list[str]) -> None:
    raise ValueError("a bug")


def silent(known: argparse.Namespace, rest: list[str]) -> None:
    """Exit well, but hand on nothing."""


def vanish(known: argparse.Namespace, rest: list[str]) -> None:
    """End as on a machine without memory left, in the middle of work on a temporary file."""
    tempfile.mkdtemp()
    os.kill(os.getpid(), signal.SIGKILL)


def converse(known: argparse.Namespace, rest: list[str]) -> None:
    """Go on only once somebody has heard the first line."""
    say("first")
    for _ in range(100):
        if known.file.exists():
            say("second")
            return succeed(known, rest)
        time.sleep(0.1)
    sys.exit(1)


def checkpoint(known: argparse.Namespace, rest: list[str]) -> None:
    """Work until SIGTERM; then save, and exit 143."""

    def save(signum: int, frame: object) -> None:
        with known.file.open("a") as stream:
            stream.write("saved\n")
        sys.exit(143)

    signal.signal(signal.SIGTERM, save)
    say(f"pid {os.getpid()}")
    time.sleep(60)


def family(known: argparse.Namespace, rest: list[str]) -> None:
    """Work with a child that ignores SIGTERM, as this does."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    child = _deaf_child()
    say(f"pid {child.pid}")
    child.wait()


def orphan(known: argparse.Namespace, rest: list[str]) -> None:
    """End well, but leave a child that holds on to the output."""
    say(f"pid {_deaf_child().pid}")
    succeed(known, rest)


def _deaf_child() -> subprocess.Popen[bytes]:
    child = subprocess.Popen([sys.executable, "-c", DEAF], stdout=subprocess.PIPE)
    assert child.stdout
    child.stdout.readline()
    return child


if __name__ == "__main__":
    main()
