"""Turn class folders of pictures into IDX files, every picture by `mlapp.etl.picture`'s rules."""

from __future__ import annotations

import itertools
import os
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mlapp.errors import UserError
from mlapp.etl import class_folders, idx, picture
from mlapp.etl.leftovers import removed_on_refusal
from mlapp.etl.picture import Background, PictureError, Recipe
from mlapp.etl.progress import progress
from mlapp.etl.raw_data import Part
from mlapp.etl.report_table import report_table
from mlapp.etl.unpack import write
from mlapp.schema import IdxName
from mlapp.storage import Written

STEMS: dict[Part, tuple[IdxName, IdxName]] = {
    "train": ("train-images", "train-labels"),
    "test": ("t10k-images", "t10k-labels"),
}
BAD_FILES = "bad_files.csv"
CHUNK = 256
SHOWN = 10


class Made(NamedTuple):
    """What was made of class folders: IDX files, class names, how pictures were read, and the names of their files."""

    files: dict[IdxName, Written]
    classes: tuple[str, ...]
    pictures: dict[str, Any]
    names: dict[Part, list[str]]


def to_idx(
    root: Path,
    folder: Path,
    size: int,
    classes: tuple[str, ...] | None,
    max_bytes: int,
    background: Background = "white",
    origin: str | None = None,
) -> Made:
    """Decode every picture under ``root`` to ``size`` × ``size`` into IDX files in ``folder``.

    Grey pictures make an (n, size, size) file; if any one has colour, all make (n, size, size, 3). A `UserError` names
    the files that cannot be used, under ``origin`` where ``root`` is a copy of that; all of them are listed in
    `BAD_FILES`, the only file that is then left.
    """
    place = origin or str(root)
    try:
        found = class_folders.find(root, classes)
    except UserError as error:
        raise UserError(str(error).replace(str(root), place)) from error
    bad = dict(found.bad)
    with removed_on_refusal(folder, keep=(BAD_FILES,)), ThreadPoolExecutor(os.cpu_count()) as pool:
        everything = [each.path for each in itertools.chain.from_iterable(found.parts.values())]
        coloured = _noted(bad, everything, pool.map(_looked_at, everything))
        recipe = Recipe(size, size, 3 if any(coloured) else 1, background)
        converted: Counter[str] = Counter()
        files: dict[IdxName, Written] = {}
        for part, pictures in found.parts.items():
            images_stem, labels_stem = STEMS[part]
            header = idx.Header((len(pictures), size, size, *((3,) if recipe.channels == 3 else ())))
            if header.file_bytes > max_bytes:
                raise UserError(
                    f"{place} would decode to {header.file_bytes:,} bytes, over data.max_decoded_bytes={max_bytes:,}: "
                    f"raise that setting, or lower data.image_size"
                )
            blocks = _blocks(images_stem, [each.path for each in pictures], recipe, pool, bad, converted)
            files[images_stem] = write(folder, images_stem, header, blocks)
            labels = bytes(each.label for each in pictures)
            files[labels_stem] = write(folder, labels_stem, idx.Header((len(labels),)), [labels])
        if bad:
            named = {f"{place}/{path.relative_to(root).as_posix()}": reason for path, reason in bad.items()}
            raise _refusal(named, len(bad.keys() | {*everything}), folder)
    pictures_report = {
        "recipe": recipe._asdict(),
        "read": len(everything),
        "converted": dict(sorted(converted.items())),
        "skipped": found.skipped,
    }
    names = {part: [_name(each.path, root) for each in pictures] for part, pictures in found.parts.items()}
    return Made(files, found.classes, pictures_report, names)


def _name(path: Path, root: Path) -> str:
    """A picture's name as text, which JSON can hold; bytes that are not UTF-8 are escaped."""
    return path.relative_to(root).as_posix().encode("utf-8", "backslashreplace").decode()


def _looked_at(path: Path) -> bool | PictureError:
    try:
        return picture.has_colour(picture.read(path))
    except PictureError as error:
        return error


def _decoded(path: Path, recipe: Recipe) -> picture.Pixels | PictureError:
    try:
        return picture.pixels(picture.read(path), recipe)
    except PictureError as error:
        return error


def _noted(bad: dict[Path, str], paths: list[Path], answers: Iterator[Any]) -> list[Any]:
    """The answers about those pictures that can be used; why the others cannot is noted in ``bad``."""
    good = []
    for path, answer in zip(paths, answers, strict=True):
        if isinstance(answer, PictureError):
            bad[path] = str(answer)
        else:
            good.append(answer)
    return good


def _blocks(
    label: str,
    paths: list[Path],
    recipe: Recipe,
    pool: ThreadPoolExecutor,
    bad: dict[Path, str],
    converted: Counter[str],
) -> Iterator[bytes]:
    """Pixels, a chunk of pictures at a time; once there is a bad one, zeros: nothing is kept then."""
    size = recipe.height * recipe.width * recipe.channels
    with progress(f"decoding {label}", len(paths), "images") as advance:
        for start in range(0, len(paths), CHUNK):
            chunk = paths[start : start + CHUNK]
            fit = [path for path in chunk if path not in bad]
            found = _noted(bad, fit, pool.map(partial(_decoded, recipe=recipe), fit))
            converted.update(itertools.chain.from_iterable(one.converted for one in found))
            yield b"".join(np.ascontiguousarray(one.values).tobytes() for one in found) + bytes(
                size * (len(chunk) - len(found))
            )
            advance(len(chunk))


def _refusal(bad: dict[str, str], of: int, folder: Path) -> UserError:
    """All files that cannot be used: the first ten in one line, every one in `BAD_FILES`."""
    rows = sorted(bad.items())
    place = report_table(folder / BAD_FILES, ("file", "reason"), rows)
    first = "; ".join(f"{path} {reason}" for path, reason in rows[:SHOWN])
    if len(bad) == 1:
        return UserError(f"{first} (also in {place})")
    more = f"; and {len(bad) - SHOWN:,} more" if len(bad) > SHOWN else ""
    return UserError(f"{len(bad):,} of {of:,} files cannot be used, all listed in {place}: {first}{more}")
