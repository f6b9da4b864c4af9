"""gcsfs as mlapp uses it: what fails in passing is tried again, and what arrives is compared with the store's checksum.

gcsfs alone ends on some of it: up to 2025.10 one 503 in a download is a TypeError, a failing large upload an
AttributeError, an expired token ends a read, and a file that could not be looked at passes for one that is not there.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import mimetypes
import os
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar

from fsspec.asyn import sync_wrapper
from gcsfs.core import GCSFileSystem, initiate_upload, upload_chunk  # type: ignore[import-untyped]
from gcsfs.retry import ChecksumError, HttpError, validate_response  # type: ignore[import-untyped]

from mlapp.cloud_errors import PASSING, TruncatedError, is_ambiguous, is_not_found, is_passing, status

# Pauses before each new try at a request, half of it by chance; no new try begins once PATIENCE_S are over.
PAUSES_S = (0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 8.0, 8.0)
PATIENCE_S = 120.0
RESTARTS = 4  # of a whole transfer that arrived damaged, each request of which was tried again already
ONE_REQUEST = 32 << 20  # bytes of the largest upload that is one request
PIECE = 1 << 17
ANY_KIND = "application/octet-stream"
T = TypeVar("T")


class Files(GCSFileSystem):  # type: ignore[misc]
    """Cloud Storage through gcsfs; also for what gcsfs reads and writes by itself, such as `UPath.open`."""

    async def _request(self, method: str, path: str, *args: Any, **kwargs: Any) -> Any:
        unclear = False

        async def ask() -> Any:
            nonlocal unclear
            try:
                return await self._ask(method, path, *args, **kwargs)
            except Exception as error:
                if method == "DELETE" and unclear and is_not_found(error):
                    return 204, {}, None, b""  # an earlier try did it, and its answer was lost
                unclear = unclear or is_ambiguous(error)
                raise

        return await self._again(ask, PAUSES_S)

    async def _ask(
        self, method: str, path: str, *args: Any, headers: Any = None, json: Any = None, data: Any = None, **given: Any
    ) -> Any:
        """One request, as gcsfs makes it."""
        await self._set_session()
        if hasattr(data, "seek"):
            data.seek(0)
        params = self._get_params({name: value for name, value in given.items() if not name.startswith("cache_")})
        url = self._format_path(path, args)
        more = {"params": params, "headers": self._get_headers(headers), "timeout": self.requests_timeout}
        async with self.session.request(method=method, url=url, json=json, data=data, **more) as answer:
            content = await answer.read()
            _check(answer.status, content, path, args)
            return answer.status, answer.headers, answer.request_info, content

    async def _call(self, method: str, path: str, *args: Any, json_out: bool = False, **kwargs: Any) -> Any:
        async def call() -> Any:
            try:
                return await GCSFileSystem._call(self, method, path, *args, json_out=json_out, **kwargs)
            except ValueError as error:
                if json_out and type(error).__name__ == "JSONDecodeError":
                    raise TruncatedError(f"an answer of Cloud Storage ends early ({error})") from error
                raise

        return await self._again(call, PAUSES_S[:RESTARTS], is_damage) if json_out else await call()

    call = sync_wrapper(_call)

    async def _cat_file(self, path: str, start: int | None = None, end: int | None = None, **_: Any) -> bytes:
        if start is not None and end is not None and start >= end >= 0:
            return b""
        part = bool(start or end)
        wanted = {"Range": await self._process_limits(path, start, end)} if part else {}

        async def read() -> bytes:
            headers, content = await self._call("GET", self.url(path), headers=wanted)
            _compare(path, headers, len(content), None if part else _crc32c(content))
            return bytes(content)

        return await self._again(read, PAUSES_S[:RESTARTS], is_damage)

    # What newer ones of gcsfs read open files by, past the method above.
    _cat_file_sequential = _cat_file

    async def _get_file(self, rpath: str, lpath: str, callback: Any = None, **_: Any) -> None:
        if os.path.isdir(lpath):
            return
        os.makedirs(os.path.dirname(lpath) or os.curdir, exist_ok=True)
        try:
            await self._again(lambda: self._download(rpath, lpath), PAUSES_S)
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(lpath)
            raise

    async def _download(self, rpath: str, lpath: str) -> None:
        await self._set_session()
        url, headers = self.url(rpath), self._get_headers(None)
        params = self._get_params({})
        async with self.session.get(url, params=params, headers=headers, timeout=self.requests_timeout) as answer:
            if answer.status >= 400:
                _check(answer.status, await answer.read(), url)
            size, checksum = 0, _crc32c(b"")
            with open(lpath, "wb") as stream:
                async for piece in answer.content.iter_chunked(PIECE):
                    stream.write(piece)
                    checksum = _crc32c(piece, checksum)
                    size += len(piece)
            _compare(rpath, answer.headers, size, checksum)

    async def _put_file(self, lpath: str, rpath: str, *args: Any, **kwargs: Any) -> None:
        if os.path.isdir(lpath):
            return
        large = os.path.getsize(lpath) > ONE_REQUEST

        async def put() -> None:
            if large:
                await self._put_in_pieces(lpath, rpath, **kwargs)
            else:
                with open(lpath, "rb") as stream:
                    content = stream.read()
                kind = kwargs.get("content_type") or mimetypes.guess_type(lpath)[0] or ANY_KIND
                kept = {name: value for name, value in kwargs.items() if name in ("metadata", "consistency", "mode")}
                await self._pipe_file(rpath, content, chunksize=2 * ONE_REQUEST, content_type=kind, **kept)

        await self._again(put, PAUSES_S[:RESTARTS], is_damage)

    async def _put_in_pieces(
        self, lpath: str, rpath: str, metadata: dict[str, str] | None = None, mode: str = "overwrite", **_: Any
    ) -> None:
        """A resumable upload, begun again by `_put_file` where a piece of it is lost."""
        bucket, key, _ = self.split_path(rpath)
        kind, size = mimetypes.guess_type(lpath)[0] or ANY_KIND, os.path.getsize(lpath)

        async def begin() -> Any:
            try:
                return await initiate_upload(self, bucket, key, kind, metadata=metadata, mode=mode)
            except KeyError as error:
                raise TruncatedError(f"the answer for {rpath} is not Cloud Storage's: it names no {error}") from error

        location = await self._again(begin, PAUSES_S[:RESTARTS], is_damage)
        checksum, offset, answer = _crc32c(b""), 0, None
        with open(lpath, "rb") as stream:
            while piece := stream.read(ONE_REQUEST):
                try:
                    answer = await upload_chunk(self, location, piece, offset, size, kind)
                except Exception as error:
                    if status(error) in (401, 403):
                        raise
                    raise TruncatedError(f"the upload of {rpath} broke off ({error})") from error
                checksum = _crc32c(piece, checksum)
                offset += len(piece)
        if not answer or int(answer["size"]) != size or answer.get("crc32c", checksum) != checksum:
            raise TruncatedError(f"{rpath} did not arrive whole")
        self.invalidate_cache(self._parent(rpath))

    async def _info(self, path: str, generation: Any = None, **more: Any) -> Any:
        path = self._strip_protocol(path).rstrip("/")
        if "/" in path and not generation:  # newer ones of gcsfs list and look at once: two requests for one
            with contextlib.suppress(FileNotFoundError):
                if (found := await self._get_object(path))["size"] or not found["name"].endswith("/"):
                    return found
            if hasattr(self, "_get_directory_info"):
                return await self._get_directory_info(path, *self.split_path(path)[:2], generation)
        return await GCSFileSystem._info(self, path, generation, **more)

    async def _isfile(self, path: str) -> bool:
        return await self._is(path, "file")

    async def _isdir(self, path: str) -> bool:
        return await self._is(path, "directory")

    async def _is(self, path: str, kind: str) -> bool:
        try:
            return bool((await self._info(path))["type"] == kind)
        except FileNotFoundError:
            return False

    async def _again(
        self,
        do: Callable[[], Awaitable[T]],
        pauses: Sequence[float],
        is_worth_it: Callable[[BaseException], bool] = is_passing,
    ) -> T:
        """What ``do`` returns, tried again after each pause while that is worth it, and once where a token expired."""
        until, renewed = time.monotonic() + PATIENCE_S, False
        for pause in (*pauses, None):
            try:
                return await do()
            except Exception as error:
                expired = status(error) == 401 and not renewed
                if pause is None or not (expired or is_worth_it(error)) or time.monotonic() > until:
                    raise
                if expired:
                    renewed = True
                    await self._renew()
                await asyncio.sleep((pause or 0.0) * random.uniform(0.5, 1.0))
        raise AssertionError("unreachable")

    async def _renew(self) -> None:
        """Have a token that the server refused replaced; where it cannot be, the refusal comes again."""
        from google.auth.exceptions import GoogleAuthError
        from google.auth.transport.requests import Request

        credentials = self.credentials.credentials
        if credentials is not None and hasattr(credentials, "refresh"):
            with contextlib.suppress(GoogleAuthError):
                await asyncio.to_thread(credentials.refresh, Request())


def _check(status: int, content: bytes, path: str, args: Any = None) -> None:
    """Raise what gcsfs raises for a status, but never hide one that may pass behind another kind of error."""
    if status in PASSING or status == 401:
        told = content[:500].decode(errors="replace")
        with contextlib.suppress(ValueError, LookupError, TypeError):
            told = str(json.loads(content)["error"]["message"])
        raise HttpError({"code": status, "message": told})
    validate_response(status, content, path, args)


def is_damage(error: BaseException) -> bool:
    """Whether something arrived, but not whole."""
    return isinstance(error, TruncatedError | ChecksumError)


def _crc32c(content: bytes, before: str = "AAAAAA==") -> str:
    """The checksum of Cloud Storage, as it writes it; goes on from that of what came before."""
    from google_crc32c import extend

    begun = int.from_bytes(base64.b64decode(before), "big")
    return base64.b64encode(extend(begun, content).to_bytes(4, "big")).decode()


def _compare(path: str, headers: Any, size: int, checksum: str | None) -> None:
    """Raise `TruncatedError` where an answer is not what the store has, as far as its headers say."""
    headers = {str(name).lower(): str(value) for name, value in headers.items()}
    if "x-goog-generation" not in headers:  # a proxy's own page, or nothing at all
        raise TruncatedError(f"the answer for {path} is not Cloud Storage's")
    if "gzip" in (headers.get("content-encoding"), headers.get("x-goog-stored-content-encoding")):
        return  # unpacked on the way: what arrives is not what is stored
    if (span := headers.get("content-range", "")).startswith("bytes "):
        first, _, last = span.removeprefix("bytes ").partition("/")[0].partition("-")
        expected = int(last) - int(first) + 1
    else:
        told = headers.get("x-goog-stored-content-length") or headers.get("content-length")
        expected = int(told) if told else size
    hashes = headers.get("x-goog-hash", "").split(",")
    stored = next((each.strip()[7:] for each in hashes if each.strip().startswith("crc32c=")), checksum)
    if size != expected or (checksum is not None and stored != checksum):
        raise TruncatedError(f"{path} did not arrive whole: {size} of {expected} bytes")
