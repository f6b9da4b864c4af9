"""`make run ANNOUNCE=1`: tell the Airflow of `make airflow` what a run of the terminal made, as an asset event.

Without it a run of the terminal starts nothing. The event goes through Airflow's REST API, like one made by hand.
"""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import laptop_homes
from laptop_homes import refuse

ADDRESS = "address"  # in the home of `make airflow`: its URL, as long as it runs
DATA_DAG, TRAINING_DAG = "fashion_mnist_data", "fashion_mnist_training"
PATIENCE_S = 30.0
DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def server(home: Path, dag_id: str, conf: Mapping[str, Any]) -> str:
    """URL of the running Airflow that the outcome will be announced to; refuses what cannot be announced."""
    from mlapp.config import DEFAULT_PRESET
    from mlapp.configure import resolve

    if dag_id not in (DATA_DAG, TRAINING_DAG):
        refuse(f"{dag_id} makes nothing to announce: leave ANNOUNCE out")
    if resolve(DEFAULT_PRESET, conf).transform.limit is not None:
        refuse("a trial is not announced: leave ANNOUNCE out, or take out transform.limit (the preset smoke sets it)")
    standalone = home.parent / "standalone"
    address = standalone / ADDRESS
    # An address that a kill left behind may by now be another Airflow's.
    alive = laptop_homes.in_use(standalone) and address.exists()
    url = address.read_text(encoding="utf-8").strip() if alive else ""
    try:
        if url and "access_token" in call(url, "auth/token"):
            return url
        reason = "no Airflow is running to announce to"
    except (OSError, ValueError) as error:  # it was killed, or asks for a password
        reason = f"{url} does not answer ({error})"
    return refuse(f"{reason}: start it with make airflow, without passwords, or leave ANNOUNCE out")


def announce(url: str, dag_id: str, run_id: str) -> str:
    """Create the event that the run's own task would have made under a scheduler; returns what to say of it."""
    from dags_test import pulled
    from training_assets import DATA, MODEL, data_announcement, model_announcement

    def output(task_id: str) -> Any:
        return pulled(dag_id, run_id, task_id)

    if dag_id == DATA_DAG:
        name, extra = DATA.name, data_announcement(output("profile"), output("configure"))
    else:
        name, extra = MODEL.name, model_announcement(output("transform"), output("promote"))
    try:
        token = call(url, "auth/token")["access_token"]
        assets = call(url, f"api/v2/assets?name_pattern={name}", token)["assets"]
        asset = next(asset for asset in assets if asset["name"] == name)
        call(url, "api/v2/assets/events", token, {"asset_id": asset["id"], "extra": extra})
    except (OSError, ValueError, KeyError, StopIteration) as error:
        reason = f"{type(error).__name__}: {error}"
        return f"warning: the run is done, but {url} did not take its event ({reason}): create it there, or run again"
    return f"announced to {url}: {name}, data {extra.get('digest') or extra['data']}"


def call(url: str, path: str, token: str = "", body: Any = None) -> Any:
    """One request of the REST API, past any proxy."""
    headers = {"Content-Type": "application/json", **({"Authorization": f"Bearer {token}"} if token else {})}
    content = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(f"{url}/{path}", content, headers)  # noqa: S310 (our own loopback address)
    with DIRECT.open(request, timeout=PATIENCE_S) as answer:
        return json.load(answer)
