"""Vertex AI as the stages that tell it something see it: clients of its services, and its errors in one line."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Literal

from mlapp import authenticate
from mlapp.cloud_errors import brief, is_passing, is_unknown_host, status
from mlapp.errors import TryAgainError, UserError
from mlapp.schema_cloud import Cloud

ENDPOINT = "MLAPP_VERTEX_ENDPOINT"  # host:port of a stand-in for Vertex AI, spoken to without TLS or credentials
ANSWER_WITHIN_S, TRY_FOR_S = 30.0, 60.0
Kind = Literal["model", "metadata"]
CLIENTS = {"model": "ModelServiceClient", "metadata": "MetadataServiceClient"}


def client(kind: Kind, region: str) -> Any:
    """The generated client of one of Vertex AI's services.

    The generated ones, because they import in half the time of the hand-written SDK (1.2 s for 2.4 s) and open nothing
    but what they are asked for: the SDK makes a TensorBoard instance beside each experiment.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of Python 3.11's end, once for each package of the SDK
        from google.cloud import aiplatform_v1

        made = getattr(aiplatform_v1, CLIENTS[kind])
    if endpoint := os.environ.get(ENDPOINT):
        import grpc

        return made(transport=made.get_transport_class("grpc")(channel=grpc.insecure_channel(endpoint)))
    authenticate.access_token()  # in gRPC, credentials that are refused look like a server that is away
    return made(credentials=authenticate.credentials(), client_options={"api_endpoint": host(region)})


def host(region: str) -> str:
    """Where Vertex AI answers for a region."""
    return f"{region}-aiplatform.googleapis.com"


class Service:
    """One of Vertex AI's services in the project and region of the settings."""

    def __init__(self, kind: Kind, cloud: Cloud) -> None:
        self.project, self.region = cloud.project or authenticate.project(), cloud.region
        self.location = f"projects/{self.project}/locations/{self.region}"
        self.client = client(kind, self.region)

    def call(self, method: str, *, once: bool = False, **request: Any) -> Any:
        """The answer to a request, tried again for a minute while Vertex AI is away; ``once`` where that would do harm.

        NotFound and AlreadyExists are left to the caller, who knows what they mean; every other error is told.
        """
        with self.explained():
            return getattr(self.client, method)(
                request=request, timeout=ANSWER_WITHIN_S, retry=None if once else _again()
            )

    def listed(self, method: str, **request: Any) -> list[Any]:
        """All that a listing request yields, on however many pages."""
        with self.explained():
            return list(getattr(self.client, method)(request=request, timeout=ANSWER_WITHIN_S, retry=_again()))

    @contextmanager
    def explained(self) -> Iterator[None]:
        """Tell Vertex AI's errors in one line, with the command that mends them."""
        from google.api_core import exceptions

        try:
            yield
        except (exceptions.NotFound, exceptions.AlreadyExists):
            raise
        except exceptions.GoogleAPICallError as error:
            if told := self._told(error):
                raise UserError(told) from error
            raise TryAgainError(f"Vertex AI did not answer as expected ({brief(error, 300)}): run again") from error
        except exceptions.RetryError as error:
            told = f"Vertex AI did not answer for {TRY_FOR_S:.0f} s ({brief(error, 300)}): run again"
            raise TryAgainError(told) from error

    def _told(self, error: Any) -> str | None:
        """What is wrong and the command that mends it; None where only time does."""
        from google.api_core import exceptions

        match error:
            case exceptions.PermissionDenied(reason="SERVICE_DISABLED"):
                enable = f"gcloud services enable aiplatform.googleapis.com --project={self.project}"
                return f"the Vertex AI API is not switched on in {self.project}: run `{enable}`"
            case exceptions.PermissionDenied():
                member = "user:YOUR_ACCOUNT" if os.environ.get(ENDPOINT) else authenticate.member()
                grant = (
                    f"gcloud projects add-iam-policy-binding {self.project} --member={member} "
                    "--role=roles/aiplatform.user"
                )
                return f"no permission in {self.project} ({brief(error, 300)}): run `{grant}`, or mend cloud.project"
            case exceptions.Unauthenticated():
                return f"Vertex AI does not take the credentials: run `{authenticate.LOGIN}`"
            case exceptions.ServiceUnavailable() if is_unknown_host(error):
                return (
                    f"there is no {host(self.region)}: give a region of Vertex AI as cloud.region, "
                    "one of `gcloud compute regions list`, or mend the network"
                )
            case exceptions.InvalidArgument() | exceptions.FailedPrecondition():
                return f"Vertex AI refuses that ({brief(error, 300)}): mend the setting that it names"
        return None


def _again() -> Any:
    from google.api_core.retry import Retry

    # An internal error may come after the effect: the stage ends with 75, and its next start sees what there is.
    return Retry(lambda error: is_passing(error) and status(error) != 500, initial=0.2, maximum=5.0, timeout=TRY_FOR_S)
