"""HTTP for servers that nobody vouches for: bounded in time, and never led to an address that the user did not name.

A name is resolved once for a connection, every address it stands for is checked, and just a checked one is connected
to, so that a name which changes its address between the check and the connection (DNS rebinding) gains nothing.
"""

from __future__ import annotations

import ipaddress
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urljoin

import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.exceptions import (
    ConnectTimeoutError,
    HTTPError,
    LocationParseError,
    NameResolutionError,
    NewConnectionError,
    ProtocolError,
)

from mlapp.errors import UserError

CONNECT_S = 5.0
READ_S = 30.0  # without a byte
WINDOW_S, SLOWEST = 60.0, 1000  # fewer bytes a second over this time are given up
DEADLINE_S = 4 * 3600.0  # for one file, over all attempts
TICK_S = 0.2
MOST_REDIRECTS, MOST_ADDRESSES = 5, 8
REDIRECTS = (301, 302, 303, 307, 308)
NAT64 = ipaddress.ip_network("64:ff9b::/96")
Address = ipaddress.IPv4Address | ipaddress.IPv6Address


class Web:
    """Requests to the server of one address that a user gave, and to where it redirects."""

    def __init__(self, url: str, allow_private: bool, read_s: float | None = None) -> None:
        self._url, self._allow_private = url, allow_private
        self._origin = _origin(url)
        self._origin_is_private: bool | None = None
        self._began = time.monotonic()
        self._watch = _Watch(url, self._began)
        timeout = urllib3.Timeout(connect=CONNECT_S, read=READ_S if read_s is None else read_s)
        self._pool = urllib3.PoolManager(timeout=timeout, retries=False)
        self._pool.pool_classes_by_scheme = {
            "http": _pool_of(urllib3.HTTPConnectionPool, HTTPConnection, self._connect),
            "https": _pool_of(urllib3.HTTPSConnectionPool, HTTPSConnection, self._connect),
        }

    @contextmanager
    def request(self, method: str, url: str, headers: dict[str, str]) -> Iterator[urllib3.BaseHTTPResponse]:
        """The answer to a request, of the last redirect's address, with its body not yet read.

        A `UserError` says where a redirect leads that is not followed, or how slow the server is.
        """
        self._watch = _Watch(self._url, self._began)
        try:
            for _ in range(MOST_REDIRECTS + 1):
                response = self._pool.request(method, url, headers=headers, preload_content=False, redirect=False)
                location = response.headers.get("Location")
                if response.status not in REDIRECTS or not location:
                    break
                response.close()
                url = self._redirected(url, location)
            else:
                raise UserError(f"{self._url} redirects over {MOST_REDIRECTS} times: give the last address itself")
            try:
                yield response
            finally:
                response.close()
        except (HTTPError, OSError):
            self._watch.check()  # what broke may have been ended here
            raise
        except ValueError as error:  # what a server says is taken for a number or an address in many places
            raise ProtocolError(str(error)) from error
        finally:
            self._watch.end()

    def received(self, count: int) -> None:
        """Note so many more bytes of a body; a `UserError` if the server has become too slow."""
        self._watch.received += count
        self._watch.check()

    def close(self) -> None:
        """Close all connections."""
        self._pool.clear()

    def _redirected(self, url: str, location: str) -> str:
        target = urljoin(url, location)
        scheme = target.partition(":")[0].lower()
        if scheme not in ("http", "https") or (scheme == "http" and url.lower().startswith("https:")):
            raise UserError(
                f"{self._url} redirects to {target[:200]}, which is not followed (only http and https are, and https "
                f"only to https): give that address itself if it is to be trusted"
            )
        return target

    def _connect(self, connection: Any, connect: Callable[[], socket.socket]) -> socket.socket:
        name, failure = connection._dns_host, None
        for address in self._addresses(connection)[:MOST_ADDRESSES]:
            connection._dns_host = address
            try:
                found = connect()
            except (NewConnectionError, ConnectTimeoutError) as error:
                failure = error
                continue
            finally:
                connection._dns_host = name
            self._watch.over(found)
            return found
        raise failure or NewConnectionError(connection, f"{name} has no address")

    def _addresses(self, connection: Any) -> list[str]:
        """The addresses of a host in the order to try them; a `UserError` if any one may not be connected to."""
        host, port = connection.host.strip("[]"), connection.port
        try:
            found = [str(entry[4][0]) for entry in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)]
        except socket.gaierror as error:
            raise NameResolutionError(host, connection, error) from error
        except UnicodeError as error:
            raise LocationParseError(host) from error
        addresses = [ipaddress.ip_address(address) for address in found]
        if self._allow_private:
            return found
        is_origin = (host.lower(), port) == self._origin
        if is_origin and self._origin_is_private is None:
            self._origin_is_private = not all(map(_is_public, addresses))
        inner_allowed = is_origin and self._origin_is_private
        if refused := [
            each for each in addresses if not _is_public(each) and (_inner(each).is_link_local or not inner_allowed)
        ]:
            raise UserError(
                f"{self._url} leads to {host} at {refused[0]}, which is not a public address: "
                f"set data.allow_private_addresses=true if it is to be trusted"
            )
        return found


class _Watch:
    """Ends connections whose server sends next to nothing, in headers or in a body, or takes too long in all."""

    def __init__(self, url: str, began: float) -> None:
        self.received = 0
        self._url, self._began, self._reason = url, began, ""
        self._sockets: list[socket.socket] = []
        self._over = threading.Event()

    def over(self, connected: socket.socket) -> None:
        """Watch over a connection too, through a descriptor of its own: TLS takes the other one away."""
        self._sockets.append(connected.dup())
        if len(self._sockets) == 1:
            threading.Thread(target=self._run, daemon=True).start()

    def check(self) -> None:
        if self._reason:
            raise UserError(f"{self._url} {self._reason}: try again later, or give another source")

    def end(self) -> None:
        self._over.set()
        for each in self._sockets:
            each.close()

    def _run(self) -> None:
        since, before = time.monotonic(), 0
        while not self._over.wait(min(TICK_S, WINDOW_S / 4)):
            now = time.monotonic()
            if now - self._began > DEADLINE_S:
                self._stop(f"took over {DEADLINE_S:,.0f} s")
            elif now - since >= WINDOW_S:
                if self.received - before < SLOWEST * (now - since):
                    self._stop(f"sends under {SLOWEST:,} bytes a second")
                since, before = now, self.received

    def _stop(self, reason: str) -> None:
        self._reason = reason
        for each in self._sockets:
            try:
                each.shutdown(socket.SHUT_RDWR)
            except OSError:  # it is closed already, and nobody waits on it
                continue


def _pool_of(pool: type[Any], connection: type[Any], connect: Callable[[Any, Callable[[], Any]], Any]) -> type[Any]:
    """A pool of connections that are made by ``connect``, which is given each and how urllib3 would make it."""

    def new_connection(self: Any) -> Any:
        return connect(self, lambda: connection._new_conn(self))

    guarded = type(connection.__name__, (connection,), {"_new_conn": new_connection})
    return type(pool.__name__, (pool,), {"ConnectionCls": guarded})


def _origin(url: str) -> tuple[str, int] | None:
    try:
        parsed = urllib3.util.parse_url(url)
    except LocationParseError:
        return None  # which the request itself will tell
    return ((parsed.host or "").strip("[]").lower(), parsed.port or (443 if parsed.scheme == "https" else 80))


def _is_public(address: Address) -> bool:
    inner = _inner(address)
    return inner.is_global and not inner.is_multicast


def _inner(address: Address) -> Address:
    """The IPv4 address inside an IPv6 one that stands for it, else the address itself."""
    if isinstance(address, ipaddress.IPv4Address):
        return address
    if address in NAT64:
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return address.ipv4_mapped or address.sixtofour or address
