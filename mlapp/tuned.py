"""Take the best parameters of a hyperparameter search into a trainer's config."""

from __future__ import annotations

from typing import Any, TypeVar

from pydantic import BaseModel

from mlapp import config as configuration
from mlapp.errors import UserError
from mlapp.result import StageResult
from mlapp.schema import Baseline, Distillation, Training
from mlapp.section import Section
from mlapp.tune.space import searchable

C = TypeVar("C", bound=Section)
SEARCHED: dict[str, type[Section]] = {
    "train": Training,
    "distill": Distillation,
    "baseline": Baseline,
}  # whose settings a search tries


class Best(BaseModel):
    """What of a search's outcome a trainer takes."""

    parameters: dict[str, Any]


def with_tuned(config: C) -> C:
    """The config with what the search behind its ``tuned`` found; as it is where nothing was searched.

    The artifact ``best`` of a tune stage is JSON with ``parameters``: value by name of a field of the config. They
    stand for the search from then on, so that another search with the same outcome trains nothing anew. A `UserError`
    names one that no search sets: neither the data nor the teacher of a training is for a search to say.
    """
    uri = getattr(config, "tuned", None)
    if uri is None:
        return config
    result = StageResult.load(uri)
    trainer = result.config.get("trainer")
    if trainer in SEARCHED and not isinstance(config, SEARCHED[trainer]):
        raise UserError(f"{uri} is a search for {trainer}: give as --tuned the result of a search for this trainer")
    found = result.content("best", Best).parameters
    where = str(result.artifact("best"))
    section = next(kind for kind in SEARCHED.values() if isinstance(config, kind))
    if odd := sorted(found.keys() - searchable(section)):
        raise UserError(f"{where} names {', '.join(odd)[:200]}, which no search sets: run the tune stage again")
    return configuration.validate(type(config), {**config.model_dump(), **found, "tuned": None}, {where: found})
