"""The trackers behind `mlapp.tracking`: the run's own folder, TensorBoard, Weights & Biases."""
