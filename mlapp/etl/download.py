"""Download one file over HTTP: a broken transfer is taken up where it ended, by this run or the next.

The transfer grows in ``<target>.part``. Beside it lies the server's validator (a strong ETag or Last-Modified), sent
back as If-Range, so that a part is only ever continued by the same version of the file and else started again. Only
such a part outlasts a failure: whatever is refused leaves nothing.
"""

from __future__ import annotations

import logging
import re
import time
from pathlib import Path

import urllib3

from mlapp import storage
from mlapp.errors import UserError
from mlapp.etl.http_body import body
from mlapp.etl.progress import progress
from mlapp.etl.web import Web

log = logging.getLogger("mlapp")
ATTEMPTS = 4
PAUSE_S = 1.0
GONE = (403, 404, 410)
ENCODINGS = ("", "identity", "gzip", "x-gzip")  # `unpack` sees by itself what is gzipped
RANGE = re.compile(r"bytes (\d+)-\d+/(\d+|\*)")
UNREACHABLE = (urllib3.exceptions.NewConnectionError, urllib3.exceptions.ConnectTimeoutError)


class MissingFileError(UserError):
    """The server answers, and says that it has no such file."""


class _BrokenError(Exception):
    """A transfer that is worth another attempt."""


def download(url: str, target: Path, max_bytes: int, allow_private: bool = False) -> None:
    """Fetch ``url`` to ``target``, in up to four attempts; a `UserError` says why it cannot be had.

    What is larger than ``max_bytes``, never ends or hardly moves is refused before it has filled the disk or the day.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    part, validator = target.with_name(f"{target.name}.part"), target.with_name(f"{target.name}.version")
    web = Web(url, allow_private)
    try:
        for attempt in range(1, ATTEMPTS + 1):
            try:
                _attempt(web, url, part, validator, max_bytes)
            except _BrokenError as error:
                if attempt == ATTEMPTS:
                    if not validator.exists():  # nobody could continue it
                        part.unlink(missing_ok=True)
                    raise UserError(f"{url} broke off {ATTEMPTS} times ({error}): try again later") from error
                log.info("%s broke off (%s), attempt %d of %d follows", url, error, attempt + 1, ATTEMPTS)
                time.sleep(PAUSE_S * 2 ** (attempt - 1))
            except UserError:
                part.unlink(missing_ok=True)
                validator.unlink(missing_ok=True)
                raise
            else:
                part.replace(target)
                validator.unlink(missing_ok=True)
                return
    finally:
        web.close()


def _attempt(web: Web, url: str, part: Path, validator: Path, max_bytes: int) -> None:
    asked = part.stat().st_size if part.exists() and validator.exists() else 0
    headers = {"Accept-Encoding": "identity"}
    if asked:
        headers |= {"Range": f"bytes={asked}-", "If-Range": validator.read_text(encoding="utf-8")}
    try:
        with web.request("GET", url, headers) as response:
            _receive(web, response, url, part, validator, asked, max_bytes)
    except urllib3.exceptions.HTTPError as error:
        cause = getattr(error, "reason", None) or error
        if isinstance(cause, UNREACHABLE) or isinstance(error, urllib3.exceptions.LocationValueError):
            raise UserError(f"cannot reach {url} ({_brief(cause)}): check the address and the network") from error
        raise _BrokenError(_brief(cause)) from error


def _receive(
    web: Web,
    response: urllib3.BaseHTTPResponse,
    url: str,
    part: Path,
    validator: Path,
    asked: int,
    max_bytes: int,
) -> None:
    done = _start(response, url, part, validator, asked)
    encoding = response.headers.get("Content-Encoding", "").strip().lower()
    if encoding not in ENCODINGS:
        raise UserError(f"{url} is sent with the encoding {encoding[:50]!r}, not as it is: give another address")
    _note_version(response, validator)
    expected = response.headers.get("Content-Length", "").strip()
    total = done + int(expected) if re.fullmatch(r"[0-9]{1,18}", expected) else None
    if total is not None and total > max_bytes:
        raise UserError(TOO_LARGE.format(url, max_bytes))
    log.info("downloading %s%s", url, f", {total:,} bytes in all, from byte {done:,}" if total else "")
    with progress(part.stem, total, "B", done) as advance, part.open("ab" if done else "wb") as stream:
        for block in body(response):
            if stream.tell() + len(block) > max_bytes:
                raise UserError(TOO_LARGE.format(url, max_bytes))
            stream.write(block)
            advance(len(block))
            web.received(len(block))
    web.received(0)  # an end that was made here, not by the server, looks like any other where no length was given


TOO_LARGE = "{} is larger than {:,} bytes: raise data.max_decoded_bytes, if it may be"


def _start(response: urllib3.BaseHTTPResponse, url: str, part: Path, validator: Path, asked: int) -> int:
    """The byte that the body starts at; raises where there is no body to take."""
    status = response.status
    if status in GONE:
        raise MissingFileError(f"no file at {url} (HTTP {status}): check the address")
    if status >= 500 or status == 429:
        raise _BrokenError(f"HTTP {status}")
    if status == 200:
        return 0
    if asked and status in (206, 416):
        found = RANGE.fullmatch(response.headers.get("Content-Range", "").strip())
        if status == 206 and found and int(found[1]) == asked:
            return asked
        part.unlink(missing_ok=True)
        validator.unlink(missing_ok=True)
        raise _BrokenError("the part on disk does not fit")
    raise UserError(f"{url} answers HTTP {status} to a request for the whole file: check the address")


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
