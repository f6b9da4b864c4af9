"""What a file of boosted trees may hold, checked before XGBoost sees it: its own parser and predictor trust a file.

A part that is missing ends the whole process there, and a split of a feature or a node that there is not reads memory
at will. So every number that leads anywhere is looked at here first.
"""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import numpy as np

OBJECTIVE = "multi:softprob"
MOST_BYTES = 512 << 20
MOST_FEATURES, MOST_CLASSES = 1_000_000, 256
WHOLE = re.compile(r"[0-9]{1,9}")
SCORES = re.compile(r"[-+0-9.eE,\[\]]{1,10000}")
NUMBERS = ("base_weights", "loss_changes", "split_conditions", "sum_hessian")
INDICES = ("default_left", "left_children", "parents", "right_children", "split_indices", "split_type")
NO_CATEGORIES = ("categories", "categories_nodes", "categories_segments", "categories_sizes")

_sound: dict[str, tuple[int, int]] = {}  # features and classes, by the SHA-256 of contents that were looked at


def read(path: Path) -> bytes:
    """A file's content; a ValueError if it is larger than any model is."""
    _require(path.stat().st_size <= MOST_BYTES, f"it is larger than {MOST_BYTES:,} bytes")
    return path.read_bytes()


def vouch(content: bytes, features: int, classes: int) -> None:
    """Take a content for sound that XGBoost itself has just written in this process."""
    _sound[hashlib.sha256(content).hexdigest()] = features, classes


def check(content: bytes, expected: tuple[int, int] | None = None) -> tuple[int, int]:
    """How many features and classes a model's JSON is of; a ValueError, KeyError or TypeError if it is not sound.

    Nor is it sound if others are ``expected``.
    """
    digest = hashlib.sha256(content).hexdigest()
    if digest not in _sound:
        try:
            whole = json.loads(content, object_pairs_hook=_once)
        except RecursionError as error:
            raise ValueError("it is nested too deeply") from error
        _sound[digest] = _checked(whole)
    _require(expected in (None, _sound[digest]), "it is of other data")
    return _sound[digest]


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A JSON object; one that names a key twice could be another one to XGBoost than to us."""
    found = dict(pairs)
    _require(len(found) == len(pairs), "it names a key twice")
    return found


def _checked(whole: Any) -> tuple[int, int]:
    learner, booster = whole["learner"], whole["learner"]["gradient_booster"]
    of_model, model = learner["learner_model_param"], booster["model"]
    features, classes = _whole(of_model["num_feature"]), _whole(of_model["num_class"])
    _require(1 <= features <= MOST_FEATURES and 2 <= classes <= MOST_CLASSES, "it has too many features or classes")
    _require(of_model["num_target"] == "1" and bool(SCORES.fullmatch(of_model["base_score"])), "its base score is odd")
    _require(of_model["base_score"].count(",") in (0, classes - 1), "it has another number of base scores than classes")
    _require(learner["objective"]["name"] == OBJECTIVE, f"its objective is not {OBJECTIVE}")
    _require(_whole(learner["objective"]["softmax_multiclass_param"]["num_class"]) == classes, "its classes differ")
    _require(not learner["feature_names"] and not learner["feature_types"], "its features have names or types")
    _require(all(isinstance(text, str) for text in learner["attributes"].values()), "an attribute is not a text")
    _require(booster["name"] == "gbtree" and not any(model.get("cats", {}).values()), "it is not of plain trees")
    trees = model["trees"]
    _require(_whole(model["gbtree_model_param"]["num_trees"]) == len(trees), "it has another number of trees")
    _require(model["gbtree_model_param"]["num_parallel_tree"] == "1", "it has parallel trees")
    begins = _whole_numbers(model["iteration_indptr"], 0, len(trees), None)
    _require(begins[0] == 0 and begins[-1] == len(trees) and bool((np.diff(begins) >= 0).all()), "its rounds are odd")
    _whole_numbers(model["tree_info"], 0, classes - 1, len(trees))
    for tree in trees:
        _check_tree(tree, features)
    return features, classes


def _check_tree(tree: Any, features: int) -> None:
    param = tree["tree_param"]
    nodes = _whole(param["num_nodes"])
    _require(nodes >= 1 and _whole(param["num_feature"]) == features, "a tree is of other features")
    _require(param["size_leaf_vector"] in ("0", "1") and _whole(param["num_deleted"]) == 0, "a tree is not plain")
    _require(isinstance(tree["id"], int) and not any(tree[name] for name in NO_CATEGORIES), "a tree has categories")
    for name in NUMBERS:
        numbers = np.asarray(tree[name])
        _require(numbers.shape == (nodes,) and numbers.dtype.kind in "if", f"a tree's {name} are not numbers")
        _require(bool(np.isfinite(numbers).all()), f"a tree's {name} are not finite")
    bounds = {
        "default_left": (0, 1),
        "split_type": (0, 0),
        "split_indices": (0, features - 1),
        "parents": (0, 2**31 - 1),
    }
    found = {name: _whole_numbers(tree[name], *bounds.get(name, (-1, nodes - 1)), nodes) for name in INDICES}
    left, right, own = found["left_children"], found["right_children"], np.arange(nodes)
    leaf = (left == -1) & (right == -1)
    _require(bool((leaf | ((left > own) & (right > own))).all()), "a tree's nodes do not follow their parents")


def _whole_numbers(given: Any, least: int, most: int, count: int | None) -> Any:
    """Whole numbers within bounds, so many of them."""
    numbers = np.asarray(given)
    _require((numbers.ndim == 1 and len(numbers) > 0) or count == 0, "a list of numbers is empty or nested")
    _require(count is None or len(numbers) == count, "a list of numbers is of another length")
    _require(numbers.dtype.kind == "i" or not len(numbers), "a list does not hold whole numbers")
    _require(bool(((numbers >= least) & (numbers <= most)).all()), "a number is out of bounds")
    return numbers


def _whole(text: Any) -> int:
    _require(isinstance(text, str) and bool(WHOLE.fullmatch(text)), "a number is not a whole one")
    return int(text)


def _require(holds: bool, otherwise: str) -> None:
    if not holds:
        raise ValueError(otherwise)
