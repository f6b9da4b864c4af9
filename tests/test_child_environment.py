"""What a child process gets of its parent's environment."""

from __future__ import annotations

import os
from collections.abc import Mapping

import pytest

from mlapp import child_environment as subject
from mlapp.child_environment import SECRETS_FROM, SIGNING, child_environment, handed_to_tracker, of_stage

NEEDED = {
    "PATH": "/bin",
    "HOME": "/home/me",
    "LANG": "C",
    "LC_ALL": "C.UTF-8",
    "TZ": "UTC",
    "TMPDIR": "/scratch",
    "PYTHONPATH": "/code",
    "PYTHONHASHSEED": "0",
    "LD_LIBRARY_PATH": "/lib",
    "SSL_CERT_FILE": "/etc/ca.pem",
    "REQUESTS_CA_BUNDLE": "/etc/ca.pem",
    "http_proxy": "http://p:1",
    "HTTPS_PROXY": "http://p:1",
    "no_proxy": "a",
}
COMPUTING = {"CUDA_VISIBLE_DEVICES": "1", "NVIDIA_VISIBLE_DEVICES": "1", "OMP_NUM_THREADS": "2", "MKL_NUM_THREADS": "2"}
COMPUTING |= {"OPENBLAS_NUM_THREADS": "2", "TF_CONFIG": "{}", "XLA_FLAGS": "-", "AIP_MODEL_DIR": "gs://m"}
CLOUDY = {"GOOGLE_APPLICATION_CREDENTIALS": "/k.json", "GOOGLE_CLOUD_PROJECT": "p", "CLOUDSDK_CONFIG": "/c"}
CLOUDY |= {"STORAGE_EMULATOR_HOST": "http://h", "GCE_METADATA_HOST": "h", "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false"}
SET = {"MLAPP_TRAINING__EPOCHS": "3", "MLAPP_DEPLOYMENT": "prod", "MLAPP_SECRET_MANAGER_ENDPOINT": "127.0.0.1:1"}
SECRET = {
    "WANDB_API_KEY": "k",
    "NETRC": "/netrc",
    "AIRFLOW_CONN_SHOP": "c",
    "AIRFLOW__CORE__FERNET_KEY": "f",
    "AWS_SECRET_ACCESS_KEY": "a",
    "GITHUB_TOKEN": "g",
    "DATABASE_URL": "d",
    "GOOGLE_API_KEY": "g",
    "OPENAI_API_KEY": "o",
    "SSH_AUTH_SOCK": "/s",
    "RAY_AUTH_TOKEN": "t",
    "DOCKER_AUTH_CONFIG": "d",
}
SIGNS = {"MLAPP_SIGNING__PRIVATE_KEY": "/key.pem", "MLAPP_SIGNING": "{}", "MLAPP_signing__private_key": "/key.pem"}
ALL = {**NEEDED, **COMPUTING, **CLOUDY, **SET, **SECRET, **SIGNS}


def test_a_stage_gets_what_it_needs_and_no_secret() -> None:
    assert of_stage("mlapp.dl.dnn_trainer", ALL) == {**NEEDED, **COMPUTING, **CLOUDY, **SET}


@pytest.mark.parametrize(
    ("module", "more"),
    [
        ("mlapp.registry.promoter", SIGNS),
        ("mlapp.configure", SIGNS),
        ("mlapp.tune.tuner", {"RAY_AUTH_TOKEN": "t"}),
        ("mlapp.images.builder", {"DOCKER_AUTH_CONFIG": "d"}),
    ],
)
def test_a_secret_reaches_the_one_stage_that_uses_it(module: str, more: Mapping[str, str]) -> None:
    assert of_stage(module, ALL) == {**NEEDED, **COMPUTING, **CLOUDY, **SET, **more}


def test_a_child_that_computes_nothing_gets_less() -> None:
    assert child_environment(environ=ALL) == NEEDED


def test_the_operator_adds_names_and_globs() -> None:
    more = {"MLAPP_CHILD_ENV": " LICENCE_FILE ,VENDOR_*,, "}
    given = {**ALL, **more, "LICENCE_FILE": "/l", "VENDOR_A": "a", "VENDORS": "no", "LICENCE_FILES": "no"}
    got = child_environment(environ=given)
    assert got == {**NEEDED, **more, "LICENCE_FILE": "/l", "VENDOR_A": "a"}
    assert child_environment(environ=got) == got  # a child's own children get the same


def test_what_signs_reaches_no_other_child_by_way_of_a_wider_name() -> None:
    assert not SIGNS.keys() & child_environment(("*",), environ=ALL).keys()
    assert SIGNS.keys() <= child_environment(SIGNING, environ=ALL).keys()


def test_the_trackers_key_travels_in_a_pipe_that_is_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    with handed_to_tracker(ALL) as (variables, files):
        (number,) = files
        assert variables == {SECRETS_FROM: str(number)}
        for name in ("WANDB_API_KEY", "NETRC"):
            monkeypatch.delenv(name, raising=False)
        inherited = os.dup(number)
        monkeypatch.setenv(SECRETS_FROM, str(inherited))
        assert subject.for_tracker()[1] == (inherited,)
        subject.take_secrets()
        assert (os.environ["WANDB_API_KEY"], os.environ["NETRC"]) == ("k", "/netrc")
        assert SECRETS_FROM not in os.environ
    monkeypatch.delenv("WANDB_API_KEY")
    monkeypatch.delenv("NETRC")


@pytest.mark.parametrize("number", ["", "987654", "none"])
def test_a_stage_that_was_handed_nothing_starts_its_tracker_all_the_same(
    monkeypatch: pytest.MonkeyPatch, number: str
) -> None:
    monkeypatch.setenv(SECRETS_FROM, number)
    environ, files = subject.for_tracker()
    assert SECRETS_FROM not in environ
    assert files == ()


def test_nothing_is_handed_on_where_there_is_nothing() -> None:
    with handed_to_tracker(NEEDED) as (variables, files):
        assert (variables, files) == ({SECRETS_FROM: ""}, ())
