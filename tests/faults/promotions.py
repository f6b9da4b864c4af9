"""Let many processes promote at once, and count what is lost: more than one winner, or a line of the history."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from mlapp.registry.pointer import Pointer
from tests.faults.steps import ROOT

NAME = "m"
# Waits for the starting shot, then moves the pointer once from where it stood ("once"), or until it succeeds.
RACER = """
import sys
from mlapp.errors import UserError
from mlapp.registry.pointer import Pointer
registry, new, mode = sys.argv[1:]
pointer = Pointer(registry, "m")
present, told = pointer.read(), ""
print("ready", flush=True)
sys.stdin.readline()
while not told:
    try:
        pointer.swap(present if mode == "once" else pointer.read(), new, {"by": new})
        told = "won"
    except UserError as error:
        if mode == "once": told = error
print(told)
"""


@dataclass(frozen=True)
class Race:
    """How many promoted at once, and what was wrong afterwards."""

    tried: int
    lost: int


def race(registry: str, racers: int, mode: str, first: int = 0) -> Race:
    """Start ``racers`` processes at one moment; ``once``: one must win, ``retry``: all, and the history tell them."""
    pointer = Pointer(registry, NAME)
    before = len(pointer.history())
    ids = [f"{first + number:012x}" for number in range(racers)]
    won = [each for each, said in zip(ids, raced(registry, ids, mode), strict=True) if said == "won"]
    moves = pointer.history()[before:]
    told = [move["champion"] for move in moves]
    chained = all(earlier["champion"] == later["before"] for earlier, later in pairwise(moves))
    expected = 1 if mode == "once" else racers
    good = len(won) == expected and sorted(told) == sorted(won) and chained and pointer.read() == told[-1]
    return Race(racers, 0 if good else max(1, abs(expected - len(told))))


def raced(registry: str, ids: Sequence[str], mode: str) -> list[str]:
    """Have a process for each of these bundles promote it, all at one moment; ``won``, or the error, of each."""
    started = [
        subprocess.Popen(
            [sys.executable, "-Wignore", "-c", RACER, registry, each, mode],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for each in ids
    ]
    for process in started:
        assert process.stdout
        assert process.stdout.readline() == "ready\n"
    for process in started:
        assert process.stdin
        process.stdin.write("go\n")
        process.stdin.flush()
    return [process.communicate(timeout=300)[0].strip() for process in started]
