"""Class folders of images become the same IDX files as any other source."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mlapp.errors import UserError
from mlapp.etl import idx, image_folder

BOUND = 1 << 20


def picture(path: Path, value: int, *, mode: str = "L", size: tuple[int, int] = (8, 8)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    colour = value if mode in ("L", "I;16") else (value,) * len(mode)
    Image.new(mode, size, colour).save(path)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Two classes, cats (two training images, one test image) and dogs (one and one)."""
    root = tmp_path / "pets"
    picture(root / "train/dog/1.png", 30)
    picture(root / "train/cat/2.png", 20)
    picture(root / "train/cat/1.png", 10)
    picture(root / "test/cat/1.png", 40)
    picture(root / "test/dog/1.png", 50)
    return root


def convert(
    root: Path, size: int = 8, classes: tuple[str, ...] | None = None, bound: int = BOUND
) -> tuple[dict[str, np.ndarray], tuple[str, ...]]:
    target = root.parent / "target"
    files, names = image_folder.to_idx(root, target, size, classes, bound)
    return {name: idx.open_idx(file.path) for name, file in files.items()}, names


def test_grey_images_are_read_class_by_class_in_the_order_of_their_names(root: Path) -> None:
    arrays, names = convert(root)

    assert names == ("cat", "dog")
    assert arrays["train-images"].shape == (3, 8, 8)
    assert arrays["train-images"][:, 0, 0].tolist() == [10, 20, 30]
    assert arrays["train-labels"].tolist() == [0, 0, 1]
    assert arrays["t10k-images"][:, 0, 0].tolist() == [40, 50]
    assert arrays["t10k-labels"].tolist() == [0, 1]


def test_one_colour_image_makes_all_of_them_colour(root: Path) -> None:
    path = root / "test/dog/2.png"
    Image.new("RGB", (8, 8), (1, 2, 3)).save(path)

    arrays, _ = convert(root)

    assert arrays["t10k-images"].shape == (3, 8, 8, 3)
    assert arrays["t10k-images"][2, 5, 5].tolist() == [1, 2, 3]
    assert arrays["train-images"][0, 0, 0].tolist() == [10, 10, 10]


def test_class_folders_alone_make_no_test_set(root: Path) -> None:
    arrays, names = convert(root / "train")

    assert names == ("cat", "dog")
    assert set(arrays) == {"train-images", "train-labels"}


def test_other_sizes_and_formats_are_resized(root: Path) -> None:
    picture(root / "train/dog/2.jpg", 60, size=(40, 20))

    arrays, _ = convert(root, size=16)

    assert arrays["train-images"].shape == (4, 16, 16)
    np.testing.assert_allclose(arrays["train-images"][3], 60, atol=2)


def test_a_photo_is_turned_upright(root: Path) -> None:
    """EXIF orientation 3 is upside down: the white upper half ends up below."""
    pixels = np.zeros((8, 8), np.uint8)
    pixels[:4] = 255
    photo = Image.fromarray(pixels)
    exif = photo.getexif()
    exif[0x0112] = 3
    photo.save(root / "train/dog/9.png", exif=exif)

    arrays, _ = convert(root)

    assert arrays["train-images"][3, :, 0].tolist() == [0] * 4 + [255] * 4


def test_given_class_names_decide_the_labels(root: Path) -> None:
    arrays, names = convert(root, classes=("dog", "cat"))

    assert names == ("dog", "cat")
    assert arrays["train-labels"].tolist() == [0, 1, 1]


def test_hidden_files_are_left_out(root: Path) -> None:
    (root / "train/cat/.DS_Store").write_text("x")
    (root / ".cache").mkdir()

    arrays, _ = convert(root)

    assert len(arrays["train-images"]) == 3


def _truncated(root: Path) -> None:
    path = root / "train/cat/1.png"
    picture(path, 1, size=(64, 64))
    path.write_bytes(path.read_bytes()[:60])


def _bomb(root: Path) -> None:
    Image.new("1", (16000, 16000)).save(root / "train/cat/1.png")


@pytest.mark.parametrize(
    ("spoil", "gist"),
    [
        (lambda root: (root / "train/cat/1.png").write_text("x"), r"cat/1.png is not a readable image: mend or remove"),
        (_truncated, r"cat/1.png is not a readable image .*: mend or remove it"),
        (_bomb, r"cat/1.png has more than 40,000,000 pixels: make it smaller"),
        (lambda root: picture(root / "train/cat/1.png", 999, mode="I;16"), r"cat/1.png has pixels of type I;16"),
        (lambda root: picture(root / "test/emu/1.png", 1), r"holds a class 'emu' that the training images lack"),
        (lambda root: picture(root / "val/cat/1.png", 1), r"holds val beside train"),
        (lambda root: (root / "train/dog").rename(root / "train/.dog"), r"holds 1 class folders: there must be 2 to"),
    ],
    ids=["text", "truncated", "bomb", "16 bits", "class of tests alone", "third part", "one class"],
)
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_what_cannot_be_used_is_named(root: Path, spoil: Callable[[Path], object], gist: str) -> None:
    spoil(root)

    with pytest.raises(UserError, match=gist):
        convert(root)

    assert not list(root.parent.glob("target/*images*"))


def test_class_names_that_are_no_folders_are_refused(root: Path) -> None:
    with pytest.raises(UserError, match=r"data.classes \(dog, fox\) are not the class folders .* \(cat, dog\)"):
        convert(root, classes=("dog", "fox"))


def test_more_than_the_bound_is_refused_before_it_is_decoded(root: Path) -> None:
    with pytest.raises(UserError, match=r"would decode to 208 bytes, over data.max_decoded_bytes=200"):
        convert(root, bound=200)
