"""Ours beside the tutorials' recipe, in one chain of processes on this machine: `make bench`, `make bench-quick`.

    python bench/frontier.py --data …/transform/…/result.json [--quick] [--preset quick] [--reference-epochs 50]

Prints a table and writes bench/results/DATE-PRESET.json, with the machine and the versions. The tutorials' recipe runs
on TensorFlow as it comes; the peak is that of a matrix multiplication in the same run.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import resource
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

from mlapp.statistics import proportion
from mlapp.text_table import duration, table

HERE = Path(__file__).parent
STOCK = {"TF_ENABLE_ONEDNN_OPTS": "0", "TF_NUM_INTEROP_THREADS": "0", "TF_NUM_INTRAOP_THREADS": "0"}


def measured(part: str, environ: dict[str, str] | None = None, **arguments: Any) -> dict[str, Any]:
    """One part in a process of its own, with the processor seconds it took."""
    sys.stderr.write(f"measuring: {part} {arguments.get('preset', '')}\n")
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(
        [
            sys.executable,
            HERE / "parts.py",
            part,
            *(f"{name}={json.dumps(value)}" for name, value in arguments.items()),
        ],
        stdout=subprocess.PIPE,
        env={**os.environ, **(environ or {})},
        check=True,
        text=True,
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {**json.loads(done.stdout.splitlines()[-1]), "cpu_s": round(cpu, 1)}


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


def rows(found: dict[str, Any]) -> list[list[str]]:
    """The table: what is measured, ours, the tutorials', and their ratio."""
    peak, ours, theirs = found["gemm"]["gflops"], found["throughput"], found["throughput_reference"]
    made = [["", "ours", "tutorials'", "ratio"]]
    made.append(
        ["training, images a second", f"{ours['images_per_second']:,.0f}", f"{theirs['images_per_second']:,.0f}",
         f"{ours['images_per_second'] / theirs['images_per_second']:.2f}"]
    )  # fmt: skip
    made.append(
        ["training, share of the GEMM peak", f"{ours['gflops'] / peak:.0%}", f"{theirs['gflops'] / peak:.0%}",
         f"{ours['gflops'] / theirs['gflops']:.2f}"]
    )  # fmt: skip
    made.append(["share of a step for its images", f"{ours['feed_share']:.0%}", f"{theirs['feed_share']:.0%}", ""])
    if "ours" in found:
        made += _accuracy_rows(found["ours"], found["reference"])
    if "latency" in found:
        keras = found["latency"]["keras_us"]
        for precision in ("float32", "int8"):
            lite = found["latency"][precision]
            made.append(
                [f"LiteRT {precision}, {lite['bytes'] / 1000:.1f} KB", f"{lite['us']:.0f} µs", f"{keras:.0f} µs",
                 f"1/{keras / lite['us']:.0f}"]
            )  # fmt: skip
    return made


def _accuracy_rows(ours: dict[str, Any], theirs: dict[str, Any]) -> list[list[str]]:
    def scored(trained: dict[str, Any]) -> str:
        share = proportion(trained["test_hits"], trained["test_images"])
        return f"{100 * share.value:.2f} % [{100 * share.low:.2f}, {100 * share.high:.2f}]"

    goal = max(theirs["validation_accuracy"])
    ours_s, theirs_s = seconds_to(ours, goal), seconds_to(theirs, goal)
    return [
        ["test accuracy, 10,000 images", scored(ours), scored(theirs), ""],
        ["training, wall clock", duration(ours["seconds"][-1]), duration(theirs["seconds"][-1]),
         f"{ours['seconds'][-1] / theirs['seconds'][-1]:.2f}"],
        ["training, processor seconds", f"{ours['cpu_s']:,.0f}", f"{theirs['cpu_s']:,.0f}",
         f"{ours['cpu_s'] / theirs['cpu_s']:.2f}"],
        [f"time to {100 * goal:.2f} % on validation", duration(ours_s) if ours_s else "not reached",
         duration(theirs_s or 0), f"1/{theirs_s / ours_s:.1f}" if ours_s and theirs_s else ""],
    ]  # fmt: skip


def main() -> None:
    """Measure, print, keep."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True, help="result of image_etl")
    parser.add_argument("--preset", default="quick", help="ours")
    parser.add_argument("--quick", action="store_true", help="throughput and latency only")
    parser.add_argument("--reference-epochs", type=int, default=50, help="most epochs of the tutorials' recipe")
    parser.add_argument("--model", help="folder of a trained model (model.keras and LiteRT files) to time")
    arguments = parser.parse_args()
    data = str(Path(arguments.data).resolve())
    found: dict[str, Any] = {"date": datetime.date.today().isoformat(), "machine": machine()}
    found["gemm"] = measured("gemm")
    found["throughput"] = measured("throughput", data=data, preset=arguments.preset)
    found["throughput_reference"] = measured("throughput", STOCK, data=data, preset="reference")
    if not arguments.quick:
        found["ours"] = measured("ours", data=data, preset=arguments.preset)
        found["reference"] = measured("reference", STOCK, data=data, epochs=arguments.reference_epochs)
    if arguments.model:
        found["latency"] = measured("latency", data=data, model=str(Path(arguments.model).resolve()))
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
