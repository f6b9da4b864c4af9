"""Links, pipes and folders where a registry has files: refused by name, never followed, and the rest is looked at."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import shelf
from shelf import NAME, promote

from mlapp.errors import TryAgainError, UserError
from mlapp.registry import integrity
from mlapp.registry.__main__ import main
from mlapp.registry.bundle import Draft
from mlapp.registry.moves import rollback
from mlapp.registry.pointer import Pointer

FILES = (".lock", "CHAMPION", "HISTORY.jsonl", "BUNDLE/labels.json", "BUNDLE/manifest.json", "BUNDLE/manifest.sig")
FOLDERS = ("BUNDLE", ".draft-x")
ODD = ("link", "dangling", "loop", "link to a folder", "folder", "pipe", "socket", "huge")


@pytest.fixture
def registry(tmp_path: Path) -> Path:
    """Two bundles, and somebody's file and folder outside."""
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "precious").write_text("precious")
    for content in ("one", "two"):
        promote(str(tmp_path / "registry"), content)
    return tmp_path / "registry" / NAME


def put(place: Path, what: str, outside: Path) -> None:
    """Something odd at this place."""
    if place.is_dir() and not place.is_symlink():
        shutil.rmtree(place)
    else:
        place.unlink(missing_ok=True)
    if what == "folder":
        place.mkdir()
        (place / "x").write_text("x")
    elif what == "huge":
        place.touch()
        os.truncate(place, 1 << 40)
    elif what == "pipe":
        os.mkfifo(place)
    elif what == "socket":
        import socket

        here = os.getcwd()
        os.chdir(place.parent)  # a socket's path must be short
        try:
            socket.socket(socket.AF_UNIX).bind(place.name)
        finally:
            os.chdir(here)
    else:
        target = {"link": outside / "precious", "dangling": outside / "nothing", "loop": place}
        place.symlink_to(target.get(what, outside))


@pytest.mark.timeout(60)
@pytest.mark.parametrize("what", ODD)
@pytest.mark.parametrize("where", [*FILES, *FOLDERS])
def test_what_is_odd_is_refused_by_name_and_nothing_outside_is_touched(
    registry: Path, where: str, what: str, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = (json.loads(line)["champion"] for line in (registry / "HISTORY.jsonl").read_text().splitlines())
    place = registry / where.replace("BUNDLE", first)
    if (where in FOLDERS and what == "folder") or (where == ".lock" and what == "huge"):
        return
    outside = registry.parent.parent / "outside"
    (registry / second / "labels.json").write_text("altered")
    put(place, what, outside)
    before = {path: path.read_bytes() for path in outside.rglob("*") if path.is_file()}

    with pytest.raises(SystemExit) as ended:
        main(["verify", "--registry", str(registry.parent), "--name", NAME])
    assert ended.value.code == 1
    told = capsys.readouterr().out.splitlines()
    assert any(str(place) in line or (what == "huge" and f"{place.name} was altered" in line) for line in told), told
    assert any(f"{second}: labels.json was altered" in line for line in told), "the rest went unchecked"
    assert all(line and line.isprintable() for line in told)

    tries = [lambda: promote_again(registry)]
    tries += [lambda: rollback(str(registry.parent), NAME, first)] if where != ".draft-x" else []
    for each in tries if where != "BUNDLE/manifest.sig" else []:
        with pytest.raises(UserError) as error:
            each()
        assert "\n" not in str(error.value)
        assert "nothing was odd" not in str(error.value)
    for command in (["list"], ["show", first], ["diff", first]):
        assert run([*command, "--registry", str(registry.parent), "--name", NAME]) in (0, 2)
    assert {path: path.read_bytes() for path in outside.rglob("*") if path.is_file()} == before
    assert what == "folder" or os.path.lexists(place)


def run(line: list[str]) -> object:
    """The exit code of a command; anything but an exit is a traceback."""
    try:
        main(line)
    except SystemExit as ended:
        return ended.code
    return 0


def promote_again(registry: Path) -> None:
    """A promotion of another bundle, on top of what is there, which reads all that matters."""
    pointer = Pointer(str(registry.parent), NAME)
    with Draft(pointer.folder):
        rollback(str(registry.parent), NAME)
        raise UserError("nothing was odd about it")


@pytest.mark.parametrize(
    "line",
    [
        *('{"champion": ["a"]}', '{"champion": null}', '{"champion": {"a": 1}}', '{"champion": 7}', "[]", "7", '"x"'),
        *("null", "{}", '{"champion": "../../../etc"}', '{"champion": "aaaaaaaaaaaa", "before": ["b"]}'),
        *('{"champion": "aaaaaaaaaaaa", "why": {"a": 1}}', '{"champion": "aaaaaaaaaaaa", "manifest": ["b"]}'),
        *(
            '{"champion": "aaaaaaaaaaaa", "previous": ["b"]}',
            "[" * 100_000,
            '{"champion": "aaaaaaaaaaaa", "by": 1e999}',
        ),
    ],
    ids=lambda line: line[:40],
)
@pytest.mark.parametrize("command", ["list", "show", "verify", "rollback --why x", "adopt --why x", "sign"])
def test_a_line_that_is_none_is_told_in_one_line(
    registry: Path, line: str, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with (registry / "HISTORY.jsonl").open("a") as stream:
        stream.write(f"{line}\n")
    with pytest.raises(SystemExit) as ended:
        main([*command.split(), "--registry", str(registry.parent), "--name", NAME])
    told = capsys.readouterr()
    found = told.out if command == "verify" else told.err
    assert ended.value.code == (1 if command == "verify" else 2)
    assert "line 3" in found
    assert len(found.splitlines()) == 1


@pytest.mark.parametrize("command", ["list", "show", "diff", "verify"])
def test_a_bundle_that_is_consistent_and_nonsense_is_told_in_one_line(
    registry: Path, command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Given that anybody can hash, then a verdict may hold anything."""
    from mlapp.registry.bundle import describe, install

    pointer = Pointer(str(registry.parent), NAME)
    huge = b'{"challenger": {"accuracy": {"value": NaN}, "latency_us": {"value": 1}, "bytes": 1%s}}' % (b"0" * 4000)
    odd = (b"[]", b"{}", b'{"challenger": []}', b'{"challenger": {"accuracy": 1}}', b"\xff", b"[" * 99_999, huge)
    for verdict in odd:
        with Draft(pointer.folder) as draft:
            (draft / "model.int8.tflite").write_text("m")
            (draft / "verdict.json").write_bytes(verdict)
            about = {"name": NAME, "model": "model.int8.tflite", "predecessor": None, "created": "\x1b[31m"}
            made = install(draft, describe(draft, **about, data={}, stages={}, history=None), pointer.folder)
        bundle = [made.name] if command in ("show", "diff") else []
        assert run([command, *bundle, "--registry", str(registry.parent), "--name", NAME]) in (0, 2)
        told = capsys.readouterr()
        assert "\x1b" not in told.out + told.err
        assert "Traceback" not in told.err
        shutil.rmtree(made.path)


@pytest.mark.parametrize("command", [["show"], ["diff", "BUNDLE"], ["list"]])
def test_nothing_of_a_bundle_is_shown_before_it_is_verified(
    registry: Path, command: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """Given a verdict that somebody embellished, then no figure of it appears anywhere."""
    first, champion = (json.loads(line)["champion"] for line in (registry / "HISTORY.jsonl").read_text().splitlines())
    path = registry / champion / "verdict.json"
    path.write_text(path.read_text().replace('"value": 0.932', '"value": 0.999'))
    asked = [first if each == "BUNDLE" else each for each in command]
    assert run([*asked, "--registry", str(registry.parent), "--name", NAME]) in (0, 2)
    told = capsys.readouterr()
    assert f"{champion}: verdict.json was altered" in told.out + told.err
    assert "99.9" not in told.out + told.err


def test_control_characters_reach_neither_history_nor_terminal(
    registry: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    evil = "fine\x1b[2K\r\nforged  Ada: promote\u202e\x9b31m"
    main(["rollback", "--why", evil, "--by", evil, "--registry", str(registry.parent), "--name", NAME])
    raw = (registry / "HISTORY.jsonl").read_text().splitlines()[-1]
    assert json.loads(raw)["why"] == r"fine\x1b[2K\r\nforged  Ada: promote\u202e\x9b31m"
    forged = {**json.loads(raw), "why": evil, "by": evil, "at": "\x1b[8m2026"}  # written by hand, as an old line may be
    from mlapp.registry import history

    lines = (registry / "HISTORY.jsonl").read_text().splitlines(keepends=True)[:-1]
    forged.pop("previous")
    (registry / "HISTORY.jsonl").write_text(history.appended("".join(lines), forged))
    capsys.readouterr()
    for command in ("list", "show"):
        main([command, "--registry", str(registry.parent), "--name", NAME])
    told = capsys.readouterr().out
    assert all(line.isprintable() for line in told.split("\n"))
    assert not any(line.startswith("forged") for line in told.split("\n"))


@pytest.mark.parametrize("command", [["promote", "aaaaaaaaaaaa"], ["rollback"], ["adopt"], ["revoke", "x"]])
@pytest.mark.parametrize("why", [None, "", "   ", "\t\n", "\u2028\u200b"])
def test_a_reason_is_required(
    registry: Path, command: list[str], why: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(
            [*command, *(["--why", why] if why is not None else []), "--registry", str(registry.parent), "--name", NAME]
        )
    assert ended.value.code == 2
    assert "why" in capsys.readouterr().err or command[0] in ("promote", "revoke")
    assert len((registry / "HISTORY.jsonl").read_text().splitlines()) == 2


def test_locks_that_keep_nobody_out_are_noticed(registry: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fcntl.flock", lambda *_: None)
    before = (registry / "HISTORY.jsonl").read_text()
    for each in (
        lambda: rollback(str(registry.parent), NAME),
        lambda: Draft(Pointer(str(registry.parent), NAME).folder),
    ):
        with pytest.raises(UserError, match=r"file locks have no effect in .*keep the registry on a local disk"):
            each()
    assert (registry / "HISTORY.jsonl").read_text() == before
    assert integrity.damage(str(registry.parent), NAME) == []


def test_a_file_system_without_locks_is_told_in_one_line(registry: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def flock(*_: object) -> None:
        raise OSError(37, "No locks available")

    monkeypatch.setattr("fcntl.flock", flock)
    with pytest.raises(UserError, match=r"has no file locks .No locks available.: keep the registry"):
        rollback(str(registry.parent), NAME)


ROOM = """
import sys
from pathlib import Path
from mlapp import storage
from mlapp.registry import pointer as module
from mlapp.registry.pointer import Pointer
from mlapp.errors import TryAgainError, UserError
place, when = sys.argv[1:]
pointer = Pointer(place, "m")
pointer.swap(None, "a" * 12, {"why": "x" * 2000})
def fill():
    try:
        with open(f"{place}/filler", "ab", buffering=0) as stream:
            while True: stream.write(b"x" * 512)
    except OSError: pass
if when == "before": fill()
else:
    replace = module._replace
    def filling(path, *rest):
        done = replace(path, *rest)
        if path.name == "HISTORY.jsonl": fill()
        return done
    module._replace = filling
try:
    with storage.explained(): pointer.swap("a" * 12, "b" * 12, {"why": "y" * 4000})
    print("done", pointer.read()[0], len(pointer.history()))
except UserError as error: print("failed", pointer.read()[0], len(pointer.history()), error)
Path(place, "filler").unlink()
print(pointer.settle()[0], len(pointer.history()))
"""


@pytest.mark.parametrize("when", ["before", "between"])
def test_a_disk_that_fills_up_makes_one_outcome_which_is_told(
    full_disk: tuple[Path, tuple[str, ...]], when: str
) -> None:
    """Given no space before the history's line, the move fails; given none after it, the move is done and says so."""
    place, under = full_disk
    line = [*under, sys.executable, "-Wignore", "-c", ROOM, str(place), when]
    done = subprocess.run(line, capture_output=True, text=True, check=True, cwd=shelf.SHIPPED.parents[2])
    first, last = done.stdout.splitlines()
    if when == "before":
        assert first.startswith("failed a 1 no space left for")
        assert last == "a 1"
    else:
        assert (first, last) == ("done b 2", "b 2")


def test_a_kill_after_the_decision_leaves_nothing_once_the_move_is_completed(registry: Path) -> None:
    code = f"""
import os, signal
from mlapp.registry import pointer as module
from mlapp.registry.moves import rollback
replace = module._replace
def dying(path, *rest):
    done = replace(path, *rest)
    if path.name == "HISTORY.jsonl": os.kill(os.getpid(), signal.SIGKILL)
    return done
module._replace = dying
rollback({str(registry.parent)!r}, {NAME!r})
"""
    killed = subprocess.run([sys.executable, "-c", code], check=False, cwd=shelf.SHIPPED.parents[2])
    assert killed.returncode == -9
    assert list(registry.glob(".*.draft"))
    assert Pointer(str(registry.parent), NAME).settle() == Pointer(str(registry.parent), NAME).state().decided
    assert list(registry.glob(".*.draft")) == []


def test_a_pointer_that_cannot_be_written_after_the_decision_is_told_as_done(
    registry: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    from mlapp.registry import pointer as module

    replace, (first, second) = (
        module._replace,
        (json.loads(line)["champion"] for line in (registry / "HISTORY.jsonl").read_text().splitlines()),
    )

    def failing(path: Any, *rest: Any) -> bool:
        if path.name == "CHAMPION":
            raise OSError(5, "Input/output error")
        return replace(path, *rest)

    with monkeypatch.context() as broken:
        broken.setattr(module, "_replace", failing)
        assert rollback(str(registry.parent), NAME) == (second, first)
    [told] = caplog.messages
    assert f"the move to {first} is decided and in the history, but {registry}/CHAMPION still has the old value" in told
    report = integrity.inspect(str(registry.parent), NAME)
    assert (report.damage, [first in note for note in report.notes]) == ([], [True])
    assert Pointer(str(registry.parent), NAME).state().champion == first
    assert Pointer(str(registry.parent), NAME).settle() == first == (registry / "CHAMPION").read_text().strip()


@pytest.mark.parametrize("lost", ["answer", "line", "everything"])
def test_a_write_that_fails_is_reported_by_what_came_of_it(
    registry: Path, monkeypatch: pytest.MonkeyPatch, lost: str
) -> None:
    """Given a store that fails while the line is written, then it is done, failed, or said to be unknown."""
    from mlapp.registry import pointer as module

    replace = module._replace
    pointer = Pointer(str(registry.parent), NAME)
    before = pointer.read()

    def failing(path: Any, *rest: Any) -> bool:
        if path.name != "HISTORY.jsonl":
            return replace(path, *rest)
        if lost == "answer":
            replace(path, *rest)
        if lost == "everything":
            monkeypatch.setattr(Pointer, "_history", away)
        raise ConnectionError("connection reset")

    def away(self: Pointer) -> tuple[str, int]:
        raise ConnectionError("connection refused")

    with monkeypatch.context() as broken:
        broken.setattr(module, "_replace", failing)
        if lost == "answer":
            rollback(str(registry.parent), NAME)
        else:
            error = TryAgainError if lost == "everything" else ConnectionError
            with pytest.raises(
                error, match="not known whether the move was written" if lost == "everything" else "reset"
            ):
                rollback(str(registry.parent), NAME)
    monkeypatch.undo()
    assert (pointer.read() != before, len(pointer.history())) == ((True, 3) if lost == "answer" else (False, 2))


@pytest.mark.parametrize("gone", [["CHAMPION"], ["HISTORY.jsonl"], ["CHAMPION", "HISTORY.jsonl"]])
def test_a_model_whose_files_were_removed_is_not_overlooked(
    registry: Path, gone: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    for name in gone:
        (registry / name).unlink()
    for given in ([], ["--name", NAME]):
        assert run(["verify", *given, "--registry", str(registry.parent)]) == 1
        assert str(registry) in capsys.readouterr().out
    with pytest.raises(UserError):
        rollback(str(registry.parent), NAME)


def test_a_link_in_a_models_place_is_refused(registry: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (registry.parent / "linked").symlink_to(registry)
    (registry.parent / "dangling").symlink_to(registry / "nothing")
    assert run(["verify", "--registry", str(registry.parent)]) == 1
    told = capsys.readouterr().out.splitlines()
    assert ["linked is a symbolic link" in line for line in told] == [False, False, True]
    assert "dangling is a symbolic link" in told[0]
    assert told[1] == f"{NAME}: all whole, 2 bundles, unsigned"
    with pytest.raises(UserError, match="linked is a symbolic link"):
        rollback(str(registry.parent), "linked")
