"""Ask a container registry for an image: whether a tag exists there, and the digest that it stands for."""

from __future__ import annotations

import json
import re
import time
from dataclasses import dataclass
from functools import cached_property

import urllib3

from mlapp import authenticate
from mlapp.cloud_errors import PASSING, brief, innermost, is_unsent
from mlapp.errors import TryAgainError, UserError

MANIFESTS = ", ".join(
    (
        "application/vnd.docker.distribution.manifest.v2+json",
        "application/vnd.docker.distribution.manifest.list.v2+json",
        "application/vnd.oci.image.manifest.v1+json",
        "application/vnd.oci.image.index.v1+json",
    )
)
TIMEOUT = urllib3.Timeout(connect=5.0, read=20.0)
RETRIES = urllib3.Retry(
    3,
    connect=1,
    backoff_factor=0.5,
    status_forcelist=PASSING,
    raise_on_status=False,
    respect_retry_after_header=False,  # which may name a day
)
PAUSES_S = (0.2, 1.0)
DIGEST = re.compile(r"sha256:[0-9a-f]{64}")
ARTIFACT_REGISTRY = re.compile(
    r"(?P<region>[a-z0-9-]+)-docker\.pkg\.dev/(?P<project>[a-z0-9-]+)/(?P<repository>[a-z0-9-]+)/.+"
)
LOOPBACK = re.compile(r"(127(\.\d+){3}|localhost)(:\d+)?")


@dataclass(frozen=True)
class Repository:
    """A place for images of one name: HOST/NAME, without tag."""

    uri: str

    @property
    def host(self) -> str:
        """The registry's host, with its port where one is named."""
        return self.uri.partition("/")[0]

    @property
    def is_loopback(self) -> bool:
        """Whether the registry is on this machine, and so spoken to in plain HTTP."""
        return LOOPBACK.fullmatch(self.host) is not None

    @property
    def address(self) -> str:
        """Where the registry answers."""
        return f"{'http' if self.is_loopback else 'https'}://{self.host}"

    @cached_property
    def in_google(self) -> re.Match[str] | None:
        """Region, project and repository of one in Artifact Registry; None for any other."""
        return ARTIFACT_REGISTRY.fullmatch(self.uri)

    def token(self) -> str | None:
        """What opens the registry: Google's token for Artifact Registry, and for no other host."""
        return authenticate.access_token() if self.in_google else None

    def digest(self, tag: str) -> str | None:
        """``sha256:…`` of the image with this tag, None where there is none; a `UserError` says why it cannot tell."""
        url = f"{self.address}/v2/{self.uri.partition('/')[2]}/manifests/{tag}"
        answer = self._ask("HEAD", url)
        if answer.status != 200:  # only the answer to a GET says why
            answer = self._ask("GET", url)
        if answer.status == 401:  # maybe only because a token has expired
            authenticate.renew()
            answer = self._ask("GET", url)
        for pause in (*PAUSES_S, None):
            if answer.status != 200:
                break
            if DIGEST.fullmatch(found := answer.headers.get("Docker-Content-Digest", "")):
                return str(found)
            if pause is None:
                raise TryAgainError(f"the registry {self.host} has {tag}, and does not say by which digest: run again")
            time.sleep(pause)  # that was the page of a proxy, or nothing at all
            answer = self._ask("GET", url)
        code, message = _error(answer.data)
        if answer.status == 404 and not (self.in_google and code == "NAME_UNKNOWN" and "epository" in message):
            return None
        raise (TryAgainError if answer.status in PASSING else UserError)(self._why(answer.status, message))

    def _ask(self, method: str, url: str) -> urllib3.BaseHTTPResponse:
        token = self.token()
        headers = {"Accept": MANIFESTS, **({"Authorization": f"Bearer {token}"} if token else {})}
        try:
            with urllib3.PoolManager(timeout=TIMEOUT, retries=RETRIES) as pool:
                return pool.request(method, url, headers=headers)
        except urllib3.exceptions.HTTPError as error:
            reason = brief(innermost(error), 300).rsplit(": ", 1)[-1]
            if is_unsent(error):
                told = f"the registry {self.host} does not answer ({reason}): check images.repository and the network"
                raise UserError(told) from error
            raise TryAgainError(f"the registry {self.host} does not answer ({reason}): run again") from error

    def create(self) -> str:
        """The command that makes the repository."""
        region, project, repository = self.in_google.groups() if self.in_google else ("REGION", "PROJECT", "mlapp")
        return (
            f"gcloud artifacts repositories create {repository} --repository-format=docker "
            f"--location={region} --project={project}"
        )

    def grant(self, role: str, member: str) -> str:
        """The command that gives someone a role (reader, writer) on the repository."""
        region, project, repository = self.in_google.groups() if self.in_google else ("REGION", "PROJECT", "mlapp")
        return (
            f"gcloud artifacts repositories add-iam-policy-binding {repository} --location={region} "
            f"--project={project} --member={member} --role=roles/artifactregistry.{role}"
        )

    def _why(self, status: int, message: str) -> str:
        told = f"the registry does not tell whether {self.uri} has the image (HTTP {status}: {message})"
        if not self.in_google:
            return f"{told}: give images.repository in Artifact Registry, or in a registry that asks for no password"
        if status == 404:
            return f"there is no repository {self.uri}: run `{self.create()}`"
        if "SERVICE_DISABLED" in message or "has not been used" in message:
            project = self.in_google["project"]
            return f"{told}: run `gcloud services enable artifactregistry.googleapis.com --project={project}`"
        if status == 401:
            return f"{told}: run `{authenticate.LOGIN}`"
        if status == 403:
            grant = self.grant("reader", authenticate.member())
            return f"{told}: if the repository exists run `{grant}`, else `{self.create()}`"
        return f"{told}: run again"


def _error(body: bytes) -> tuple[str, str]:
    """Code and message of the first error that a registry tells, in one line."""
    try:
        first = json.loads(body)["errors"][0]
        code, message = str(first.get("code", "")), str(first.get("message", ""))
    except (ValueError, LookupError, TypeError, AttributeError):
        code, message = "", body[:200].decode(errors="replace")
    return code, " ".join(message.split())[:300]
