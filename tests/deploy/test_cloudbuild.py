"""deploy/cloudbuild.yaml, as far as it can be judged without Cloud Build."""

from __future__ import annotations

import json
import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from loopback import gcs

from mlapp.images.context import BESIDE_THE_PACKAGE, PACKAGE, Context

ROOT = Path(__file__).parents[2]
FILE = ROOT / "deploy" / "cloudbuild.yaml"
TEXT = FILE.read_text(encoding="utf-8")
BUILD: dict[str, Any] = yaml.safe_load(TEXT)
STEPS: dict[str, dict[str, Any]] = {step["id"]: step for step in BUILD["steps"]}
GIVEN = {"BUILD_ID", "PROJECT_ID", *BUILD["substitutions"]}
SCRIPTS = {name: step["args"][1] for name, step in STEPS.items() if step["args"][0] == "-euc"}


def filled(text: str, **values: str) -> str:
    """What Cloud Build makes of a text: its own substitutions, and ``$$`` for a dollar."""
    values = {"_VARIANT": "cpu", "_IMAGES": "images/x", "_COMPOSER": "gs://composer", "_BILLS": "gs://b", **values}
    return re.sub(
        r"\$(?:(\$)|\{?(\w+)\}?)", lambda found: "$" if found[1] else values.get(found[2], f"<{found[2]}>"), text
    )


def test_it_is_a_build_configuration() -> None:
    command = ["check-jsonschema", "--builtin-schema", "vendor.cloudbuild", str(FILE)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_it_tests_builds_pushes_lists_and_deploys_in_this_order() -> None:
    assert list(STEPS) == ["test", "tag", "build", "push", "bill-of-materials", "deploy"]
    assert not [step for step in STEPS.values() if "waitFor" in step or step.get("allowFailure")]


def test_every_substitution_is_declared_and_used() -> None:
    """Cloud Build refuses a build with one that is not."""
    text = yaml.safe_dump([BUILD["steps"], BUILD["artifacts"]]).replace("$$", "")
    used = set(re.findall(r"\$\{?(_?[A-Z][A-Z0-9_]*)", text))
    assert used <= GIVEN
    assert set(BUILD["substitutions"]) <= used


def test_images_of_others_are_pinned() -> None:
    """Google's own builders are kept with the service."""
    names = {step["name"] for step in STEPS.values()} - {"gcr.io/cloud-builders/docker"}
    assert all(re.search(r":[v\d][\w.-]*@sha256:[0-9a-f]{64}$", name) for name in names)


def test_the_image_s_provenance_is_required() -> None:
    """Cloud Build records it of what `images` names, and fails where it cannot."""
    assert BUILD["options"]["requestedVerifyOption"] == "VERIFIED"
    (image,) = BUILD["images"]
    assert f"--tag={image}" in SCRIPTS["build"]


def test_it_holds_no_secret() -> None:
    assert not re.search(r"(?i)token|password|api_key|secret", TEXT)


@pytest.mark.parametrize("name", SCRIPTS)
def test_its_scripts_are_bash(name) -> None:
    subprocess.run(["bash", "-n"], input=filled(SCRIPTS[name]), text=True, check=True)


def test_the_tag_is_the_one_that_the_image_step_looks_for(tmp_path) -> None:
    """Given the script as Cloud Build runs it, the image it names is the one that a run finds."""
    for name in (PACKAGE.name, *BESIDE_THE_PACKAGE, ".venv"):
        (tmp_path / name).symlink_to(ROOT / name)
    told = subprocess.check_output(["bash", "-euc", filled(SCRIPTS["tag"])], cwd=tmp_path, text=True)
    assert (tmp_path / "tag").read_text() == told == f"{Context.read('cpu').tag}\n"


def test_without_its_substitutions_it_ends_before_it_builds() -> None:
    script = filled(SCRIPTS["tag"], _IMAGES="")
    done = subprocess.run(["bash", "-euc", script], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "--substitutions" in done.stderr


def test_the_last_step_brings_the_dags_to_composer_and_leaves_the_bill_under_the_image_s_tag(tmp_path) -> None:
    for name in ("mlapp", "dags", "plugins", "deploy", *BESIDE_THE_PACKAGE, ".venv"):
        (tmp_path / name).symlink_to(ROOT / name)
    (tmp_path / "tag").write_text("cpu-0123456789abcdef\n")
    (tmp_path / "bill-of-materials.json").write_text("{}")
    script = filled(SCRIPTS["deploy"], _COMPOSER="gs://models", BUILD_ID="b1")
    set_there = dict(text.split("=") for text in STEPS["deploy"]["env"])
    with gcs.serving(tmp_path / "gcs") as environ:
        environment = {**os.environ, **environ, **set_there}
        command = ["bash", "-euc", script]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert re.search(r"\d+ changes in gs://models", done.stdout)
    (pattern,) = BUILD["artifacts"]["objects"]["paths"]
    assert [file.name for file in tmp_path.glob(pattern)] == ["cpu-0123456789abcdef.b1.cyclonedx.json"]


def test_the_bill_is_kept_as_long_as_the_image_may_be_and_replaces_none() -> None:
    """Given an account that may add objects only, and a bucket that clears ``builds/`` after a month."""
    example = re.search(r"_BILLS=gs://MODELS-BUCKET/(\w+)$", FILE.read_text(), re.MULTILINE)
    rules = json.loads((FILE.parent / "lifecycle-models.json").read_text())["rule"]
    cleared = [prefix for rule in rules for prefix in rule["condition"].get("matchesPrefix", [])]
    assert example
    assert cleared == ["builds/"]
    assert not [prefix for prefix in cleared if f"{example[1]}/".startswith(prefix)]
    assert filled(SCRIPTS["deploy"], BUILD_ID="b1") != filled(SCRIPTS["deploy"], BUILD_ID="b2")
