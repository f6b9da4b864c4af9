"""How listing grows with the number of runs: time and memory of `experiments list` and `show latest`, local and gs://.

Makes run folders as the project leaves them (settings with origins, ten stage records with figures, summary) and
measures the commands as a user calls them, each in a process of its own. ``--gcs`` uses a fake-gcs-server.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import quote

import urllib3

from mlapp import origins, run_record
from mlapp.result import Metric
from mlapp.run_record import StageRecord
from mlapp.schema import Config
from mlapp.statistics import proportion

STAGES = ("extract", "validate", "transform", "baseline", "train", "distill", "prune", "choose", "vet", "promote")
HEADLINES = {"vet": "promote: 93.20 % on 10,000 test images", "promote": "promoted fashion_mnist/0123456789ab; card"}
FIRST = datetime(2025, 1, 1, tzinfo=UTC)
DESCRIPTION = {
    "classes": [str(number) for number in range(10)],
    "splits": {name: {"sha256": {"images": "0" * 64, "labels": "1" * 64}} for name in ("train", "validation", "test")},
}


def files(number: int) -> Iterator[tuple[str, str]]:
    """The files of a run, by their path within it; one run in seven failed while it pruned."""
    when = FIRST + timedelta(minutes=37 * number)
    settings = origins.settings_of(Config(), {"override": {"training": {"seed": number}}})
    about = origins.Origins(run=f"manual__{number}", preset="quick", configured=when.isoformat(), settings=settings)
    yield origins.ORIGINS, about.text()
    yield "config.json", Config().model_dump_json(indent=2)
    fails = number % 7 == 0
    for place, stage in enumerate(STAGES[: 7 if fails else None]):
        state = "failed" if fails and stage == "prune" else "done"
        record = StageRecord(
            stage=stage,
            key=f"{number:08x}{place:056x}",
            state=state,  # type: ignore[arg-type]
            reason="no space left" if state == "failed" else "",
            headline=HEADLINES.get(stage, f"{stage} of {number}"),
            began=(when + timedelta(minutes=place)).isoformat(),
            ended=(when + timedelta(minutes=place + 1)).isoformat(),
            result=f"/models/{stage}/{number:08x}/result.json",
            metrics={
                **{f"measure_{index}": Metric(value=index / 7) for index in range(12)},
                "teacher.test_accuracy": proportion(9400 + number % 90, 10_000),
                "challenger.test_accuracy": proportion(9200 + number % 90, 10_000),
            },
            timings={"wall_s": 60.0, "cpu_s": 90.0, "peak_rss_mb": 700.0} if state == "done" else {},
            config=Config().training.model_dump(mode="json"),
            environment={"python": "3.11", "code": "0" * 12, "lock": "1" * 12},
        )
        yield f"{run_record.STAGES}/{record.folder_name}/{run_record.RECORD}", record.model_dump_json(indent=2) + "\n"
        if stage == "transform":
            yield f"{run_record.STAGES}/{record.folder_name}/dataset.json", json.dumps(DESCRIPTION)
    if not fails:
        yield "summary.json", "{}"


def name_of(number: int) -> str:
    """A run's folder, as `configure` names it."""
    when = FIRST + timedelta(minutes=37 * number)
    return f"{when:%Y-%m-%d}-manual__{when:%Y-%m-%dT%H-%M-%S}-{number:05}"


def make(area: str, count: int) -> None:
    """Make so many runs."""
    bucket, _, prefix = area.removeprefix("gs://").partition("/")
    server = urllib3.PoolManager(maxsize=4) if "://" in area else None

    def write(number: int) -> None:
        for path, text in files(number):
            if server:  # gcsfs takes ten times as long
                name = quote(f"{prefix}/{name_of(number)}/{path}", safe="")
                url = (
                    f"{os.environ['STORAGE_EMULATOR_HOST']}/upload/storage/v1/b/{bucket}/o?uploadType=media&name={name}"
                )
                assert server.request("POST", url, body=text.encode()).status == 200
            else:
                place = Path(area, name_of(number), path)
                place.parent.mkdir(parents=True, exist_ok=True)
                place.write_text(text, encoding="utf-8")

    with ThreadPoolExecutor(4 if server else 1) as pool:
        list(pool.map(write, range(count)))


def measured(arguments: Sequence[str], environ: Mapping[str, str]) -> tuple[float, float, float, str]:
    """Seconds, CPU-seconds and peak MB of a command in a process of its own, and what it wrote."""
    began = time.perf_counter()
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(
            [sys.executable, "-m", "mlapp.experiments", *arguments],
            env={**os.environ, **environ},
            cwd=Path(__file__).parents[1],
            stdout=output,
        )
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        seconds = time.perf_counter() - began
        if process.returncode:
            raise SystemExit(f"{' '.join(arguments)} ended with {process.returncode}")
        output.seek(0)
        return seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024, output.read().decode()


def measure(area: str, count: int, repeats: int, environ: Mapping[str, str]) -> list[str]:
    """A line for each command: how often, median, least and most seconds, CPU-seconds (median), peak memory."""
    lines = []
    flag = f"--experiments={area}"
    for title, times, arguments in (
        ("list, without an index", 1, ["list", flag]),
        ("list", repeats, ["list", flag]),
        ("list --json", repeats, ["list", "--json", flag]),
        ("show latest", repeats, ["show", "latest", flag]),
    ):
        taken = [measured(arguments, environ) for _ in range(times)]
        seconds = sorted(each[0] for each in taken)
        assert title != "list" or len(taken[0][3].splitlines()) >= count
        lines.append(
            f"{title:24} n={times}  median {statistics.median(seconds):6.2f} s  ({seconds[0]:.2f} to {seconds[-1]:.2f})"
            f"  CPU {statistics.median(each[1] for each in taken):.2f} s  peak {max(each[2] for each in taken):4.0f} MB"
        )
    return lines


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5000, help="how many (%(default)s)")
    parser.add_argument("--repeats", type=int, default=5, help="how often each command (%(default)s)")
    parser.add_argument("--gcs", action="store_true", help="in a bucket of a fake-gcs-server")
    arguments = parser.parse_args()
    resource.setrlimit(resource.RLIMIT_NOFILE, (4096, 4096))
    with tempfile.TemporaryDirectory(prefix="mlapp-growth-") as folder:
        if not arguments.gcs:
            _report(f"{folder}/experiments", arguments, {})
            return
        sys.path.append(str(Path(__file__).parents[1] / "tests"))
        from loopback import gcs

        with gcs.serving(Path(folder, "gcs")) as environ:
            os.environ.update(environ)
            _report("gs://models/experiments", arguments, environ)


def _report(area: str, arguments: argparse.Namespace, environ: Mapping[str, str]) -> None:
    make(area, arguments.runs)
    print(f"{arguments.runs:,} runs at {area.partition(':')[0] if '://' in area else 'a local folder'}")
    print("\n".join(measure(area, arguments.runs, arguments.repeats, environ)), flush=True)


if __name__ == "__main__":
    main()
