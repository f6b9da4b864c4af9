"""Let many processes promote at once, and one move the champion in bad weather; count what is lost or done twice."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import uuid
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from loopback import chaos
from registry import shelf

from mlapp.registry import integrity
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


# Promotes a new bundle, or rolls back, as a run of Airflow does, signed, and says what came of it.
MOVER = """
import sys
sys.path[:0] = ["tests"]
from registry import shelf
from mlapp import storage
from mlapp.errors import OneLineError
from mlapp.registry import moves
from mlapp.registry.bundle import verify
from mlapp.registry.pointer import Pointer
from mlapp.schema import Signing
registry, number, private, public = sys.argv[1:]
keys = Signing(private_key=private, public_key=public)
try:
    with storage.explained():
        if int(number) % 3 == 2:
            moves.rollback(registry, shelf.NAME, why=f"move {number}", request=number, keys=keys)
        else:
            pointer = Pointer(registry, shelf.NAME)
            present, told = pointer.settle(keys), pointer.history()
            if not told or told[-1].get("request") != number:
                place = shelf.file_bundle(registry, number, keys)
                entry = moves.entry("Ada", f"move {number}", place, verify(place, keys)) | {"request": number}
                pointer.swap(present, place.name, entry, keys)
    print("done")
except OneLineError as error:
    print(f"failed: {error}")
"""
WEATHER = {"503": 0.04, "500": 0.02, "502": 0.02, "429": 0.02, "reset_before": 0.04, "reset_after": 0.06}


def in_bad_weather(folder: Path, upstream: str, moves: int, seed: int, kills: float = 0.3) -> Sequence[str]:
    """Signed promotions and rollbacks in a bucket behind a proxy of 5xx and lost answers; some are killed and repeated.

    ``upstream`` is the address of a Cloud Storage. Returns what was wrong afterwards; empty where nothing was: a move
    that was reported as done is in the history once, one that was reported as failed is not, all is whole.
    """
    draw, registry, keys = random.Random(seed), f"gs://models/{uuid.uuid4().hex}", shelf.pair(folder, f"storm-{seed}")
    wrong, reported = [], dict[str, str]()
    with chaos.http_proxy(upstream, seed, WEATHER) as proxy:
        environ = {**os.environ, "STORAGE_EMULATOR_HOST": proxy.url}
        for number in range(moves):
            line = [sys.executable, "-Wignore", "-c", MOVER, registry, str(number), *_files(keys)]
            while draw.random() < kills:
                _killed(line, environ, draw.uniform(0.5, 3))
            done = subprocess.run(line, cwd=ROOT, env=environ, capture_output=True, text=True, check=False, timeout=300)
            reported[str(number)] = done.stdout.strip() or f"no report: {done.stderr.strip()[-300:]}"
        if not sum(proxy.weather.done.values()):
            wrong.append("the weather was fine, so nothing was tried")
    told = Counter(move.get("request") for move in Pointer(registry, shelf.NAME).history())
    for number, said in reported.items():
        expected = {"done": 1}.get(said, 0)
        if said.startswith("no report") or told[number] != expected:
            wrong.append(f"move {number} ({said}) is in the history {told[number]} times")
    return [*wrong, *integrity.damage(registry, shelf.NAME, keys)]


def _files(keys: shelf.Signing) -> tuple[str, str]:
    return str(keys.private_key), str(keys.public_key)


def _killed(line: Sequence[str], environ: dict[str, str], seconds: float) -> None:
    """Start a process and kill it after so many seconds, if it is still at work."""
    with subprocess.Popen(line, cwd=ROOT, env=environ, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.kill()
