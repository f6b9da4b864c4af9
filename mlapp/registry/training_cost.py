"""What a model cost to train, in CPU-seconds: of its own stage, and of all that it learnt from."""

from __future__ import annotations

from collections.abc import Iterable

from mlapp import storage
from mlapp.result import RESULT, Record, StageResult


class Cost(Record):
    """CPU-seconds of the stage that made a model (training, export and measuring), and with its forebears'."""

    own: float
    with_forebears: float


def cost(uri: str, stages: Iterable[StageResult]) -> Cost | None:
    """The cost of the model behind the ``uri`` of a result, as far as its makers are among ``stages``, else None.

    A student's forebear is its teacher, a pruned model's are the teacher and every student that it was picked from.
    """
    makers = {stage.uri: stage for stage in stages if "candidates" in stage.artifacts}
    found: dict[str, StageResult] = {}
    waiting = [_whole(uri)]
    while waiting:
        name = waiting.pop()
        if name in makers and name not in found:
            found[name] = makers[name]
            waiting += [_whole(given) for uris in makers[name].inputs.values() for given in uris.split()]
    if _whole(uri) not in found:
        return None
    spent = {name: stage.timings.get("cpu_s", 0.0) for name, stage in found.items()}
    return Cost(own=spent[_whole(uri)], with_forebears=sum(spent.values()))


def _whole(uri: str) -> str:
    """The URI as results name themselves, whichever way it was given."""
    path = storage.at(uri)
    return str(path if path.name.endswith(".json") else path / RESULT)
