"""Try a LiteRT file in a process of its own, with bounds on memory and time: hostile ones can crash the interpreter.

LiteRT verifies a file's tables, but not all that its operations do with them. What it is tried with here, a batch of
one image and one of two, takes about 0.2 s; a file is tried once in each process.
"""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path
from typing import Any

MEMORY, CPU_S, WALL_S = 8 << 30, 60, 300
LONGEST = 200

_tried: set[tuple[str, int, int, int]] = set()


def trouble(model: Path) -> str | None:
    """What is wrong with a LiteRT file, in a few words; None if it can be run."""
    found = model.stat()
    state = (str(model), found.st_ino, found.st_size, found.st_mtime_ns)
    if state in _tried:
        return None
    command = [sys.executable, "-I", __file__, str(model)]
    try:
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, timeout=WALL_S, check=False, errors="replace"
        )
    except subprocess.TimeoutExpired:
        return f"it runs for more than {WALL_S} s"
    if done.returncode < 0:
        return f"it crashes the interpreter, signal {-done.returncode}"
    if done.returncode:
        return " ".join(done.stdout.split())[:LONGEST] or f"exit code {done.returncode}"
    _tried.add(state)
    return None


def own(model: Path) -> None:
    """Take a file for sound that this process has just made itself."""
    found = model.stat()
    _tried.add((str(model), found.st_ino, found.st_size, found.st_mtime_ns))


def _try(model: str) -> None:
    from ai_edge_litert.interpreter import Interpreter

    interpreter: Any = Interpreter(model_path=model, num_threads=1)
    interpreter.allocate_tensors()
    [entry], [leave] = interpreter.get_input_details(), interpreter.get_output_details()
    for batch in (1, 2) if entry["shape_signature"][0] == -1 else (1,):
        interpreter.resize_tensor_input(entry["index"], (batch, *entry["shape"][1:]))
        interpreter.allocate_tensors()
        interpreter.invoke()
        answer = interpreter.get_tensor(leave["index"])
        if len(answer.shape) != 2 or len(answer) != batch:
            raise ValueError(f"it answers {batch} images by {answer.shape}")


def _bound(kind: int, most: int) -> None:
    """Allow this process no more than ``most`` of a resource, or than it is allowed already."""
    _, hard = resource.getrlimit(kind)
    least = most if hard == resource.RLIM_INFINITY else min(most, hard)
    resource.setrlimit(kind, (least, least))


if __name__ == "__main__":
    _bound(resource.RLIMIT_AS, MEMORY)
    _bound(resource.RLIMIT_CPU, CPU_S)
    _bound(resource.RLIMIT_CORE, 0)
    try:
        _try(sys.argv[1])
    except Exception as error:
        sys.stdout.write(f"{type(error).__name__}: {error}")
        sys.exit(2)
