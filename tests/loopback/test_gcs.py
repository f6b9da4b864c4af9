"""The loopback Cloud Storage must be as strict as the real one where the project relies on it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from google.api_core.exceptions import NotFound, PreconditionFailed
from google.cloud.storage import Client
from loopback import gcs

pytest_plugins = "loopback.fixtures"

STARTER = """
import sys, time
from pathlib import Path
from loopback import gcs
with gcs.serving(Path(sys.argv[1])) as environ:
    print(environ["STORAGE_EMULATOR_HOST"], flush=True)
    time.sleep(60)
"""


def test_it_makes_the_buckets_and_refuses_others(cloud: dict[str, str]) -> None:
    client = Client()

    client.bucket("raw").blob("fixture/a").upload_from_string("x")

    assert {bucket.name for bucket in client.list_buckets()} >= set(gcs.BUCKETS)
    with pytest.raises(NotFound):
        client.bucket("nosuch").blob("a").upload_from_string("x")


def test_it_honours_a_generation_precondition(cloud: dict[str, str]) -> None:
    blob = Client().bucket("models").blob("fixture/pointer")
    blob.upload_from_string("one", if_generation_match=0)
    first = blob.generation
    blob.upload_from_string("two", if_generation_match=first)

    with pytest.raises(PreconditionFailed):
        blob.upload_from_string("three", if_generation_match=first)

    assert blob.download_as_text() == "two"


def test_it_tells_its_requests(cloud: dict[str, str], gcs_folder: Path) -> None:
    Client().bucket("raw").blob("fixture/told-of").exists()

    told = [line for line in gcs.requests(gcs_folder) if "told-of" in line]
    assert told == ["GET /storage/v1/b/raw/o/fixture%2Ftold-of?fields=name&prettyPrint=false"]


def test_it_ends_with_the_process_that_started_it(tmp_path: Path) -> None:
    paths = {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    command = [sys.executable, "-c", STARTER, str(tmp_path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=os.environ | paths) as starter:
        assert starter.stdout is not None
        address = urlsplit(starter.stdout.readline().strip())
        place = (str(address.hostname), int(str(address.port)))
        socket.create_connection(place, timeout=5).close()

        starter.send_signal(signal.SIGKILL)

    assert _refuses(place)


def _refuses(place: tuple[str, int]) -> bool:
    for _ in range(100):
        try:
            socket.create_connection(place, timeout=5).close()
        except ConnectionRefusedError:
            return True
        time.sleep(0.05)
    return False
