"""The tuner with the tiny trainer in place of the teacher's, run for real as ``python -m tests.tune.tiny_tuner``."""

from __future__ import annotations

from mlapp.tune import tuner

tuner.TRAINERS["train"] = "tests.tune.tiny_trainer"

if __name__ == "__main__":
    tuner.run.main()
