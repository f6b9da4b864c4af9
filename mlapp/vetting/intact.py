"""Take an earlier stage's files only as that stage left them."""

from __future__ import annotations

from mlapp.errors import UserError
from mlapp.result import StageResult


def intact(uri: str) -> StageResult:
    """The result behind a URI; a `UserError` names the first of its files that is missing or was altered since."""
    result = StageResult.load(uri)
    if damage := result.damage():
        raise UserError(f"the {result.stage} result cannot be trusted, {damage}: run the {result.stage} stage again")
    return result
