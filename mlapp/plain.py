"""JSON and YAML of unknown origin as plain values; a ValueError, whatever is wrong with the text and its size."""

from __future__ import annotations

import json
import re
from typing import Any

import yaml

DEEPEST = 50  # lists and maps in each other
MOST_VALUES = 100_000  # of a YAML text; some lines of aliases of aliases can stand for more than memory holds
HALF = re.compile("[\ud800-\udfff]")  # half of a character, which no file can hold


def from_json(text: str, *, by_hand: bool = False) -> Any:
    """The value of a JSON text; in one that a person wrote, a key that is there twice is refused."""
    try:
        return _checked(json.loads(text, object_pairs_hook=_once if by_hand else None))
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def from_yaml(text: str) -> Any:
    """The value of a YAML text."""
    try:
        loader = yaml.SafeLoader(text)
        node = loader.get_single_node()
        if node is None:
            return None
        _once_each(_few(node))
        return _checked(loader.construct_document(node))
    except (yaml.YAMLError, ValueError) as error:
        raise ValueError(" ".join(str(error).split())) from error
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
    # A value that is not of the kind its tag says (!!bool x) makes PyYAML stumble in many ways.
    except Exception as error:
        raise ValueError(f"a value is not of the kind that its tag says ({type(error).__name__})") from error


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The pairs as a map; a ValueError where one would silently replace another."""
    made = dict(pairs)
    if len(made) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"{twice[:100]!r} is there twice: give it once")
    return made


def _once_each(root: yaml.Node) -> None:
    """The same for every map of a YAML document."""
    waiting, seen = [root], {id(root)}
    while waiting:
        node = waiting.pop()
        parts = node.value if isinstance(node, yaml.SequenceNode) else ()
        if isinstance(node, yaml.MappingNode):
            _once([(key.value, value) for key, value in node.value if isinstance(key, yaml.ScalarNode)])
            parts = [part for pair in node.value for part in pair]
        waiting += (new := [part for part in parts if id(part) not in seen])
        seen |= {id(part) for part in new}


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
