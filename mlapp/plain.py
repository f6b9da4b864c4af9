"""JSON and YAML of unknown origin as plain values; a ValueError, whatever is wrong with the text and its size."""

from __future__ import annotations

import json
import re
from typing import Any

import yaml

DEEPEST = 50  # lists and maps in each other
MOST_VALUES = 100_000  # of a YAML text; some lines of aliases of aliases can stand for more than memory holds
HALF = re.compile("[\ud800-\udfff]")  # half of a character, which no file can hold


def from_json(text: str) -> Any:
    """The value of a JSON text."""
    try:
        return _checked(json.loads(text))
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def from_yaml(text: str) -> Any:
    """The value of a YAML text."""
    try:
        loader = yaml.SafeLoader(text)
        node = loader.get_single_node()
        return None if node is None else _checked(loader.construct_document(_few(node)))
    except (yaml.YAMLError, ValueError) as error:
        raise ValueError(" ".join(str(error).split())) from error
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    # A value that is not of the kind its tag says (!!bool x) makes PyYAML stumble in many ways.
    except Exception as error:
        raise ValueError(f"a value is not of the kind that its tag says ({type(error).__name__})") from error


def _few(node: yaml.Node) -> yaml.Node:
    """The node, if it does not stand for more values than can be handled."""
    if _values(node, {}) > MOST_VALUES:
        raise ValueError(f"its aliases stand for more than {MOST_VALUES:,} values")
    return node


def _checked(value: Any) -> Any:
    """The value, if it is not too deep to be handled and all its texts can be written."""
    waiting = [(value, 0)]
    while waiting:
        part, depth = waiting.pop()
        if depth > DEEPEST:
            raise ValueError("it is nested too deeply")
        if isinstance(part, str) and HALF.search(part):
            raise ValueError("it holds half a character")
        inner = [*part, *part.values()] if isinstance(part, dict) else part if isinstance(part, list) else ()
        waiting += [(each, depth + 1) for each in inner]
    return value


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
