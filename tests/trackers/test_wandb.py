"""W&B from the outside: what its files hold, and that no trouble of its own reaches a stage."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import wandb_files
import wandb_server

from mlapp.result import StageResult

ROOT = Path(__file__).parents[2]
KEY = "0123456789abcdef" * 3
PATIENT = "tracking.patience_s=60"  # the machine may be busy
LASTING = ("--epochs=3", "--pause-s=1.6")  # long enough that the side process is started while it runs


@dataclass
class Ran:
    """How a stage's command ended."""

    code: int
    output: str
    seconds: float


class Place:
    """A folder to work in, and the environment of somebody without a key."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.work = folder / "work"
        home = folder / "home"
        home.mkdir()
        own = {name: value for name, value in os.environ.items() if not name.startswith(("WANDB", "MLAPP"))}
        self.environ = {**own, "HOME": str(home), "PYTHONPATH": str(ROOT), "MLAPP_CHILD_ENV": "MARK"}

    def start(
        self, *arguments: str, module: str = "tests.trackers.telling_stage", **environ: str
    ) -> subprocess.Popen[str]:
        """A stage's command, run somewhere where files of W&B would be noticed."""
        return subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            cwd=self.folder,
            env={**self.environ, **environ},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self, *arguments: str, **environ: str) -> Ran:
        began = time.monotonic()
        process = self.start(f"--workdir={self.work}", *arguments, **environ)
        output, _ = process.communicate(timeout=60)
        return Ran(process.returncode, output, time.monotonic() - began)

    def broken(self, code: str) -> dict[str, str]:
        """An environment with a W&B library that does this when it is imported."""
        (self.folder / "broken").mkdir()
        (self.folder / "broken" / "wandb.py").write_text(code)
        return {"PYTHONPATH": f"{self.folder / 'broken'}:{self.environ['PYTHONPATH']}"}

    @property
    def runs(self) -> list[wandb_files.Kept]:
        return wandb_files.runs(self.work)


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


@pytest.fixture
def server(request: pytest.FixtureRequest) -> Iterator[wandb_server.Server]:
    """A W&B server of the given manner."""
    with wandb_server.Server(request.param) as serving:
        yield serving


def left_of(session: str) -> list[str]:
    """Command lines of living processes with this in their environment."""
    found = []
    for path in Path("/proc").glob("[0-9]*"):
        try:
            if session.encode() in (path / "environ").read_bytes():
                found.append((path / "cmdline").read_text().replace("\0", " "))
        except OSError:
            continue  # gone meanwhile
    return found


def test_without_a_key_the_run_is_kept_in_files_with_all_that_the_stage_told(place: Place) -> None:
    home = place.folder / "home"
    settings = ("tracking.project=shop", "tracking.max_file_bytes=10000")
    ran = place.run(*LASTING, PATIENT, *settings, TMPDIR=str(home))
    assert ran.code == 0, ran.output
    assert "W&B" not in ran.output
    (kept,) = place.runs
    assert (kept.project, kept.job_type, kept.name, kept.group) == ("shop", "train", "train", "")
    assert kept.config["epochs"] == 3
    assert kept.curve("loss") == [(1, 1.0), (2, 0.5), (3, pytest.approx(1 / 3))]
    assert kept.summary["float32.validation_accuracy"] == 0.75
    assert kept.summary["float32.validation_accuracy.n"] == 1000
    assert kept.summary["headline"] == "teacher: 75.00 %"
    assert kept.summary["timings.wall_s"] > 4
    assert kept.summary["candidates.nrows"] == 2
    assert (kept.summary["curves.width"], kept.summary["curves.height"]) == (40, 30)
    (model,) = [artifact for artifact in kept.artifacts if artifact.type == "model"]
    places = {entry.path: (entry.size, entry.ref) for entry in model.manifest.contents}
    assert places["model.int8.tflite"] == (1000, "")
    assert places["model.keras"] == (20_000, (place.work / "model.keras").as_uri())
    assert kept.exit_code == 0
    assert sorted(path.name for path in place.folder.iterdir()) == ["home", "work"]
    assert not list(home.iterdir())


def test_to_be_online_without_a_key_is_told_and_the_run_is_kept_in_files(place: Place) -> None:
    ran = place.run(PATIENT, "tracking.wandb=online")
    assert ran.code == 0
    (told,) = [line for line in ran.output.splitlines() if "W&B" in line]
    assert "W&B has no key: give WANDB_API_KEY, or run `wandb login`; the run is kept in " in told
    assert place.runs[0].exit_code == 0


def test_off_means_that_nothing_is_started_or_written(place: Place) -> None:
    assert place.run("tracking.wandb=off").code == 0
    assert place.run("--epochs=4", WANDB_MODE="disabled").code == 0
    assert not (place.work / "wandb").exists()


def test_a_stage_is_one_run_in_its_dag_runs_group_and_a_short_one_is_written_by_the_next(place: Place) -> None:
    group = ("tracking.group=2026-01-01-x", f"storage.experiments={place.folder / 'experiments'}")
    short = place.start("--text=a", f"--workdir={place.folder / 'tiny'}", *group, module="tests.tiny_stage")
    assert short.wait(30) == 0
    folder = place.folder / "experiments" / "2026-01-01-x"
    assert not wandb_files.runs(folder)
    assert place.run("--end=refuse", "--epochs=2", *group).code == 2
    assert place.run(PATIENT, *group).code == 0
    tiny, refused, trained = sorted(
        wandb_files.runs(folder), key=lambda kept: (kept.job_type, kept.config.get("epochs"))
    )
    assert {kept.group for kept in (tiny, refused, trained)} == {"2026-01-01-x"}
    assert [kept.job_type for kept in (tiny, refused, trained)] == ["tiny", "train", "train"]
    assert [kept.exit_code for kept in (tiny, refused, trained)] == [0, 1, 0]
    assert refused.summary["failed"] == "UserError: the data is too small: give more"
    assert tiny.summary["length"] == 1
    assert not (place.work / "wandb").exists()


def test_a_retry_goes_on_with_the_run_of_the_attempt_that_broke_off(place: Place) -> None:
    process = place.start(f"--workdir={place.work}", *LASTING)
    assert process.stdout
    process.stdout.readline()
    process.kill()
    process.communicate()
    (spool,) = place.work.glob("wandb/spool/*.jsonl")
    with spool.open("a") as stream:
        stream.write('{"event": "epoch", "numb')  # killed in the middle of a line
    assert place.run(PATIENT, *LASTING).code == 0
    (kept,) = place.runs
    assert kept.curve("loss") == [(1, 1.0), (1, 1.0), (2, 0.5), (3, pytest.approx(1 / 3))]
    assert [row["_step"] for row in kept.history] == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("server", ["works"], indirect=True)
@pytest.mark.parametrize("by", ["environment", "netrc"])
def test_with_a_key_the_run_goes_to_the_server(place: Place, server: wandb_server.Server, by: str) -> None:
    environ = {"WANDB_API_KEY": KEY}
    if by == "netrc":
        (place.folder / "netrc").write_text(f"machine {urlsplit(server.url).netloc} login user password {KEY}")
        environ = {"NETRC": str(place.folder / "netrc")}
    area = f"storage.experiments={place.folder / 'experiments'}"
    ran = place.run(*(PATIENT, "--leave=nothing", "tracking.group=g", area), WANDB_BASE_URL=server.url, **environ)
    assert ran.code == 0
    assert "W&B" not in ran.output
    (kept,) = wandb_files.runs(place.folder / "experiments" / "g")
    assert (server.upserted[0]["groupName"], server.upserted[0]["name"]) == ("g", kept.id)
    assert [(row["epoch"], row["loss"]) for row in server.history][:2] == [(1, 1.0), (2, 0.5)]
    assert server.exit_codes == [0]
    assert KEY in server.keys
    written = [path for path in place.folder.rglob("*") if path.is_file() and path.name != "netrc"]
    assert not [path for path in written if KEY.encode() in path.read_bytes()]
    assert KEY not in ran.output


@pytest.mark.parametrize("server", ["works"], indirect=True)
def test_what_a_short_stage_left_goes_to_the_server_before_the_long_one_that_follows(
    place: Place, server: wandb_server.Server
) -> None:
    group = ("tracking.group=g", f"storage.experiments={place.folder}")
    environ = {"WANDB_API_KEY": KEY, "WANDB_BASE_URL": server.url}
    short = place.start(*group, f"--workdir={place.folder / 't'}", module="tests.tiny_stage", **environ)
    assert short.wait(30) == 0
    until = f"--until={place.folder / 'g' / 'wandb' / 'spool' / '*.written'}"
    ran = place.run(until, PATIENT, "--leave=nothing", *group, **environ)
    assert ran.code == 0
    assert "W&B" not in ran.output
    assert [name.partition("-")[0] for name in dict.fromkeys(sent["name"] for sent in server.upserted)] == [
        "tiny",
        "train",
    ]
    assert server.exit_codes == [0, 0]


@pytest.mark.parametrize("server", ["refuses"], indirect=True)
def test_a_refused_key_is_told_in_one_line_and_the_run_is_kept_in_files(
    place: Place, server: wandb_server.Server
) -> None:
    ran = place.run(PATIENT, WANDB_API_KEY=KEY, WANDB_BASE_URL=server.url)
    assert ran.code == 0
    assert [line[9:].partition(";")[0] for line in ran.output.splitlines() if "W&B" in line] == [
        "W&B refused the key: user is not logged in"
    ]
    assert place.runs[0].summary["epochs"] == 3
    written = [path for path in place.folder.rglob("*") if path.is_file()]
    assert len(written) > 10
    assert not [path for path in written if KEY.encode() in path.read_bytes()]
    assert KEY not in ran.output


@pytest.mark.parametrize("server", ["hangs"], indirect=True)
def test_a_server_that_never_answers_costs_no_more_than_the_patience(place: Place, server: wandb_server.Server) -> None:
    without = place.run(*LASTING, "tracking.wandb=off")
    result = StageResult.load(str(place.work)).digest()
    environ = {"WANDB_API_KEY": KEY, "WANDB_BASE_URL": server.url, "MARK": place.folder.name}
    ran = place.run(*LASTING, "--force", "tracking.patience_s=2", **environ)
    assert ran.code == 0
    assert ran.seconds < without.seconds + 5
    assert len([line for line in ran.output.splitlines() if "W&B" in line]) == 1, ran.output
    assert KEY not in ran.output
    assert StageResult.load(str(place.work)).digest() == result
    wait_for(lambda: not left_of(f"MARK={place.folder.name}"), 5)


@pytest.mark.parametrize("server", ["hangs"], indirect=True)
def test_a_long_stage_says_within_seconds_that_the_server_does_not_answer(
    place: Place, server: wandb_server.Server
) -> None:
    process = place.start(
        *(f"--workdir={place.work}", "--epochs=60", "--pause-s=0.5", "--leave=nothing"),
        WANDB_API_KEY=KEY,
        WANDB_BASE_URL=server.url,
    )
    assert process.stdout
    told = next(line for line in process.stdout if "W&B" in line)
    assert f"W&B does not answer at {server.url}: the run is kept in {place.work / 'wandb'}" in told
    process.terminate()
    process.communicate(timeout=10)


def test_a_tracker_that_hangs_delays_by_no_more_than_the_patience_and_loses_nothing(place: Place) -> None:
    ran = place.run("tracking.patience_s=1", **place.broken("import time\ntime.sleep(1000)"))
    assert ran.code == 0
    (told,) = [line for line in ran.output.splitlines() if "W&B" in line]
    assert "W&B took longer than 1 s: the rest waits in" in told
    assert not place.runs
    command = told.partition("(")[2].partition(" writes it")[0].split()
    assert command[:3] == ["python", "-m", "mlapp.trackers.wandb_writer"]
    environ = {**place.environ, "MARK": place.folder.name}
    subprocess.run([sys.executable, *command[1:]], cwd=place.folder, env=environ, check=True, timeout=60)
    assert not left_of(f"MARK={place.folder.name}")  # W&B's own process, which writes the file's end, came to its own
    assert len(place.runs[0].curve("loss")) == 3


def test_a_spool_that_wandb_cannot_take_stands_in_nobodys_way(place: Place) -> None:
    group = ("tracking.group=g", f"storage.experiments={place.folder}")
    spools = place.folder / "g" / "wandb" / "spool"
    spools.mkdir(parents=True)
    (spools / "bad.jsonl").write_text('{"event": "ended"}\n')
    assert place.start(*group, f"--workdir={place.folder / 't'}", module="tests.tiny_stage").wait(30) == 0
    ran = place.run(PATIENT, *group)
    assert ran.code == 0
    (told,) = [line for line in ran.output.splitlines() if "W&B" in line]
    assert f"W&B could not take {spools / 'bad.jsonl'} (ValueError)" in told
    assert {kept.job_type for kept in wandb_files.runs(place.folder / "g")} == {"tiny", "train"}
    assert "W&B" not in place.run(PATIENT, *group, "--force").output


def test_a_tracker_that_crashes_is_told_in_one_line(place: Place) -> None:
    ran = place.run(**place.broken("import os\nos.abort()"))
    assert ran.code == 0
    (told,) = [line for line in ran.output.splitlines() if "wandb" in line]
    assert "wandb_writer ended with SIGABRT" in told
    assert "the stage goes on without it" in told
    assert StageResult.load(str(place.work)).metrics["epochs"].value == 3


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_stage_that_is_killed_leaves_no_process(place: Place, number: int) -> None:
    mark = f"{place.folder.name}-{number}"
    process = place.start(f"--workdir={place.work}", "--epochs=9", "--pause-s=1", MARK=mark)
    wait_for(lambda: any("wandb-core" in line for line in left_of(mark)))
    began = time.monotonic()
    process.send_signal(number)
    process.wait(10)
    assert time.monotonic() - began < 2
    wait_for(lambda: not left_of(mark), 5)


def wait_for(condition: object, seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_the_trials_of_a_search_are_runs_of_their_own(tmp_path: Path) -> None:
    from mlapp import storage, tracking
    from mlapp.schema import Tracking
    from mlapp.trackers.wandb_spool import WeightsAndBiases
    from mlapp.trackers.wandb_writer import main
    from mlapp.tracking import tracked_by

    settings = Tracking(wandb="offline", group="g", patience_s=0)
    with tracked_by(WeightsAndBiases(storage.at(tmp_path), settings, last=False)):
        tracking.began("tune", "abc", {"trials": 2})
        for number in (1, 2):
            history = [{"validation_accuracy": 0.1 * number * epoch} for epoch in (1, 2)]
            tracking.trial(f"trial-{number}", {"learning_rate": 0.1 * number}, history, stopped_early=number == 2)
        tracking.failed("KeyboardInterrupt: ")
    copy = f"memory://{uuid.uuid4().hex}/wandb"
    main([str(tmp_path), f"--copy-to={copy}"])
    trials = [kept for kept in wandb_files.runs(tmp_path) if kept.job_type == "trial"]
    assert [kept.group for kept in trials] == ["g", "g"]
    assert [kept.config["learning_rate"] for kept in trials] == [0.1, 0.2]
    assert [kept.summary["stopped_early"] for kept in trials] == [False, True]
    assert trials[1].curve("validation_accuracy") == [(1, 0.2), (2, 0.4)]
    assert len(list(storage.at(copy).glob("offline-run-*/run-tune-*.wandb"))) == 3
    (spool,) = (tmp_path / "wandb" / "spool").glob("*.jsonl")
    assert [json.loads(line)["event"] for line in spool.read_text().splitlines()][-1] == "failed"
