"""`make deploy` against a real fake-gcs-server: what it brings, what it takes away, and what it leaves alone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from gcloud_stub import Gcloud
from loopback import gcs
from loopback.refusing import refusing

from deploy import sync
from mlapp import storage
from mlapp.errors import UserError

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def environ(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    with gcs.serving(tmp_path_factory.mktemp("gcs")) as environ:
        yield environ


@pytest.fixture
def bucket(environ: dict[str, str], monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> str:
    """The bucket of an environment, in which another team has a DAG."""
    for name, value in environ.items():
        monkeypatch.setenv(name, value)
    name = f"env-{abs(hash(request.node.name))}-bucket"
    gcs.make_bucket(environ["STORAGE_EMULATOR_HOST"], name)
    write(f"gs://{name}", "dags/theirs.py", "their DAG")
    return f"gs://{name}"


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Path]:
    """A few files to bring."""
    made = {"dags/mlapp/a.py": "a = 1", "plugins/b.py": "b = 1", "dags/c.py": "c = 1"}
    for path, text in made.items():
        file = tmp_path / "here" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return {path: tmp_path / "here" / path for path in made}


def write(bucket: str, path: str, text: str) -> None:
    storage.at(bucket).fs.pipe_file(f"{bucket}/{path}", text.encode())


def read(bucket: str, path: str) -> str:
    fs: Any = storage.at(bucket).fs
    fs.invalidate_cache()
    return str(fs.cat_file(f"{bucket}/{path}").decode())


def content(bucket: str) -> dict[str, str]:
    """All that is in the bucket, but the notes of what was brought."""
    fs: Any = storage.at(bucket).fs
    fs.invalidate_cache()
    name = bucket.removeprefix("gs://")
    found = {path.removeprefix(f"{name}/"): fs.cat_file(path).decode() for path in fs.find(name)}
    return {path: text for path, text in found.items() if path != sync.DEPLOYED and not path.endswith("ignore")}


def test_what_is_brought_is_there_beside_what_others_have(bucket: str, files: dict[str, Path]) -> None:
    assert sync.sync(bucket, files) == [f"put {path}" for path in files]
    assert content(bucket) == {
        "dags/theirs.py": "their DAG",
        "dags/mlapp/a.py": "a = 1",
        "plugins/b.py": "b = 1",
        "dags/c.py": "c = 1",
    }


def test_the_second_time_only_what_changed_is_brought(bucket: str, files: dict[str, Path]) -> None:
    sync.sync(bucket, files)
    assert sync.sync(bucket, files) == []
    files["plugins/b.py"].write_text("b = 2")
    assert sync.sync(bucket, files) == ["put plugins/b.py"]
    assert content(bucket)["plugins/b.py"] == "b = 2"


def test_what_no_longer_exists_is_removed_and_what_others_have_is_not(bucket: str, files: dict[str, Path]) -> None:
    sync.sync(bucket, files)
    write(bucket, "dags/mlapp/theirs_too.py", "brought by hand")
    del files["dags/c.py"], files["dags/mlapp/a.py"]
    assert sync.sync(bucket, files) == ["removed dags/c.py", "removed dags/mlapp/a.py"]
    assert {*content(bucket)} == {"dags/theirs.py", "dags/mlapp/theirs_too.py", "plugins/b.py"}
    assert sync.sync(bucket, files) == []


def test_a_file_of_somebody_else_in_the_way_ends_it_before_anything_is_done(
    bucket: str, files: dict[str, Path]
) -> None:
    write(bucket, "plugins/b.py", "their plugin")
    before = content(bucket)
    with pytest.raises(
        UserError, match=r"holds files of somebody else where these should go: plugins/b\.py; move them"
    ):
        sync.sync(bucket, files)
    assert content(bucket) == before


def test_the_same_file_in_the_way_is_taken_for_ours(bucket: str, files: dict[str, Path]) -> None:
    write(bucket, "plugins/b.py", "b = 1")
    assert "put plugins/b.py" not in sync.sync(bucket, files)


def test_a_deployment_that_was_cut_off_goes_on(bucket: str, files: dict[str, Path]) -> None:
    lost = files["dags/c.py"]
    moved = lost.rename(lost.with_suffix(".away"))
    with pytest.raises(FileNotFoundError):
        sync.sync(bucket, {**files, "dags/c.py": lost})
    files = {**files, "dags/c.py": moved}
    sync.sync(bucket, {"dags/mlapp/a.py": files["dags/mlapp/a.py"]})
    files["dags/mlapp/a.py"].write_text("a = 2")
    assert sync.sync(bucket, files) == [f"put {path}" for path in files]


def test_a_dry_run_changes_nothing(bucket: str, files: dict[str, Path]) -> None:
    before = content(bucket)
    assert sync.sync(bucket, files, dry_run=True) == [f"put {path}" for path in files]
    assert content(bucket) == before


def test_lines_of_others_in_the_ignore_files_stay(bucket: str, files: dict[str, Path]) -> None:
    write(bucket, "dags/.airflowignore", "their/\nmlapp/\n")
    for _ in range(2):
        sync.sync(bucket, files)
    lines = read(bucket, "dags/.airflowignore").splitlines()
    assert lines == ["their/", "mlapp/", *sync.anchored(sync.IGNORED)]
    assert read(bucket, "plugins/.airflowignore").splitlines() == sync.anchored(sync.not_plugins())


def test_lines_of_an_earlier_version_are_replaced(bucket: str, files: dict[str, Path]) -> None:
    write(bucket, "dags/.airflowignore", "their/\nmlapp/\ndeploy/\nlate/\n")
    write(bucket, "plugins/.airflowignore", "\n".join(["theirs.py", *sync.OUTDATED[1]]) + "\n")
    sync.sync(bucket, files)
    assert read(bucket, "dags/.airflowignore").splitlines() == ["their/", "late/", *sync.anchored(sync.IGNORED)]
    assert read(bucket, "plugins/.airflowignore").splitlines()[0] == "theirs.py"
    assert "approval.py" not in read(bucket, "plugins/.airflowignore").splitlines()


def test_an_ignore_file_of_others_stays_as_it_is_to_the_byte(bucket: str, files: dict[str, Path]) -> None:
    fs, theirs = storage.at(bucket).fs, b"caf\xe9/\r\nmlapp/\x0c\n"
    fs.pipe_file(f"{bucket}/dags/.airflowignore", theirs)
    sync.sync(bucket, files)
    fs.invalidate_cache()
    ours = "".join(f"{line}\n" for line in sync.anchored(sync.IGNORED)).encode()
    assert fs.cat_file(f"{bucket}/dags/.airflowignore") == theirs + ours


def test_a_file_that_is_removed_is_no_longer_ignored(bucket: str, files: dict[str, Path], tmp_path: Path) -> None:
    """Given a plugin that this project gives up, so that another team may have one of that name."""
    (tmp_path / "old.py").write_text("old = 1")
    sync.sync(bucket, {**files, "plugins/old.py": tmp_path / "old.py"})
    lines = read(bucket, "plugins/.airflowignore") + "".join(f"{line}\n" for line in sync.anchored(["old.py"]))
    write(bucket, "plugins/.airflowignore", lines)
    assert "removed plugins/old.py" in sync.sync(bucket, files)
    assert "old" not in read(bucket, "plugins/.airflowignore")


def test_every_module_in_plugins_is_a_plugin_or_ignored() -> None:
    files = {file.name: file.read_text(encoding="utf-8") for file in (ROOT / "plugins").glob("*.py")}
    assert {name for name, text in files.items() if "AirflowPlugin" not in text} <= {*sync.not_plugins()}


@pytest.mark.parametrize("syntax", ["glob", "regexp"])
def test_only_our_own_files_are_ignored(tmp_path: Path, syntax: str) -> None:
    """Given other teams' files of the same names in folders of theirs, and names that only begin like ours."""
    from airflow._shared.module_loading.file_discovery import find_path_from_directory

    ours = {
        "dags": ["mlapp/a.py", "mlapp/etl/b.py", "deploy/presets/c.py"],
        "plugins": sync.not_plugins(),
    }
    theirs = {
        "dags": [
            *("team/mlapp/a.py", "team/deploy/presets/c.py", "deploy/theirs.py", "mlapp_theirs/a.py", "mlapp.py"),
            *("deploy/presets_theirs/c.py", "team/dags/mlapp/a.py"),
        ],
        "plugins": [
            *(f"team/{name}" for name in sync.not_plugins()),
            *("vertex_theirs.py", "my_approval.py", "approvalXpy.py", "stage_operator/plugin.py"),
        ],
    }
    wanted = {"dags": sync.anchored(sync.IGNORED), "plugins": sync.anchored(sync.not_plugins())}
    assert len(ours["plugins"]) > 10
    for folder, names in ours.items():
        for name in (*names, *theirs[folder]):
            file = tmp_path / folder / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.touch()
        (tmp_path / folder / ".airflowignore").write_text("\n".join(wanted[folder]))
        found = find_path_from_directory(tmp_path / folder, ".airflowignore", syntax)
        assert {str(Path(path).relative_to(tmp_path / folder)) for path in found} == {*theirs[folder]}


def test_the_tree_has_all_of_the_project_that_composer_needs_and_dags_last() -> None:
    paths = [*sync.tree()]
    assert {"dags/mlapp/schema.py", "dags/mlapp/presets/quick.yaml", "dags/deploy/presets/vertex_cpu.yaml"} < {*paths}
    assert {f"plugins/{file.name}" for file in (ROOT / "plugins").glob("*.py")} < {*paths}
    dags = [f"dags/{file.name}" for file in (ROOT / "dags").glob("*.py")]
    assert {*dags} <= {*paths[-len(dags) - 4 :]}
    assert not [path for path in paths if "__pycache__" in path or path.endswith(".pyc") or "tests" in path]


def test_the_tree_has_what_the_image_is_built_from() -> None:
    context = pytest.importorskip("mlapp.images.context")
    assert {f"dags/{name}" for name in context.BESIDE_THE_PACKAGE} <= {*sync.tree()}


def command(environ: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if name not in ("GOOGLE_APPLICATION_CREDENTIALS",)}
    return subprocess.run(
        [sys.executable, ROOT / "deploy" / "sync.py", *arguments],
        env={**kept, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore", **environ},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def test_the_environments_bucket_is_the_one_that_gcloud_tells(
    environ: dict[str, str], bucket: str, tmp_path: Path
) -> None:
    gcs.make_bucket(environ["STORAGE_EMULATOR_HOST"], "europe-west4-mlapp-1-bucket")
    gcloud = Gcloud(tmp_path / "bin")
    told = {**environ, **gcloud.environ}
    done = command(told, "--environment=team", "--region=europe-west4", "--project=shop-1")
    assert done.returncode == 0, done.stderr
    described = ["composer", "environments", "describe", "team", "--location=europe-west4"]
    assert gcloud.calls == [[*described, "--format=value(config.dagGcsPrefix)", "--project=shop-1"]]
    assert done.stdout.splitlines()[-1] == f"{len(sync.tree())} changes in gs://europe-west4-mlapp-1-bucket"
    assert (
        "`gcloud composer environments run team --location=europe-west4 --project=shop-1 dags unpause -- vertex_reaper`"
        in done.stdout
    )
    there = content("gs://europe-west4-mlapp-1-bucket")
    assert there["dags/mlapp/schema.py"] == (ROOT / "mlapp" / "schema.py").read_text()


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ((), "which environment? give REGION=europe-west4 (ENVIRONMENT=, PROJECT=), or BUCKET=gs://…"),
        (("--bucket=my-bucket",), "my-bucket is no bucket: write it like BUCKET=gs://europe-west4-mlapp-1234-bucket"),
        (("--bucket=gs://nowhere",), "there is no bucket gs://nowhere: `gcloud composer environments list"),
        (
            ("--environment=other", "--region=europe-west1"),
            "cannot find the environment other (ERROR: (gcloud) NOT_FOUND): "
            "`gcloud composer environments list --locations=europe-west1` shows what there is",
        ),
    ],
)
def test_what_is_wrong_is_told_in_one_line(
    environ: dict[str, str], tmp_path: Path, arguments: tuple[str, ...], told: str
) -> None:
    (tmp_path / "gcloud").write_text("#!/bin/sh\necho 'ERROR: (gcloud) NOT_FOUND' >&2\nexit 1\n")
    (tmp_path / "gcloud").chmod(0o755)
    done = command({**environ, "PATH": f"{tmp_path}:/usr/bin:/bin"}, *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"python deploy/sync.py: error: {told}")
    assert len(done.stderr.splitlines()) == 1


def test_a_store_that_answers_as_never_before_is_told(environ: dict[str, str]) -> None:
    with refusing(409, "The bucket is being changed.") as url:
        told = {**environ, "STORAGE_EMULATOR_HOST": url, "MLAPP_SECRET_MANAGER_ENDPOINT": "none"}
        done = command(told, "--bucket=gs://some-bucket")
    assert done.returncode == 2
    assert "gs://some-bucket refuses (The bucket is being changed., 409): run `gcloud storage" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_no_credentials_and_no_gcloud_are_told(tmp_path: Path) -> None:
    bare = {"HOME": str(tmp_path), "CLOUDSDK_CONFIG": str(tmp_path), "NO_GCE_CHECK": "true", "PATH": str(tmp_path)}
    done = command(bare, "--bucket=gs://some-bucket")
    assert (done.returncode, done.stdout) == (2, "")
    assert "no credentials for Google Cloud: run `gcloud auth application-default login`" in done.stderr
    done = command(bare, "--region=europe-west4")
    assert (done.returncode, done.stdout) == (2, "")
    assert "gcloud is missing: install the Google Cloud CLI, or give BUCKET=gs://…" in done.stderr


def test_a_login_that_is_not_taken_is_told(tmp_path: Path) -> None:
    kept = {"type": "authorized_user", "client_id": "c", "client_secret": "s", "refresh_token": "old"}
    (tmp_path / "application_default_credentials.json").write_text(json.dumps(kept))
    bare = {"HOME": str(tmp_path), "CLOUDSDK_CONFIG": str(tmp_path), "HTTPS_PROXY": "http://127.0.0.1:9"}
    done = command(bare, "--bucket=gs://some-bucket")
    assert (done.returncode, done.stdout) == (2, "")
    assert "error: Google Cloud does not take the credentials (" in done.stderr
    assert done.stderr.endswith("): run `gcloud auth application-default login`\n")
    assert len(done.stderr.splitlines()) == 1
