"""XGBoost, imported at first use, with threads that sleep while they wait."""

from __future__ import annotations

import os
from typing import Any


def xgboost() -> Any:
    """The xgboost module.

    OpenMP's threads spin while they wait for each other, unless told otherwise before its library is loaded
    (scikit-learn loads the same one). Where other work shares the cores that is dear: on two busy cores ten rounds on
    55,000 images took 17.9 CPU-seconds instead of 5.9, on 2,000 images 6.1 instead of 0.4.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "passive")
    import xgboost

    return xgboost
