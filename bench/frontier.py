"""Ours beside the tutorials' recipe, in one chain of processes on this machine: `make bench`, `make bench-quick`.

    python bench/frontier.py [--quick] [--preset quick] [--reference-epochs 50] [--seeds 1]

Prints a table and writes bench/results/DATE-PRESET.json, with the machine and the versions. The tutorials' recipe runs
on TensorFlow as it comes; the peak is that of a matrix multiplication in the same run. Their time to an accuracy is to
their best one; ours to the first epoch that is as good.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

from mlapp.statistics import proportion
from mlapp.text_table import table

HERE = Path(__file__).resolve().parent
ENVIRON = {**os.environ, "PYTHONPATH": str(HERE.parent), "MLAPP_TRACKING__WANDB": "off"}


def measured(script: str, part: str, *arguments: str) -> dict[str, Any]:
    """One part in a process of its own, with the processor seconds it took."""
    sys.stderr.write(f"measuring: {script} {part}\n")
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, HERE / script, part, *arguments]
    done = subprocess.run(command, stdout=subprocess.PIPE, env=ENVIRON, check=True, text=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {**json.loads(done.stdout.splitlines()[-1]), "cpu_s": round(cpu, 1)}


def prepared() -> tuple[str, str]:
    """Results of extract and transform for the default data; nothing is computed twice."""

    def result(module: str, *inputs: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", module, *inputs], stdout=subprocess.PIPE, env=ENVIRON, check=True, text=True
        )
        return str(Path(done.stdout.splitlines()[-1].partition("result: ")[2]).resolve())

    raw = result("mlapp.etl.gcp_dataloader")
    report = result("mlapp.etl.quality", f"--raw={raw}")
    return raw, result("mlapp.etl.image_etl", f"--raw={raw}", f"--report={report}")


def machine() -> dict[str, Any]:
    """What the figures were measured on."""
    lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    model = next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    flags = next(line.split() for line in lines if line.startswith("flags"))
    known = [flag for flag in ("avx2", "avx512f", "avx512_vnni", "amx_int8") if flag in flags]
    return {
        "processor": f"{model} ({', '.join(known)})",
        "processors": len(os.sched_getaffinity(0)),
        "load_before": round(os.getloadavg()[0], 2),
        "python": platform.python_version(),
        **{name: version(name) for name in ("tensorflow", "ai-edge-litert", "numpy")},
    }


def seconds_to(trained: dict[str, Any], accuracy: float) -> float | None:
    """When a training first reached a validation accuracy."""
    reached = zip(trained["validation_accuracy"], trained["seconds"], strict=True)
    return next((seconds for value, seconds in reached if value >= accuracy), None)


def spread(values: list[float], form: str) -> str:
    """Mean ± standard deviation, or the one value there is."""
    told = format(statistics.mean(values), form)
    return f"{told} ± {format(statistics.stdev(values), form)}" if len(values) > 1 else told


def rows(found: dict[str, Any]) -> list[list[str]]:
    """The table: what is measured, ours, the tutorials', and their ratio."""
    peak, ours, theirs = found["gemm"]["gflops"], found["throughput"], found["throughput_reference"]
    etl, least = (min(found["etl"][name]) for name in ("etl_s", "decompress_and_hash_s"))
    made = [
        ["", "ours", "tutorials'", "ratio"],
        ["ETL, against decompressing and hashing", f"{etl:.2f} s", f"{least:.2f} s", f"{etl / least:.2f}"],
        [
            "training, images a second",
            *(f"{each['images_per_second']:,.0f}" for each in (ours, theirs)),
            f"{ours['images_per_second'] / theirs['images_per_second']:.2f}",
        ],
        [
            "training, share of the GEMM peak",
            *(f"{each['gflops'] / peak:.0%}" for each in (ours, theirs)),
            f"{ours['gflops'] / theirs['gflops']:.2f}",
        ],
        [
            "share of a step spent on images",
            *(f"{max(0, each['feed_share']):.1%}" for each in (ours, theirs)),
            "",
        ],
    ]
    if "ours" in found:
        made += _accuracy_rows(found["ours"], found["reference"])
    keras = found["latency"]["keras_us"]
    made.append(["one image, the teacher's predict_on_batch", f"{keras:,.0f} µs", "", ""])
    for student in found["latency"]["students"]:
        made.append(
            [
                f"one image, int8 student of width {student['width']:g}, {student['bytes'] / 1000:.1f} KB",
                f"{student['us']:.0f} µs",
                "",
                f"1/{keras / student['us']:.0f}",
            ]
        )
    return made


def _accuracy_rows(ours: list[dict[str, Any]], theirs: dict[str, Any]) -> list[list[str]]:
    share = proportion(theirs["test_hits"], theirs["test_images"])
    goal = max(theirs["validation_accuracy"])
    goal_s = seconds_to(theirs, goal) or 0.0
    reached = [seconds for each in ours if (seconds := seconds_to(each, goal)) is not None]
    accuracies = [100 * each["test_hits"] / each["test_images"] for each in ours]
    wall, cpu = [each["seconds"][-1] for each in ours], [each["cpu_s"] for each in ours]
    return [
        [
            f"test accuracy (%), {theirs['test_images']:,} images, {len(ours)} of ours",
            spread(accuracies, ".2f"),
            f"{100 * share.value:.2f} [{100 * share.low:.2f}, {100 * share.high:.2f}]",
            "",
        ],
        [
            "training, wall clock (s)",
            spread(wall, ",.0f"),
            f"{theirs['seconds'][-1]:,.0f}",
            f"{statistics.mean(wall) / theirs['seconds'][-1]:.2f}",
        ],
        [
            "the whole process, processor seconds",
            spread(cpu, ",.0f"),
            f"{theirs['cpu_s']:,.0f}",
            f"{statistics.mean(cpu) / theirs['cpu_s']:.2f}",
        ],
        [
            f"time to {100 * goal:.2f} % on validation, their best (s)",
            spread(reached, ",.0f") if len(reached) == len(ours) else f"reached by {len(reached)} of {len(ours)}",
            f"{goal_s:,.0f}",
            f"1/{goal_s / statistics.mean(reached):.1f}" if len(reached) == len(ours) else "",
        ],
    ]


def main() -> None:
    """Measure, print, keep."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="quick", help="ours")
    parser.add_argument("--quick", action="store_true", help="throughput and latency only")
    parser.add_argument("--reference-epochs", type=int, default=50, help="most epochs of the tutorials' recipe")
    parser.add_argument("--seeds", type=int, default=1, help="trainings of ours, with seeds 0, 1, …")
    arguments = parser.parse_args()
    raw, data = prepared()
    folder, given = str(Path(data).parent), (f"data={json.dumps(data)}", f"preset={json.dumps(arguments.preset)}")
    found: dict[str, Any] = {"date": datetime.date.today().isoformat(), "machine": machine()}
    found["etl"] = measured("parts.py", "etl", f"raw={json.dumps(str(Path(raw).parent))}")
    found["gemm"] = measured("parts.py", "gemm")
    found["throughput"] = measured("parts.py", "throughput", *given)
    found["throughput_reference"] = measured("reference.py", "throughput", folder)
    found["latency"] = measured("parts.py", "latency", *given)
    if not arguments.quick:
        found["ours"] = [measured("parts.py", "ours", *given, f"seed={seed}") for seed in range(arguments.seeds)]
        found["reference"] = measured("reference.py", "train", folder, str(arguments.reference_epochs))
    results = HERE / "results" / f"{found['date']}-{arguments.preset}{'-throughput' if arguments.quick else ''}.json"
    results.parent.mkdir(exist_ok=True)
    results.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    told = found["machine"]
    sys.stdout.write(
        f"{told['processors']} × {told['processor']}, load {told['load_before']} before, TensorFlow "
        f"{told['tensorflow']}; GEMM peak {found['gemm']['gflops']:.0f} GFLOP/s\n\n"
    )
    sys.stdout.write(table(rows(found), right=(1, 2, 3)) + f"\n\nkept in {results}\n")


if __name__ == "__main__":
    main()
