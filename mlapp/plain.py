"""JSON and YAML of unknown origin as plain values; a ValueError, whatever is wrong with the text and its size."""

from __future__ import annotations

import json
from typing import Any

import yaml

MOST_VALUES = 100_000  # of a YAML text; some lines of aliases of aliases can stand for more than memory holds


def from_json(text: str) -> Any:
    """The value of a JSON text."""
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def from_yaml(text: str) -> Any:
    """The value of a YAML text."""
    try:
        loader = yaml.SafeLoader(text)
        node = loader.get_single_node()
        if node is None:
            return None
        if _values(node, {}) > MOST_VALUES:
            raise ValueError(f"its aliases stand for more than {MOST_VALUES:,} values")
        return loader.construct_document(node)
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())) from error
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def _values(node: yaml.Node, known: dict[int, int]) -> int:
    """How many values a node stands for, each alias counted in full; one that holds itself stands for too many."""
    if id(node) not in known:
        known[id(node)] = MOST_VALUES + 1  # as long as it is being counted
        match node:
            case yaml.MappingNode():
                parts = [part for pair in node.value for part in pair]
            case yaml.SequenceNode():
                parts = node.value
            case _:
                parts = []
        known[id(node)] = 1 + sum(_values(part, known) for part in parts)
    return known[id(node)]
