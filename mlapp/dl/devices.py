"""Which devices a training runs on: the one there is, all GPUs of a machine, or several machines by `TF_CONFIG`."""

from __future__ import annotations

import faulthandler
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar

from mlapp import cluster as clusters
from mlapp import config as configuration
from mlapp.cluster import Cluster
from mlapp.dl.backend import tf
from mlapp.dl.data_parallel import Devices
from mlapp.errors import Dismissed, WorkerLostError
from mlapp.schema import Devices as Settings
from mlapp.schema import Optimization

C = TypeVar("C", bound=Optimization)
log = logging.getLogger("mlapp")
JOINING_S = 120.0  # once all workers have been met

_ONE = Devices()
_current: ContextVar[Devices] = ContextVar("devices", default=_ONE)


def current() -> Devices:
    """The devices to train on: those `chosen`, or the one there is."""
    return _current.get()


@contextmanager
def chosen(settings: Settings) -> Iterator[Devices]:
    """Train on all devices that ``settings`` and ``TF_CONFIG`` allow, inside; a worker but the chief is then dismissed.

    To be entered before TensorFlow computes anything.
    """
    with on(_find(settings)) as devices:
        try:
            yield devices
        except Exception as error:
            if lost := _lost(devices, error):
                raise lost from error
            raise
    if not devices.is_chief:
        raise Dismissed("done, the chief writes the result")


@contextmanager
def on(devices: Devices) -> Iterator[Devices]:
    """Train on these devices, inside."""
    token = _current.set(devices)
    try:
        yield devices
    finally:
        _current.reset(token)


def scaled(config: C, settings: Settings) -> C:
    """The config with batch size and learning rate multiplied by the number of devices, where it asks for that."""
    if config.scaling == "none":
        return config
    cluster = clusters.read()
    replicas = (len(cluster.tasks) if cluster else 1) * max(1, len(_gpus(settings)))
    found = {"batch_size": config.batch_size * replicas, "learning_rate": config.learning_rate * replicas}
    log.info("linear scaling for %d devices: batch_size %d, learning_rate %g", replicas, *found.values())
    values = {**config.model_dump(), **found, "scaling": "none"}
    return configuration.validate(type(config), values, {f"linear scaling for {replicas} devices": found})


def _gpus(settings: Settings) -> list[Any]:
    found: list[Any] = tf.config.list_physical_devices("GPU")
    return found[: settings.gpus]


def _find(settings: Settings) -> Devices:
    cluster = clusters.read()
    gpus = _gpus(settings)
    if settings.gpus:
        tf.config.set_visible_devices(gpus, "GPU")
    if cluster:
        return Devices(_joined(cluster, settings, len(gpus)), cluster)
    return Devices(tf.distribute.MirroredStrategy()) if len(gpus) > 1 else _ONE


def _joined(cluster: Cluster, settings: Settings, gpus: int) -> Any:
    """The strategy over all workers, once they are there."""
    from tensorflow.compiler.xla.tsl.protobuf.coordination_config_pb2 import CoordinatedJob
    from tensorflow.python.eager import context

    # TensorFlow's own defaults: it waits for ever for a worker to register, and 10 s for a sign of life.
    context.context().configure_coordination_service(
        service_type="standalone",
        service_leader=f"/job:{cluster.tasks[0].role}/replica:0/task:0",
        coordinated_jobs=[CoordinatedJob(name=role, num_tasks=len(all_)) for role, all_ in cluster.addresses.items()],
        cluster_register_timeout_in_ms=int(1000 * JOINING_S),
        heartbeat_timeout_in_ms=int(1000 * settings.lost_timeout),
    )
    resolver = tf.distribute.cluster_resolver.SimpleClusterResolver(
        tf.train.ClusterSpec(cluster.addresses),
        task_type=cluster.task.role,
        task_id=cluster.task.index,
        num_accelerators={"GPU": gpus},
        rpc_layer="grpc",
    )
    with cluster.met(settings.start_timeout):
        log.info("%s of %d workers: all are there", cluster.task.name, len(cluster.tasks))
    # The chief's TensorFlow would wait without end, and deaf to signals, for one that is lost just now.
    faulthandler.dump_traceback_later(JOINING_S, exit=True)
    try:
        return tf.distribute.MultiWorkerMirroredStrategy(cluster_resolver=resolver)
    except tf.errors.OpError as error:
        raise cluster.lost(str(error)) from error
    finally:
        faulthandler.cancel_dump_traceback_later()


def _lost(devices: Devices, error: Exception) -> WorkerLostError | None:
    """The one line for what TensorFlow raises in all workers when one of them is gone."""
    if devices.cluster is None:
        return None
    kinds = tf.errors
    gone = (kinds.UnavailableError, kinds.AbortedError, kinds.CancelledError, kinds.DeadlineExceededError)
    return devices.cluster.lost(str(error)) if isinstance(error, gone) else None
