"""What makes a local Ray its search's own: it listens on loopback, wants a token, and runs no service to be asked.

Ray's services run any command for those who reach them. A search needs neither the dashboard with its job agent nor
metrics nor the autoscaler, so these are not started. What is left listens on loopback and answers only those who have
the token, which is in a file that other users of the machine cannot read.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from mlapp.child_environment import CLOUD, COMPUTE, RAY, child_environment
from mlapp.tune.session import require_readable, safe_python, write_token

OF_ANOTHER = (
    *("RAY_ADDRESS", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_TMPDIR"),
    *("RAY_REDIS_ADDRESS", "RAY_CLIENT_MODE"),
)
NO_METRICS = {"enable_metrics_collection": False}


@contextmanager
def environment(changed: Mapping[str, str], *, without: tuple[str, ...] = ()) -> Iterator[None]:
    """This process with the environment that Ray's processes are to inherit: an allow-list, and what is ``changed``."""
    before = dict(os.environ)
    kept = {name: value for name, value in child_environment(COMPUTE, CLOUD, RAY).items() if name not in without}
    try:
        _become({**kept, **changed})
        _have_ray_read_it()
        yield
    finally:
        _become(before)
        _have_ray_read_it()


@contextmanager
def closed(folder: Path, changed: Mapping[str, str]) -> Iterator[None]:
    """Have the Ray that is started in this block be closed to all but this process and those that it starts."""
    settings = {
        "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0",  # else Ray replaces 127.0.0.1 by the machine's outer address
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN_PATH": str(write_token(folder)),
    }
    with environment({**changed, **settings}, without=OF_ANOTHER), ExitStack() as stack:
        import sys

        import ray
        from ray._private import node, ray_constants, utils

        require_readable(Path(ray.__file__))

        def replace(owner: Any, name: str, value: Any) -> None:
            stack.callback(setattr, owner, name, getattr(owner, name))
            setattr(owner, name, value)

        replace(sys, "executable", safe_python(folder))
        replace(ray_constants, "ENABLE_RAY_CLUSTER", False)  # of a Ray that was imported before
        # Where a dashboard's packages are missing, the agent beside each Ray node opens no port.
        replace(utils, "get_dashboard_dependency_error", lambda: ImportError("no dashboard is wanted"))
        for service in ("start_monitor", "start_api_server"):
            replace(node.Node, service, lambda self, **_: None)
        yield


def _have_ray_read_it() -> None:
    """Ray reads settings and token once in a process; this makes it read them now."""
    from ray import _raylet

    native: Any = _raylet  # whose stub leaves these out
    native.Config.initialize("")
    native.AuthenticationTokenLoader.instance().reset_cache()


def _become(environ: Mapping[str, str]) -> None:
    for name in set(os.environ) - set(environ):
        del os.environ[name]
    os.environ.update(environ)
