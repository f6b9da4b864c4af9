"""What a search of 8 trials costs against one such training alone: wall clock, processor seconds, peak memory.

    python bench/tune_smoke.py --data …/transform/…/result.json [--trials 8] [--preset smoke]

Memory is summed over the whole process tree, every quarter of a second: as RSS, which counts shared pages in every
process that maps them, and as PSS, which shares them out. Processor seconds are of all processes of the tree.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from contextlib import suppress

import psutil

PERIOD_S = 0.25
ALONE = """
import sys, tempfile
from pathlib import Path
from mlapp import config
from mlapp.dataset import Dataset
from mlapp.dl import dnn_trainer
settings = dnn_trainer.run.config(**config.load(sys.argv[1]).training.model_dump(), data=sys.argv[2])
with tempfile.TemporaryDirectory() as folder:
    dnn_trainer.fit(settings, Dataset.open(settings.data), Path(folder))
"""


def measure(command: list[str]) -> dict[str, float]:
    """Run a command to its end and watch its process tree."""
    began = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    rss = pss = 0
    cpu: dict[int, float] = {}
    root = psutil.Process(process.pid)
    while process.poll() is None:
        sums = [0, 0]
        with suppress(psutil.NoSuchProcess):
            for each in [root, *root.children(recursive=True)]:
                with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
                    memory, times = each.memory_full_info(), each.cpu_times()
                    sums[0] += memory.rss
                    sums[1] += memory.pss
                    cpu[each.pid] = times.user + times.system
        rss, pss = max(rss, sums[0]), max(pss, sums[1])
        time.sleep(PERIOD_S)
    if process.returncode:
        sys.exit(process.returncode)
    wall = time.monotonic() - began
    return {"wall_s": wall, "cpu_s": sum(cpu.values()), "rss_gib": rss / 2**30, "pss_gib": pss / 2**30}


def main() -> None:
    """Measure both, print a table and what the requirement says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="result of image_etl")
    parser.add_argument("--preset", default="smoke")
    parser.add_argument("--trials", type=int, default=8)
    parser.add_argument("overrides", nargs="*", help="further settings, as section.field=value")
    arguments = parser.parse_args()
    load_before = os.getloadavg()[0]
    with tempfile.TemporaryDirectory() as folder:
        alone = measure([sys.executable, "-c", ALONE, arguments.preset, arguments.data])
        search = measure(
            [
                *(sys.executable, "-m", "mlapp.tune.tuner", "--preset", arguments.preset, "--trainer", "train"),
                *("--data", arguments.data, "--workdir", folder, f"tuning.trials={arguments.trials}"),
                *arguments.overrides,
            ]
        )
        with open(f"{folder}/trials.json") as stream:
            trials = json.load(stream)
    out = sys.stdout.write
    out(f"load before {load_before:.1f}, after {os.getloadavg()[0]:.1f}, {os.cpu_count()} processors\n")
    out(f"{'':28}{'wall':>9}{'CPU':>9}{'RSS':>10}{'PSS':>10}\n")
    for name, row in (("one training alone", alone), (f"search of {len(trials)} trials", search)):
        out(f"{name:28}{row['wall_s']:7.0f} s{row['cpu_s']:7.0f} s{row['rss_gib']:6.2f} GiB{row['pss_gib']:6.2f} GiB\n")
    more = {name: search[name] - alone[name] for name in ("rss_gib", "pss_gib")}
    out(f"more than one alone: {more['rss_gib']:.2f} GiB (RSS), {more['pss_gib']:.2f} GiB (PSS)\n")
    out(f"workers: {len({(trial['node'], trial['process']) for trial in trials})}\n")


if __name__ == "__main__":
    main()
