"""Where credentials and secrets are found, and what is said when they are not."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from loopback import chaos
from loopback.secret_manager import SecretManager, serving

from mlapp import authenticate
from mlapp.errors import UserError

ROOT = Path(__file__).parents[1]
NAME = "projects/shop-1/secrets/wandb"
VALUE = "s3cr3t-value-of-the-key"


@pytest.fixture
def manager(monkeypatch: pytest.MonkeyPatch) -> Iterator[SecretManager]:
    keeps = SecretManager({NAME: [b"an old key", f"{VALUE}\n".encode()]})
    with serving(keeps) as environ:
        for name, value in environ.items():
            monkeypatch.setenv(name, value)
        yield keeps


def refused(name: str = NAME) -> str:
    """The line that is said instead of a secret."""
    with pytest.raises(UserError) as told:
        authenticate.secret(name)
    assert "\n" not in str(told.value)
    assert VALUE not in str(told.value)
    return str(told.value)


def test_the_latest_version_is_taken_without_the_line_break_that_echo_leaves(manager: SecretManager) -> None:
    assert authenticate.secret(NAME).get_secret_value() == VALUE
    assert manager.asked == [f"{NAME}/versions/latest"]


def test_a_version_may_be_named(manager: SecretManager) -> None:
    assert authenticate.secret(f"{NAME}/versions/1").get_secret_value() == "an old key"


def test_a_secret_does_not_show_itself(manager: SecretManager) -> None:
    kept = authenticate.secret(NAME)
    assert VALUE not in f"{kept} {kept!r} {json.dumps([kept], default=str)}"


def test_a_moment_without_the_service_is_waited_out(manager: SecretManager) -> None:
    manager.away = 1
    assert authenticate.secret(NAME).get_secret_value() == VALUE


@pytest.mark.parametrize(
    ("trouble", "told"),
    [
        (
            {"secrets": {}},
            f"there is no {NAME}: make it with `gcloud secrets create wandb --project=shop-1 "
            "--replication-policy=automatic --data-file=-`",
        ),
        (
            {"denied": {NAME}},
            f"no permission to read {NAME}, if it exists: run `gcloud secrets add-iam-policy-binding wandb "
            "--project=shop-1 --member=user:YOUR_ACCOUNT --role=roles/secretmanager.secretAccessor`",
        ),
        (
            {"secrets": {NAME: [None]}},
            f"{NAME} is disabled or destroyed: run `gcloud secrets versions enable VERSION --secret=wandb "
            "--project=shop-1`, or give it a value with `gcloud secrets versions add wandb --project=shop-1 "
            "--data-file=-`",
        ),
        (
            {"switched_on": False},
            "Secret Manager is not switched on in shop-1: run `gcloud services enable "
            "secretmanager.googleapis.com --project=shop-1`",
        ),
        ({"secrets": {NAME: [b"\xff\xfe"]}}, f"{NAME}/versions/1 holds no text"),
        ({"secrets": {NAME: [b" \n"]}}, f"{NAME}/versions/1 holds no text"),
        ({"damage": True}, f"{NAME}/versions/2 arrived damaged: run again"),
    ],
)
def test_what_is_missing_is_told_with_the_command_that_mends_it(
    manager: SecretManager, trouble: dict[str, Any], told: str
) -> None:
    for name, value in trouble.items():
        setattr(manager, name, value)
    assert refused().startswith(told)


def test_a_missing_version_is_told(manager: SecretManager) -> None:
    assert f"there is no {NAME}/versions/7" in refused(f"{NAME}/versions/7")


def test_the_account_that_lacks_a_role_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    from google.oauth2.service_account import Credentials

    account = Credentials(None, "job@shop-1.iam.gserviceaccount.com", "https://oauth2.googleapis.com/token")
    monkeypatch.setattr(authenticate, "_found", lambda: (account, "shop-1"))
    assert authenticate.member() == "serviceAccount:job@shop-1.iam.gserviceaccount.com"


@pytest.mark.parametrize("name", ["wandb", "projects/p/secrets/", "projects/p/secrets/a b", f"{NAME}/versions/new"])
def test_a_name_that_is_none_is_refused_before_anybody_is_asked(name: str) -> None:
    assert refused(name) == f"{name!r} names no secret: write projects/PROJECT/secrets/SECRET, or …/versions/VERSION"


def test_nobody_at_the_endpoint_is_told_within_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(authenticate, "ANSWER_WITHIN_S", 1.0)
    monkeypatch.setenv(authenticate.ENDPOINT, "127.0.0.1:9")
    began = time.monotonic()
    assert refused().startswith(f"Secret Manager did not give {NAME} (")
    assert time.monotonic() - began < 5


@pytest.fixture
def laptop(tmp_path: Path) -> Iterator[dict[str, str]]:
    """The environment of a machine without credentials, on which Google's metadata server takes calls and is silent."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        kept = {name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH") if name in os.environ}
        metadata = f"127.0.0.1:{silent.getsockname()[1]}"
        yield {
            **kept,
            "HOME": str(tmp_path),
            "CLOUDSDK_CONFIG": str(tmp_path / "gcloud"),
            "PYTHONPATH": str(ROOT),
            "GCE_METADATA_IP": metadata,
            "GCE_METADATA_HOST": metadata,
        }


def say(call: str, environ: dict[str, str]) -> str:
    """What a fresh process says that calls this function of `mlapp.authenticate`."""
    code = f"""
from mlapp import authenticate
from mlapp.errors import UserError
try:
    print(authenticate.{call})
except UserError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", code], env=environ, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_no_credentials_are_told_with_the_login_and_without_a_long_wait(laptop: dict[str, str]) -> None:
    began = time.monotonic()
    told = say("credentials()", laptop)
    assert told == "no credentials for Google Cloud: run `gcloud auth application-default login`"
    assert time.monotonic() - began < 8


def test_a_key_file_that_is_not_there_is_named(laptop: dict[str, str]) -> None:
    told = say("access_token()", {**laptop, "GOOGLE_APPLICATION_CREDENTIALS": "/nowhere/key.json"})
    assert told.startswith("no credentials for Google Cloud (GOOGLE_APPLICATION_CREDENTIALS=/nowhere/key.json: ")
    assert told.endswith("): run `gcloud auth application-default login`")


@pytest.fixture
def login(laptop: dict[str, str], tmp_path: Path) -> dict[str, str]:
    """A laptop on which somebody logged in whose token server cannot be reached."""
    kept = {"type": "authorized_user", "client_id": "c", "client_secret": "s", "refresh_token": "old"}
    file = tmp_path / "gcloud" / "application_default_credentials.json"
    file.parent.mkdir()
    file.write_text(json.dumps(kept))
    return {**laptop, "HTTPS_PROXY": "http://127.0.0.1:9"}


def test_a_login_that_is_not_taken_is_told_with_the_login(login: dict[str, str]) -> None:
    told = say("access_token()", login)
    assert told.startswith("Google Cloud does not take the credentials (")
    assert told.endswith("): run `gcloud auth application-default login`")


def test_the_project_is_that_of_the_environment(login: dict[str, str]) -> None:
    assert say("project()", {**login, "GOOGLE_CLOUD_PROJECT": "shop-1"}) == "shop-1"
    assert say("project()", login).startswith(
        "the credentials name no Google Cloud project: set cloud.project, or run "
    )


def test_asking_for_nothing_of_google_imports_nothing_of_it() -> None:
    code = "import mlapp.authenticate, sys; print({'google.auth', 'google.api_core', 'grpc'} & {*sys.modules})"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "set()\n"


@pytest.mark.parametrize("seed", range(4))
def test_a_secret_is_read_in_bad_weather(monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    faults = [fault for fault in chaos.GRPC_RATES if not fault.startswith("UNAUTHENTICATED")]
    weather = chaos.Weather(seed, dict.fromkeys(faults, 0.12))
    with serving(SecretManager({NAME: [b"key"]}), weather) as environ:
        for name, value in environ.items():
            monkeypatch.setenv(name, value)
        assert {authenticate.secret(NAME).get_secret_value() for _ in range(4)} == {"key"}
    assert weather.done
