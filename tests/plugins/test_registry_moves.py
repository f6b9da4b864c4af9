"""The champion is moved from a DAG run's form, and the history tells who asked for it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from registry_moves import move
from stage_operator import BadInput

from mlapp.registry.bundle import Draft, describe, install
from mlapp.registry.pointer import Pointer

NAME = "my_fashion_mnist"


@pytest.fixture
def registry(tmp_path: Path) -> Pointer:
    """Three bundles that were champion one after the other."""
    pointer, before = Pointer(str(tmp_path), NAME), None
    for content in ("one", "two", "three"):
        with Draft(pointer.folder) as draft:
            (draft / "model.int8.tflite").write_text(content)
            about = {"name": NAME, "model": "model.int8.tflite", "predecessor": before, "created": "2026-08-26"}
            manifest = describe(draft, **about, data={}, stages={}, history=None)
            install(draft, manifest, pointer.folder)
        pointer.swap(before, manifest.id, {"model": manifest.model_sha256})
        before = manifest.id
    return pointer


def form(registry: Pointer, **given: Any) -> str:
    empty = {"preset": None, "promotion.name": None, "bundle": None, "why": "by hand"}
    return json.dumps({**empty, "storage.registry": str(registry.folder.parent), **given})


def test_a_rollback_goes_to_the_predecessor(registry: Pointer) -> None:
    ids = [each["champion"] for each in registry.history()]
    assert (
        move(form(registry, action="rollback", why="noisy images"), "model_registry manual, started by Ada") == ids[1]
    )
    last = registry.history()[-1]
    assert (registry.read(), last["champion"], last["before"]) == (ids[1], ids[1], ids[2])
    assert (last["by"], last["why"]) == ("model_registry manual, started by Ada", "noisy images")


def test_a_second_try_of_a_run_does_not_roll_back_once_more(registry: Pointer) -> None:
    """Given a worker that was killed after the move, and Airflow's retry of the same run, then that moves nothing."""
    ids = [each["champion"] for each in registry.history()]
    assert [move(form(registry, action="rollback"), "run 1") for _ in range(2)] == [ids[1], ids[1]]
    assert len(registry.history()) == 4
    assert move(form(registry, action="rollback"), "run 2") == ids[0]


def test_a_promotion_goes_to_the_bundle_that_was_asked_for(registry: Pointer) -> None:
    first = registry.history()[0]["champion"]
    assert move(form(registry, action="promote", bundle=first), "Ada") == first
    assert registry.read() == first


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({}, "action is None: choose rollback or promote"),
        ({"action": "delete"}, "action is 'delete': choose rollback or promote"),
        ({"action": "rollback", "why": None}, "the reason is empty: say why"),
        ({"action": "rollback", "why": " \t\u2028 "}, "the reason is empty: say why"),
        ({"action": "promote"}, "promote takes a bundle"),
        ({"action": "rollback", "bundle": "0123456789ab"}, "rollback takes no bundle"),
        ({"action": "promote", "bundle": "0123456789ab"}, "there is no bundle"),
        ({"action": "rollback", "promotion.name": "nothing"}, "has no champion"),
    ],
)
def test_what_cannot_be_done_fails_at_once_with_one_line(registry: Pointer, given: dict[str, Any], told: str) -> None:
    before = registry.read()
    with pytest.raises(BadInput, match=told):
        move(form(registry, **given), "Ada")
    assert registry.read() == before


def test_the_form_has_no_default_action_and_wants_a_reason() -> None:
    """Given a form that nobody filled in, then Airflow itself refuses to start the run."""
    from airflow.dag_processing.dagbag import DagBag
    from airflow.sdk.exceptions import ParamValidationError

    dags = Path(__file__).parents[2] / "dags"
    form = DagBag(str(dags / "model_registry.py")).dags["model_registry"].params
    for name, wrong in {"action": ["", "delete", None], "why": ["", "   ", None]}.items():
        with pytest.raises(ParamValidationError):
            form.get_param(name).resolve()
        for value in wrong:
            with pytest.raises(ParamValidationError):
                form.get_param(name).resolve(value)
    assert form.get_param("action").resolve("rollback") == "rollback"
    assert form.get_param("why").resolve("noisy images") == "noisy images"


def test_what_a_person_writes_is_escaped_in_the_history(registry: Pointer) -> None:
    why = "fine\x1b[2K\r\nforged line\u202e"
    move(form(registry, action="rollback", why=why), "run \x1b]0;title\x07")
    last = registry.history()[-1]
    assert (last["why"], last["by"]) == (r"fine\x1b[2K\r\nforged line\u202e", r"run \x1b]0;title\x07")
