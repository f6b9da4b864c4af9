"""Remove whole filters from a network: which layers share channels, which filters matter least, and the rebuild.

Works on any functional Keras model of the layers named here, residual additions and concatenations included. Method:
layers whose outputs are added share one *group* of channels and lose the same ones (He et al., 2017; Li et al., 2017).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from mlapp.dl.backend import keras
from mlapp.dl.folding import maker, scale_of
from mlapp.errors import UserError

PASSING = (
    *("InputLayer", "Rescaling", "ReLU", "Activation", "Dropout", "BatchNormalization"),
    *("AveragePooling2D", "MaxPooling2D", "GlobalAveragePooling2D", "GlobalMaxPooling2D"),
)
ZERO_KEEPING = ("linear", "relu")
Span = tuple[str, int]  # the name of the layer that makes the channels, and how many they are
Kept = Mapping[str, npt.NDArray[np.int64]]  # indices of the channels that stay, by group


@dataclass
class ChannelGraph:
    """Which channels flow where: the spans that enter and leave every layer, and the groups that must agree."""

    inputs: dict[str, list[Span]] = field(default_factory=dict)
    outputs: dict[str, list[Span]] = field(default_factory=dict)
    parents: dict[str, str] = field(default_factory=dict)
    fixed: set[str] = field(default_factory=set)

    @classmethod
    def of(cls, model: Any) -> ChannelGraph:
        """Trace a functional model; a `UserError` names a layer whose channels cannot be traced."""
        graph = cls()
        spans: dict[int, list[Span]] = {}
        for layer in model.layers:
            incoming = [spans[id(tensor)] for tensor in _inputs(layer)]
            graph.inputs[layer.name] = [span for spans_of_one in incoming for span in spans_of_one]
            graph.outputs[layer.name] = graph._leaving(layer, incoming)
            spans[id(layer.output)] = graph.outputs[layer.name]
        outer = [
            span
            for layer in model.layers
            if isinstance(layer, keras.layers.InputLayer)
            for span in graph.outputs[layer.name]
        ]
        outer += [span for tensor in model.outputs for span in spans[id(tensor)]]
        graph.fixed = {graph.group(name) for name, _ in outer}
        return graph

    def group(self, name: str) -> str:
        """The group that the channels made by a layer belong to."""
        while (parent := self.parents[name]) != name:
            name = parent
        return name

    def prunable(self) -> dict[str, int]:
        """Size of every group that may lose channels."""
        sizes = {self.group(name): size for spans in self.outputs.values() for name, size in spans}
        return {group: size for group, size in sizes.items() if group not in self.fixed}

    def makers(self, group: str) -> list[str]:
        """Names of the layers whose filters make a group's channels."""
        return [name for name in self.parents if self.group(name) == group]

    def indices(self, spans: list[Span], kept: Kept) -> npt.NDArray[np.int64]:
        """Positions in a tensor of these spans that stay."""
        stays, offset = [], 0
        for name, size in spans:
            stays.append(offset + kept.get(self.group(name), np.arange(size)))
            offset += size
        return np.concatenate(stays)

    def _leaving(self, layer: Any, incoming: list[list[Span]]) -> list[Span]:
        kind = type(layer).__name__
        if kind in ("Conv2D", "Dense", "InputLayer"):
            self.parents[layer.name] = layer.name
            _require_zero_keeping(layer)
            return [(layer.name, int(layer.output_shape[0][-1] if kind == "InputLayer" else layer.output_shape[-1]))]
        if kind == "Flatten":
            _, *places, _ = layer.input_shape
            return incoming[0] * int(np.prod(places))
        if kind == "Concatenate":
            return [span for spans in incoming for span in spans]
        if kind == "Add":
            for others in incoming[1:]:
                for (left, _), (right, _) in zip(incoming[0], others, strict=True):
                    self.parents[self.group(right)] = self.group(left)
            return incoming[0]
        if kind in PASSING:
            _require_zero_keeping(layer)
            return incoming[0]
        raise UserError(f"cannot trace channels through layer {layer.name} ({kind}): prune weights instead of filters")


def choose_filters(model: Any, sparsity: float) -> dict[str, npt.NDArray[np.int64]]:
    """The filters that stay when a share of ``sparsity`` leaves each group, the least important first; one stays.

    Importance is the filter's L2 norm times the scale of the batch normalisation behind it, summed over the layers
    that share the channel.
    """
    graph = ChannelGraph.of(model)
    scales = _normalisation_scales(model, graph)
    kept = {}
    for group, size in graph.prunable().items():
        importance = np.zeros(size)
        for name in graph.makers(group):
            kernel = model.get_layer(name).get_weights()[0]
            importance += np.linalg.norm(kernel.reshape(-1, size), axis=0) * scales.get(name, 1.0)
        staying = max(1, size - round(sparsity * size))
        kept[group] = np.sort(np.argsort(-importance, kind="stable")[:staying])
    return kept


def rebuild(model: Any, kept: Kept) -> Any:
    """A narrower network of the kept channels only; it computes exactly what `mask` leaves of the old one."""
    graph = ChannelGraph.of(model)

    def narrower(layer: Any) -> Any:
        config = layer.get_config()
        for size in ("filters", "units"):
            if size in config:
                config[size] = len(graph.indices(graph.outputs[layer.name], kept))
        return type(layer).from_config(config)

    rebuilt = keras.models.clone_model(model, clone_function=narrower)
    for layer in model.layers:
        if weights := layer.get_weights():
            incoming = graph.indices(graph.inputs[layer.name], kept)
            leaving = graph.indices(graph.outputs[layer.name], kept)
            rebuilt.get_layer(layer.name).set_weights(
                [
                    weight[..., leaving] if weight.ndim == 1 else weight[..., incoming, :][..., leaving]
                    for weight in weights
                ]
            )
    return rebuilt


def mask(model: Any, kept: Kept) -> Any:
    """A copy of the network, same shapes, in which every removed filter answers zero."""
    graph = ChannelGraph.of(model)
    masked = keras.models.clone_model(model)
    for layer in model.layers:
        weights = layer.get_weights()
        gone = np.ones(sum(size for _, size in graph.outputs[layer.name]), bool)
        gone[graph.indices(graph.outputs[layer.name], kept)] = False
        trainable = len(layer.trainable_weights)
        for weight in weights[:trainable]:
            weight[..., gone] = 0
        masked.get_layer(layer.name).set_weights(weights)
    return masked


def _inputs(layer: Any) -> list[Any]:
    if isinstance(layer, keras.layers.InputLayer):
        return []
    return layer.input if isinstance(layer.input, list) else [layer.input]


def _require_zero_keeping(layer: Any) -> None:
    activation = getattr(layer, "activation", None)
    if activation is not None and activation.__name__ not in ZERO_KEEPING:
        raise UserError(f"layer {layer.name} has activation {activation.__name__}, whose value at 0 is not 0: use relu")


def _normalisation_scales(model: Any, graph: ChannelGraph) -> dict[str, npt.NDArray[np.float64]]:
    scales = {}
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            scales[maker(layer).name] = np.abs(scale_of(layer))
    return scales
