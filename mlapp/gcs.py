"""What only Cloud Storage has: its credentials, writes that depend on a generation, and its errors told in one line."""

from __future__ import annotations

import logging
import os
import random
import re
import time
import uuid
import warnings
from collections.abc import Callable
from typing import Any, TypeVar

from upath import UPath

from mlapp.cloud_errors import (
    TruncatedError,
    brief,
    could_not_look,
    innermost,
    is_credentials,
    is_not_found,
    is_passing,
    is_unknown_host,
    is_unsent,
)
from mlapp.cloud_errors import status as status_of
from mlapp.errors import TryAgainError, UserError

PROTOCOLS = ("gs", "gcs")
EMULATOR = "STORAGE_EMULATOR_HOST"
LOGIN = "run `gcloud auth application-default login`"
CONNECT_S, SILENCE_S, PATIENCE_S, FIRST_PAUSE_S = 10.0, 60.0, 30.0, 0.2
URI = re.compile(r"(gs|gcs)://[a-z0-9][a-z0-9._-]{1,220}[a-z0-9](/|$)")
BUCKET = re.compile(r"\bb/([^/?\s]+)")
BUCKET_ITSELF = re.compile(r"\bb/([^/?\s]+)/o(?!/)")  # a listing or an upload, not the download of an object
ACCOUNT = re.compile(r"[\w.+-]+@[\w-]+(\.[\w-]+)+")
T = TypeVar("T")
# By name, of whichever JSON library: an answer that ends early is not JSON, and an empty one is no object.
UNREADABLE = frozenset({"JSONDecodeError", "AttributeError"})
PERMISSION = re.compile(r"\bstorage\.(objects|buckets)\.\w+")


def check(uri: str) -> None:
    """Refuse what looks like a URI of Cloud Storage and is none, before it passes for a folder here."""
    if uri.startswith(("gs:", "gcs:")) and not URI.match(uri):
        raise UserError(f"{uri} is no URI in Cloud Storage: write gs://BUCKET/FOLDER, the bucket in lower case")


def options() -> dict[str, Any]:
    """How gcsfs is to be used: Application Default Credentials alone, no listings that go stale, no endless waits."""
    # Buckets of folders and zones, which are not used here: gcsfs would ask each bucket for its kind first.
    os.environ.setdefault("GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT", "false")
    # To find out that this is no machine of Google's takes at most seven seconds then, not twelve.
    os.environ.setdefault("GCE_METADATA_DETECT_RETRIES", "2")
    import aiohttp
    import fsspec

    for protocol in PROTOCOLS:
        fsspec.register_implementation(protocol, "mlapp.gcs_files.Files", clobber=True)
    logging.getLogger("gcsfs").setLevel(logging.CRITICAL)  # it logs with a traceback what it raises as well
    return {
        "token": "anon" if os.environ.get(EMULATOR) else "google_default",
        "use_listings_cache": False,
        "requests_timeout": aiohttp.ClientTimeout(sock_connect=CONNECT_S, sock_read=SILENCE_S),
    }


def read(path: UPath) -> tuple[str | None, int]:
    """The text of an object and its generation, both of one moment; None and 0 where there is none."""

    def get() -> tuple[str | None, int]:
        blob = _bucket(path).get_blob(_name(path), retry=_patiently())
        if blob is None:
            return None, 0
        try:  # of this very generation
            return blob.download_as_text(encoding="utf-8", retry=_patiently()), int(blob.generation)
        except Exception as error:
            if is_not_found(error):
                raise TruncatedError(f"{path} was replaced while it was read") from error
            raise

    return _again(get)


def replace(path: UPath, text: str, generation: int) -> bool:
    """Write a small object if its generation still is ``generation`` (0: if there is none); whether it was written."""
    blob, writer = _bucket(path).blob(_name(path)), uuid.uuid4().hex
    from google.api_core.exceptions import PreconditionFailed

    def put() -> bool:
        blob.metadata = {"writer": writer}
        try:
            blob.upload_from_string(text, if_generation_match=generation, retry=_patiently())
        except PreconditionFailed:
            # Also the answer to a second try where that to the first, which did write, was lost.
            present = _bucket(path).get_blob(_name(path), retry=_patiently())
            return present is not None and (present.metadata or {}).get("writer") == writer
        return True

    return _again(put)


def _patiently() -> Any:
    from google.cloud.storage.retry import DEFAULT_RETRY  # type: ignore[import-untyped]

    return DEFAULT_RETRY.with_delay(initial=FIRST_PAUSE_S, maximum=8.0).with_timeout(PATIENCE_S)


def _again(do: Callable[[], T]) -> T:
    """What ``do`` returns; tried again where Google's own retries stop: at truncated answers and expired tokens."""
    for pause in (0.1, 0.5, 2.0, None):
        try:
            return do()
        except Exception as error:
            passing = is_passing(error) or status_of(error) == 401
            if not (passing or isinstance(error, ValueError | AttributeError)):
                raise
            if pause is None and type(error).__name__ in UNREADABLE:
                raise TruncatedError(f"an answer of Cloud Storage cannot be read ({brief(error)})") from error
            if pause is None:
                raise
        time.sleep(pause * random.uniform(0.5, 1.0))
    raise AssertionError("unreachable")


def explain(error: BaseException) -> UserError | TryAgainError | None:  # noqa: PLR0911
    """The one line for an error of gcsfs or of Google's libraries that a user can fix; None for any other."""
    error = innermost(error)
    if isinstance(error, UserError | TryAgainError) or not could_not_look(error):
        return None
    told, short = " ".join(str(error).split()), brief(error, 160)
    if is_credentials(error):
        if "DefaultCredentialsError" in {kind.__name__ for kind in type(error).__mro__}:
            cure = f"{LOGIN}, or name a key file in GOOGLE_APPLICATION_CREDENTIALS"
            return UserError(f"no Google Cloud credentials: {cure}")
        return UserError(f"Google Cloud does not take the credentials: {LOGIN} ({short})")
    if status_of(error) == 403:
        return _forbidden(told)
    if is_not_found(error):
        return missing_bucket(found[1]) if (found := BUCKET_ITSELF.search(told)) else None
    if is_unsent(error) or is_unknown_host(error):
        where, emulator = os.environ.get(EMULATOR) or "https://storage.googleapis.com", EMULATOR in os.environ
        cure = f"start it, or unset {EMULATOR}" if emulator else "check the network and its proxy settings"
        return UserError(f"cannot reach Cloud Storage at {where}: {cure} ({short})")
    passing = is_passing(error)
    return (
        TryAgainError(f"Cloud Storage does not answer ({short or type(error).__name__}): run again")
        if passing
        else None
    )


def has_bucket(path: UPath) -> bool:
    """Whether the bucket of a path exists; asked by listing it, which anyone who may read it may do."""
    try:
        path.fs.call("GET", "b/{}/o", path.path.partition("/")[0], maxResults=1)
    except FileNotFoundError:
        return False
    return True


def missing_bucket(bucket: str) -> UserError:
    """The one line for a bucket that does not exist."""
    return UserError(
        f"there is no bucket gs://{bucket}: run `gcloud storage buckets create gs://{bucket} --location=REGION "
        "--uniform-bucket-level-access`, or mend the storage settings"
    )


def _forbidden(told: str) -> UserError:
    """Of a role that is missing; or of a project that is not to be used, is not billed, or does not exist."""
    bucket = found[1] if (found := BUCKET.search(told)) else "BUCKET"
    account = found[0] if (found := ACCOUNT.search(told)) else "ACCOUNT"
    kind = "serviceAccount" if account.endswith("gserviceaccount.com") else "user"
    if permission := PERMISSION.search(told):
        return UserError(
            f"no {permission[0]} on gs://{bucket}: run `gcloud storage buckets add-iam-policy-binding gs://{bucket} "
            f"--member={kind}:{account} --role=roles/storage.objectUser`"
        )
    return UserError(
        f"Cloud Storage refuses gs://{bucket} ({told.removeprefix('Forbidden: ')[:160]}): run `gcloud auth "
        "application-default set-quota-project PROJECT` with a billed project that you may use"
    )


def _bucket(path: UPath) -> Any:
    from google.auth.credentials import AnonymousCredentials

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # that Python 3.11 will not be served for ever
        from google.cloud.storage import Client  # type: ignore[import-untyped]
    # No call that is made here needs a project, and the client wants one.
    found = path.fs.credentials.credentials or AnonymousCredentials()  # type: ignore[no-untyped-call]
    return Client(project="unused", credentials=found).bucket(path.path.partition("/")[0])


def _name(path: UPath) -> str:
    return str(path.path.partition("/")[2])


def upload(path: UPath, content: bytes) -> int:
    """Write an object; returns its generation, under which nobody can put other content."""
    blob = _bucket(path).blob(_name(path))

    def put() -> int:
        blob.upload_from_string(content, checksum="md5", retry=_patiently())
        return int(blob.generation)

    return _again(put)
