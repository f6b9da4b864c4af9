"""The networks, by name. Input: float32 pixels 0..255, (batch, height, width, channels); output: logits."""

from __future__ import annotations

from typing import Any

from mlapp.dataset import Dataset
from mlapp.dl.backend import keras, tf
from mlapp.schema import Architecture


def build(
    architecture: Architecture, *, shape: tuple[int, int, int], classes: int, width: float = 1.0, seed: int = 0
) -> Any:
    """A new network of the named architecture, its channels multiplied by ``width`` and rounded to multiples of 4."""
    tf.keras.utils.set_random_seed(seed)

    def scaled(channels: int) -> int:
        return max(4, round(channels * width / 4) * 4)

    image = keras.layers.Input(shape, name="image")
    pixels = keras.layers.Rescaling(1 / 255, name="scale")(image)
    features = {"convnet": _convnet, "cnn3": _cnn3}[architecture](pixels, scaled)
    logits = keras.layers.Dense(classes, name="logits")(features)
    return keras.Model(image, logits, name=architecture)


def build_for(dataset: Dataset, architecture: Architecture, *, width: float, seed: int) -> Any:
    """A new network for the images and classes of a data set."""
    return build(architecture, shape=dataset.shape, classes=len(dataset.classes), width=width, seed=seed)


def _convnet(x: Any, scaled: Any) -> Any:
    """A strided stem, two widenings and a residual block, then mean and maximum of every channel."""
    layers = keras.layers
    x = _convolution(x, scaled(32), 5, "stem", strides=2)
    x = _convolution(x, scaled(64), 3, "widen1")
    x = layers.AveragePooling2D(name="pool")(x)
    x = _convolution(x, scaled(96), 3, "widen2")
    inner = _convolution(x, scaled(96), 3, "block1")
    inner = _convolution(inner, scaled(96), 3, "block2", activate=False)
    x = layers.ReLU(name="block_relu")(layers.Add(name="block_add")([x, inner]))
    mean, peak = layers.GlobalAveragePooling2D(name="mean")(x), layers.GlobalMaxPooling2D(name="peak")(x)
    return layers.Concatenate(name="features")([mean, peak])


def _convolution(x: Any, filters: int, size: int, name: str, strides: int = 1, activate: bool = True) -> Any:
    layers = keras.layers
    x = layers.Conv2D(
        filters, size, strides, padding="same", use_bias=False, kernel_initializer="he_normal", name=name
    )(x)
    x = layers.BatchNormalization(momentum=0.9, name=f"{name}_bn")(x)
    return layers.ReLU(name=f"{name}_relu")(x) if activate else x


def _cnn3(x: Any, scaled: Any) -> Any:
    """The tutorials' reference CNN: three convolutions 32-64-128 with max pooling, dropout 25 % and 50 %."""
    layers = keras.layers
    for index, filters in enumerate((32, 64, 128), start=1):
        x = layers.Conv2D(scaled(filters), 3, padding="same", activation="relu", name=f"conv{index}")(x)
        x = layers.MaxPooling2D(name=f"pool{index}")(x)
        x = layers.Dropout(0.25, name=f"dropout{index}")(x)
    x = layers.Flatten(name="flatten")(x)
    x = layers.Dense(scaled(128), activation="relu", name="hidden")(x)
    return layers.Dropout(0.5, name="dropout")(x)


def multiply_accumulates(model: Any) -> int:
    """Multiply-accumulate operations for one image, of convolutions and dense layers (the field's usual count)."""
    return sum(_by_layer(model))


def training_multiply_accumulates(model: Any) -> int:
    """Those of a training step for one image: forward, the kernels' gradients, and the inputs' but for the image's."""
    first, *others = _by_layer(model)
    return 2 * first + 3 * sum(others)


def _by_layer(model: Any) -> list[int]:
    counts = []
    for layer in model.layers:
        kernel = getattr(layer, "kernel", None)
        if isinstance(layer, keras.layers.Conv2D):
            _, height, width, _ = layer.output_shape
            counts.append(height * width * int(tf.size(kernel)))
        elif isinstance(layer, keras.layers.Dense):
            counts.append(int(tf.size(kernel)))
    return counts
