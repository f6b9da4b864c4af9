"""The stage contract: what is skipped, what is computed again, and what stands when a stage did not end well."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import uuid
from pathlib import Path

import pytest

from mlapp import stage as stage_module
from mlapp import storage
from mlapp.errors import UserError
from mlapp.result import Artifact, Outcome, StageResult, input_digest
from mlapp.section import Section
from mlapp.stage import stage
from tests import tiny_stage
from tests.tiny_stage import Tiny, run

ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def calls() -> list[str]:
    """The texts that the tiny stage was really asked to write."""
    tiny_stage.CALLS.clear()
    return tiny_stage.CALLS


def start(*arguments: str, **kwargs) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "tests.tiny_stage", *arguments],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **kwargs,
    )


def test_a_result_tells_what_was_made_of_what_and_how(tmp_path):
    result = run(Tiny(text="abc"), tmp_path)
    assert (result.stage, result.headline) == ("tiny", "abc")
    assert result.config["text"] == "abc"
    assert result.metrics["length"].value == 3
    assert result.artifacts["text"] == Artifact(uri="text.txt", sha256=storage.sha256(tmp_path / "text.txt"), bytes=3)
    assert set(result.timings) == {"wall_s", "cpu_s", "peak_rss_mb"}
    assert {"python", "platform", "cpus", "code"} <= set(result.environment)
    assert result.environment["lock"] == storage.sha256(ROOT / "requirements-training.txt")[:12]
    assert StageResult.load(str(tmp_path)) == StageResult.load(str(tmp_path / "result.json")) == result


def test_a_finished_stage_is_not_computed_again(tmp_path, calls):
    assert run(Tiny(), tmp_path) == run(Tiny(), tmp_path)
    assert calls == ["hello"]


def test_force_computes_again(tmp_path, calls):
    run(Tiny(), tmp_path)
    run(Tiny(), tmp_path, force=True)
    assert calls == ["hello", "hello"]


def test_another_setting_computes_again(tmp_path, calls):
    run(Tiny(text="a"), tmp_path)
    run(Tiny(text="b"), tmp_path)
    assert calls == ["a", "b"]


def test_other_code_computes_again(tmp_path, calls, monkeypatch):
    run(Tiny(), tmp_path)
    monkeypatch.setattr(stage_module, "code_version", lambda module: "another")
    run(Tiny(), tmp_path)
    assert calls == ["hello", "hello"]


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: (folder / "text.txt").write_text("hullo"),
        lambda folder: (folder / "text.txt").write_text(""),
        lambda folder: (folder / "text.txt").unlink(),
        lambda folder: (folder / "result.json").write_text("{"),
        lambda folder: (folder / "result.json").write_text("[]"),
        lambda folder: (folder / "result.json").write_text('{"stage": "tiny"}'),
        lambda folder: (folder / "result.json").write_bytes(b"\xff\xfe"),
        lambda folder: (folder / "result.json").unlink(),
    ],
)
def test_a_damaged_result_computes_again(tmp_path, calls, damage):
    run(Tiny(), tmp_path)
    damage(tmp_path)
    result = run(Tiny(), tmp_path)
    assert calls == ["hello", "hello"]
    assert result.damage() is None


def test_the_key_takes_an_inputs_content_not_its_place(tmp_path, calls):
    earlier = run(Tiny(text="a"), tmp_path / "earlier")
    shutil.copytree(tmp_path / "earlier", tmp_path / "moved")
    first = Tiny(earlier=earlier.uri, others=(earlier.uri,))
    moved = Tiny(earlier=str(tmp_path / "moved" / "result.json"), others=(str(tmp_path / "moved"),))
    assert run.key(first) == run.key(moved)
    assert run(first, tmp_path / "later").key == run(moved, tmp_path / "later").key
    assert calls == ["a", "hello"]
    other = run(Tiny(text="b"), tmp_path / "other")
    assert run.key(Tiny(earlier=other.uri)) != run.key(Tiny(earlier=earlier.uri))


def test_the_order_and_role_of_inputs_are_part_of_the_key(tmp_path):
    a, b = (run(Tiny(text=text), tmp_path / text).uri for text in "ab")
    keys = [Tiny(others=(a, b)), Tiny(others=(b, a)), Tiny(others=(a,), earlier=b), Tiny(others=(a,))]
    assert len({run.key(config) for config in keys}) == len(keys)


def test_an_input_that_is_no_result_counts_by_its_bytes(tmp_path):
    (tmp_path / "labels.csv").write_text("a")
    before = input_digest(str(tmp_path / "labels.csv"))
    (tmp_path / "labels.csv").write_text("b")
    assert input_digest(str(tmp_path / "labels.csv")) != before
    with pytest.raises(UserError, match=r"no input at .*nothing\.csv"):
        input_digest(str(tmp_path / "nothing.csv"))


def test_a_missing_input_is_named_before_anything_is_done(tmp_path, calls):
    with pytest.raises(UserError, match=r"no result at .*nowhere.*: run the stage that makes it first"):
        run(Tiny(earlier=str(tmp_path / "nowhere")), tmp_path / "work")
    assert calls == []


@pytest.mark.parametrize(("do", "error"), [("refuse", UserError), ("crash", ValueError), ("fill the disk", UserError)])
def test_a_failed_stage_leaves_no_result_not_even_an_older_one(tmp_path, do, error):
    run(Tiny(), tmp_path)
    with pytest.raises(error):
        run(Tiny(do=do), tmp_path)
    assert not (tmp_path / "result.json").exists()


def test_what_a_broken_off_run_left_is_no_hindrance(tmp_path, calls):
    with pytest.raises(ValueError, match="a bug"):
        run(Tiny(do="crash"), tmp_path)
    assert (tmp_path / "draft.txt").exists()
    assert run(Tiny(), tmp_path).damage() is None


def test_the_result_is_written_after_everything_that_it_names(tmp_path, monkeypatch):
    written: list[list[str]] = []
    write_text = storage.write_text

    def watch(path, text):
        written.append(sorted(file.name for file in tmp_path.iterdir() if not file.name.startswith(".")))
        write_text(path, text)

    monkeypatch.setattr(storage, "write_text", watch)
    run(Tiny(), tmp_path)
    assert written == [["draft.txt", "text.txt"]]


def test_a_stage_that_is_never_cached_runs_each_time(tmp_path):
    ran: list[int] = []

    def body(config: Section, workdir: Path) -> Outcome:
        ran.append(1)
        return Outcome()

    body.__module__ = "tests.tiny_stage"
    body.__annotations__["config"] = Section
    once = stage("uncached", area="models", cached=False)(body)
    once(Section(), tmp_path)
    once(Section(), tmp_path)
    assert len(ran) == 2


def test_a_missing_artifact_is_asked_for_by_name(tmp_path):
    with pytest.raises(UserError, match=r"\(tiny\) has no artifact 'model': give the result of the stage"):
        run(Tiny(), tmp_path).artifact("model")


def test_a_remote_work_directory_gets_the_files_and_the_result(calls):
    folder = f"memory://{uuid.uuid4().hex}/tiny"
    result = run(Tiny(text="far"), folder)
    assert result.uri == f"{folder}/result.json"
    assert result.artifact("text").read_text() == "far"
    assert StageResult.load(result.uri).local("text").read_text() == "far"
    assert calls == ["far"]
    assert run(Tiny(earlier=result.uri, text="!"), f"{folder}2").artifact("text").read_text() == "far!"


def test_two_processes_in_one_work_directory_compute_once(tmp_path):
    processes = [start("--do=wait", f"--workdir={tmp_path}") for _ in range(2)]
    told = [process.communicate(timeout=60) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], told
    assert [out for out, _ in told] == [f"{tmp_path / 'result.json'}\n"] * 2
    output = "".join(log for _, log in told)
    assert output.count("waiting\n") == 1
    assert output.count("another process works in") == 1
    assert output.count("nothing to do, valid result of") == 1


def test_sigterm_ends_a_stage_with_143_one_line_and_no_result(tmp_path):
    process = start("--do=wait", f"--workdir={tmp_path}")
    assert process.stderr
    assert process.stderr.readline() == "waiting\n"
    process.send_signal(signal.SIGTERM)
    output, error = process.communicate(timeout=30)
    assert (process.returncode, output) == (143, "")
    assert error == "python -m tests.tiny_stage: stopped; the same command takes the work up again\n"
    assert not (tmp_path / "result.json").exists()


def test_a_killed_stage_leaves_no_lock(tmp_path):
    process = start("--do=wait", f"--workdir={tmp_path}")
    assert process.stderr
    process.stderr.readline()
    process.kill()
    process.communicate()
    assert run(Tiny(), tmp_path).damage() is None


def test_an_unwritable_work_directory_is_one_line(tmp_path):
    (tmp_path / "file").write_text("in the way")
    process = start(f"--workdir={tmp_path / 'file' / 'deeper'}")
    _, error = process.communicate(timeout=30)
    assert process.returncode == 2
    assert error.startswith("python -m tests.tiny_stage: error: cannot make the work directory ")
    assert error.count("\n") == 1


@pytest.mark.skipif(not Path("/sys/kernel").exists(), reason="needs a place where not even root may write")
def test_a_forbidden_work_directory_is_named():
    with pytest.raises(UserError, match=r"cannot make the work directory /sys/kernel/tiny \(.*\): give another"):
        run(Tiny(), "/sys/kernel/tiny")


def test_a_result_is_plain_json_without_the_place_it_was_read_from(tmp_path):
    run(Tiny(), tmp_path)
    content = json.loads((tmp_path / "result.json").read_text())
    assert "folder" not in content
    assert content["artifacts"]["text"]["uri"] == "text.txt"
