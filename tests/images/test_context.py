"""What the image is made of, and the tag that stands for it."""

from __future__ import annotations

import io
import shutil
import subprocess
import tarfile
from pathlib import Path

import pytest

from mlapp.errors import UserError
from mlapp.images.context import BESIDE_THE_PACKAGE, PACKAGE, ROOT, Context


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A small project."""
    for name, content in {
        "mlapp/__init__.py": "",
        "mlapp/dl/net.py": "WIDTH = 1\n",
        "mlapp/presets/quick.yaml": "training: {epochs: 1}\n",
        "mlapp/__pycache__/net.cpython-311.pyc": "compiled",
        "mlapp/.net.py": "an editor's",
        "mlapp/DEPLOYED": "dags/mlapp/__init__.py",
        "tests/test_net.py": "",
        **dict.fromkeys(BESIDE_THE_PACKAGE, "FROM python\n"),
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    return tmp_path


def test_the_context_holds_the_package_and_what_stands_beside_it_and_nothing_else(root) -> None:
    files = Context.read("cpu", root).files
    assert set(files) == {"mlapp/__init__.py", "mlapp/dl/net.py", "mlapp/presets/quick.yaml", *BESIDE_THE_PACKAGE}


@pytest.mark.parametrize("name", ["mlapp/dl/net.py", "mlapp/presets/quick.yaml", *BESIDE_THE_PACKAGE])
def test_a_change_of_any_file_is_another_tag(root, name) -> None:
    before = Context.read("cpu", root).tag
    (root / name).write_text("changed")
    assert Context.read("cpu", root).tag != before


def test_the_tag_depends_on_content_and_variant_alone(root, tmp_path_factory) -> None:
    """Given the same files elsewhere, with other times and other files around them, the tag is the same."""
    copy = tmp_path_factory.mktemp("composer") / "dags"
    shutil.copytree(root / "mlapp", copy / "mlapp", copy_function=shutil.copyfile)
    for name in BESIDE_THE_PACKAGE:
        shutil.copyfile(root / name, copy / name)
    (copy / "fashion_mnist_training.py").write_text("a DAG")
    shutil.rmtree(copy / "mlapp" / "__pycache__")
    assert Context.read("cpu", copy).tag == Context.read("cpu", root).tag
    assert Context.read("cuda", copy).tag != Context.read("cpu", root).tag


def test_moving_text_from_one_file_to_the_next_is_another_tag(root) -> None:
    (root / "mlapp/a.py").write_text("xy")
    (root / "mlapp/b.py").write_text("z")
    before = Context.read("cpu", root).tag
    (root / "mlapp/a.py").write_text("x")
    (root / "mlapp/b.py").write_text("yz")
    assert Context.read("cpu", root).tag != before


def test_archive_and_folder_hold_the_same_and_the_archive_is_reproducible(root, tmp_path_factory) -> None:
    context = Context.read("cpu", root)
    folder = tmp_path_factory.mktemp("written")
    context.write(folder)
    with tarfile.open(fileobj=io.BytesIO(context.archive())) as archive:
        packed = {entry.name: archive.extractfile(entry).read() for entry in archive}
    assert packed == context.files
    assert {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()} == packed
    assert context.archive() == Context.read("cpu", root).archive()


@pytest.mark.parametrize("name", BESIDE_THE_PACKAGE)
def test_a_missing_file_is_named(root, name) -> None:
    (root / name).unlink()
    with pytest.raises(UserError, match=rf"{name} is missing.*placement\.image"):
        Context.read("cpu", root)


def test_the_project_itself_is_a_context() -> None:
    files = Context.read("cpu").files
    assert {"mlapp/dl/dnn_trainer.py", "mlapp/presets/smoke.yaml", "Dockerfile.training"} <= set(files)
    assert {"/" not in name or name.startswith("mlapp/") for name in files} == {True}
    assert PACKAGE.parent == ROOT


def test_no_file_of_the_package_is_left_out() -> None:
    """Given a file of another kind, `KINDS` must name it, or a stage would lack it in the image alone."""
    listed = subprocess.run(["git", "ls-files", PACKAGE.name], cwd=ROOT, capture_output=True, text=True, check=True)
    assert set(listed.stdout.split()) <= set(Context.read("cpu").files)


def test_dockerignore_lets_in_what_the_context_holds() -> None:
    """Given `docker build .` by hand, the engine sees the same files."""
    let_in = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert let_in | {"Dockerfile.training"} == {PACKAGE.name, *BESIDE_THE_PACKAGE}
