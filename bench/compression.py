"""What quantisation-aware training and weight clustering give on top of the pipeline's own int8 models.

    python bench/compression.py data=DATA student=STUDENT teacher=TEACHER [epochs=4]

The arguments are URIs of the results of transform, distill (or prune) and train. Prints one line for each way: float32
and int8 accuracy on validation, bytes of the int8 file as it is and gzipped, CPU-seconds spent.
"""

from __future__ import annotations

import gzip
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from mlapp.dataset import Dataset, Split
from mlapp.dl.answers import taught
from mlapp.dl.backend import keras, tf, tfmot
from mlapp.dl.exporter import convert
from mlapp.dl.folding import folded
from mlapp.dl.keras_model import evaluate, load_from
from mlapp.dl.losses import distillation
from mlapp.dl.optimise import optimise
from mlapp.schema import Pruning
from mlapp.text_table import table
from mlapp.vetting.scorer import score

CLUSTERS = (16, 32, 64)


def main(data: str, student: str, teacher: str, epochs: int = 4) -> None:
    """Measure every way and print them."""
    dataset = Dataset.open(data)
    plain = load_from(student, dataset)
    settings = Pruning(epochs=epochs, patience=epochs, optimizer="adam", learning_rate=5e-4)
    train, validation = taught(dataset, teacher, settings.augmentation), dataset.split("validation")

    def tuned(model: Any) -> Any:
        loss = distillation(model, temperature=settings.temperature, alpha=settings.alpha, smoothing=0.0)
        with tempfile.TemporaryDirectory() as folder:
            optimise(model, loss, train, validation, settings, Path(folder))
        return model

    rows = []

    def measured(name: str, make: Any) -> None:
        began = time.process_time()
        model, file = make()
        spent = time.process_time() - began
        accuracy = _int8_accuracy(file, validation)
        float32 = evaluate(model, validation).value
        figures = (100 * float32, 100 * accuracy, len(file), len(gzip.compress(file, mtime=0)), spent)
        rows.append((name, *(f"{figure:,.{places}f}" for figure, places in zip(figures, (2, 2, 0, 0, 0), strict=True))))

    measured("as exported", lambda: (plain, convert(plain, train)))
    measured("fine-tuned alike", lambda: _with_file(tuned(_copied(plain)), train))
    measured("quantisation-aware", lambda: _quantised(tuned(_quantisation_aware(plain))))
    for clusters in CLUSTERS:
        measured(f"{clusters} clusters", lambda clusters=clusters: _clustered(plain, clusters, tuned, train))
    header = ("way", "float32 %", "int8 %", "bytes", "gzipped", "CPU-s")
    sys.stdout.write(f"{table([header, *rows], right=range(1, 6))}\n")


def _int8_accuracy(file: bytes, validation: Split) -> float:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "model.tflite")
        path.write_bytes(file)
        return float((score(path, validation.images).argmax(-1) == validation.labels).mean())


def _copied(model: Any) -> Any:
    copy = type(model).from_config(model.get_config())
    copy.set_weights(model.get_weights())
    return copy


def _with_file(model: Any, train: Split) -> tuple[Any, bytes]:
    return model, convert(model, train)


def _quantisation_aware(model: Any) -> Any:
    """The folded network with quantisation simulated, save that of the scaling of pixels, which tfmot does not know."""
    quantisation = tfmot.quantization.keras

    def annotated(layer: Any) -> Any:
        scales = isinstance(layer, keras.layers.Rescaling)
        return layer if scales else quantisation.quantize_annotate_layer(layer)

    return quantisation.quantize_apply(keras.models.clone_model(folded(model), clone_function=annotated))


def _quantised(model: Any) -> tuple[Any, bytes]:
    """Its own ranges are in the model: no representative images."""
    converter = tf.lite.TFLiteConverter.from_keras_model(model)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.inference_input_type, converter.inference_output_type = tf.uint8, tf.int8
    return model, bytes(converter.convert())


def _clustered(model: Any, clusters: int, tuned: Any, train: Split) -> tuple[Any, bytes]:
    start = tfmot.clustering.keras.CentroidInitialization.KMEANS_PLUS_PLUS
    wrapped = tfmot.clustering.keras.cluster_weights(
        folded(model), number_of_clusters=clusters, cluster_centroids_init=start
    )
    stripped = tfmot.clustering.keras.strip_clustering(tuned(wrapped))
    return _with_file(stripped, train)


if __name__ == "__main__":
    given: dict[str, Any] = dict(each.split("=", 1) for each in sys.argv[1:])
    main(**{**given, "epochs": int(given.get("epochs", 4))})
