"""One answer, for all of Google's services and every registry: what does this error say about what was asked?

A lookup that fails says nothing about what was looked at. Code that observes asks `could_not_look` and looks again;
code that changes something asks `is_passing` (worth another try), `is_unsent` (nothing can have happened) or
`is_rate_limit`. Errors are recognised by their names and codes, so nothing of Google's is imported here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import datetime, timedelta

GONE_AFTER = timedelta(minutes=1)
PASSING = frozenset({408, 429, 499, 500, 502, 503, 504})
# HTTP's codes for those gRPC errors to which google.api_core gives none, or for the plain errors of gRPC.
GRPC = {
    "CANCELLED": 499,
    "UNKNOWN": 500,
    "INVALID_ARGUMENT": 400,
    "DEADLINE_EXCEEDED": 504,
    "NOT_FOUND": 404,
    "ALREADY_EXISTS": 409,
    "PERMISSION_DENIED": 403,
    "RESOURCE_EXHAUSTED": 429,
    "FAILED_PRECONDITION": 400,
    "ABORTED": 409,
    "OUT_OF_RANGE": 400,
    "UNIMPLEMENTED": 501,
    "INTERNAL": 500,
    "UNAVAILABLE": 503,
    "DATA_LOSS": 500,
    "UNAUTHENTICATED": 401,
}
# By name, of requests, urllib3, aiohttp, gcsfs, google.auth, http.client and Python itself: nobody answered, or not
# to the end.
NETWORK = frozenset(
    {
        "BadStatusLine",
        "ChecksumError",
        "ChunkedEncodingError",
        "ClientConnectionError",
        "ClientPayloadError",
        "ConnectionError",
        "ContentDecodingError",
        "DataCorruption",
        "FSTimeoutError",
        "IncompleteRead",
        "MaxRetryError",
        "ProtocolError",
        "ProxyError",
        "SSLError",
        "ServerDisconnectedError",
        "Timeout",
        "TimeoutError",
        "TransportError",
        "TruncatedError",
    }
)
AUTH = "GoogleAuthError"
# Errors of an interface of Google's or of a network, as far as they are not in the above: of no other kind's doing.
FOREIGN = frozenset({AUTH, "GoogleAPIError", "RpcError", "HTTPError", "RequestException", "ClientError", "HttpError"})
AIRFLOW = frozenset({"AirflowNotFoundException", "AirflowRuntimeError"})  # no connection, or no answer of its server
UNKNOWN_HOST = re.compile(
    r"DNS (resolution|server)|errors resolving|resolution failed|name not found|name or service not known"
    r"|could not resolve|failed to resolve|nodename nor servname",
    re.I,
)
NOT_CONNECTED = re.compile(r"failed to connect to (all addresses|remote host)|connection refused|cannot connect", re.I)
# How gRPC reports a token that it could not get: UNAVAILABLE, although no request was sent.
NOT_SIGNED_IN = "metadata from plugin failed"
# A quota of calls a minute comes back by itself: "Quota exceeded for quota metric 'Resource management requests' and
# limit 'Resource management requests per minute per region' of service …", "… (e.g. check quota)". One of machines does
# not: "The following quota metrics exceed quota limits: aiplatform.googleapis.com/custom_model_training_cpus".
RATE = re.compile(
    r"per[ _-](second|minute|hour|day|user|\d+[ _-]?s)|requests\b|rate[ _-]?limit|too many|check quota"
    r"|try again later",
    re.I,
)
# As seen in the wild: "Resources are insufficient in region: us-central1. Please try a different region or …", "The
# zone does not have enough resources available to fulfill the request. Try a different zone, or try again later.", "A
# a2-highgpu-1g VM instance is currently unavailable in the us-central1-a zone."
CAPACITY = re.compile(
    r"exceed quota limits|quotas are exceeded|resources are insufficient|insufficient (resources|capacity)"
    r"|not (have )?enough (resources|capacity)|stock-?\s?out|out of capacity|pool[ _]exhausted"
    r"|currently unavailable in|preempt",
    re.I,
)


class TruncatedError(Exception):
    """An answer ended before its content did, or arrived altered."""


def status(error: BaseException) -> int | None:
    """The HTTP status that an error stands for, whichever library raised it; None where nobody answered."""
    error = innermost(error)
    code = getattr(error, "grpc_status_code", None) or getattr(error, "code", None)
    code = code() if callable(code) else code
    if (name := getattr(code, "name", None)) in GRPC:
        return GRPC[str(name)]
    answered = getattr(getattr(error, "response", None), "status_code", None)
    for found in (code, getattr(error, "status", None), answered):
        if isinstance(found, int | str) and re.fullmatch(
            r"[1-5]\d\d", str(int(found) if isinstance(found, int) else found)
        ):
            return int(found)
    if isinstance(error, FileNotFoundError | FileExistsError) and error.errno is None:  # gcsfs; others have a number
        return 404 if isinstance(error, FileNotFoundError) else 412
    return 403 if isinstance(error, OSError) and str(error).startswith("Forbidden: ") else None


def is_passing(error: BaseException) -> bool:
    """Whether the same request may well succeed in a moment: 5xx, 429, a reset, a timeout, a truncated answer."""
    error = innermost(error)
    if is_unknown_host(error):
        return False
    if (found := status(error)) is not None:
        return found in PASSING
    names = _names(error)
    if AUTH in names:
        return bool(getattr(error, "retryable", False)) or "TransportError" in names
    return bool(names & NETWORK) or "RetryError" in names


def could_not_look(error: BaseException) -> bool:
    """Whether a lookup failed for a reason that says nothing about what was looked at.

    True for all that is `is_passing`, and for what is not ours to judge while something runs: credentials that expired,
    a role that was taken away, an address that does not resolve, NOT_FOUND until it is `is_gone`. False for a bug.
    """
    return any(
        (is_passing(each) and type(each) is not TimeoutError)  # which may be a time limit of this process's own
        or status(each) is not None
        or bool(_names(each) & (FOREIGN | NETWORK - {"TimeoutError"} | AIRFLOW))
        for each in _chain(error)
    )


def is_not_found(error: BaseException) -> bool:
    """Whether a service answered that there is no such thing."""
    return status(error) == 404


def is_gone(since: datetime, now: datetime) -> bool:
    """Whether NOT_FOUND, seen at ``since`` and again ``now``, is to be believed."""
    return now - since >= GONE_AFTER


def is_unsent(error: BaseException) -> bool:
    """Whether a request certainly reached nobody, so that it had no effect."""
    return any(
        isinstance(each, ConnectionRefusedError)
        or bool(NOT_CONNECTED.search(brief(each)))
        or "NewConnectionError" in _names(each)
        or is_unknown_host(each)
        or NOT_SIGNED_IN in brief(each)
        for each in _chain(innermost(error))
    )


def is_ambiguous(error: BaseException) -> bool:
    """Whether a request that changes something may have had its effect all the same."""
    return is_passing(error) and status(error) != 429 and not is_unsent(error)


def is_rate_limit(error: BaseException) -> bool:
    """Whether too many calls were made, as against too few machines being there (both are RESOURCE_EXHAUSTED)."""
    error = innermost(error)
    if status(error) != 429:
        return False
    reason = str(getattr(error, "reason", "") or "")
    if reason == "RATE_LIMIT_EXCEEDED":
        return True
    return not CAPACITY.search(brief(error)) and bool(RATE.search(brief(error)))


def is_unknown_host(error: BaseException) -> bool:
    """Whether an address does not resolve: a region that does not exist, or a machine without network."""
    names = _names(error)
    answered = status(error) not in (None, 503)
    return not answered and ("gaierror" in names or bool(UNKNOWN_HOST.search(brief(error))))


def is_credentials(error: BaseException) -> bool:
    """Whether credentials are missing, expired or refused."""
    error = innermost(error)
    return AUTH in _names(error) or status(error) == 401 or NOT_SIGNED_IN in brief(error)


def brief(error: BaseException, limit: int = 500) -> str:
    """An error's text in one line of reasonable length."""
    text = getattr(error, "message", "") or error
    text = text.decode(errors="replace") if isinstance(text, bytes) else str(text)
    line = " ".join(text.split())
    return line if len(line) <= limit else f"{line[:limit]}…"


def innermost(error: BaseException) -> BaseException:
    """The error itself, where a retry that gave up is wrapped around it."""
    for name in ("cause", "reason"):
        inner = getattr(error, name, None)
        if isinstance(inner, BaseException) and _names(error) & {"RetryError", "MaxRetryError"}:
            return innermost(inner)
    return error


def _chain(error: BaseException) -> Iterator[BaseException]:
    """An error and those it was raised from, where our own one-line errors stand before the real one."""
    seen: list[BaseException] = []
    while error not in seen:
        seen.append(error)
        yield error
        if error.__cause__ is None:
            return
        error = error.__cause__


def _names(error: BaseException) -> set[str]:
    return {kind.__name__ for kind in type(error).__mro__}
