"""Muon: steps of orthogonalised momentum for convolutions' kernels, SGD for whatever else a network has.

Jordan et al., 2024 (kellerjordan.github.io/posts/muon). A step's singular values are all about one, so rare directions
learn as fast as common ones; on small networks that takes a fraction of the epochs that Adam does.
"""

from __future__ import annotations

import functools
from typing import Any

from mlapp.dl.backend import keras, tf

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)  # the quintic's coefficients, from the same source
ITERATIONS = 5
IMAGE_CHANNELS = 4  # a kernel of no more input channels looks at the image itself


def muon(learning_rate: float, *, momentum: float = 0.6, plain_momentum: float = 0.9) -> Any:
    """The optimizer, as a Keras one.

    ``learning_rate`` is the share of its norm that a step changes a kernel by; the norm itself stays as it was, for
    where batch normalisation follows it means nothing. Other variables go by Nesterov's SGD at the same rate.
    """
    return _made()(learning_rate, momentum=momentum, plain_momentum=plain_momentum)


def is_orthogonalised(variable: Any) -> bool:
    """Whether Muon steps this variable: a convolution's kernel that does not look at the image itself."""
    return len(variable.shape) == 4 and variable.shape[2] > IMAGE_CHANNELS


def orthogonalised(matrix: Any) -> Any:
    """The matrix with its singular values pulled to about one (0.7 to 1.2), by five Newton-Schulz iterations."""
    wide = matrix.shape[0] <= matrix.shape[1]
    x = matrix if wide else tf.transpose(matrix)
    x /= tf.norm(x) + 1e-7
    a, b, c = NEWTON_SCHULZ
    for _ in range(ITERATIONS):
        gram = tf.linalg.matmul(x, x, transpose_b=True)
        x = a * x + tf.linalg.matmul(b * gram + c * tf.linalg.matmul(gram, gram), x)
    return x if wide else tf.transpose(x)


@functools.cache
def _made() -> Any:
    class Muon(keras.optimizers.legacy.Optimizer):  # type: ignore[misc]
        def __init__(self, learning_rate: float, name: str = "Muon", **settings: float) -> None:
            super().__init__(name)
            self._set_hyper("learning_rate", learning_rate)
            self._settings = settings

        def _create_slots(self, variables: Any) -> None:
            for variable in variables:
                self.add_slot(variable, "momentum")

        def _resource_apply_dense(self, gradient: Any, variable: Any, apply_state: Any = None) -> Any:
            rate = self._decayed_lr(variable.dtype.base_dtype)
            velocity = self.get_slot(variable, "momentum")
            if not is_orthogonalised(variable):
                return tf.raw_ops.ResourceApplyKerasMomentum(
                    var=variable.handle,
                    accum=velocity.handle,
                    lr=rate,
                    grad=gradient,
                    momentum=self._settings["plain_momentum"],
                    use_nesterov=True,
                )
            momentum = self._settings["momentum"]
            moving = momentum * velocity + gradient
            filters = variable.shape[-1]
            step = orthogonalised(tf.reshape(gradient + momentum * moving, (-1, filters)))
            norm = tf.norm(variable)
            changed = variable - rate * norm / (tf.norm(step) + 1e-7) * tf.reshape(step, variable.shape)
            return tf.group(velocity.assign(moving), variable.assign(changed * norm / tf.norm(changed)))

        def get_config(self) -> dict[str, Any]:
            rate = self._serialize_hyperparameter("learning_rate")
            return {**super().get_config(), "learning_rate": rate, **self._settings}

    return Muon
