"""Download one file over HTTP: a broken transfer is taken up where it ended, by this run or the next.

The transfer grows in ``<target>.part``. Beside it lies the server's validator (a strong ETag or Last-Modified), sent
back as If-Range, so that a part is only ever continued by the same version of the file and else started anew.
"""

from __future__ import annotations

import logging
import time
from pathlib import Path

import urllib3

from mlapp import storage
from mlapp.errors import UserError
from mlapp.etl.progress import progress

log = logging.getLogger("mlapp")
ATTEMPTS = 4
PAUSE_S = 1.0
CONNECT_S = 5.0
READ_S = 30.0
REDIRECTS_ONLY = urllib3.Retry(total=None, connect=0, read=0, status=0, other=0, redirect=5)
GONE = (403, 404, 410)
UNREACHABLE = (urllib3.exceptions.NewConnectionError, urllib3.exceptions.ConnectTimeoutError)


class MissingFileError(UserError):
    """The server answers, and says that it has no such file."""


class _BrokenError(Exception):
    """A transfer that is worth another attempt."""


def download(url: str, target: Path, max_bytes: int) -> None:
    """Fetch ``url`` to ``target``, in up to four attempts; a `UserError` says why it cannot be had.

    What is larger than ``max_bytes``, or never ends, is refused before it has filled the disk.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    timeout = urllib3.Timeout(connect=CONNECT_S, read=READ_S)
    with urllib3.PoolManager(timeout=timeout, retries=REDIRECTS_ONLY) as pool:
        for attempt in range(1, ATTEMPTS + 1):
            try:
                _attempt(pool, url, target, max_bytes)
            except _BrokenError as error:
                if attempt == ATTEMPTS:
                    raise UserError(f"{url} broke off {ATTEMPTS} times ({error}): try again later") from error
                log.info("%s broke off (%s), attempt %d of %d follows", url, error, attempt + 1, ATTEMPTS)
                time.sleep(PAUSE_S * 2 ** (attempt - 1))
            else:
                return


def _attempt(pool: urllib3.PoolManager, url: str, target: Path, max_bytes: int) -> None:
    part, validator = target.with_name(f"{target.name}.part"), target.with_name(f"{target.name}.version")
    resumable = part.exists() and validator.exists()
    headers = {"Accept-Encoding": "identity"}
    if resumable:
        headers |= {"Range": f"bytes={part.stat().st_size}-", "If-Range": validator.read_text(encoding="utf-8")}
    try:
        with pool.request("GET", url, headers=headers, preload_content=False) as response:
            _receive(response, url, part, validator, max_bytes)
    except urllib3.exceptions.HTTPError as error:
        cause = getattr(error, "reason", None) or error
        if isinstance(cause, UNREACHABLE) or isinstance(error, urllib3.exceptions.LocationValueError):
            raise UserError(f"cannot reach {url} ({_brief(cause)}): check the address and the network") from error
        raise _BrokenError(_brief(cause)) from error
    part.replace(target)
    validator.unlink(missing_ok=True)


def _receive(response: urllib3.BaseHTTPResponse, url: str, part: Path, validator: Path, max_bytes: int) -> None:
    if response.status == 416:
        part.unlink()
        raise _BrokenError("the part on disk does not fit")
    if response.status in GONE:
        raise MissingFileError(f"no file at {url} (HTTP {response.status}): check the address")
    if response.status >= 500 or response.status == 429:
        raise _BrokenError(f"HTTP {response.status}")
    if response.status not in (200, 206):
        raise UserError(f"{url} answers HTTP {response.status}: check the address")
    done = part.stat().st_size if response.status == 206 else 0
    _note_version(response, validator)
    expected = response.headers.get("Content-Length")
    total = done + int(expected) if expected and expected.isdecimal() else None
    log.info("downloading %s%s", url, f", {total:,} bytes in all, from byte {done:,}" if total else "")
    with progress(part.stem, total, "B", done) as advance, part.open("ab" if done else "wb") as stream:
        for block in response.stream(storage.CHUNK, decode_content=False):
            if stream.tell() + len(block) > max_bytes:
                raise UserError(f"{url} is larger than {max_bytes:,} bytes: raise data.max_decoded_bytes, if it may be")
            stream.write(block)
            advance(len(block))


def _note_version(response: urllib3.BaseHTTPResponse, validator: Path) -> None:
    etag = response.headers.get("ETag", "")
    version = etag if etag and not etag.startswith("W/") else response.headers.get("Last-Modified")
    if version:
        storage.write_text(validator, version)
    else:
        validator.unlink(missing_ok=True)


def _brief(error: BaseException) -> str:
    """The end of urllib3's message, which is where the system's own words stand."""
    told = error.args[0] if isinstance(error, urllib3.exceptions.ProtocolError) else error
    return str(told).rsplit(": ", 1)[-1] or type(error).__name__
