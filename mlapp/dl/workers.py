"""What workers of a cluster tell each other besides gradients: the chief's state, and that they do the same work."""

from __future__ import annotations

from typing import Any

import numpy as np

from mlapp.dl.data_parallel import Devices
from mlapp.errors import UserError


def share(devices: Devices, variables: list[Any]) -> None:
    """Give these variables the values that they have on the chief, on every worker."""
    if devices.cluster:
        local = [devices.strategy.experimental_local_results(variable) for variable in variables]
        values = _from_chief(devices, [copies[0].numpy() for copies in local])
        for copies, value in zip(local, values, strict=True):
            for copy in copies:
                copy.assign(value)


def chiefs_text(devices: Devices, text: str) -> str:
    """The chief's text, on every worker."""
    own = np.frombuffer(text.encode(), np.uint8).astype(np.int32)
    [length] = _from_chief(devices, [np.int32(len(own))])
    [chiefs] = _from_chief(devices, [np.resize(own, length)])
    return str(chiefs.astype(np.uint8).tobytes(), "utf-8")


def require_same(devices: Devices, fingerprint: str) -> None:
    """Refuse to train with workers that would train something else (by ``fingerprint``, in hex)."""
    if devices.cluster is None:
        return
    tasks = devices.cluster.tasks
    told = np.zeros(len(tasks), np.int32)
    told[devices.cluster.own] = int(fingerprint[:7], 16)
    [every] = devices.from_every([told])
    if other := [task.name for task, theirs in zip(tasks, every, strict=True) if theirs != every[0]]:
        raise UserError(
            f"{' and '.join(other)} would train something else than {tasks[0].name}: start every worker with the same "
            "command, on the same version and data"
        )


def _from_chief(devices: Devices, arrays: list[Any]) -> list[Any]:
    return devices.from_every([array if devices.is_chief else np.zeros_like(array) for array in arrays])
