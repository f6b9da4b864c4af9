"""XGBoost, imported at first use, with threads that sleep while they wait."""

from __future__ import annotations

import os
from typing import Any


def xgboost() -> Any:
    """The xgboost module.

    Its OpenMP threads spin while they wait for each other, unless told otherwise before the library is loaded: where
    other work shares the cores, that cost three times the CPU-seconds and twice the time (measured: 17.9 s against
    5.9 s for ten rounds on two busy cores).
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    import xgboost

    return xgboost
