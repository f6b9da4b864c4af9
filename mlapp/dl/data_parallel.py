"""Synchronous data parallel training (`tf.distribute`): what the training loop does on each device and across them.

Every replica of the network takes its part of each batch, the gradient is the mean over the whole batch, and batch
normalisation sees the whole batch (`mlapp.dl.replicas`): the result is the one that a single device would reach, up to
rounding. With one device there is no strategy, and nothing is done.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from mlapp.cluster import Cluster
from mlapp.dl.backend import tf
from mlapp.errors import Terminated, UserError, termination_deferred
from mlapp.schema import Optimization

log = logging.getLogger("mlapp")


@dataclass
class Devices:
    """One device, where ``strategy`` is None; else the replicas of a strategy, and the workers they are spread over."""

    strategy: Any = None
    cluster: Cluster | None = None
    _terminated: list[int] = field(default_factory=list)
    _stopping: bool = False

    @property
    def replicas(self) -> int:
        """How many parts each batch is cut into."""
        return self.strategy.num_replicas_in_sync if self.strategy else 1

    @property
    def own(self) -> range:
        """The numbers of this worker's replicas."""
        count = self.replicas // len(self.cluster.tasks) if self.cluster else self.replicas
        first = self.cluster.own * count if self.cluster else 0
        return range(first, first + count)

    @property
    def is_chief(self) -> bool:
        """Whether this process writes: checkpoints, TensorBoard, models, results."""
        return self.cluster is None or self.cluster.is_chief

    @contextmanager
    def training(self, config: Optimization, images: int) -> Iterator[None]:
        """Around a training on so many images: says how it is spread.

        With several devices a SIGTERM waits until all workers have agreed on the step after which they stop.
        """
        if self.strategy is None:
            yield
            return
        self._require_equal_parts(min(config.batch_size, images))
        log.info("%s", self.told(config))
        with self.strategy.scope(), termination_deferred() as self._terminated:
            tf.random.set_seed(self.own.start)  # dropout: other masks on each worker
            yield

    def told(self, config: Optimization) -> str:
        """One line: how many devices, how batch and rate are spread over them."""
        workers = f" on {len(self.cluster.tasks)} workers" if self.cluster else ""
        each = config.batch_size // self.replicas
        return (
            f"{self.replicas} devices{workers}: {config.batch_size} images a step, {each} on each, "
            f"learning rate {config.learning_rate:g}; gradients and batch normalisation over the whole batch"
        )

    def step(self, update: Callable[[Any, Any], Any], after: Callable[[], None]) -> Callable[[Any, Any], Any]:
        """The compiled training step: ``update`` on every replica's part of the batch, then ``after`` once.

        It returns the sum of what the updates return.
        """
        if self.strategy is None:

            @tf.function
            def step(images: Any, labels: Any) -> Any:
                value = update(images, labels)
                after()
                return value

            return step  # type: ignore[no-any-return]

        def part(images: Any, labels: Any, terminated: Any) -> Any:
            return tf.stack([update(images, labels), tf.identity(terminated)])

        @tf.function
        def everywhere(images: Any, labels: Any, terminated: Any) -> Any:
            sums = self._sum(self.strategy.run(part, args=(images, labels, terminated)))
            after()
            return sums

        def step_and_listen(images: Any, labels: Any) -> Any:
            value, terminated = everywhere(images, labels, tf.constant(float(bool(self._terminated)))).numpy()
            self._stopping = terminated > 0
            return value

        return step_and_listen

    def stop_if_told(self) -> None:
        """End the training if a SIGTERM has reached any worker: all of them after the same step."""
        if self._stopping:
            raise Terminated

    def agree_on_stop(self) -> None:
        """`stop_if_told` between two epochs."""
        if self.strategy is not None:
            [told] = self.from_every([np.float32(bool(self._terminated))])
            self._stopping = told > 0
            self.stop_if_told()

    def mean(self, value: Any) -> Any:
        """A replica's share in the mean over the batch, of the mean over its own part."""
        return value if self.strategy is None else value / self.replicas

    def assign(self, variable: Any, change: Callable[[Any], Any]) -> None:
        """Change a variable by ``change(variable)`` wherever it is replicated."""
        if self.strategy is None:
            change(variable)
        else:
            self.strategy.extended.update(variable, change)

    def sums(self, measure: Callable[[Any, Any], Any], streams: Callable[[int, int], Iterator[Any]]) -> Any:
        """Sums of what ``measure(images, labels)`` gives over all batches of ``streams(parts, part)``, of all parts."""
        compiled = tf.function(measure, reduce_retracing=True)
        if self.strategy is None:
            return np.sum([compiled(*batch).numpy() for batch in streams(1, 0)], axis=0, dtype=np.float64)

        @tf.function
        def everywhere(batch: Any) -> Any:
            return self._sum(self.strategy.run(compiled, args=batch))

        def spread(batches: Any) -> Any:
            return self.strategy.experimental_distribute_values_from_function(
                lambda context: tuple(
                    map(tf.convert_to_tensor, batches[context.replica_id_in_sync_group - self.own.start])
                )
            )

        rounds = zip(*[streams(self.replicas, part) for part in self.own], strict=True)
        return np.sum([everywhere(spread(batches)).numpy() for batches in rounds], axis=0, dtype=np.float64)

    def batches(self, make: Callable[[int, range], Any]) -> Any:
        """The data set ``make(parts, own)``, each element on the replica whose part it is."""
        if self.strategy is None:
            return make(1, range(1))
        return self.strategy.distribute_datasets_from_function(lambda context: make(self.replicas, self.own))

    def from_every(self, arrays: list[Any]) -> list[Any]:
        """The sums of each worker's arrays, on every worker."""

        def first(*tensors: Any) -> Any:
            context = tf.distribute.get_replica_context()
            own = tf.equal(context.replica_id_in_sync_group, self.own.start)
            return [tf.where(own, tensor, tf.zeros_like(tensor)) for tensor in tensors]

        @tf.function
        def add(*tensors: Any) -> Any:
            return [self._sum(value) for value in self.strategy.run(first, args=tensors)]

        return [tensor.numpy() for tensor in add(*[tf.convert_to_tensor(array) for array in arrays])]

    def _sum(self, values: Any) -> Any:
        return self.strategy.reduce(tf.distribute.ReduceOp.SUM, values, axis=None)

    def _require_equal_parts(self, batch: int) -> None:
        if rest := batch % self.replicas:
            below, above = batch - rest, batch - rest + self.replicas
            raise UserError(
                f"batch_size: {batch} images do not divide among {self.replicas} devices: give "
                f"{f'{below} or ' if below else ''}{above}"
            )
