"""The one place where credentials and secrets are found: Application Default Credentials and Secret Manager.

A secret is named in the settings and fetched where it is used, with the credentials of anyone who runs there. Its value
is never logged, written to a file, or handed on in a job's specification.
"""

from __future__ import annotations

import functools
import os
import re
import time
from typing import TYPE_CHECKING, Any, NoReturn

from pydantic import SecretStr

from mlapp.cloud_errors import brief, is_passing, is_unsent
from mlapp.errors import TryAgainError, UserError

if TYPE_CHECKING:
    from google.auth.credentials import Credentials

SCOPES = ("https://www.googleapis.com/auth/cloud-platform",)
LOGIN = "gcloud auth application-default login"
ENDPOINT = "MLAPP_SECRET_MANAGER_ENDPOINT"  # host:port of a stand-in for Secret Manager, spoken to without TLS
ANSWER_WITHIN_S = 10.0
PAUSES_S = (0.2, 1.0, 3.0)  # between attempts at getting a token
SECRET = re.compile(r"projects/(?P<project>[a-z0-9.:-]+)/secrets/(?P<secret>[\w-]{1,255})(/versions/(\d+|latest))?")


def credentials() -> Credentials:
    """The credentials of anyone who runs this: a key file, ``gcloud``'s login, or the machine's service account."""
    return _found()[0]


def project() -> str:
    """The project that the credentials belong to, or that GOOGLE_CLOUD_PROJECT names."""
    if named := _found()[1]:
        return named
    raise UserError(
        "the credentials name no Google Cloud project: set cloud.project, or run `gcloud config set project PROJECT_ID`"
    )


def access_token() -> str:
    """A token that is valid now, for a request with ``Authorization: Bearer``."""
    from google.auth.exceptions import GoogleAuthError
    from google.auth.transport.requests import Request

    current: Any = credentials()
    for pause in (*PAUSES_S, None):
        try:
            if not current.valid:
                current.refresh(functools.partial(Request(), timeout=ANSWER_WITHIN_S))
            break
        except GoogleAuthError as error:
            if not is_passing(error) or is_unsent(error):
                told = f"Google Cloud does not take the credentials ({brief(error, 200)}): run `{LOGIN}`"
                raise UserError(told) from error
            if pause is None:
                raise TryAgainError(f"Google gives no token ({brief(error, 200)}): run again") from error
            time.sleep(pause)
    return str(current.token)


def renew() -> None:
    """Drop the present token, because somebody refused it: the next `access_token` gets another one."""
    if _found.cache_info().currsize:
        current: Any = credentials()
        current.token = None


def secret(name: str) -> SecretStr:
    """The value of ``projects/P/secrets/S``, or of ``…/versions/V``; without a version the latest one.

    A `UserError` tells in one line what is missing, and the command that mends it.
    """
    if not (named := SECRET.fullmatch(name)):
        raise UserError(f"{name!r} names no secret: write projects/PROJECT/secrets/SECRET, or …/versions/VERSION")
    from google.api_core.exceptions import GoogleAPIError
    from google.api_core.retry import Retry
    from google_crc32c import value as crc32c

    again = Retry(is_passing, initial=0.2, timeout=ANSWER_WITHIN_S)
    try:
        answer = _secret_manager().access_secret_version(
            name=name if "/versions/" in name else f"{name}/versions/latest", timeout=ANSWER_WITHIN_S, retry=again
        )
    except GoogleAPIError as error:
        _explain(error, name, named["project"], named["secret"])
    payload = answer.payload
    if payload.data_crc32c and payload.data_crc32c != crc32c(payload.data):
        raise UserError(f"{answer.name} arrived damaged: run again")
    try:
        text = payload.data.decode().strip()  # `echo` ends with a line break, which is no part of a key
    except UnicodeDecodeError:
        text = ""
    if not text:
        raise UserError(f"{answer.name} holds no text: {_add(named['project'], named['secret'])}")
    return SecretStr(text)


@functools.cache
def _found() -> tuple[Credentials, str | None]:
    # A machine that is none of Google's is asked once whether it is one, for 3 s; three times would cost 12 s.
    os.environ.setdefault("GCE_METADATA_DETECT_RETRIES", "1")
    import google.auth
    from google.auth.exceptions import DefaultCredentialsError

    try:
        found: tuple[Credentials, str | None] = google.auth.default(scopes=SCOPES)
    except DefaultCredentialsError as error:
        named = os.environ.get("GOOGLE_APPLICATION_CREDENTIALS")
        reason = f" (GOOGLE_APPLICATION_CREDENTIALS={named}: {brief(error, 200)})" if named else ""
        raise UserError(f"no credentials for Google Cloud{reason}: run `{LOGIN}`") from error
    return found


def _secret_manager() -> Any:
    from google.cloud.secretmanager_v1 import SecretManagerServiceClient
    from google.cloud.secretmanager_v1.services.secret_manager_service.transports import (
        SecretManagerServiceGrpcTransport,
    )

    if not (endpoint := os.environ.get(ENDPOINT)):
        access_token()  # in gRPC, credentials that are refused look like a server that is away
        return SecretManagerServiceClient(credentials=credentials())
    import grpc

    return SecretManagerServiceClient(
        transport=SecretManagerServiceGrpcTransport(channel=grpc.insecure_channel(endpoint))
    )


def _explain(error: Exception, name: str, project: str, secret: str) -> NoReturn:
    from google.api_core import exceptions

    match error:
        case exceptions.NotFound():
            create = f"gcloud secrets create {secret} --project={project} --replication-policy=automatic --data-file=-"
            told = (
                f"there is no {name}: make it with `{create}` (the value on standard input), or {_add(project, secret)}"
            )
        case exceptions.PermissionDenied(reason="SERVICE_DISABLED"):
            enable = f"gcloud services enable secretmanager.googleapis.com --project={project}"
            told = f"Secret Manager is not switched on in {project}: run `{enable}`"
        case exceptions.PermissionDenied():
            grant = (
                f"gcloud secrets add-iam-policy-binding {secret} --project={project} "
                f"--member={member()} --role=roles/secretmanager.secretAccessor"
            )
            told = f"no permission to read {name}, if it exists: run `{grant}`"
        case exceptions.FailedPrecondition():
            enable = f"gcloud secrets versions enable VERSION --secret={secret} --project={project}"
            told = f"{name} is disabled or destroyed: run `{enable}`, or {_add(project, secret)}"
        case exceptions.Unauthenticated():
            told = f"Secret Manager does not take the credentials: run `{LOGIN}`"
        case _ if is_passing(error) and not is_unsent(error):
            raise TryAgainError(f"Secret Manager does not answer ({brief(error, 200)}): run again") from error
        case _:
            told = f"Secret Manager did not give {name} ({brief(error, 200)}): run again"
    raise UserError(told) from error


def _add(project: str, secret: str) -> str:
    return f"give it a value with `gcloud secrets versions add {secret} --project={project} --data-file=-`"


def member() -> str:
    """Whom a role is granted to: the account that the credentials are of."""
    current: Any = None if os.environ.get(ENDPOINT) else credentials()
    if email := getattr(current, "service_account_email", None):
        return f"serviceAccount:{email}"
    return f"user:{getattr(current, 'account', None) or 'YOUR_ACCOUNT'}"
