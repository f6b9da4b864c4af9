"""Hostile files, with hashes that fit them, at every stage that opens such files: exit code 2, one line, nothing run.

What a stage made is named by its hash, so such a file only comes to a stage that was given a result by a plain URI, or
whose maker was taken over. Those of networks are in `tests/dl/test_hostile_networks.py`.
"""

from __future__ import annotations

import hashlib
import json
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlapp import ledger, storage, tensors
from mlapp.errors import UserError
from mlapp.etl import gcp_dataloader, image_etl, profile, quality
from mlapp.ml import checkpoints as boosting
from mlapp.ml import tree_file, xgboost_model
from mlapp.registry import promoter
from mlapp.result import StageResult
from mlapp.spending import Spending
from mlapp.vetting import selector, verdict
from mlapp.workspaces import workspace
from tests import hostile, planted
from tests.hostile import harmless, refused
from tests.registry import chain

DEEP = b"[" * 100_000 + b"]" * 100_000
NOT_JSON: dict[str, bytes] = {
    "empty": b"",
    "deep": DEEP,
    "half a character": b'"\\ud800"',
    "not text": b"\xff\xfe\x00",
    "a list": b"[1, 2]",
    "a number": b"1e999",
    "pickle": b"\x80\x04cos\nsystem\n(S'true'\ntR.",
    "cut off": b'{"classes": ["a',
}


@pytest.fixture
def marker(tmp_path: Path) -> Path:
    return tmp_path / "marker"


def replaced(result: StageResult, folder: Path, name: str, content: bytes) -> StageResult:
    """The same result with another file, and the hash of that."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"hostile-{name}"
    path.write_bytes(content)
    found = {"uri": str(path), "sha256": storage.sha256(path), "bytes": len(content)}
    artifacts = {
        **{known: result.handed_on(known) for known in result.artifacts},
        name: result.artifacts[name].model_copy(update=found),
    }
    made = result.model_copy(update={"artifacts": artifacts, "folder": str(folder)})
    storage.write_text(folder / "result.json", made.model_dump_json())
    return StageResult.load(str(folder))


@pytest.mark.parametrize("wrong", NOT_JSON)
@pytest.mark.parametrize("name", ["result.json", "config.json"])
def test_results_and_configurations(
    tmp_path: Path, marker: Path, capsys: pytest.CaptureFixture[str], wrong: str, name: str
) -> None:
    (tmp_path / name).write_bytes(NOT_JSON[wrong])
    flag = "--results" if name == "result.json" else "--config"
    with harmless(marker):
        refused(selector.run, [f"{flag}={tmp_path / name}", *(["--results=x"] if flag == "--config" else [])], capsys)


@pytest.mark.parametrize("wrong", NOT_JSON)
def test_candidates(
    planted_teacher: StageResult, tmp_path: Path, marker: Path, capsys: pytest.CaptureFixture[str], wrong: str
) -> None:
    given = replaced(planted_teacher, tmp_path / "given", "candidates", NOT_JSON[wrong])
    with harmless(marker):
        refused(selector.run, [f"--results={given.reference}", f"--workdir={tmp_path / 'work'}"], capsys)


ODD: dict[str, Any] = {
    "no number": {"validation_accuracy": {"value": float("nan"), "n": 10}},
    "endless": {"latency_us": {"value": float("inf")}},
    "negative": {"bytes": -1},
    "beyond all numbers": {"macs": 10**40},
    "a file of its own": {"artifact": "../../etc/passwd"},
}


@pytest.mark.parametrize("wrong", ODD)
def test_figures_of_candidates(
    planted_teacher: StageResult, tmp_path: Path, marker: Path, capsys: pytest.CaptureFixture[str], wrong: str
) -> None:
    known = json.loads(planted_teacher.local("candidates").read_text())
    content = json.dumps([{**each, **ODD[wrong]} for each in known]).encode()
    given = replaced(planted_teacher, tmp_path / "given", "candidates", content)
    with harmless(marker):
        refused(selector.run, [f"--results={given.reference}", f"--workdir={tmp_path / 'work'}"], capsys)


@pytest.fixture(scope="module")
def ran(
    tmp_path_factory: pytest.TempPathFactory,
    planted_data: StageResult,
    planted_teacher: StageResult,
    planted_student: Any,
) -> Any:
    return chain.run(tmp_path_factory.mktemp("chain"), planted_data, planted_teacher, planted_student(3))


@pytest.mark.parametrize("wrong", NOT_JSON)
@pytest.mark.parametrize("name", ["verdict", "challenger", "frontier", "dataset"])
def test_what_promotion_reads(
    ran: Any,
    planted_data: StageResult,
    tmp_path: Path,
    marker: Path,
    capsys: pytest.CaptureFixture[str],
    name: str,
    wrong: str,
) -> None:
    results = {"verdict": ran.vetted, "challenger": ran.challenger, "data": planted_data}
    owner = {"verdict": "verdict", "dataset": "data"}.get(name, "challenger")
    given = {owner: replaced(results[owner], tmp_path / "given", name, NOT_JSON[wrong])}
    flags = [f"--{flag}={result.reference}" for flag, result in (results | given).items()]
    with harmless(marker):
        refused(promoter.run, [*flags, f"--registry={tmp_path / 'r'}", f"--workdir={tmp_path / 'work'}"], capsys)
    assert not (tmp_path / "r").exists() or not [*(tmp_path / "r").rglob("CHAMPION")]


def tflite(good: bytes) -> dict[str, bytes]:
    """Model files that LiteRT must not choke on; the seeds of the last ones made it crash, hang or stumble."""
    draw = np.random.default_rng(0)
    noisy = bytearray(good)
    noisy[200:400] = draw.bytes(200)
    return {
        "empty": b"",
        "text": b"not a model",
        "noise": draw.bytes(5000),
        "cut off": good[: len(good) // 2],
        "head of noise": bytes(noisy),
        "root beyond the end": b"\xff\xff\xff\x7f" + good[4:],
        "zip bomb": hostile.zipped({"model": bytes(50_000_000)}),
    }


@pytest.mark.parametrize("wrong", tflite(b"x" * 1000))
def test_litert_files(
    ran: Any,
    planted_data: StageResult,
    planted_teacher: StageResult,
    tmp_path: Path,
    marker: Path,
    capsys: pytest.CaptureFixture[str],
    wrong: str,
) -> None:
    content = tflite(planted_teacher.local("int8").read_bytes())[wrong]
    given = replaced(ran.challenger, tmp_path / "given", "model", content)
    flags = [f"--challenger={given.reference}", f"--data={planted_data.reference}", f"--registry={tmp_path / 'r'}"]
    with harmless(marker):
        told = refused(verdict.run, [*flags, f"--workdir={tmp_path / 'work'}"], capsys)
    assert "hostile-model" in told


def test_a_litert_file_that_crashes_the_interpreter_ends_a_process_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from mlapp.vetting import litert_check, scorer

    path = tmp_path / "model.tflite"
    path.write_bytes(b"whatever")
    crash = tmp_path / "crash.py"
    crash.write_text("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)")
    monkeypatch.setattr(litert_check, "__file__", str(crash))
    with pytest.raises(UserError, match="it crashes the interpreter, signal 11"):
        scorer.score(path, np.zeros((1, 8, 8, 1), np.uint8))


def changed(whole: Any, change: Callable[[Any], object]) -> bytes:
    copy = json.loads(json.dumps(whole))
    change(copy)
    return json.dumps(copy).encode()


def model_of(whole: Any) -> Any:
    return whole["learner"]["gradient_booster"]["model"]


TREES: dict[str, Callable[[Any], object]] = {
    "a split of a feature that there is not": lambda w: model_of(w)["trees"][0]["split_indices"].__setitem__(
        0, 1 << 30
    ),
    "a negative feature": lambda w: model_of(w)["trees"][0]["split_indices"].__setitem__(0, -1),
    "a child that there is not": lambda w: model_of(w)["trees"][0]["left_children"].__setitem__(0, 1 << 30),
    "a node that is its own child": lambda w: model_of(w)["trees"][0]["left_children"].__setitem__(0, 0),
    "half a split": lambda w: model_of(w)["trees"][0]["right_children"].__setitem__(0, -1),
    "fewer weights than nodes": lambda w: model_of(w)["trees"][0]["base_weights"].pop(),
    "more nodes than there are": lambda w: model_of(w)["trees"][0]["tree_param"].update(num_nodes="1000000"),
    "a class that there is not": lambda w: model_of(w)["tree_info"].__setitem__(0, 99),
    "rounds beyond the trees": lambda w: model_of(w)["iteration_indptr"].__setitem__(-1, 9999),
    "no tree at all": lambda w: model_of(w).update(trees=[]),
    "numbers as texts": lambda w: model_of(w)["trees"][0].update(split_conditions=["1"]),
    "not a number": lambda w: model_of(w)["trees"][0]["split_conditions"].__setitem__(0, float("nan")),
    "categories": lambda w: model_of(w)["trees"][0].update(categories=[1], categories_nodes=[0]),
    "dart": lambda w: w["learner"]["gradient_booster"].update(name="dart"),
    "another objective": lambda w: w["learner"]["objective"].update(name="rank:map"),
    "a billion features": lambda w: w["learner"]["learner_model_param"].update(num_feature="1000000000"),
    "features as code": lambda w: w["learner"]["attributes"].update(features="!!python/name:os.system"),
    "features of another shape": lambda w: w["learner"]["attributes"].update(
        features='{"shape": [1000000, 1000000, 1], "pixel_grid": 1000000, "gradient_grids": []}'
    ),
    "no learner": lambda w: w.pop("learner"),
}


@pytest.mark.parametrize("wrong", [*TREES, *NOT_JSON, "a key twice", "ubj"])
def test_boosted_trees(planted_baseline: StageResult, tmp_path: Path, marker: Path, wrong: str) -> None:
    content = planted_baseline.local("model").read_bytes()
    whole = json.loads(content)
    path = tmp_path / "model.json"
    if wrong in TREES:
        content = changed(whole, TREES[wrong])
    elif wrong in NOT_JSON:
        content = NOT_JSON[wrong]
    elif wrong == "ubj":
        content = bytes(xgboost_model.load(planted_baseline.local("model")).save_raw("ubj"))
    else:
        content = content.replace(b'"name":"gbtree"', b'"name":"gbtree","name":"gbtree"')
        assert b'"gbtree","name"' in content
    path.write_bytes(content)
    with harmless(marker), pytest.raises(UserError, match="is not a model of boosted trees") as told:
        xgboost_model.load(path)
    assert "\n" not in str(told.value)


@pytest.mark.parametrize("wrong", TREES)
def test_checkpoints_of_trees(planted_baseline: StageResult, tmp_path: Path, marker: Path, wrong: str) -> None:
    """Given checkpoints whose names have the right hash, as anyone can make them."""
    model = xgboost_model.load(planted_baseline.local("model"))
    features, classes = tree_file.check(bytes(model.save_raw("json")))
    keeping = {"features": features, "classes": classes}
    content = changed(json.loads(bytes(model.save_raw("json"))), TREES[wrong])
    (tmp_path / boosting._name("000005", content)).write_bytes(content)
    from mlapp.ml.backend import xgboost

    with harmless(marker), pytest.raises(UserError, match="is not of this training"):
        boosting.Checkpoints(tmp_path, lambda: xgboost().Booster(), {}, **keeping).restore()


def pictures(marker: Path) -> dict[str, bytes]:
    """Pictures that would take more memory than there is, or are something else."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    head = b"\x89PNG\r\n\x1a\n"
    vast = chunk(b"IHDR", struct.pack(">IIBBBBB", 200_000, 200_000, 8, 6, 0, 0, 0))
    few = chunk(b"IHDR", struct.pack(">IIBBBBB", 8, 8, 8, 0, 0, 0, 0))
    return {
        "vast png": head + vast + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b""),
        "png bomb": head + few + chunk(b"IDAT", b"\1" + zlib.compress(bytes(200_000_000))) + chunk(b"IEND", b""),
        "pickle": hostile.pickled(marker),
        "zip": hostile.zipped({"a.png": bytes(50_000_000)}),
    }


@pytest.mark.parametrize("wrong", pictures(Path("/nowhere")))
def test_pictures(tmp_path: Path, marker: Path, capsys: pytest.CaptureFixture[str], wrong: str) -> None:
    from PIL import Image

    for name in ("a", "b"):
        (tmp_path / "set" / name).mkdir(parents=True)
        Image.new("L", (8, 8)).save(tmp_path / "set" / name / "1.png")
    (tmp_path / "set" / "a" / "2.png").write_bytes(pictures(marker)[wrong])
    flags = [f"data.source={tmp_path / 'set'}", "data.name=mine", f"--workdir={tmp_path / 'work'}"]
    with harmless(marker):
        refused(gcp_dataloader.run, flags, capsys)


@pytest.mark.parametrize("wrong", ["pickle", "zip bomb", "vast", "gzip bomb"])
def test_idx_files(tmp_path: Path, marker: Path, capsys: pytest.CaptureFixture[str], wrong: str) -> None:
    import gzip

    head = struct.pack(">HBBIII", 0, 8, 3, 1 << 30, 1 << 30, 1 << 30)
    content = {
        "pickle": hostile.pickled(marker),
        "zip bomb": hostile.zipped({"train-images-idx3-ubyte": bytes(100_000_000)}),
        "vast": head,
        "gzip bomb": gzip.compress(struct.pack(">HBBIII", 0, 8, 3, 2, 8, 8) + bytes(200_000_000)),
    }[wrong]
    (tmp_path / "set").mkdir()
    for name in ("train-images-idx3-ubyte.gz", "train-labels-idx1-ubyte.gz"):
        (tmp_path / "set" / name).write_bytes(content)
    flags = [f"data.source={tmp_path / 'set'}", "data.name=mine", f"--workdir={tmp_path / 'work'}"]
    with harmless(marker):
        refused(gcp_dataloader.run, flags, capsys)


YAML = {
    "python/object/apply": "!!python/object/apply:os.system ['touch {marker}']",
    "python/name": "training: !!python/name:os.system",
    "python/module": "training: !!python/module:antigravity",
    "billion laughs": "a: &a [x,x,x,x,x,x,x,x,x,x]\n"
    + "".join(
        f"{b}: &{b} [*{a},*{a},*{a},*{a},*{a},*{a},*{a},*{a},*{a},*{a}]\n"
        for a, b in zip("abcdefgh", "bcdefghi", strict=True)
    ),
    "deep": "- " * 50_000,
    "itself": "&a [*a]",
}


@pytest.mark.parametrize("wrong", YAML)
@pytest.mark.parametrize("kind", ["preset", "policy"])
def test_yaml(
    tmp_path: Path,
    marker: Path,
    capsys: pytest.CaptureFixture[str],
    planted_data: StageResult,
    ran: Any,
    kind: str,
    wrong: str,
) -> None:
    path = tmp_path / "given.yaml"
    path.write_text(YAML[wrong].replace("{marker}", str(marker)))
    flags = [
        f"--challenger={ran.challenger.reference}",
        f"--data={planted_data.reference}",
        f"--registry={tmp_path / 'r'}",
    ]
    given = f"--preset={path}" if kind == "preset" else f"vetting.policy={path}"
    with harmless(marker):
        refused(verdict.run, [*flags, given, f"--workdir={tmp_path / 'work'}"], capsys)


@pytest.mark.parametrize("wrong", NOT_JSON)
@pytest.mark.parametrize("stage", [quality.run, image_etl.run])
def test_what_is_said_of_raw_data(
    tmp_path: Path, marker: Path, capsys: pytest.CaptureFixture[str], stage: Any, wrong: str
) -> None:
    (tmp_path / "given").mkdir()
    source = tmp_path / "given" / "source.json"
    source.write_bytes(NOT_JSON[wrong])
    given = planted.result(source.parent, "extract", {"source": source})
    flags = [f"--raw={given.uri}", *([f"--report={given.uri}"] if stage is image_etl.run else [])]
    with harmless(marker):
        refused(stage, [*flags, f"--workdir={tmp_path / 'work'}"], capsys)


@pytest.mark.parametrize("wrong", NOT_JSON)
def test_what_is_said_of_prepared_data(
    tmp_path: Path, marker: Path, capsys: pytest.CaptureFixture[str], planted_data: StageResult, wrong: str
) -> None:
    given = replaced(planted_data, tmp_path / "given", "dataset", NOT_JSON[wrong])
    with harmless(marker):
        flags = [f"--data={given.uri}", f"--report={given.uri}"]
        refused(profile.run, [*flags, f"--workdir={tmp_path / 'work'}"], capsys)


def test_files_of_arrays(tmp_path: Path, marker: Path) -> None:
    for name, content in hostile.array_files(marker, tmp_path).items():
        path = tmp_path / "network.safetensors"
        path.write_bytes(content)
        with harmless(marker), pytest.raises(UserError, match="is not a file of arrays") as told:
            tensors.read(path)
        assert "\n" not in str(told.value), name


@pytest.mark.parametrize(
    "content",
    [*NOT_JSON.values(), b'{"key": "key", "wall_s": 1e300, "cpu_s": 0}', b'{"key": "key", "wall_s": -5, "cpu_s": 0}'],
)
def test_what_earlier_tries_are_said_to_have_spent(tmp_path: Path, content: bytes) -> None:
    """A wrong note is not worth a training: it is reported, and counts for nothing."""
    (tmp_path / "spent.json").write_bytes(content)
    spending = Spending(storage.at(tmp_path / "spent.json"), "key")
    spending.take_up()
    assert 0 <= spending.total()["wall_s"] < 5


def test_arrays_come_back_as_they_were(tmp_path: Path) -> None:
    arrays = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.array(5), "c": np.zeros((0, 4), np.float16)}
    tensors.write(tmp_path / "a", arrays, {"what": "ünï"})
    found, about = tensors.read(tmp_path / "a")
    assert about == {"what": "ünï"}
    assert {name: array.dtype for name, array in found.items()} == {name: array.dtype for name, array in arrays.items()}
    assert all(np.array_equal(found[name], arrays[name]) for name in arrays)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("out/../../../outside.tar", hostile.archive({"a.txt": b"x"})),
        ("state.tar", hostile.archive({"../a.txt": b"x"})),
        ("state.tar", hostile.archive({"/tmp/a.txt": b"x"})),
        ("state.tar", hostile.archive({"a": b""}, type=b"2", linkname="/etc/passwd")),
        ("state.tar", hostile.archive({"a": b""}, type=b"3")),
        ("state.tar", hostile.archive({"a.txt": bytes(50_000_000)}, "w:gz")),
        ("state.tar", b"not an archive"),
    ],
    ids=["name", "parent", "absolute", "link", "device", "bomb", "text"],
)
def test_what_an_earlier_try_is_said_to_have_kept(tmp_path: Path, marker: Path, name: str, content: bytes) -> None:
    import uuid

    remote = storage.at(f"memory://{uuid.uuid4().hex}/work")
    remote.fs.pipe_file(f"{remote.path}/kept/{name}", content)
    with harmless(marker), ledger.kept_in(f"memory://{uuid.uuid4().hex}"):
        with workspace(remote) as place:
            place.resume("key")
            assert [*place.local.iterdir()] == [], "nobody kept it"
        ledger.enter_kept("key", hashlib.sha256(content).hexdigest())
        with pytest.raises(UserError, match="remove it") as told, workspace(remote) as place:
            place.resume("key")
    assert "\n" not in str(told.value)
    with workspace(remote, resumes=False) as place:
        place.resume("key")
        assert [*place.local.iterdir()] == [], "only models are taken up"
