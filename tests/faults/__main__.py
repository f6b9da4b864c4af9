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
from collections.abc import Iterable, Iterator
from pathlib import Path

from loopback import gcs

from mlapp.text_table import table
from tests.faults import disks, inputs, kills, promotions
from tests.faults.steps import STEPS, reference

Tried = tuple[str, str, int]  # what, what was wrong if anything, how many tries that stands for
DATASET = Path(__file__).parents[2] / ".cache" / "datasets" / "fashion_mnist"


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults", description=__doc__)
    parser.add_argument("--kills", type=int, default=5, help="kills at random moments, of each stage (%(default)s)")
    parser.add_argument("--races", type=int, default=3, help="times that twenty promote at once (%(default)s)")
    parser.add_argument("--moves", type=int, default=30, help="signed moves in bad weather (%(default)s)")
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
    """Try everything and print the counts, part by part; returns how much went wrong."""
    _tell("an undisturbed run")
    source = prepared(folder)
    seconds = reference(folder / "undisturbed", source)
    given = (folder / "undisturbed", folder / "killed", source)
    cheap = [step for step in STEPS if step.name in CHEAP]
    _tell("killing stages at random moments")
    wrong = _told("killed", _faults(kills.at_random(*given, seconds, arguments.kills, arguments.seed, STEPS)))
    _tell("killing stages around their file moves")
    wrong += _told("killed at a file move", _faults(kills.around_moves(*given, cheap)))
    _tell("taking their disks away")
    wrong += _told("without a disk", _faults(disks.taken_away(*given, STEPS)))
    _tell("promoting at once")
    wrong += _told("promoted at once", races(folder, arguments.races))
    _tell("promoting and rolling back, signed, in bad weather")
    wrong += _told("signed moves in bad weather", storms(folder, arguments.moves, arguments.seed))
    _tell("spoiling inputs")
    spoiled = inputs.spoiled(folder / "inputs", arguments.inputs, arguments.seed)
    return wrong + _told("spoiled", ((each.kind, each.wrong, 1) for each in spoiled))


def races(folder: Path, turns: int) -> Iterator[Tried]:
    """Twenty processes that promote at one moment, ``turns`` times in each place and manner."""
    with gcs.serving(folder) as environ:
        os.environ.update(environ)
        for place, registry in (("folder", str(folder / "races")), ("bucket", f"gs://models/{uuid.uuid4().hex}")):
            for mode in ("once", "retry"):
                for turn in range(turns):
                    race = promotions.race(f"{registry}/{mode}", 20, mode, 20 * turn)
                    yield f"in a {place}, {mode}", f"{race.lost} lost" if race.lost else "", race.tried


def storms(folder: Path, moves: int, seed: int) -> Iterator[Tried]:
    """Signed promotions and rollbacks in a bucket that answers 5xx, resets connections and loses answers."""
    with gcs.serving(folder / "storms") as environ:
        os.environ.update(environ)
        wrong = promotions.in_bad_weather(folder, environ["STORAGE_EMULATOR_HOST"], moves, seed)
        yield "in a bucket, killed now and then", "; ".join(wrong), moves


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


def _faults(faults: Iterable[kills.Fault]) -> Iterator[Tried]:
    return ((fault.step, fault.wrong and f"{fault.moment}: {fault.wrong}", 1) for fault in faults)


def _told(what: str, tried: Iterable[Tried]) -> int:
    """Print how often each thing was tried and survived, and what was not; returns how much was not."""
    all_of, survived, lines = Counter[str](), Counter[str](), []
    for name, wrong, times in tried:
        all_of[name] += times
        survived[name] += 0 if wrong else times
        lines += [f"NOT SURVIVED: {name}: {wrong}"] if wrong else []
    rows = [(what, "tried", "survived"), *((name, f"{all_of[name]:,}", f"{survived[name]:,}") for name in all_of)]
    sys.stdout.write("\n".join([table(rows, right=(1, 2)), *lines[:50], "", ""]))
    sys.stdout.flush()
    return len(lines)


if __name__ == "__main__":
    main()
