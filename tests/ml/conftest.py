"""The tests share their cores and their process: with scikit-learn, which loads the same OpenMP before XGBoost does."""

import os

os.environ.setdefault("OMP_WAIT_POLICY", "passive")
