"""Copies of a network on every device of a strategy, and back: one that knows of no strategy."""

from __future__ import annotations

import functools
from typing import Any

from mlapp.dl.backend import keras, tf
from mlapp.dl.devices import current


def replicate(model: Any) -> Any:
    """A copy of the network with its variables on every device, that normalises over the whole batch.

    The network itself where there is one device.
    """
    strategy = current().strategy
    if strategy is None:
        return model
    normalisation = _synchronised()

    def copied(layer: Any) -> Any:
        made = normalisation if type(layer) is keras.layers.BatchNormalization else type(layer)
        return made.from_config(layer.get_config())

    with strategy.scope():
        copy = keras.models.clone_model(model, clone_function=copied)
        copy.set_weights(model.get_weights())
    return copy


def unreplicate(model: Any) -> Any:
    """A network of plain Keras layers and variables with the weights of one that was replicated."""
    strategy = current().strategy
    if strategy is None:
        return model

    def plain(layer: Any) -> Any:
        made = keras.layers.BatchNormalization if isinstance(layer, _synchronised()) else type(layer)
        return made.from_config(layer.get_config())

    copy = keras.models.clone_model(model, clone_function=plain)
    copy.set_weights([strategy.experimental_local_results(weight)[0].numpy() for weight in model.weights])
    return copy


@functools.cache
def _synchronised() -> Any:
    class SynchronisedBatchNormalization(keras.layers.BatchNormalization):  # type: ignore[misc]
        """Batch normalisation with the statistics of the whole batch, in one exchange between the replicas.

        Keras's own (`synchronized=True`) takes three, and moves its variance without Bessel's correction, which the
        fused operation of a single device applies; it also keeps statistics that a chief cannot save by itself.
        """

        def add_weight(self, *arguments: Any, **settings: Any) -> Any:
            if settings.get("synchronization") == tf.VariableSynchronization.ON_READ:
                settings["aggregation"] = tf.VariableAggregation.ONLY_FIRST_REPLICA  # they are the same on all
            return super().add_weight(*arguments, **settings)

        def call(self, inputs: Any, training: Any = None, mask: Any = None) -> Any:
            replica = tf.distribute.get_replica_context()
            if not training or replica is None:
                return super().call(inputs, training=False)
            axes = list(range(len(inputs.shape) - 1))
            sums = tf.stack([tf.reduce_sum(inputs, axes), tf.reduce_sum(tf.square(inputs), axes)])
            count = tf.cast(tf.size(inputs) // tf.shape(inputs)[-1] * replica.num_replicas_in_sync, inputs.dtype)
            mean, square = tf.unstack(replica.all_reduce(tf.distribute.ReduceOp.SUM, sums) / count)
            variance = tf.maximum(square - tf.square(mean), 0.0)
            moving = ((self.moving_mean, mean), (self.moving_variance, variance * count / (count - 1)))
            for variable, value in moving:
                variable.assign_sub((variable - value) * (1 - self.momentum))
            return tf.nn.batch_normalization(inputs, mean, variance, self.beta, self.gamma, self.epsilon)

    return SynchronisedBatchNormalization
