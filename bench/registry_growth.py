"""What a registry of many bundles costs to look at: list, and verify, on this disk and in Cloud Storage.

Bundles are copies of the shipped champion's, each with a model file of its own; each was promoted. Times are of whole
commands, and of an interpreter that only imports what they import, which is what a registry of no bundle costs. Cloud
Storage is fake-gcs-server on loopback, so requests cost processor time here, not distance.
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
import uuid
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path += [str(ROOT), str(ROOT / "tests")]
NAME = "fashion_mnist"
LIST = ("-m", "mlapp.registry", "list", "--name", NAME, "--registry")


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bundles", type=int, default=1000, help="bundles in the registry (%(default)s)")
    parser.add_argument("--turns", type=int, default=5, help="times that each is measured (%(default)s)")
    parser.add_argument("--where", choices=["disk", "bucket", "both"], default="both")
    arguments = parser.parse_args()
    from loopback import gcs

    with tempfile.TemporaryDirectory(prefix="mlapp-growth-") as folder, gcs.serving(Path(folder, "gcs")) as environ:
        os.environ.update(environ)
        places = {"disk": f"{folder}/registry", "bucket": f"gs://models/{uuid.uuid4().hex}"}
        for where in places if arguments.where == "both" else [arguments.where]:
            if where == "disk" or arguments.where == "bucket":
                filled(places["disk"], arguments.bundles)
            if where == "bucket":
                upload(f"{places['disk']}/{NAME}", f"{places['bucket']}/{NAME}")
            imports = "import mlapp.registry.__main__, mlapp.config as c; c.load()"
            if where == "bucket":
                imports += "; import gcsfs; from google.cloud import storage"
            for what, line in {
                "interpreter and imports": ["-c", imports],
                "list, the first time": [*LIST, places[where]],
                "list": [*LIST, places[where]],
                "verify": ["-m", "mlapp.registry", "verify", "--name", NAME, "--registry", places[where]],
            }.items():
                turns = {"verify": min(3, arguments.turns), "list, the first time": 1}.get(what, arguments.turns)
                seconds = [measured([sys.executable, *line]) for _ in range(turns)]
                sys.stdout.write(
                    f"{where:7} {what:24} n = {turns}  median {statistics.median(wall for wall, _ in seconds):6.2f} s  "
                    f"({min(seconds)[0]:.2f} to {max(seconds)[0]:.2f}); of the processor "
                    f"{statistics.median(cpu for _, cpu in seconds):.2f} s\n"
                )
                sys.stdout.flush()


def filled(registry: str, bundles: int) -> None:
    """Promote so many bundles, one after the other."""
    from mlapp import storage
    from mlapp.registry import history, moves
    from mlapp.registry.bundle import Draft, Manifest, describe, install
    from mlapp.registry.pointer import HISTORY, POINTER, Pointer

    shipped = ROOT / "production_models" / NAME
    source = shipped / (shipped / POINTER).read_text().strip()
    given = Manifest.load(source / "manifest.json").model_dump(exclude={"files", "predecessor", "history"})
    pointer, text, before = Pointer(registry, NAME), "", None
    for number in range(bundles):
        with Draft(pointer.folder) as draft:
            for path in source.iterdir():
                if path.name != "manifest.json":
                    (draft / path.name).write_bytes(path.read_bytes())
            (draft / "model.int8.tflite").write_bytes(f"{number}".encode())
            manifest = describe(draft, **{**given, "predecessor": before, "history": history.head(text)})
            install(draft, manifest, pointer.folder)
        entry = moves.entry("bench", "promote: to see how it grows", pointer.folder / manifest.id, manifest)
        text = history.appended(text, {"champion": manifest.id, "before": before, **entry})
        before = manifest.id
    storage.write_text(pointer.folder / HISTORY, text)
    storage.write_text(pointer.folder / POINTER, f"{before}\n")


def upload(folder: str, uri: str) -> None:
    """Copy a model's part of a registry into a bucket, many files at a time."""
    from mlapp import storage

    target = storage.at(uri)
    files = [path for path in Path(folder).rglob("*") if path.is_file() and path.name != ".lock"]
    target.fs.put(
        [str(path) for path in files], [f"{target.path}/{path.relative_to(folder).as_posix()}" for path in files]
    )


def measured(line: list[str]) -> tuple[float, float]:
    """Seconds that a command took, which must succeed, and those of the processor, which a busy machine alters less."""
    began, before = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
    done = subprocess.run(line, cwd=ROOT, capture_output=True, text=True, check=False)
    seconds, after = time.monotonic() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode:
        raise SystemExit(json.dumps([line, done.stdout[-500:], done.stderr[-500:]]))
    return seconds, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


if __name__ == "__main__":
    main()
