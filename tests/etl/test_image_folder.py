"""Class folders of images become the same IDX files as any other source."""

from __future__ import annotations

import csv
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mlapp.errors import UserError
from mlapp.etl import idx, image_folder
from mlapp.schema import Data

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
    made = image_folder.to_idx(root, target, size, classes, bound)
    return {name: idx.open_idx(file.path) for name, file in made.files.items()}, made.classes


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
        (
            lambda root: (root / "train/cat/1.png").write_text("x"),
            r"cat/1.png is not a readable picture \(.*: replace or",
        ),
        (_truncated, r"cat/1.png is truncated: replace or remove it"),
        (_bomb, r"cat/1.png has more than 40,000,000 pixels: make it smaller"),
        (lambda root: picture(root / "train/cat/1.png", 999, mode="I;16"), r"cat/1.png has 16 bits a channel"),
        (
            lambda root: picture(root / "test/emu/1.png", 1),
            r"test holds classes without training images \('emu'\), whose classes are cat, dog",
        ),
        (lambda root: picture(root / "val/cat/1.png", 1), r"holds val beside train"),
        (lambda root: (root / "train/dog").rename(root / "train/.dog"), r"holds 1 class folders, there must be 2 to"),
    ],
    ids=["text", "truncated", "bomb", "16 bits", "class of tests alone", "third part", "one class"],
)
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_what_cannot_be_used_is_named(root: Path, spoil: Callable[[Path], object], gist: str) -> None:
    spoil(root)

    with pytest.raises(UserError, match=gist):
        convert(root)

    assert {path.name for path in root.parent.glob("target/*")} <= {"bad_files.csv"}


def test_class_names_that_are_no_folders_are_refused(root: Path) -> None:
    with pytest.raises(UserError, match=r"data.classes \(dog, fox\) are not the class folders .* \(cat, dog\)"):
        convert(root, classes=("dog", "fox"))


def test_more_than_the_bound_is_refused_before_it_is_decoded(root: Path) -> None:
    with pytest.raises(UserError, match=r"would decode to 208 bytes, over data.max_decoded_bytes=200"):
        convert(root, bound=200)


def test_how_pictures_were_read_is_counted(root: Path) -> None:
    Image.new("RGBA", (8, 8), (1, 2, 3, 0)).save(root / "train/dog/2.png")
    picture(root / "train/dog/3.png", 1, size=(9, 9))
    picture(root / "train/dog/4.png", 1, mode="1")
    for name in ("Thumbs.db", "desktop.ini", "labels.csv", ".DS_Store", "._1.png", "sizes.TXT"):
        (root / "train/cat" / name).write_text("x")
    for place in ("README", "train/cat/README", "notes"):
        (root / place).write_text("x")
    for place in ("__MACOSX/train/cat", "train/__MACOSX", "train/cat/@eaDir"):
        (root / place).mkdir(parents=True)

    made = image_folder.to_idx(root, root.parent / "target", 8, None, BOUND, "black")

    assert made.pictures == {
        "recipe": {"height": 8, "width": 8, "channels": 3, "background": "black"},
        "read": 8,
        "converted": {"1 bit": 1, "grey to colour": 7, "resized": 1, "transparent: composited on black": 1},
        "skipped": {
            ".DS_Store": 1,
            ".csv": 1,
            ".txt": 1,
            "@eaDir": 1,
            "Thumbs.db": 1,
            "__MACOSX": 2,
            "desktop.ini": 1,
            "README": 2,
            "files without an ending, beside the class folders": 1,
            "hidden files": 1,
        },
    }
    assert made.names["train"][:3] == ["train/cat/1.png", "train/cat/2.png", "train/dog/1.png"]
    assert made.names["test"] == ["test/cat/1.png", "test/dog/1.png"]
    assert idx.open_idx(made.files["train-images"].path)[3].max() == 0


def test_all_files_that_cannot_be_used_are_named_at_once_and_listed(root: Path) -> None:
    """A broken header, a broken body, what is no file, in either part: one answer, and a table of all."""
    _truncated(root)
    for number in range(12):
        (root / f"test/dog/{number}.jpg").touch()
    (root / "train/dog/link.png").symlink_to(root / "gone.png")
    (root / "train/dog/loop.png").symlink_to("loop.png")
    os.mkfifo(root / "test/cat/pipe.png")
    (root / "train/dog/more").mkdir()
    (root / "test/odd.png").write_text("x")
    (root / "train/dog").joinpath(os.fsdecode(b"\xff\n.png")).touch()

    with pytest.raises(UserError) as caught:
        convert(root)

    line = str(caught.value)
    listed = root.parent / "target/bad_files.csv"
    assert line.startswith(f"19 of 23 files cannot be used, all listed in {listed}: {root}/test/cat/pipe.png is a pipe")
    assert line.endswith("; and 9 more")
    assert "\n" not in line
    rows = {Path(name).name: reason for name, reason in csv.reader(listed.open(encoding="utf-8"))}
    assert len(rows) == 20
    assert rows["link.png"] == rows["loop.png"] == "is a link that leads nowhere: correct or remove it"
    assert rows["more"] == "is a folder inside a class: move its pictures up"
    assert rows["odd.png"] == "is a picture outside the class folders: move it into one"
    assert rows["\\udcff\\n.png"] == "is empty: replace or remove it"
    assert [path.name for path in listed.parent.iterdir()] == ["bad_files.csv"]


def test_names_that_are_not_utf_8_stay_readable_downstream(root: Path) -> None:
    """What JSON cannot hold is escaped, or the next stage could not read the names."""
    (root / "train/cat/1.png").rename(root / "train/cat" / os.fsdecode(b"\xff.png"))
    names = image_folder.to_idx(root, root.parent / "target", 8, None, BOUND).names
    assert names["train"][:2] == ["train/cat/2.png", "train/cat/\\udcff.png"]
    json.dumps(names, ensure_ascii=False).encode()


def test_one_class_name_written_in_two_ways_is_one_class(root: Path) -> None:
    """macOS writes é as two characters: the same class in train, in test and in data.classes."""
    (root / "train/cat").rename(root / "train/caf\u00e9")
    (root / "test/cat").rename(root / "test/cafe\u0301")
    arrays, names = convert(root)
    assert names == ("caf\u00e9", "dog")
    assert arrays["t10k-labels"].tolist() == [0, 1]
    assert Data(classes=("dog", "cafe\u0301")).classes == ("dog", "caf\u00e9")
    (root / "train/cafe\u0301").mkdir()
    with pytest.raises(UserError, match=r"has the name of the folder beside it in other Unicode characters: merge"):
        convert(root)


def test_every_class_without_a_usable_name_is_named(root: Path) -> None:
    for name in ("a|b", "c\nd"):
        picture(root / "train" / name / "1.png", 1)
    with pytest.raises(UserError, match=r"'a\|b' is no class's name: .*; 'c\\nd' is no class's name"):
        convert(root)


def test_folders_without_permission_are_listed_with_all_others(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    listed = Path.iterdir

    def iterdir(path: Path) -> Iterator[Path]:
        if path.name == "dog":
            raise PermissionError(13, "Permission denied", str(path))
        return listed(path)

    monkeypatch.setattr(Path, "iterdir", iterdir)
    with pytest.raises(UserError, match=r"^2 of .*test/dog cannot be listed \(Permission.*train/dog cannot be listed"):
        convert(root)


def test_a_class_folder_that_is_a_dangling_link_is_named(root: Path) -> None:
    shutil.rmtree(root / "train/dog")
    (root / "train/dog").symlink_to(root / "gone")
    with pytest.raises(UserError, match=r"train/dog leads nowhere or is not a file: correct or remove it"):
        convert(root)


def test_links_to_files_and_folders_are_followed(root: Path) -> None:
    (root / "train/dog").rename(root.parent / "dogs")
    (root / "train/dog").symlink_to(root.parent / "dogs")
    (root / "train/cat/3.png").symlink_to(root.parent / "dogs/1.png")
    assert convert(root)[0]["train-images"][:, 0, 0].tolist() == [10, 20, 30, 30]


def _moved(*names: tuple[str, str]) -> Callable[[Path], None]:
    def move(root: Path) -> None:
        for old, new in names:
            (root / new).parent.mkdir(parents=True, exist_ok=True)
            (root / old).rename(root / new)

    return move


@pytest.mark.parametrize(
    ("move", "gist"),
    [
        (
            _moved(("train", "Training"), ("test", "Testing")),
            r"holds Testing/, Training/; expected <class>.* \(train, test",
        ),
        (
            _moved(("train", "train_"), ("test", "train_/test"), ("train_", "pets")),
            r"holds pets/, one folder around all",
        ),
        (
            _moved(("train", "seg_train/seg_train"), ("test", "seg_test/seg_test")),
            r"holds seg_test/, seg_train/, which hold folders and no pictures; expected",
        ),
        (
            _moved(("train", "pets/train"), ("test", "pets/test")),
            r"holds pets/, one folder around all: give .*/pets as",
        ),
        (_moved(("test", "val")), r"holds val beside train .*: only train and test are read; merge validation images"),
        (
            _moved(("test/cat", "val/cat"), ("test", "Test")),
            r"holds Test, val beside train .*; rename the test set to test",
        ),
        (_moved(("test/cat", "more"), ("test", "extra")), r"holds extra, more beside train .*; move them away"),
        (_moved(("train", "training")), r"holds test/, training/; expected"),
        (_moved(("test/dog", "train/dog/dog")), r"train/dog/dog is a folder inside a class"),
    ],
)
def test_another_layout_is_refused_with_what_was_found(root: Path, move: Callable[[Path], None], gist: str) -> None:
    move(root)
    with pytest.raises(UserError, match=gist):
        convert(root)


def test_train_and_test_without_class_folders_are_refused(root: Path) -> None:
    for part in ("train", "test"):
        shutil.rmtree(root / part)
        picture(root / part / "1.png", 1)
    with pytest.raises(UserError, match=r"train/1.png is a picture outside the class folders: move it"):
        convert(root)


def test_a_class_may_be_called_train(root: Path) -> None:
    shutil.rmtree(root)
    for number, name in enumerate(("bus", "train")):
        picture(root / name / "1.png", number)
    assert convert(root)[1] == ("bus", "train")


def test_a_class_without_pictures_is_named(root: Path) -> None:
    for path in (root / "train/dog").iterdir():
        path.unlink()
    with pytest.raises(UserError, match=r"train has no picture of dog: add some, or remove the folder"):
        convert(root)


def test_what_was_skipped_in_a_class_without_pictures_is_said(root: Path) -> None:
    for number, path in enumerate((root / "train/dog").iterdir()):
        path.rename(path.with_name(f"{number}.npy"))
    with pytest.raises(UserError, match=r"train has no picture of dog \(skipped by their names: 1 \.npy\): add some"):
        convert(root)


def test_a_test_folder_without_pictures_is_refused(root: Path) -> None:
    shutil.rmtree(root / "test")
    (root / "test").mkdir()
    with pytest.raises(UserError, match=r"/test has no picture: add some, or remove the folder"):
        convert(root)


def test_a_split_that_is_a_dangling_link_is_named(root: Path) -> None:
    shutil.rmtree(root / "train")
    (root / "train").symlink_to("gone")
    with pytest.raises(UserError, match=r"/train leads nowhere or is not a file: correct or remove it"):
        convert(root)
