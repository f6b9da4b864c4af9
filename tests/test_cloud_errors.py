"""Errors of each library that talks to a service, and what each says about what was asked."""

from __future__ import annotations

import errno
import http.client
from datetime import UTC, datetime, timedelta
from typing import Any

import aiohttp
import pytest
import requests
import urllib3
from gcsfs.retry import ChecksumError, HttpError
from google.api_core import exceptions
from google.auth.exceptions import DefaultCredentialsError, RefreshError, TransportError

from mlapp import cloud_errors as errors
from mlapp.errors import UserError

RATE = "Quota exceeded for quota metric 'Requests' and limit 'Requests per minute per region' of service 'x'."
CAPACITY = "The following quota metrics exceed quota limits: aiplatform.googleapis.com/custom_model_training_cpus"
NO_HOST = "DNS resolution failed for moon-west9-aiplatform.googleapis.com: C-ares status is not ARES_SUCCESS"
PASSING: list[Any] = [
    exceptions.ServiceUnavailable("away"),
    exceptions.InternalServerError("oops"),
    exceptions.Unknown("oops"),
    exceptions.DataLoss("oops"),
    exceptions.DeadlineExceeded("late"),
    exceptions.Cancelled("stopped"),
    exceptions.TooManyRequests(RATE),
    exceptions.RetryError("gave up", exceptions.ServiceUnavailable("away")),
    RefreshError("later", retryable=True),
    TransportError("reset"),
    HttpError({"code": 503, "message": "away"}),
    HttpError({"code": "429", "message": "slow down"}),
    ChecksumError("md5"),
    requests.exceptions.ConnectionError("reset"),
    requests.exceptions.ReadTimeout("late"),
    requests.exceptions.ChunkedEncodingError("short"),
    urllib3.exceptions.ProtocolError("reset"),
    aiohttp.ClientPayloadError("short"),
    aiohttp.ServerDisconnectedError(),
    aiohttp.ServerTimeoutError("late"),
    http.client.IncompleteRead(b""),
    ConnectionResetError(errno.ECONNRESET, "reset"),
    errors.TruncatedError("short"),
]
NOT_OURS: list[Any] = [
    exceptions.Unauthenticated("expired"),
    exceptions.PermissionDenied("no role"),
    exceptions.NotFound("no such job"),
    exceptions.Aborted("busy"),
    exceptions.AlreadyExists("there"),
    exceptions.InvalidArgument("no"),
    exceptions.ServiceUnavailable(NO_HOST),
    RefreshError("revoked"),
    DefaultCredentialsError("none"),
    HttpError({"code": 401, "message": "Invalid Credentials"}),
    OSError("Forbidden: https://storage.googleapis.com/storage/v1/b/x\nno role"),
    FileNotFoundError("gs://raw/a"),
    FileExistsError("gs://raw/a"),
]
BUGS: list[Any] = [
    TypeError("bug"),
    KeyError("bug"),
    RuntimeError("bug"),
    AssertionError(),
    TimeoutError(),
    FileNotFoundError(errno.ENOENT, "no such file", "/tmp/x"),
    FileExistsError(errno.EEXIST, "is there", "/tmp/x"),
    OSError(errno.ENOSPC, "disk full"),
    UserError("wrong"),
    ValueError("bug"),
]


def name(error: Exception) -> str:
    return f"{type(error).__name__} {error}"[:40]


@pytest.mark.parametrize("error", PASSING, ids=name)
def test_what_passes_is_tried_again_and_never_judges(error: Exception) -> None:
    assert errors.is_passing(error)
    assert errors.could_not_look(error)


@pytest.mark.parametrize("error", NOT_OURS, ids=name)
def test_what_is_not_ours_to_judge_is_no_verdict_on_what_runs(error: Exception) -> None:
    assert not errors.is_passing(error)
    assert errors.could_not_look(error)


@pytest.mark.parametrize("error", BUGS, ids=name)
def test_a_bug_or_the_users_own_is_no_failed_look(error: Exception) -> None:
    assert not errors.could_not_look(error)


def test_a_failed_look_stays_one_behind_our_own_line() -> None:
    told = UserError("Google Cloud does not take the credentials: …")
    told.__cause__ = RefreshError("expired")
    assert errors.could_not_look(told)


@pytest.mark.parametrize(
    ("error", "limit"),
    [
        (exceptions.ResourceExhausted(RATE), True),
        (exceptions.ResourceExhausted("Resource has been exhausted (e.g. check quota)."), True),
        (exceptions.ResourceExhausted("Quota exceeded for aiplatform.googleapis.com/x_requests_per_minute"), True),
        (exceptions.ResourceExhausted(CAPACITY), False),
        (
            exceptions.ResourceExhausted("Resources are insufficient in region: us-central1. Please try"),
            False,
        ),
        (exceptions.ResourceExhausted("Quota 'NVIDIA_T4_GPUS' exceeded.  Limit: 1.0 in region europe-west4."), False),
        (exceptions.ResourceExhausted("Quota 'T4' exceeded. To request an increase, see https://…"), False),
        (
            exceptions.ResourceExhausted("The following quotas are exceeded: XPerRegion. Submit a request."),
            False,
        ),
        (exceptions.ResourceExhausted("A VM is currently unavailable in the a zone. Try your request again"), False),
        (exceptions.ResourceExhausted("The zone does not have enough resources: try again later."), False),
        (exceptions.ResourceExhausted("Quota exceeded for x/global_resource_management_requests"), True),
        (exceptions.ServiceUnavailable(RATE), False),
    ],
)
def test_a_quota_of_calls_is_told_from_one_of_machines(error: Exception, limit: bool) -> None:
    assert errors.is_rate_limit(error) is limit


@pytest.mark.parametrize(
    ("error", "unsent", "ambiguous"),
    [
        (exceptions.ServiceUnavailable("failed to connect to all addresses; last error: … Connection refused"), 1, 0),
        (exceptions.ServiceUnavailable(NO_HOST), 1, 0),
        (exceptions.ServiceUnavailable("recvmsg: Connection reset by peer"), 0, 1),
        (exceptions.ServiceUnavailable("Getting metadata from plugin failed with error: invalid_grant"), 1, 0),
        (exceptions.DeadlineExceeded("late"), 0, 1),
        (exceptions.TooManyRequests(RATE), 0, 0),
        (exceptions.PermissionDenied("no role"), 0, 0),
        (ConnectionRefusedError(errno.ECONNREFUSED, "refused"), 1, 0),
        (aiohttp.ServerDisconnectedError(), 0, 1),
    ],
)
def test_whether_a_request_may_have_had_its_effect(error: Exception, unsent: int, ambiguous: int) -> None:
    assert (errors.is_unsent(error), errors.is_ambiguous(error)) == (bool(unsent), bool(ambiguous))


def test_not_found_is_believed_after_a_minute() -> None:
    since = datetime(2026, 11, 28, tzinfo=UTC)
    assert not errors.is_gone(since, since + timedelta(seconds=59))
    assert errors.is_gone(since, since + timedelta(seconds=60))


def test_there_is_one_classification() -> None:
    """No module but this one names the kinds of a library's errors that may pass."""
    from pathlib import Path

    root = Path(__file__).parents[1]
    words = ("exceptions.ServiceUnavailable,", "GatewayTimeout", "TooManyRequests")
    files = [*root.glob("mlapp/**/*.py"), *root.glob("plugins/*.py"), *root.glob("deploy/*.py")]
    others = [file for file in files if file.name != "cloud_errors.py"]
    copies = [str(file.relative_to(root)) for file in others if any(word in file.read_text() for word in words)]
    assert copies == []
