"""Networks, a teacher's answers and checkpoints as files: data alone, and refused in one line where they are odd."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mlapp import tensors
from mlapp.dataset import Dataset
from mlapp.dl import answers, dnn_pruner, layer_types, nets, network_file
from mlapp.dl.answers import ARTIFACT
from mlapp.dl.losses import classification
from mlapp.dl.optimise import optimise
from mlapp.errors import UserError
from mlapp.result import StageResult
from mlapp.schema import Training
from tests import hostile, planted
from tests.hostile import harmless, refused


@pytest.fixture
def marker(tmp_path: Path) -> Path:
    return tmp_path / "marker"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[tensors.Arrays, dict[str, Any]]:
    """A sound network's weights and architecture."""
    path = tmp_path_factory.mktemp("network") / "network.safetensors"
    network_file.save(nets.build("convnet", shape=(28, 28, 1), classes=10, width=0.125), path)
    arrays, about = tensors.read(path)
    return arrays, json.loads(about["network"])


@pytest.mark.parametrize("both_sides", [False, True])
@pytest.mark.parametrize("architecture", ["convnet", "deepnet", "poolnet", "cnn3"])
def test_every_network_comes_back_as_it_was(architecture: Any, both_sides: bool, tmp_path: Path) -> None:
    model = nets.build(architecture, shape=(28, 28, 1), classes=10, width=0.125, both_sides=both_sides)
    network_file.save(model, tmp_path / "a")
    again = network_file.load(tmp_path / "a")
    images = np.random.default_rng(0).uniform(0, 255, (3, 28, 28, 1)).astype(np.float32)
    np.testing.assert_array_equal(model(images), again(images))
    assert [layer.name for layer in again.layers if layer.weights] == [
        layer.name for layer in model.layers if layer.weights
    ]
    assert nets.answers_both_sides(again) == both_sides
    network_file.save(again, tmp_path / "b")
    assert described(tmp_path / "a") == described(tmp_path / "b")


def described(path: Path) -> Any:
    """An architecture, without the names of operations, which Keras counts up."""
    layers = json.loads(tensors.read(path)[1]["network"])["layers"]
    return [{**layer, "name": "" if layer["kind"][0].islower() else layer["name"]} for layer in layers]


def layer(name: str) -> Callable[[Any], Any]:
    return lambda network: next(each for each in network["layers"] if each["name"] == name)


STEM = layer("stem")
NETWORKS: dict[str, Callable[[Any], object]] = {
    "a lambda": lambda n: STEM(n).update(kind="Lambda", settings={"function": "4wAAAAA="}),
    "an operation that reads files": lambda n: STEM(n).update(kind="io.read_file", settings={}),
    "a layer of another module": lambda n: STEM(n).update(kind="os.system", settings={"command": "touch marker"}),
    "Keras' own loader": lambda n: STEM(n).update(kind="TFSMLayer", settings={"filepath": "/tmp"}),
    "a setting that imports": lambda n: STEM(n)["settings"].update(kernel_regularizer={"module": "os"}),
    "an activation by module": lambda n: STEM(n)["settings"].update(activation="os.system"),
    "a number as text": lambda n: STEM(n)["settings"].update(filters="8"),
    "more filters than memory": lambda n: STEM(n)["settings"].update(filters=65_536, kernel_size=[4096, 4096]),
    "no filters": lambda n: STEM(n)["settings"].update(filters=0),
    "no groups": lambda n: STEM(n)["settings"].update(groups=0),
    "too many groups": lambda n: STEM(n)["settings"].update(groups=7),
    "a vast image": lambda n: n["layers"][0]["settings"].update(shape=[1 << 30, 1 << 30, 1]),
    "another image": lambda n: n["layers"][0]["settings"].update(shape=[28, 28, 3]),
    "two images": lambda n: n["layers"].insert(1, n["layers"][0]),
    "a loop": lambda n: STEM(n).update(of=[999]),
    "itself": lambda n: STEM(n).update(of=[2]),
    "from behind": lambda n: STEM(n).update(of=[-1]),
    "from nowhere": lambda n: STEM(n).update(of=[]),
    "two inputs": lambda n: STEM(n).update(of=[1, 1]),
    "a name that leads out": lambda n: STEM(n).update(name="../../stem"),
    "the same name twice": lambda n: n["layers"][-1].update(name="stem"),
    "no layers": lambda n: n.update(layers=[]),
    "ten thousand layers": lambda n: n.update(layers=n["layers"] * 1000),
    "more than it should say": lambda n: n.update(build="import os"),
}


@pytest.mark.parametrize("wrong", NETWORKS)
def test_networks_that_are_none(whole: Any, tmp_path: Path, marker: Path, wrong: str) -> None:
    arrays, network = whole
    changed = json.loads(json.dumps(network))
    NETWORKS[wrong](changed)
    path = tmp_path / "network.safetensors"
    tensors.write(path, arrays, {"network": json.dumps(changed)})
    with harmless(marker), pytest.raises(UserError, match="is not a network that this version reads") as told:
        network_file.load(path)
    assert "\n" not in str(told.value)


def test_weights_that_do_not_fit(whole: Any, tmp_path: Path, marker: Path) -> None:
    arrays, network = whole
    path = tmp_path / "network.safetensors"
    odd: list[tensors.Arrays] = [
        {},
        {**arrays, "more:0": np.zeros(3, np.float32)},
        {**arrays, "stem:0": arrays["stem:0"][:1]},
        {**arrays, "stem:0": arrays["stem:0"].astype(np.float16)},
        {name: array for name, array in arrays.items() if name != "stem:1"},
    ]
    for weights in odd:
        tensors.write(path, weights, {"network": json.dumps(network)})
        with harmless(marker), pytest.raises(UserError, match="is not a network that this version reads"):
            network_file.load(path)
    tensors.write(path, arrays, {})
    with pytest.raises(UserError, match="is not a network that this version reads"):
        network_file.load(path)


def made(folder: Path, data: StageResult, content: bytes | None) -> StageResult:
    """A student's result, with its float32 candidate, and this content as its network."""
    folder.mkdir()
    files = {"candidates": folder / "candidates.json", "keras": folder / "model.keras"}
    known = planted.candidate("student", "student", "float32", 0.9, 1000)
    files["candidates"].write_text(json.dumps([known.model_dump(mode="json")]))
    files["keras"].write_bytes(hostile.keras_file(folder.parent / "marker"))
    if content is not None:
        files["network"] = folder / "network.safetensors"
        files["network"].write_bytes(content)
    return planted.result(folder, "distill", files)


@pytest.mark.parametrize("wrong", ["keras", "pickle", "hdf5 with links", "zip bomb", "nothing", "another data set's"])
def test_the_pruner_opens_nothing_that_names_code(
    planted_data: StageResult,
    whole: Any,
    tmp_path: Path,
    marker: Path,
    capsys: pytest.CaptureFixture[str],
    wrong: str,
) -> None:
    """Given a student whose model.keras runs a command when Keras opens it, then that file is never opened."""
    content = {
        **hostile.array_files(marker, tmp_path),
        "nothing": None,
        "another data set's": hostile.write(tmp_path / "n", whole[0], {"network": json.dumps(whole[1])}),
    }[wrong]
    student = made(tmp_path / "student", planted_data, content)
    flags = [f"--data={planted_data.uri}", f"--teacher={student.uri}", f"--students={student.uri}", "--preset=smoke"]
    with harmless(marker):
        told = refused(dnn_pruner.run, [*flags, f"--workdir={tmp_path / 'work'}"], capsys)
    assert ("takes images of shape (28, 28, 1)" if wrong == "another data set's" else "network") in told


@pytest.mark.parametrize("wrong", ["keras", "objects", "shape", "type", "missing"])
def test_a_teachers_answers(dataset: Dataset, tmp_path: Path, marker: Path, wrong: str) -> None:
    from mlapp.dataset import content_digest

    images, about = len(dataset.split("train")), {"data": content_digest(dataset.result)}
    path = tmp_path / "answers.safetensors"
    match wrong:
        case "keras":
            path.write_bytes(hostile.keras_file(marker))
        case "objects":
            path.write_bytes(hostile.objects(marker))
        case "shape":
            tensors.write(path, {"logits": np.zeros((2, images, 9), np.float16)}, about)
        case "type":
            tensors.write(path, {"logits": np.zeros((2, images, 10), np.float64)}, about)
        case "missing":
            tensors.write(path, {}, about)
    teacher = planted.result(tmp_path, "train", {ARTIFACT: path})
    with harmless(marker), pytest.raises(UserError, match=r"again|--force") as told:
        answers.taught(dataset, teacher.uri, "light")
    assert "\n" not in str(told.value)


CHECKPOINTS: dict[str, Callable[[Path, Path], object]] = {
    "state is a pickle": lambda folder, marker: (folder / "state.json").write_bytes(hostile.pickled(marker)),
    "state leads out": lambda folder, _: state(folder, latest="../../../etc/passwd"),
    "state is odd": lambda folder, _: state(folder, step="x"),
    "state is deep": lambda folder, _: (folder / "state.json").write_text("[" * 100_000),
    "no file": lambda folder, _: state(folder, latest="step-999"),
    "a pickle": lambda folder, marker: latest(folder).write_bytes(hostile.pickled(marker)),
    "a Keras file": lambda folder, marker: latest(folder).write_bytes(hostile.keras_file(marker)),
    "half": lambda folder, _: latest(folder).write_bytes(latest(folder).read_bytes()[:500]),
    "of another network": lambda folder, _: tensors.write(latest(folder), {"0": np.zeros(3, np.float32)}, {}),
}


def state(folder: Path, **changes: Any) -> None:
    path = folder / "state.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def latest(folder: Path) -> Path:
    return folder / f"{json.loads((folder / 'state.json').read_text())['latest']}.safetensors"


@pytest.mark.parametrize("wrong", CHECKPOINTS)
def test_checkpoints(dataset: Dataset, tmp_path: Path, marker: Path, wrong: str) -> None:
    config = Training(epochs=1, batch_size=200)

    def train() -> None:
        model = nets.build("convnet", shape=(28, 28, 1), classes=10, width=0.125)
        loss = classification(model, 0.0)
        optimise(model, loss, dataset.split("train"), dataset.split("validation"), config, tmp_path)

    train()
    [folder] = (tmp_path / "checkpoints").iterdir()
    CHECKPOINTS[wrong](folder, marker)
    with harmless(marker), pytest.raises(UserError, match="remove") as told:
        train()
    assert "\n" not in str(told.value)


def test_a_layer_of_ones_own_is_registered_by_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from mlapp.dl.backend import keras

    class Doubled(keras.layers.Layer):  # type: ignore[misc]
        def call(self, inputs: Any) -> Any:
            return 2 * inputs

    class Settings(layer_types.LayerSettings):
        def make(self, kind: str, name: str) -> Any:
            return Doubled(name=name)

    image = keras.layers.Input((2, 2, 1))
    model = keras.Model(image, Doubled(name="doubled")(keras.layers.Flatten()(image)))
    with pytest.raises(UserError, match=r"layer doubled is of kind Doubled.*register it with mlapp\.dl\.layer_types"):
        network_file.save(model, tmp_path / "a")
    monkeypatch.setattr(layer_types, "KINDS", layer_types.KINDS)
    monkeypatch.setitem(layer_types.KINDS, "Doubled", Settings)
    network_file.save(model, tmp_path / "a")
    np.testing.assert_array_equal(network_file.load(tmp_path / "a")(np.ones((1, 2, 2, 1))), [[2.0] * 4])


def test_what_no_file_can_hold_is_refused_when_it_is_written(tmp_path: Path) -> None:
    from mlapp.dl.backend import keras

    image = keras.layers.Input((2, 2, 1))
    odd = keras.layers.Dense(3, kernel_regularizer="l2", name="odd")
    with pytest.raises(UserError, match=r"layer odd \(Dense\) has kernel_regularizer=.*, which no file can hold"):
        network_file.save(keras.Model(image, odd(keras.layers.Flatten()(image))), tmp_path / "a")
