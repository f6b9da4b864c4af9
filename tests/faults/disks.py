"""Take a stage's disk away, full or read-only, give it back, and compare what the stage made then.

Each time on a real file system in memory, mounted in a namespace of its own, which takes Linux and the right to make
one: the main program of this module is what runs there.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from mlapp.registry.pointer import Pointer
from mlapp.storage import at
from tests.faults.kills import Fault, after, fresh
from tests.faults.steps import NAME, ROOT, STEPS, Step, command, run

SHARES = (0.0, 0.3, 0.6, 0.9)  # of the bytes that a stage writes, as far as its disk has room
ROOMY = "it had room enough"
TOLD = {"full": "no space left", "read-only": "read-only file system"}
NAMESPACE = ("unshare", "--map-root-user", "--mount")


def possible() -> bool:
    """Whether this machine lets us mount."""
    return subprocess.run([*NAMESPACE, "mount", "-t", "tmpfs", "none", "/mnt"], check=False).returncode == 0


def taken_away(
    run_in: Path, folder: Path, source: Path, steps: list[Step], shares: tuple[float, ...] = SHARES
) -> Iterator[Fault]:
    """Each step on a disk that is read-only, and on disks that are full after these shares of what it writes.

    One that had room enough for all is not counted.
    """
    for step in steps:
        written = sum(path.stat().st_blocks * 512 for path in (run_in / step.name).rglob("*") if path.is_file())
        if step.name == "promote":
            written += sum(path.stat().st_size for path in (run_in / "registry").rglob("*"))
        rooms = [f"full {max(4096, int(share * written))}" for share in shares]
        for what in ["read-only", *rooms]:
            made = fresh(folder / f"{step.name}-{what.replace(' ', '-')}")
            line = [sys.executable, "-m", __name__, step.name, str(run_in), str(made), str(source), *what.split()]
            done = subprocess.run([*NAMESPACE, *line], cwd=ROOT, capture_output=True, text=True, check=False)
            wrong = done.stdout.strip() if done.returncode == 0 else done.stderr.strip()[-300:]
            if wrong != ROOMY:
                yield Fault(step.name, f"disk {what}", wrong)


def main(name: str, given: str, made: str, source: str, what: str, room: str = "1g") -> None:
    """In the namespace: run the step on such a disk, then on a good one; prints what was wrong."""
    [step] = (step for step in STEPS if step.name == name)
    _mount("-t", "tmpfs", "-o", f"size={room}", "none", made)
    if what == "read-only":
        _mount("-o", "remount,ro", made)
    first = run(command(step, Path(given), Path(made), Path(source)))
    wrong = ""
    if first.returncode == 0:
        sys.stdout.write(ROOMY if what == "full" else "a read-only disk was no hindrance")
        return
    if first.returncode != 2 or TOLD[what] not in first.stderr.splitlines()[-1]:
        wrong = f"exit code {first.returncode}: {first.stderr.strip()[-600:]}; "
    if champion := Pointer(str(at(made) / "registry"), NAME).read():
        wrong += f"the champion became {champion}; "
    _mount("-o", "remount,rw,size=4g", made)
    sys.stdout.write(wrong + after(step, Path(given), Path(made), Path(source)))


def _mount(*arguments: str) -> None:
    subprocess.run(["mount", *arguments], check=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
