"""The networks, by name. Input: float32 pixels 0..255, (batch, height, width, channels); output: logits."""

from __future__ import annotations

from typing import Any

from mlapp.dataset import Dataset
from mlapp.dl.backend import keras, tf
from mlapp.schema import Architecture, Network, Training

SIDES = "sides"  # the layer that puts the images' mirror images beside them


def build(
    architecture: Architecture,
    *,
    shape: tuple[int, int, int],
    classes: int,
    width: float = 1.0,
    depth: int = 1,
    seed: int = 0,
    both_sides: bool = False,
) -> Any:
    """A new network of the named architecture, its channels multiplied by ``width`` and rounded to multiples of 8.

    By eights because kernels compute by eights: 12, 24 and 36 channels in int8 take 90 µs, 8, 24 and 40 take 68.

    ``depth`` is how many residual convolutions a network (not cnn3) ends with. With ``both_sides`` it answers with the
    mean over an image and its mirror image; its weights are those of the network without.
    """
    tf.keras.utils.set_random_seed(seed)

    def scaled(channels: int) -> int:
        return max(8, round(channels * width / 8) * 8)

    image = keras.layers.Input(shape, name="image")
    views = keras.layers.Concatenate(axis=0, name=SIDES)([image, tf.reverse(image, [2])]) if both_sides else image
    pixels = keras.layers.Rescaling(1 / 255, name="scale")(views)
    body = {"convnet": _convnet, "deepnet": _deepnet, "poolnet": _poolnet, "cnn3": _cnn3}[architecture]
    logits = keras.layers.Dense(classes, name="logits")(body(pixels, scaled, depth))
    answer = tf.reduce_mean(tf.reshape(logits, (2, -1, classes)), axis=0) if both_sides else logits
    return keras.Model(image, answer, name=architecture)


def with_both_sides(model: Any, dataset: Dataset, training: Training) -> Any:
    """A trained network of these settings, answering with the mean over an image and its mirror image."""
    twin = build_for(dataset, training, width=training.width, seed=training.seed, both_sides=True)
    twin.set_weights(model.get_weights())
    return twin


def answers_both_sides(model: Any) -> bool:
    """Whether a network answers with the mean over an image and its mirror image."""
    return any(layer.name == SIDES for layer in model.layers)


def build_for(dataset: Dataset, network: Network, *, width: float, seed: int, both_sides: bool = False) -> Any:
    """A new network of these settings for the images and classes of a data set."""
    return build(
        network.architecture,
        shape=dataset.shape,
        classes=len(dataset.classes),
        width=width,
        depth=network.depth,
        seed=seed,
        both_sides=both_sides,
    )


def _convnet(x: Any, scaled: Any, depth: int) -> Any:
    """Three widenings from the image's full resolution down, then mean and maximum of every channel.

    What small networks lose, they lose in the first layers: a stem of stride 2 costs a point of accuracy.
    """
    x = _stem(x, scaled(16))
    x = _convolution(x, scaled(32), "widen1", pool=True)
    x = _convolution(x, scaled(64), "widen2", pool=True)
    return _head(_convolution(x, scaled(96), "widen3"), depth)


def _deepnet(x: Any, scaled: Any, depth: int) -> Any:
    """A convnet with one convolution more at half the resolution: a teacher for long trainings."""
    x = _stem(x, scaled(16))
    x = _convolution(x, scaled(32), "widen1", pool=True)
    x = _convolution(x, scaled(64), "widen2")
    x = _convolution(x, scaled(64), "deepen", pool=True)
    return _head(_convolution(x, scaled(128), "widen3"), depth)


def _poolnet(x: Any, scaled: Any, depth: int) -> Any:
    """The same for the smallest budgets: the stem sees the full resolution too, and is pooled at once."""
    x = _stem(x, scaled(32), pool=True)
    x = _convolution(x, scaled(64), "widen1", pool=True)
    return _head(_convolution(x, scaled(160), "widen2"), depth)


def _stem(x: Any, filters: int, pool: bool = False) -> Any:
    """A convolution of the image itself; it sees few channels, so normalising behind it would cost more than itself."""
    layers = keras.layers
    x = layers.Conv2D(filters, 3, padding="same", kernel_initializer="he_normal", name="stem")(x)
    if pool:
        x = layers.MaxPooling2D(name="stem_pool")(x)
    return layers.ReLU(name="stem_relu")(x)


def _convolution(x: Any, filters: int, name: str, pool: bool = False, residual: bool = False) -> Any:
    """Convolution, pooling, normalisation: in this order the normalisation has a quarter of the work.

    Its scale stays positive, so that a convolution can take it in (`mlapp.dl.folding`).
    """
    layers = keras.layers
    y = layers.Conv2D(filters, 3, padding="same", use_bias=False, kernel_initializer="he_normal", name=name)(x)
    if pool:
        y = layers.MaxPooling2D(name=f"{name}_pool")(y)
    y = layers.BatchNormalization(momentum=0.9, gamma_constraint="non_neg", name=f"{name}_bn")(y)
    if residual:
        y = layers.Add(name=f"{name}_add")([x, y])
    return layers.ReLU(name=f"{name}_relu")(y)


def _head(x: Any, depth: int) -> Any:
    """Residual convolutions, then mean and maximum of every channel."""
    layers = keras.layers
    for number in range(1, depth + 1):
        x = _convolution(x, x.shape[-1], f"block{number}", residual=True)
    mean, peak = layers.GlobalAveragePooling2D(name="mean")(x), layers.GlobalMaxPooling2D(name="peak")(x)
    return layers.Concatenate(name="features")([mean, peak])


def _cnn3(x: Any, scaled: Any, _: int) -> Any:
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
    counts, views = [], 2 if answers_both_sides(model) else 1
    for layer in model.layers:
        kernel = getattr(layer, "kernel", None)
        if isinstance(layer, keras.layers.Conv2D):
            _, height, width, _ = layer.output_shape
            counts.append(views * height * width * int(tf.size(kernel)))
        elif isinstance(layer, keras.layers.Dense):
            counts.append(views * int(tf.size(kernel)))
    return counts
