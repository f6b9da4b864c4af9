"""Kill stages with SIGKILL, at random moments and around their file moves, start them again, compare what they made."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path

from mlapp.result import RESULT
from tests.faults.steps import ROOT, Step, command, outcome, run

CHECKPOINTS = ("state.json", "checkpoints/*/*.json")  # of networks and of trees
# Runs a module, and ends it without a trace around the n-th move of a file.
KILLER = """
import os, runpy, signal, sys
place, when = int(sys.argv.pop(1)), sys.argv.pop(1)
module, replace, calls = sys.argv.pop(1), os.replace, 0
def dying(*paths, **more):
    global calls
    calls += 1
    if calls == place and when == "before": os.kill(os.getpid(), signal.SIGKILL)
    replace(*paths, **more)
    if calls == place: os.kill(os.getpid(), signal.SIGKILL)
os.replace = dying
sys.argv[0] = module
runpy.run_module(module, run_name="__main__", alter_sys=True)
"""


@dataclass(frozen=True)
class Fault:
    """What befell a stage, and what was wrong after it had been started again; empty where nothing was."""

    step: str
    moment: str
    wrong: str


def at_random(
    run_in: Path, folder: Path, source: Path, seconds: dict[str, float], points: int, seed: int, steps: list[Step]
) -> Iterator[Fault]:
    """``points`` kills of each step, at moments drawn evenly from the time that it takes undisturbed.

    Of a step that was done before its moment came, another moment is drawn.
    """
    draw = random.Random(seed)
    for step in steps:
        for number in range(points):
            made, killed = folder / f"{step.name}-{number}", False
            while not killed:
                moment = draw.uniform(0, seconds[step.name])
                killed = _killed([sys.executable, "-m", *command(step, run_in, fresh(made), source)], moment)
            yield Fault(step.name, f"after {moment:.2f} s", after(step, run_in, made, source))
            shutil.rmtree(made)


def _killed(line: list[str], moment: float) -> bool:
    """Start a process and kill it with all its children after so many seconds; whether it was still at work then."""
    process = subprocess.Popen(
        line, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True
    )
    try:
        process.wait(moment)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        return True
    return False


def around_moves(run_in: Path, folder: Path, source: Path, steps: list[Step]) -> Iterator[Fault]:
    """A kill before and one after each file that a step moves to its place."""
    for step in steps:
        for place, when in ((place, when) for place in count(1) for when in ("before", "after")):
            made = fresh(folder / f"{step.name}-{place}-{when}")
            killed = run(command(step, run_in, made, source), "-c", KILLER, str(place), when)
            if killed.returncode == 0:
                break  # it moves no more than that
            assert killed.returncode == -signal.SIGKILL, f"{step.name} was not killed: {killed.stderr[-300:]}"
            yield Fault(step.name, f"{when} file move {place}", after(step, run_in, made, source))
            shutil.rmtree(made)


def after(step: Step, run_in: Path, made: Path, source: Path) -> str:
    """Run a step again; what is other than in the undisturbed run, if anything, or was done twice."""
    place = made / step.name
    done, begun = (place / RESULT).exists(), any(any(place.rglob(name)) for name in CHECKPOINTS)
    again = run(command(step, run_in, made, source))
    if again.returncode:
        return f"exit code {again.returncode}: {again.stderr.strip()[-300:]}"
    told = again.stdout + again.stderr
    if done and step.name != "promote" and "nothing to do" not in told:
        return "it was done, and was done again"
    if begun and not done and "resuming after" not in told:
        return "there was a checkpoint, and it began anew"
    found, expected = outcome(step, made), outcome(step, run_in)
    return ", ".join(
        f"{name}: {found[name]} for {expected[name]}" for name in expected if found[name] != expected[name]
    )


def fresh(folder: Path) -> Path:
    """The folder, empty."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder
