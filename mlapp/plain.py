"""JSON and YAML of unknown origin as plain values; a ValueError, whatever is wrong with the text, and however deep."""

from __future__ import annotations

import json
from typing import Any

import yaml


class _Loader(yaml.SafeLoader):
    """YAML without aliases: nine lines of them can stand for a billion values."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            raise yaml.composer.ComposerError(None, None, "aliases are not taken", None)
        return super().compose_node(parent, index)


def from_json(text: str) -> Any:
    """The value of a JSON text."""
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def from_yaml(text: str) -> Any:
    """The value of a YAML text; dates stay text."""
    try:
        return yaml.load(text, _Loader)  # noqa: S506 - of a safe loader
    except yaml.YAMLError as error:
        raise ValueError(" ".join(str(error).split())) from error
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error
