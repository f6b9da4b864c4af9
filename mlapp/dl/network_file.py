"""Networks as files that hold data only: which of the known layers, how they are connected, and their weights.

`load` builds the network with code of our own from `mlapp.dl.layer_types`; nothing in the file names any code.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field, ValidationError

from mlapp import plain, tensors
from mlapp.dl.backend import keras
from mlapp.dl.layer_types import INPUT, KINDS, Input, LayerSettings
from mlapp.errors import UserError
from mlapp.result import Record

NETWORK = "network"
OPERATION = "TFOpLambda"  # what Keras makes of a TensorFlow operation in a network
NAME = r"^[A-Za-z0-9_.][A-Za-z0-9_.\-/]{0,99}$"
# Of a layer's configuration in Keras these do not change what a network with given weights computes or learns.
IGNORED = re.compile(r"name|.*_initializer|batch_input_shape|sparse|ragged|optional")


class Layer(Record):
    """A layer, and the numbers of the layers before it whose output it takes."""

    kind: str
    name: str = Field(pattern=NAME)
    of: list[int] = Field(max_length=64)
    settings: dict[str, Any]


class Architecture(Record):
    """A network without its weights: the first layer is the image, the last one the answer."""

    name: str = Field(pattern=NAME)
    layers: list[Layer] = Field(min_length=2, max_length=2000)


def save(model: Any, path: Path) -> None:
    """Write a network as one file, whole or not at all; a `UserError` names a layer that could not be read back."""
    architecture = describe(model)
    weights = {f"{layer.name}:{n}": w for layer in model.layers for n, w in enumerate(layer.get_weights())}
    try:
        _built(architecture, weights)
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"network {architecture.name} could not be read back from a file: {error}") from error
    tensors.write(path, weights, {NETWORK: architecture.model_dump_json()})


def load(path: Path) -> Any:
    """The network in a file that `save` wrote; a `UserError` if it is any other file."""
    arrays, about = tensors.read(path)
    try:
        architecture = Architecture.model_validate(plain.from_json(about[NETWORK]))
        return _built(architecture, arrays)
    except (ValueError, KeyError, TypeError, IndexError) as error:
        why = " ".join(str(error).split())[:300]
        raise UserError(
            f"{path} is not a network that this version reads ({why}): run its stage again with --force"
        ) from error


def describe(model: Any) -> Architecture:
    """The architecture of a functional network; a `UserError` names a layer that no file can hold."""
    config = model.get_config()
    numbers: dict[str, int] = {}
    layers = []
    for entry in config["layers"]:
        kind, given = entry["class_name"], entry["config"]
        called = _calls(entry["inbound_nodes"])
        if kind == OPERATION:
            kind, given = given["function"], called[0][-1]
        settings = _settings(kind, entry["name"], given)
        layers.append(Layer(kind=kind, name=entry["name"], of=[numbers[call[0]] for call in called], settings=settings))
        numbers[entry["name"]] = len(numbers)
    [[first, *_]], [[last, *_]] = config["input_layers"], config["output_layers"]
    if numbers[first] != 0 or numbers[last] != len(numbers) - 1:
        raise UserError(f"network {config['name']} must take one image and give one answer, by its last layer")
    return Architecture(name=config["name"], layers=layers)


def _calls(nodes: list[Any]) -> list[Any]:
    """What a layer is called on: name and arguments for each tensor."""
    if len(nodes) > 1:
        raise UserError("a layer is used more than once in the network: use one layer for each place")
    [node] = nodes or [[]]
    return node if not node or isinstance(node[0], list) else [node]


def _settings(kind: str, name: str, given: dict[str, Any]) -> dict[str, Any]:
    """The settings of a layer as its kind has them, if they say all that is special about it."""
    if kind not in KINDS:
        raise UserError(
            f"layer {name} is of kind {kind}, which no file of a network may hold: use {', '.join(KINDS)}, or register "
            "it with mlapp.dl.layer_types.register"
        )
    try:
        if kind == INPUT:
            return Input(shape=tuple(given["batch_input_shape"][1:])).model_dump(mode="json")
        known = {field: _plain(given[field]) for field in KINDS[kind].model_fields}
        settings = KINDS[kind].model_validate_json(json.dumps(known))
    except (ValidationError, KeyError) as error:
        raise UserError(f"layer {name} ({kind}) cannot be stored: {' '.join(str(error).split())[:300]}") from error
    made = settings.make(kind, name)
    default = made.get_config() if hasattr(made, "get_config") else {}
    odd = [key for key, value in default.items() if not IGNORED.fullmatch(key) and not _same(value, given.get(key))]
    if odd:
        raise UserError(
            f"layer {name} ({kind}) has {odd[0]}={given.get(odd[0])!r}, which no file can hold: leave it out"
        )
    return settings.model_dump(mode="json")


def _plain(value: Any) -> Any:
    """A value of a layer's configuration; of a constraint its name."""
    if isinstance(value, dict) and "class_name" in value:
        return re.sub(r"(?<!^)(?=[A-Z])", "_", value["class_name"]).lower()
    return value


def _same(ours: Any, theirs: Any) -> bool:
    """Whether two values of configurations are the same; an axis may be counted from either end."""
    axes = isinstance(ours, int | list) and isinstance(theirs, list) and ours in (-1, [-1])
    return axes or bool(_data(ours) == _data(theirs))


def _data(value: Any) -> Any:
    return json.loads(json.dumps(value, default=lambda odd: odd.tolist() if hasattr(odd, "tolist") else str(odd)))


def _built(architecture: Architecture, arrays: tensors.Arrays) -> Any:
    """The network; no layer is made before its weights were found, of the very shapes that it needs."""
    image = None
    outputs: list[Any] = []
    left = dict(arrays)
    for number, layer in enumerate(architecture.layers):
        if layer.kind not in KINDS:
            raise ValueError(f"layer {layer.name} is of unknown kind {layer.kind[:80]!r}")
        settings = KINDS[layer.kind].model_validate_json(json.dumps(layer.settings))
        if isinstance(settings, Input):
            if number:
                raise ValueError("it takes more than one image")
            image = keras.layers.Input(settings.shape, name=layer.name)
            outputs.append(image)
            continue
        if not layer.of or not all(0 <= before < number for before in layer.of):
            raise ValueError(f"layer {layer.name} takes no output of a layer before it")
        inputs = [outputs[before] for before in layer.of]
        outputs.append(_called(layer, settings, inputs if len(inputs) > 1 else inputs[0], left))
    if image is None or left:
        raise ValueError(f"it has weights of no layer: {', '.join(left)[:80]}" if left else "it takes no image")
    return keras.Model(image, outputs[-1], name=architecture.name)


def _called(layer: Layer, settings: LayerSettings, inputs: Any, left: tensors.Arrays) -> Any:
    """The output of a layer with its weights, which are taken out of those that are ``left``."""
    shapes = [] if isinstance(inputs, list) else settings.weights(tuple(inputs.shape))
    weights = [left.pop(f"{layer.name}:{number}") for number in range(len(shapes))]
    for weight, shape in zip(weights, shapes, strict=True):
        if weight.shape != shape or weight.dtype != np.float32:
            raise ValueError(f"layer {layer.name} needs float32 weights of shape {shape}, not {weight.shape}")
    made = settings.make(layer.kind, layer.name)
    output = made(inputs)
    if weights:
        made.set_weights(weights)
    return output
