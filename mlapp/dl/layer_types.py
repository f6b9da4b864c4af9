"""The layers that a network may be rebuilt from, each with its own bounded settings: no file can name any other.

Code of your own adds a kind with `register` before a network of it is made or loaded; data never can.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field

from mlapp.dl.backend import keras, tf
from mlapp.result import Record

Shape = tuple[int, ...]
Channels = Annotated[int, Field(ge=1, le=65_536)]
Side = Annotated[int, Field(ge=1, le=4096)]
Pair = tuple[Side, Side]
Share = Annotated[float, Field(ge=0, le=1)]
Number = Annotated[float, Field(ge=-1e6, le=1e6)]
Padding = Literal["same", "valid"]
Activation = Literal["linear", "relu", "relu6", "elu", "selu", "gelu", "swish", "tanh", "sigmoid", "softmax"]


class LayerSettings(Record):
    """The settings of one kind of layer, by the names that Keras gives them."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    def make(self, kind: str, name: str) -> Any:
        """The layer, a function of one tensor or of a list of them."""
        return getattr(keras.layers, kind)(name=name, **self.model_dump())

    def weights(self, shape: tuple[int | None, ...]) -> list[Shape]:
        """Shapes of its weights on an input of ``shape``, batch included; checked before anything is allocated."""
        return []


class Input(LayerSettings):
    """The image: height, width and channels."""

    shape: tuple[Side, Side, Annotated[int, Field(ge=1, le=64)]]


class Rescaling(LayerSettings):
    """``x · scale + offset``."""

    scale: Number
    offset: Number


class Conv2D(LayerSettings):
    """A convolution."""

    filters: Channels
    kernel_size: Pair
    strides: Pair
    padding: Padding
    dilation_rate: Pair
    groups: Channels
    activation: Activation
    use_bias: bool

    def weights(self, shape: tuple[int | None, ...]) -> list[Shape]:
        """The kernel, and a bias."""
        kernel = (*self.kernel_size, (shape[-1] or 0) // self.groups, self.filters)
        return [kernel, *([(self.filters,)] if self.use_bias else [])]


class Dense(LayerSettings):
    """A matrix."""

    units: Channels
    activation: Activation
    use_bias: bool

    def weights(self, shape: tuple[int | None, ...]) -> list[Shape]:
        """The matrix, and a bias."""
        return [(shape[-1] or 0, self.units), *([(self.units,)] if self.use_bias else [])]


class BatchNormalization(LayerSettings):
    """A normalisation of channels."""

    momentum: Share
    epsilon: Annotated[float, Field(gt=0, le=1)]
    center: bool
    scale: bool
    gamma_constraint: Literal["non_neg"] | None

    def weights(self, shape: tuple[int | None, ...]) -> list[Shape]:
        """Scale and shift, mean and variance."""
        return [(shape[-1] or 0,)] * (2 + self.center + self.scale)


class Pooling(LayerSettings):
    """The mean or the maximum of windows."""

    pool_size: Pair
    strides: Pair
    padding: Padding


class ActivationOf(LayerSettings):
    """A function of each number."""

    activation: Activation


class Dropout(LayerSettings):
    """Numbers left out at random, in training."""

    rate: Annotated[float, Field(ge=0, lt=1)]


class Concatenate(LayerSettings):
    """Tensors put beside each other."""

    axis: Annotated[int, Field(ge=-4, le=4)]


class Reverse(LayerSettings):
    """The mirror image."""

    axis: tuple[Annotated[int, Field(ge=1, le=3)], ...] = Field(max_length=3)

    def make(self, kind: str, name: str) -> Any:
        """TensorFlow's own operation, which Keras makes a layer of."""
        return lambda tensor: tf.reverse(tensor, list(self.axis))


class Reshape(LayerSettings):
    """Another shape, batch included."""

    shape: tuple[Annotated[int, Field(ge=-1, le=65_536)], ...] = Field(max_length=5)

    def make(self, kind: str, name: str) -> Any:
        """TensorFlow's own operation, which Keras makes a layer of."""
        return lambda tensor: tf.reshape(tensor, self.shape)


class ReduceMean(LayerSettings):
    """The mean along an axis."""

    axis: Annotated[int, Field(ge=0, le=3)]

    def make(self, kind: str, name: str) -> Any:
        """TensorFlow's own operation, which Keras makes a layer of."""
        return lambda tensor: tf.reduce_mean(tensor, axis=self.axis)


INPUT = "InputLayer"
KINDS: dict[str, type[LayerSettings]] = {
    INPUT: Input,
    "Rescaling": Rescaling,
    "Conv2D": Conv2D,
    "Dense": Dense,
    "BatchNormalization": BatchNormalization,
    "MaxPooling2D": Pooling,
    "AveragePooling2D": Pooling,
    "Activation": ActivationOf,
    "Dropout": Dropout,
    "Concatenate": Concatenate,
    **dict.fromkeys(("Add", "ReLU", "Flatten", "GlobalAveragePooling2D", "GlobalMaxPooling2D"), LayerSettings),
    "reverse": Reverse,
    "reshape": Reshape,
    "math.reduce_mean": ReduceMean,
}


def register(kind: str, settings: type[LayerSettings]) -> None:
    """Let networks have layers of another ``kind``, the name of their class, with these ``settings``.

    ``settings`` says what its ``get_config`` must hold and within which bounds; its `make` returns the layer. Call it
    where your own code defines the layer (beside your function in `mlapp.dl.nets`).
    """
    KINDS[kind] = settings
