"""Try to break the pipeline, and tell how often it was tried and what did not survive: ``make fault-test``.

Exits with 1 if a stage that was killed, or had no disk, did not end as an undisturbed one, a promotion was lost, or an
input mishandled.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
import uuid
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from loopback import gcs

from mlapp.text_table import table
from tests.faults import disks, inputs, kills, promotions
from tests.faults.steps import STEPS, reference

DATASET = Path(__file__).parents[2] / ".cache" / "datasets" / "fashion_mnist"


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--kills", type=int, default=10, help="kills at random moments, of each stage (%(default)s)")
    parser.add_argument("--races", type=int, default=5, help="times that twenty promote at once (%(default)s)")
    parser.add_argument("--inputs", type=int, default=1000, help="spoiled inputs of each kind (%(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of all that is drawn (%(default)s)")
    arguments = parser.parse_args()
    if not disks.possible():
        parser.exit(2, f"{parser.prog}: error: no file system can be mounted here: run it as root on Linux\n")
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="mlapp-faults-") as folder:
        wrong = counted(Path(folder), arguments)
    sys.stdout.write(f"{time.monotonic() - began:,.0f} s\n")
    raise SystemExit(1 if wrong else 0)


def counted(folder: Path, arguments: argparse.Namespace) -> int:
    """Try everything and print the counts; returns how much went wrong."""
    rows, wrong = [("what", "tried", "survived")], []
    _tell("an undisturbed run")
    source = prepared(folder)
    seconds = reference(folder / "undisturbed", source)
    given = (folder / "undisturbed", folder / "killed", source)
    _tell("killing stages at random moments, and around their file moves")
    killed = [*kills.at_random(*given, seconds, arguments.kills, arguments.seed, STEPS)]
    killed += kills.around_moves(*given, [step for step in STEPS if step.name in CHEAP])
    rows += _rows("kill of", ((kill.step, kill.wrong) for kill in killed))
    _tell("taking their disks away")
    lost = list(disks.taken_away(*given, STEPS))
    rows += _rows("disk away from", ((fault.step, fault.wrong) for fault in lost))
    wrong += [f"{fault.step}, {fault.moment}: {fault.wrong}" for fault in (*killed, *lost) if fault.wrong]
    _tell("promoting at once")
    with gcs.serving(folder) as environ:
        os.environ.update(environ)
        for place, registry in (("folder", str(folder / "races")), ("bucket", f"gs://models/{uuid.uuid4().hex}")):
            for mode in ("once", "retry"):
                races = [promotions.race(f"{registry}/{mode}", 20, mode, 20 * turn) for turn in range(arguments.races)]
                tried, lost = sum(race.tried for race in races), sum(race.lost for race in races)
                rows.append((f"promotion at once, {place}, {mode}", f"{tried:,}", f"{tried - lost:,}"))
                wrong += [f"{lost} promotions lost in a {place}, {mode}"] if lost else []
    _tell("spoiling inputs")
    spoiled = list(inputs.spoiled(folder / "inputs", arguments.inputs, arguments.seed))
    rows += _rows("spoiled", ((each.kind, each.wrong) for each in spoiled))
    wrong += [f"{each.kind}: {each.wrong}" for each in spoiled if each.wrong]
    sys.stdout.write(f"{table(rows, right=(1, 2))}\n")
    sys.stdout.write("".join(f"NOT SURVIVED: {line}\n" for line in wrong[:50]))
    return len(wrong)


# Those that take a second or two: a kill around every one of their file moves is affordable.
CHEAP = {"extract", "validate", "transform", "choose", "vet", "promote"}


def prepared(folder: Path) -> Path:
    """A folder of the real Fashion-MNIST's IDX files; fetched where the tests keep it."""
    from mlapp.etl import gcp_dataloader

    result = gcp_dataloader.run(gcp_dataloader.Extract(), DATASET)
    source = folder / "source"
    source.mkdir(parents=True)
    for name, artifact in result.artifacts.items():
        if name.endswith(("images", "labels")):
            path = result.local(name)
            (source / path.name).symlink_to(path)
            assert artifact.bytes
    return source


def _tell(what: str) -> None:
    sys.stderr.write(f"{time.strftime('%H:%M:%S')} {what}\n")


def _rows(what: str, tried: Iterable[tuple[str, str]]) -> list[tuple[str, str, str]]:
    all_of, survived = Counter[str](), Counter[str]()
    for name, wrong in tried:
        all_of[name] += 1
        survived[name] += not wrong
    return [(f"{what} {name}", f"{all_of[name]:,}", f"{survived[name]:,}") for name in all_of]


if __name__ == "__main__":
    main()
