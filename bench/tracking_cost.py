"""What tracking costs a training, in CPU-seconds and wall time.

Trains the same network with tracking off and on, in turns, each in a fresh process, and counts the CPU time of the
stage and of all that it started, W&B's own processes included. Besides the paired difference, which is as noisy as the
machine is busy, it measures the side process alone, by having it write the same spool again.

    python bench/tracking_cost.py --data …/transform/…/result.json --pairs 3 training.epochs=3 training.width=0.5
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

PR_SET_CHILD_SUBREAPER = 36
OFF = ("tracking.wandb=off", "tracking.tensorboard=false")
ON = ("tracking.wandb=offline", "tracking.group=cost", "tracking.patience_s=60")


@dataclass(frozen=True)
class Cost:
    """Wall time and CPU time of a process with all that came of it; ``body_s``: CPU time of the stage's body."""

    wall_s: float
    cpu_s: float
    body_s: float = 0.0


def main() -> None:
    """Measure, then print a line a training and the ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="result of image_etl")
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("overrides", nargs="*", help="settings of the training")
    arguments = parser.parse_intermixed_args()
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1)  # orphans of the side process become ours, and count
    load = os.getloadavg()[0]
    with tempfile.TemporaryDirectory(prefix="tracking-cost-") as scratch:
        off: list[Cost] = []
        on: list[Cost] = []
        side: list[Cost] = []
        for number in range(arguments.pairs):
            order = [(off, OFF), (on, ON)] if number % 2 == 0 else [(on, ON), (off, OFF)]
            for costs, settings in order:
                costs.append(train(Path(scratch), arguments.data, [*arguments.overrides, *settings]))
                side += [write_again(Path(scratch))] if costs is on else []
                name = "with" if costs is on else "without"
                print(f"{name:8} {costs[-1].cpu_s:8.1f} CPU-s {costs[-1].wall_s:8.1f} s wall", flush=True)
    baseline = statistics.mean(cost.cpu_s for cost in off)
    print(f"\nload at the start {load:.1f}, {os.cpu_count()} CPUs, n = {arguments.pairs} pairs")
    print(f"training without tracking  {spread([cost.cpu_s for cost in off])} CPU-s")
    print(f"side process alone         {spread([cost.cpu_s for cost in side])} CPU-s", end="")
    print(f" = {100 * statistics.mean(cost.cpu_s for cost in side) / baseline:.2f} % of the training's")
    for what, unit in (("cpu_s", "CPU-s"), ("body_s", "CPU-s"), ("wall_s", "s")):
        differences = [100 * (getattr(a, what) / getattr(b, what) - 1) for a, b in zip(on, off, strict=True)]
        meaning = {"cpu_s": "all CPU time", "body_s": "the stage's own CPU time", "wall_s": "wall time"}[what]
        print(f"paired difference in {meaning}: {spread(differences)} % ({unit})")


def train(scratch: Path, data: str, overrides: list[str]) -> Cost:
    """One training in a fresh process and folder."""
    shutil.rmtree(scratch / "work", ignore_errors=True)
    shutil.rmtree(scratch / "experiments", ignore_errors=True)
    command = [sys.executable, "-m", "mlapp.dl.dnn_trainer", f"--data={data}", f"--workdir={scratch / 'work'}"]
    cost = run([*command, f"storage.experiments={scratch / 'experiments'}", *overrides])
    timings = json.loads((scratch / "work" / "result.json").read_text(encoding="utf-8"))["timings"]
    return Cost(cost.wall_s, cost.cpu_s, timings["cpu_s"])


def write_again(scratch: Path) -> Cost:
    """What the side process does with the spool of the last tracked training, by itself."""
    kept = scratch / "experiments" / "cost"
    for mark in kept.glob("wandb/spool/*.written"):
        mark.unlink()
    return run([sys.executable, "-m", "mlapp.trackers.wandb_writer", str(kept)])


def run(command: list[str]) -> Cost:
    """Run to the end of the last descendant."""
    before, began = cpu_of_children(), time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    wall = time.perf_counter() - began
    while True:
        try:
            os.wait()
        except ChildProcessError:
            return Cost(wall, cpu_of_children() - before)


def cpu_of_children() -> float:
    """User and system time of all descendants that have ended."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def spread(values: list[float]) -> str:
    """Mean ± standard deviation, with the range where there are few values."""
    deviation = f" ± {statistics.stdev(values):.2f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.2f}{deviation} [{min(values):.2f}, {max(values):.2f}]"


if __name__ == "__main__":
    main()
