"""The search for hyperparameters: Ray Tune over any trainer's declared search space."""
