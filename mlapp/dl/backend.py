"""TensorFlow, imported at first use: the one place that chooses Keras 2, and the reason why ``--help`` is quick.

tensorflow-model-optimization prunes Keras 2 models only, so ``TF_USE_LEGACY_KERAS`` is set before TensorFlow is
imported, and ``keras`` is `tf_keras`. The import itself takes 5-25 s.
"""

from __future__ import annotations

import ctypes
import importlib
import logging
import os
import platform
import sys
from typing import Any

from mlapp.quiet import quiet


class _Lazy:
    """A module that is imported when its first attribute is asked for."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, attribute: str) -> Any:
        if self._name not in sys.modules:
            _import(self._name)
        return getattr(sys.modules[self._name], attribute)


tf: Any = _Lazy("tensorflow")
keras: Any = _Lazy("tf_keras")
tfmot: Any = _Lazy("tensorflow_model_optimization")


def _keep_freed_memory() -> None:
    """Have glibc keep freed memory instead of giving it back to the kernel after every training step.

    TensorFlow frees and allocates the same tens of megabytes each step; given back and faulted in again they cost
    thousands of page faults a step and up to a third of the processor. 32 MiB is the largest threshold glibc takes.
    """
    if platform.libc_ver()[0] == "glibc":
        trim_threshold, top_pad, mmap_threshold = -1, -2, -3  # M_* of malloc.h
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(mmap_threshold, 32 << 20)
        mallopt(trim_threshold, (2 << 30) - 1)
        mallopt(top_pad, 256 << 20)


def use_processors(processors: int) -> None:
    """Have TensorFlow keep to so many processors: two operations at a time, each on half of them, by oneDNN's kernels.

    So the two halves of a batch (`mlapp.dl.optimise`) do not wait for each other after every operation. Without a word
    TensorFlow turns oneDNN on only where there are instructions for neural networks (VNNI, AMX). What the environment
    already says stays. Takes effect until TensorFlow is imported.
    """
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")
    os.environ.setdefault("TF_NUM_INTEROP_THREADS", str(min(2, processors)))
    os.environ.setdefault("TF_NUM_INTRAOP_THREADS", str(max(1, processors // 2)))


def _import(name: str) -> None:
    import joblib

    _keep_freed_memory()
    use_processors(joblib.cpu_count())
    os.environ["TF_USE_LEGACY_KERAS"] = "1"
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    with quiet():
        importlib.import_module(name)
    for chatty in ("absl", "tensorflow"):
        logging.getLogger(chatty).setLevel(logging.ERROR)
