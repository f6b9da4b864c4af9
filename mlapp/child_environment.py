"""The environment of every process that a run starts: what its work needs, and no secret that merely stood beside it.

Names are globs, upper or lower case alike. What is not named here reaches no child: Airflow's connections, tokens,
passwords. An operator adds names with MLAPP_CHILD_ENV, separated by commas: ``MLAPP_CHILD_ENV=LICENCE_FILE,VENDOR_*``.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from fnmatch import fnmatchcase

Names = tuple[str, ...]
EXTENSION = "MLAPP_CHILD_ENV"
SECRETS_FROM = "MLAPP_TRACKER_FD"  # number of the pipe that hands a stage what only its tracker's process may read

RUN: Names = (
    *("PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "LANGUAGE", "LC_*", "TZ", "TMPDIR", "TMP", "TEMP", "XDG_*"),
    *("PYTHON*", "VIRTUAL_ENV", "LD_LIBRARY_PATH", "LD_PRELOAD", "DYLD_*", "MALLOC_*", "MPLCONFIGDIR", "NO_COLOR"),
    *("HTTP_PROXY", "HTTPS_PROXY", "FTP_PROXY", "ALL_PROXY", "NO_PROXY"),
    *("SSL_CERT_*", "REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE", "HTTPLIB2_CA_CERTS", "GRPC_*", EXTENSION),
)
COMPUTE: Names = (
    *("CUDA_*", "NVIDIA_*", "NCCL_*", "OMP_*", "KMP_*", "GOMP_*", "MKL_*", "OPENBLAS_*", "VECLIB_*", "NUMEXPR_*"),
    *("TF_*", "XLA_*", "KERAS_*", "AIP_*", "CLOUD_ML_*"),
)
CLOUD: Names = (
    *("GOOGLE_APPLICATION_CREDENTIALS", "GOOGLE_CLOUD_*", "GOOGLE_API_USE_*", "GCLOUD_PROJECT", "NO_GCE_CHECK"),
    *("CLOUDSDK_CONFIG", "CLOUDSDK_CORE_PROJECT", "CLOUDSDK_CORE_CUSTOM_CA_CERTS_FILE", "GCE_METADATA_*"),
    *("STORAGE_EMULATOR_HOST", "GCSFS_*", "FSSPEC_*", "MLAPP_*_ENDPOINT"),
)
SETTINGS: Names = ("MLAPP_*", "WANDB_MODE")
SIGNING: Names = ("MLAPP_SIGNING*",)
WANDB: Names = ("WANDB_*", "NETRC")
RAY: Names = ("RAY_*", "TUNE_*")
APT: Names = ("APT_CONFIG", "DEBIAN_FRONTEND")
ENGINE: Names = (
    *("DOCKER_*", "BUILDAH_*", "BUILDKIT_*", "CONTAINERS_*", "CONTAINER_HOST", "REGISTRY_AUTH_FILE", "STORAGE_DRIVER"),
    *("STORAGE_OPTS", "PIP_CERT", "PIP_CONFIG_FILE"),
)

# What single stages need beside what all do. A secret is given to the one that uses it, by name.
OF_STAGES: Mapping[str, Names] = {
    "mlapp.configure": SIGNING,  # which writes the names of the keys into the run's config.json
    "mlapp.registry.promoter": SIGNING,
    "mlapp.tune.tuner": RAY,
    "mlapp.etl.gcp_dataloader": APT,
    "mlapp.images.builder": ENGINE,
}


def child_environment(*groups: Names, environ: Mapping[str, str] | None = None) -> dict[str, str]:
    """What a child gets of this process's environment: `RUN`, the groups, and what the operator adds.

    What signs is left out unless `SIGNING` is among the groups, whatever other name fits it.
    """
    environ = os.environ if environ is None else environ
    more = tuple(name for name in map(str.strip, environ.get(EXTENSION, "").split(",")) if name)
    names = (*RUN, *(name for group in groups for name in group))
    withheld = () if SIGNING in groups else SIGNING
    return {
        name: value
        for name, value in environ.items()
        if (_fits(name, names) and not _fits(name, withheld)) or _fits(name, more)
    }


def is_given_keys(module: str) -> bool:
    """Whether the stage in ``module`` is given the names of the signing keys."""
    return OF_STAGES.get(module) == SIGNING


def of_stage(module: str, environ: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment of the stage in ``module``, without what only its tracker's process may read."""
    return child_environment(COMPUTE, CLOUD, SETTINGS, OF_STAGES.get(module, ()), environ=environ)


@contextmanager
def handed_to_tracker(environ: Mapping[str, str] | None = None) -> Iterator[tuple[dict[str, str], tuple[int, ...]]]:
    """What a stage is started with so that W&B's key reaches its side process alone: variables, and open files.

    The key travels in a pipe that the stage hands on unread. It stands in no environment but the side process's own.
    """
    secret = {name: value for name, value in (os.environ if environ is None else environ).items() if _fits(name, WANDB)}
    if not secret:
        yield {SECRETS_FROM: ""}, ()
        return
    reading, writing = os.pipe()
    try:
        os.set_blocking(writing, False)  # what is too long for a pipe is cut off, and then refused by its reader
        with open(writing, "wb", buffering=0) as stream:
            stream.write(json.dumps(secret).encode())
        yield {SECRETS_FROM: str(reading)}, (reading,)
    finally:
        os.close(reading)


def for_tracker() -> tuple[dict[str, str], tuple[int, ...]]:
    """Environment and inherited files of the process that speaks to W&B on a stage's behalf."""
    environ = child_environment(CLOUD, WANDB)
    inherited = os.environ.get(SECRETS_FROM, "")
    if not inherited.isdigit() or not _is_open(int(inherited)):
        return environ, ()
    return {**environ, SECRETS_FROM: inherited}, (int(inherited),)


def take_secrets() -> None:
    """Read, in the tracker's process, what `handed_to_tracker` has put into the pipe."""
    if inherited := os.environ.pop(SECRETS_FROM, ""):
        with open(int(inherited), "rb") as stream:
            os.environ.update(json.loads(stream.read()))


def _is_open(number: int) -> bool:
    try:
        os.fstat(number)
    except OSError:
        return False
    return True


def _fits(name: str, names: Names) -> bool:
    return any(fnmatchcase(name.upper(), each.upper()) for each in names)
