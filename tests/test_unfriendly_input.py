"""Whatever comes in, settings are made of it or one line says what is wrong: no crash, and nothing else happens."""

from __future__ import annotations

import gzip
import io
import json
import os
import shutil
import struct
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from mlapp import cluster, config, plain, storage
from mlapp.configure import folder_name, read_conf, resolve
from mlapp.errors import UserError
from mlapp.etl import gcp_dataloader, idx, image_folder
from mlapp.etl.unpack import unpack
from mlapp.policy import policy_of
from mlapp.registry import history
from mlapp.registry.bundle import Manifest, describe, verify
from mlapp.result import StageResult
from mlapp.schema import Config
from mlapp.schema_policy import Vetting
from tests.faults.inputs import LABELS, MANIFEST

# A folder is made once for all examples of a test: each writes its own files anew.
ANY = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
LEAVES = st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20)
JSON = st.recursive(LEAVES, lambda inner: st.lists(inner) | st.dictionaries(st.text(max_size=20), inner), max_leaves=12)
SETTINGS = [
    f"{section}.{name}" for section, model in Config.model_fields.items() for name in model.annotation.model_fields
]
DEEP = ["[" * 100_000, '{"a":' * 100_000, "a: " + "[" * 20_000]
DEEP += ['{"a":' * depth + "1" + "}" * depth for depth in (60, 600)] + ['{"' + "a." * 700 + 'b": 1}']
TAGGED = ["training: {epochs: !!bool x}", "a: !!int ''", "a: !!timestamp x", "a: !!float x", "? !!set {a}\n: 1"]


def told(attempt: Callable[[], Any]) -> Any:
    """What an attempt gives, or the error that it ends with, which is one line."""
    try:
        return attempt()
    except UserError as error:
        found = error
    assert "\n" not in str(found)
    assert len(str(found)) > 20
    return found


@ANY
@given(st.text() | JSON.map(json.dumps) | st.sampled_from([*DEEP, '{"data.source": "\\ud800"}']))
def test_any_text_as_a_runs_conf(text: str) -> None:
    conf = told(lambda: read_conf(text))
    assert isinstance(conf, dict | UserError)
    if isinstance(conf, dict):
        found = told(lambda: resolve("smoke", conf))
        assert isinstance(found, Config | UserError)
        if isinstance(found, Config):
            found.model_dump_json()


@pytest.mark.parametrize("text", [*DEEP, '{"data.source": "\\ud800"}'])
def test_a_conf_that_nobody_could_handle_is_refused(text: str) -> None:
    assert isinstance(told(lambda: resolve("smoke", read_conf(text))), UserError)


@pytest.mark.parametrize("value", ["!!bool x", "!!int ''", "!!timestamp x", "!!float x"])
def test_a_value_that_is_not_what_its_tag_says_is_refused(value: str) -> None:
    with pytest.raises(UserError, match=r"training\.epochs"):
        config.parse_overrides([f"training.epochs={value}"])


@ANY
@given(st.text(max_size=120))
def test_a_class_has_a_name_that_can_stand_in_a_file_a_line_and_a_table(name: str) -> None:
    found = told(lambda: resolve("smoke", {"data": {"classes": ["a", name]}}))
    sound = 0 < len(name) <= 100 and name.isprintable() and "|" not in name and name == name.strip()
    assert isinstance(found, Config if sound else UserError)


@pytest.mark.parametrize("name", [b"x | 0.99 | >= 0.5 | passed", b"two\nlines", b"\xff", b"z" * 101])
def test_a_class_folder_of_another_name_is_refused(tmp_path: Path, name: bytes) -> None:
    source = tmp_path / "source"
    for folder in (b"good", name):
        place = source / os.fsdecode(folder)
        place.mkdir(parents=True)
        for number in range(3):
            Image.new("L", (8, 8), number).save(place / f"{number}.png")
    extract = gcp_dataloader.Extract(name="parts", source=str(source))
    found = told(lambda: gcp_dataloader.run(extract, tmp_path / "extract"))
    assert "is no class's name" in str(found)
    assert not (tmp_path / "extract" / "result.json").exists()


@pytest.mark.parametrize("kind", ["EPS", "PDF", "ICO"])
def test_only_formats_that_are_read_without_other_programs_are_opened(tmp_path: Path, kind: str) -> None:
    for name in ("a", "b"):
        (tmp_path / "root" / name).mkdir(parents=True)
        Image.new("L", (8, 8)).save(tmp_path / "root" / name / "1.png")
    Image.new("L", (16, 16)).save(tmp_path / "root" / "a" / "2.png", kind)
    with pytest.raises(UserError, match=r"2\.png is not a readable picture"):
        image_folder.to_idx(tmp_path / "root", tmp_path, 8, None, 10_000)


@ANY
@given(st.sampled_from(SETTINGS), JSON)
def test_any_value_for_any_setting(name: str, value: Any) -> None:
    found = told(lambda: resolve("smoke", {name: value}))
    assert isinstance(found, Config | UserError)
    if isinstance(found, UserError):
        assert name.partition(".")[0] in str(found) or "conf" in str(found)


@ANY
@given(st.text() | st.sampled_from(DEEP + TAGGED))
def test_any_text_as_an_override(text: str) -> None:
    for argument in (text, f"training.epochs={text}"):
        assert isinstance(told(lambda argument=argument: config.parse_overrides([argument])), dict | UserError)


@ANY
@given(st.binary() | st.text().map(str.encode) | st.sampled_from(DEEP + TAGGED).map(str.encode))
def test_any_file_as_a_preset_or_a_policy(tmp_path: Path, content: bytes) -> None:
    file = tmp_path / "any.yaml"
    file.write_bytes(content)
    assert isinstance(told(lambda: config.load(str(file), {}, {})), Config | UserError)
    assert isinstance(told(lambda: policy_of(Vetting(policy=str(file)))), dict | UserError)


def test_a_few_lines_that_stand_for_a_billion_values_are_refused_at_once(tmp_path: Path) -> None:
    file = tmp_path / "bomb.yaml"
    lines = ["a0: &a0 {x: 1}"] + [f"a{n}: &a{n} {{x: *a{n - 1}, y: *a{n - 1}}}" for n in range(1, 40)]
    file.write_text("\n".join(lines))
    with pytest.raises(UserError, match="is not YAML: its aliases stand for more than 100,000 values"):
        config.load(str(file), {}, {})
    file.write_text("a: &a [*a]")
    with pytest.raises(UserError, match="is not YAML"):
        config.load(str(file), {}, {})


@ANY
@given(st.text() | JSON.map(json.dumps) | st.sampled_from(DEEP))
def test_any_text_as_a_cluster_a_history_or_a_result(tmp_path: Path, text: str) -> None:
    told(lambda: cluster.read({"TF_CONFIG": text}))
    told(lambda: history.moves(text, "HISTORY"))
    (tmp_path / "result.json").write_text(text, encoding="utf-8", errors="replace")
    told(lambda: StageResult.load(str(tmp_path)))


@ANY
@given(
    st.dictionaries(st.sampled_from([*MANIFEST, "history", "extra"]), JSON),
    st.just(LABELS) | st.binary(max_size=40),
)
def test_any_manifest_is_refused_or_is_of_its_folders_files_alone(
    tmp_path: Path, changes: dict[str, Any], content: bytes
) -> None:
    """Given a manifest in a folder of its own name, as one has it who makes both, then each file is still looked at."""
    for text in (json.dumps({**MANIFEST, **changes}), content.decode(errors="replace")):
        (tmp_path / "manifest.json").write_text(text, encoding="utf-8", errors="replace")
        made = told(lambda: Manifest.load(tmp_path / "manifest.json"))
        place = tmp_path / "m" / (made.id if isinstance(made, Manifest) else "0123456789ab")
        place.mkdir(parents=True, exist_ok=True)
        shutil.copy(tmp_path / "manifest.json", place)
        (place / "labels.json").write_bytes(content)
        found = told(partial(verify, storage.at(place)))
        sound = isinstance(made, Manifest) and made.files == Manifest(**MANIFEST).files and content == LABELS
        assert isinstance(found, Manifest if sound else UserError)


@pytest.mark.parametrize("name", ["../../secret", "/etc/passwd", "..", ".hidden", "a/b", "", "a" * 200, "a\nb"])
@pytest.mark.parametrize("field", ["files", "model", "name", "predecessor"])
def test_no_name_in_a_manifest_leads_out_of_the_registry(tmp_path: Path, name: str, field: str) -> None:
    """Given a bundle whose hashes are right, as one makes it who wants another file to be read, then it is refused."""
    file = MANIFEST["files"]["labels.json"]
    odd = {"files": {name: file, "labels.json": file}} if field == "files" else {field: name}
    path = tmp_path / "manifest.json"
    path.write_text(json.dumps({**MANIFEST, **odd}))
    with pytest.raises(UserError, match="is not a bundle's manifest"):
        Manifest.load(path)


def test_a_manifest_that_is_read_again_is_the_same(tmp_path: Path) -> None:
    (tmp_path / "labels.json").write_text("[]")
    made = describe(tmp_path, **{name: value for name, value in MANIFEST.items() if name != "files"})
    (tmp_path / "manifest.json").write_text(made.model_dump_json(indent=2, exclude_unset=True))
    assert Manifest.load(tmp_path / "manifest.json") == made


@ANY
@given(st.text(), st.dates().map(str))
def test_any_runs_name_makes_a_folders_name(run: str, day: str) -> None:
    name = folder_name(run, day)
    assert name
    assert all(letter.isascii() and (letter.isalnum() or letter == "-") for letter in name)
    assert len(name) <= 100


@ANY
@given(
    st.binary(max_size=60)
    | st.tuples(st.lists(st.integers(0, 2**32 - 1), max_size=5), st.binary(max_size=60)).map(
        lambda parts: struct.pack(f">HBB{len(parts[0])}I", 0, 8, len(parts[0]), *parts[0]) + parts[1]
    ),
    st.booleans(),
)
def test_any_bytes_as_an_idx_file(tmp_path: Path, content: bytes, zipped: bool) -> None:
    for left in tmp_path.iterdir():
        left.unlink()
    source = io.BytesIO(gzip.compress(content) if zipped else content)
    found = told(lambda: unpack(source, "images", tmp_path, "images", 10_000))
    written = list(tmp_path.iterdir())
    if isinstance(found, UserError):
        assert not written
    else:
        assert written == [found.path]
        assert found.path.stat().st_size <= 10_000
        told(lambda: idx.open_idx(found.path))


@ANY
@given(
    st.binary(max_size=200), st.sampled_from(["PNG", "JPEG", "GIF", "BMP"]), st.integers(0, 200), st.integers(0, 255)
)
def test_any_bytes_as_an_image(tmp_path: Path, content: bytes, kind: str, place: int, byte: int) -> None:
    """Given random bytes, and an image of which one byte was changed, then it is read or named."""
    good = io.BytesIO()
    Image.new("L", (9, 7), 128).save(good, kind)
    changed = bytearray(good.getvalue())
    changed[place % len(changed)] = byte
    for number, data in enumerate((content, bytes(changed))):
        root, out = tmp_path / f"root{number}", tmp_path / f"out{number}"
        for name in ("a", "b"):
            (root / name).mkdir(parents=True, exist_ok=True)
            (root / name / "1.png").write_bytes(good.getvalue())
        (root / "a" / "2.png").write_bytes(data)
        out.mkdir(exist_ok=True)
        told(lambda root=root, out=out: image_folder.to_idx(root, out, 8, None, 10_000))


def test_an_image_that_would_fill_the_memory_is_refused_before_it_is_decoded(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / "root" / name).mkdir(parents=True)
        Image.new("L", (8, 8)).save(tmp_path / "root" / name / "1.png")
    Image.new("1", (9000, 9000)).save(tmp_path / "root" / "a" / "2.png")
    assert (tmp_path / "root" / "a" / "2.png").stat().st_size < 20_000
    with pytest.raises(UserError, match=r"2\.png has more than 40,000,000 pixels: make it smaller"):
        image_folder.to_idx(tmp_path / "root", tmp_path, 8, None, 10_000)


def test_plain_values_are_read_as_ever() -> None:
    assert plain.from_yaml("a: [1, 2.5, true, null, x]") == {"a": [1, 2.5, True, None, "x"]}
    assert plain.from_yaml("a: &a [1]\nb: [*a, *a]") == {"a": [1], "b": [[1], [1]]}
    assert plain.from_yaml("") is None
    assert plain.from_json('{"a": [1]}') == {"a": [1]}


def test_no_two_runs_share_a_folder() -> None:
    runs = ["a.b", "a-b", "a_b", "α", "β", "", "-", "manual__2026-11-22T07:01:03+00:00"]
    runs += ["manual-2026-11-22T07-01-03-00-00", "manual_2026-11-22T07:01:03+00:00", "nightly"]
    names = [folder_name(run, "2026-11-22") for run in runs]
    assert len(set(names)) == len(runs)
    assert {"2026-11-22-nightly", "2026-11-22-manual-2026-11-22T07-01-03-00-00", "2026-11-22-a-b"} <= set(names)
