"""Validation: the real data's own figures, and each thing that makes data unfit to train on."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny_data import IdxFolder, images, labels

from mlapp import storage
from mlapp.errors import UserError
from mlapp.etl import checks, gcp_dataloader, quality
from mlapp.etl.quality import Validate
from mlapp.etl.raw_data import Files
from mlapp.result import StageResult


def read_report(result: StageResult) -> dict:
    return json.loads(result.local("report").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def real(raw_uri: str, tmp_path_factory: pytest.TempPathFactory) -> StageResult:
    return quality.run(Validate(raw=raw_uri), tmp_path_factory.mktemp("quality"))


def test_the_real_data_has_its_known_figures(real: StageResult) -> None:
    """Mean and deviation are the 0.2860 and 0.3530 that everyone normalises Fashion-MNIST with, times 255."""
    report = read_report(real)

    assert report["shape"] == [28, 28]
    assert set(report["parts"]["train"]["per_class"].values()) == {6000}
    assert set(report["parts"]["test"]["per_class"].values()) == {1000}
    assert report["parts"]["train"]["pixels"] == {"min": 0, "max": 255, "mean": 72.9404, "std": 90.0212}
    assert {finding["check"]: finding["count"] for finding in report["findings"]} == {
        "train duplicates": 0,
        "train contradictions": 0,
        "train constant": 0,
        "test duplicates": 0,
        "test contradictions": 0,
        "test constant": 0,
        "test leaked": 0,
    }
    assert real.metrics["test_leaked"].n == 10000


def test_the_page_stands_alone_and_shows_every_class(real: StageResult) -> None:
    page = real.local("page").read_text(encoding="utf-8")
    pictures: list[str] = []

    class Reader(HTMLParser):
        def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
            assert tag not in {"script", "link"}
            pictures.extend(str(value) for name, value in attributes if name in {"src", "href"})

    Reader().feed(page)

    assert len(pictures) == 10
    assert all(picture.startswith("data:image/png;base64,") for picture in pictures)
    assert "Ankle boot" in page
    assert len(page) < 200_000


def test_names_from_the_data_are_escaped_on_the_page(tiny: IdxFolder, tmp_path: Path, validated: Callable) -> None:
    raw = tiny.extract(tmp_path / "raw", classes=("<script>", "b", "c"))

    page = StageResult.load(validated(raw)).local("page").read_text(encoding="utf-8")

    assert "<script>" not in page
    assert "&lt;script&gt;" in page


def test_duplicates_contradictions_leaks_and_constants_are_counted(
    tiny: IdxFolder, tmp_path: Path, validated: Callable[[str], str]
) -> None:
    train, test = images(60, seed=1), images(30, seed=2)
    train[[10, 13, 20]] = train[0]  # labels 1, 1 and 2 against 0
    train[[30, 33]] = train[27]  # all three of label 0
    train[[51, 52]] = train[50]  # labels 0 and 1 against 2
    train[40] = 7
    test[[1, 4]] = train[0], train[5]
    tiny.write("train-images", train)
    tiny.write("t10k-images", test)

    report = read_report(StageResult.load(validated(tiny.extract(tmp_path / "raw"))))

    found = {finding["check"]: (finding["count"], finding["examples"]) for finding in report["findings"]}
    assert found == {
        "train duplicates": (7, [10, 13, 20, 30, 33]),
        "train contradictions": (5, [10, 13, 20, 51, 52]),
        "train constant": (1, [40]),
        "test duplicates": (0, []),
        "test contradictions": (0, []),
        "test constant": (0, []),
        "test leaked": (2, [1, 4]),
    }


def test_figures_do_not_depend_on_the_size_of_the_chunks(
    tiny: IdxFolder, tmp_path: Path, validated: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    train = images(60, seed=1)
    train[40], train[50] = 7, train[3]
    tiny.write("train-images", train)
    raw = tiny.extract(tmp_path / "raw")
    at_once = read_report(StageResult.load(validated(raw)))
    monkeypatch.setattr(storage, "CHUNK", 7 * 64)

    in_chunks = quality.run(Validate(raw=raw, max_duplicates=1, max_constant=1, max_leaked=1), tmp_path / "chunks")

    figures = [[{**finding, "limit": None} for finding in one["findings"]] for one in (at_once, read_report(in_chunks))]
    assert figures[0] == figures[1]
    assert read_report(in_chunks)["parts"] == at_once["parts"]


def test_a_source_without_a_test_set_is_checked_as_far_as_it_goes(
    tiny: IdxFolder, tmp_path: Path, validated: Callable[[str], str]
) -> None:
    for path in tiny.path.glob("t10k*"):
        path.unlink()

    report = read_report(StageResult.load(validated(tiny.extract(tmp_path / "raw"))))

    assert list(report["parts"]) == ["train"]
    assert [finding["check"] for finding in report["findings"]][-1] == "train constant"


def _repeated(folder: IdxFolder) -> None:
    train = images(60, seed=1)
    train[1:4] = train[0]
    folder.write("train-images", train)


def _leaked(folder: IdxFolder) -> None:
    folder.write("t10k-images", images(60, seed=1)[:30])


def _constant(folder: IdxFolder) -> None:
    test = images(30, seed=2)
    test[5] = 255
    folder.write("t10k-images", test)


def _other_size(folder: IdxFolder) -> None:
    folder.write("t10k-images", images(30, shape=(8, 9)))


def _four_channels(folder: IdxFolder) -> None:
    (folder.path / "train-images-idx3-ubyte").unlink()
    folder.write("train-images", images(60, shape=(8, 8, 4)))


def _labels_of_two_dimensions(folder: IdxFolder) -> None:
    (folder.path / "train-labels-idx1-ubyte").unlink()
    folder.write("train-labels", labels(60).reshape(60, 1))


@pytest.mark.parametrize(
    ("spoil", "gist"),
    [
        (lambda folder: folder.write("train-labels", labels(59)), r"train has 60 images but 59 labels"),
        (lambda folder: folder.write("t10k-labels", labels(31)), r"test has 30 images but 31 labels"),
        (
            lambda folder: folder.write("train-labels", labels(60, classes=4)),
            r"train labels go from 0 to 2, but 15 of 60 lie above \(number 3 is 3\)",
        ),
        (
            lambda folder: folder.write("train-labels", labels(60, classes=2)),
            r"too few train images of a class, at least 10 are needed: c has 0; add images",
        ),
        (
            lambda folder: folder.write("t10k-labels", labels(30, classes=2)),
            r"too few test images of a class, at least 1 are needed: c has 0",
        ),
        (
            _repeated,
            r"train duplicates: 3 of 60 images \(5.00%, at most 1.00%, quality.max_duplicates; "
            r"train image 1 \(b\) = train image 0 \(a\), train image 2 \(c\) = train image 0 \(a\)",
        ),
        (
            _leaked,
            r"test leaked: 30 of 30 images \(100.00%, at most 1.00%, quality.max_leaked; test image 0 \(a\) = train "
            r"image 0 \(a\), .* = train image 9 \(a\) and 20 more\)\. All are in .*/quality/findings.csv: clean",
        ),
        (
            _constant,
            r"test constant: 1 of 30 images \(3.33%, at most 0.10%, quality.max_constant; test image 5 \(c\)\)",
        ),
        (
            lambda folder: folder.write("train-labels", labels(60) + 1),
            r"train labels go from 1 to 3, but must start at 0: subtract 1",
        ),
        (_other_size, r"test images are \(8, 9\), training images \(8, 8\): make all images of one size"),
        (_four_channels, r"train images have the shape \(60, 8, 8, 4\)"),
        (_labels_of_two_dimensions, r"train labels have the shape \(60, 1\)"),
    ],
)
def test_unfit_data_is_refused_with_its_figures(
    tiny: IdxFolder, tmp_path: Path, spoil: Callable[[IdxFolder], object], gist: str
) -> None:
    spoil(tiny)
    raw = tiny.extract(tmp_path / "raw", classes=("a", "b", "c"))

    with pytest.raises(UserError, match=gist) as caught:
        quality.run(Validate(raw=raw), tmp_path / "quality")

    assert "\n" not in str(caught.value)
    assert not list((tmp_path / "quality").glob("*.json"))


def test_of_many_classes_with_too_few_images_ten_are_named(tiny: IdxFolder, tmp_path: Path) -> None:
    values = labels(60)
    values[0] = 200
    tiny.write("train-labels", values)
    with pytest.raises(UserError, match=r"12 has 0 and 188 more; add images"):
        quality.run(Validate(raw=tiny.extract(tmp_path / "raw")), tmp_path / "report")


def test_every_limit_that_is_exceeded_is_told_at_once(tiny: IdxFolder, tmp_path: Path) -> None:
    _repeated(tiny)
    _constant(tiny)

    with pytest.raises(UserError, match=r"train duplicates: 3 of 60 .*; test constant: 1 of 30"):
        quality.run(Validate(raw=tiny.extract(tmp_path / "raw")), tmp_path / "quality")


@pytest.mark.parametrize("name", ["train_images", "test_labels", "source"])
@pytest.mark.parametrize("bit", [0x01, 0x80], ids=["of another value", "of no possible value"])
def test_raw_data_that_was_altered_is_refused(tiny: IdxFolder, tmp_path: Path, name: str, bit: int) -> None:
    raw = tiny.extract(tmp_path / "raw")
    path = StageResult.load(raw).local(name)
    content = bytearray(path.read_bytes())
    content[-3] ^= bit
    path.write_bytes(content)

    with pytest.raises(UserError, match=rf"not as it was extracted: {name} was altered .*; run the extract stage agai"):
        quality.run(Validate(raw=raw), tmp_path / "quality")
    assert StageResult.find(storage.at(tmp_path / "quality" / "result.json")) is None


def test_raw_data_that_lost_a_file_is_refused(tiny: IdxFolder, tmp_path: Path) -> None:
    raw = tiny.extract(tmp_path / "raw")
    StageResult.load(raw).local("source").unlink()

    with pytest.raises(UserError, match="not as it was extracted: source is missing"):
        quality.run(Validate(raw=raw), tmp_path / "quality")


def test_another_stages_result_is_no_raw_data(tiny: IdxFolder, tmp_path: Path, validated: Callable[[str], str]) -> None:
    report = validated(tiny.extract(tmp_path / "raw"))

    with pytest.raises(UserError, match=r"\(validate\) has no artifact 'source': give the result of the stage"):
        quality.run(Validate(raw=report), tmp_path / "again")


def test_equal_images_are_equal_and_others_are_not() -> None:
    """Given all images of 30 pixels that differ in one or in two of them, then no digest stands for two of them."""
    changes = [(place, value) for place in range(30) for value in range(1, 256, 18)]
    images = np.zeros((len(changes) ** 2 + 2, 30), np.uint8)
    for number, pair in enumerate(itertools.product(changes, changes), start=1):
        for place, value in pair:
            images[number, place] = value

    digests = checks.digest(images)

    different = len(np.unique(images, axis=0))
    assert different > 80_000
    assert len(np.unique(digests)) == different
    assert digests[0] == digests[-1]
    assert checks.firsts(np.array([7, 3, 7, 7], np.uint64)).tolist() == [0, 1, 0, 0]


def test_pixel_figures_are_those_of_numpy() -> None:
    images = np.random.default_rng(0).integers(3, 250, (9000, 5, 5, 3), dtype=np.uint8)

    found = checks.survey(Files(images, np.zeros(9000, np.uint8)), classes=1).pixels

    assert found == {
        "min": float(images.min()),
        "max": float(images.max()),
        "mean": pytest.approx(images.mean(), abs=1e-4),
        "std": pytest.approx(images.std(), abs=1e-4),
    }


def test_every_image_that_a_check_found_is_listed_with_its_partner_even_after_a_refusal(
    tiny: IdxFolder, tmp_path: Path
) -> None:
    train = images(60, seed=1)
    train[[4, 6]] = train[0]
    tiny.write("train-images", train)
    test = images(30, seed=2)
    test[7] = train[3]
    tiny.write("t10k-images", test)
    raw = tiny.extract(tmp_path / "raw", classes=("a", "b", "c"))

    with pytest.raises(UserError, match=r"All are in .*/quality/findings\.csv"):
        quality.run(Validate(raw=raw), tmp_path / "quality")

    assert {path.name for path in (tmp_path / "quality").iterdir()} == {"findings.csv", ".lock"}
    assert (tmp_path / "quality/findings.csv").read_text().splitlines() == [
        "check,image,label,partner,partner_label",
        "train duplicates,train image 4,b,train image 0,a",
        "train duplicates,train image 6,a,train image 0,a",
        "train contradictions,train image 4,b,train image 0,a",
        "test leaked,test image 7,b,train image 3,a",
    ]


def test_pictures_are_named_by_their_files_and_their_conversions_are_on_the_page(
    tmp_path: Path, validated: Callable[[str], str]
) -> None:
    for number in range(24):
        place = tmp_path / "pets" / ("cat", "dog")[number % 2] / f"{number}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(images(1, seed=max(2, number))[0]).convert("LA").save(place)
    Image.new("LA", (9, 9), (0, 0)).save(tmp_path / "pets/cat/x.png")
    raw = gcp_dataloader.run(gcp_dataloader.Extract(name="pets", source=f"{tmp_path}/pets"), tmp_path / "raw")

    result = StageResult.load(validated(raw.uri))

    assert "25 resized, 1 transparent: composited on white" in raw.headline
    report = read_report(result)
    assert report["pictures"]["recipe"]["background"] == "white"
    named = {finding["check"]: finding["named"] for finding in report["findings"]}
    assert named["train contradictions"] == ["dog/1.png (dog) = cat/0.png (cat)"]
    assert named["train constant"] == ["cat/x.png (cat)"]
    assert "dog/1.png (dog) = cat/0.png (cat)" in result.local("page").read_text()
    assert "transparent: composited on white" in result.local("page").read_text()


def test_uneven_classes_are_warned_of(
    tiny: IdxFolder, tmp_path: Path, validated: Callable[[str], str], caplog: pytest.LogCaptureFixture
) -> None:
    tiny.write("train-labels", np.array([0] * 40 + [1] * 10 + [2] * 10, np.uint8))
    assert StageResult.load(validated(tiny.extract(tmp_path / "raw"))).headline.endswith(
        "classes are uneven: 40 training images of 0, 10 of 1; look at the balanced accuracy and the worst class"
    )
    assert "classes are uneven" in caplog.text
