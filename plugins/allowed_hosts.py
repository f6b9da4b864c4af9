"""The web server of `make airflow` answers to its own names only (MLAPP_ALLOWED_HOSTS); elsewhere this does nothing.

Nobody is asked for a password there. A web page whose name was pointed at 127.0.0.1 (DNS rebinding) would otherwise be
given a token of the administrator by the browser's own machine.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, ClassVar

from airflow.plugins_manager import AirflowPlugin

NAMES = frozenset(name.strip().lower() for name in os.environ.get("MLAPP_ALLOWED_HOSTS", "").split(",") if name.strip())
REFUSAL = (
    b"this Airflow does not answer under that name: open http://localhost, or start it with MLAPP_ALLOWED_HOSTS=NAME\n"
)
Message = MutableMapping[str, Any]


class AllowedHosts:
    """ASGI middleware: every request must name a host of ours, once."""

    def __init__(self, app: Callable[..., Awaitable[None]], names: frozenset[str] = NAMES) -> None:
        self.app = app
        self.names = names

    async def __call__(
        self,
        scope: Message,
        receive: Callable[[], Awaitable[Message]],
        send: Callable[[Message], Awaitable[None]],
    ) -> None:
        """Hand a request on, or refuse it."""
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
            return
        hosts = [value.decode("latin-1") for name, value in scope["headers"] if name == b"host"]
        if len(hosts) == 1 and name_of(hosts[0]) in self.names:
            await self.app(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        else:
            headers = [(b"content-type", b"text/plain"), (b"content-length", str(len(REFUSAL)).encode())]
            await send({"type": "http.response.start", "status": 421, "headers": headers})
            await send({"type": "http.response.body", "body": REFUSAL})


def name_of(host: str) -> str:
    """The name or address in a Host header, without port and brackets."""
    name = host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]
    return name.lower().removesuffix(".")


class AllowedHostsPlugin(AirflowPlugin):  # type: ignore[misc]
    """Puts the check in front of the whole web server, its APIs included."""

    name = "allowed_hosts"
    fastapi_root_middlewares: ClassVar[list[Any]] = (
        [{"middleware": AllowedHosts, "args": [], "kwargs": {}, "name": "allowed hosts"}] if NAMES else []
    )
