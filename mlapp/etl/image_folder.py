"""Turn class folders of images into IDX files: ``train/<class>/*`` with ``test/<class>/*``, or just ``<class>/*``."""

from __future__ import annotations

import itertools
import os
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import NamedTuple

from PIL import Image, ImageOps, UnidentifiedImageError

from mlapp import schema
from mlapp.errors import UserError
from mlapp.etl import idx
from mlapp.etl.progress import progress
from mlapp.etl.unpack import write
from mlapp.schema import IdxName
from mlapp.storage import Written

GREY = {"1", "L", "LA"}
COLOUR = {"P", "RGB", "RGBA", "CMYK", "YCbCr"}
STEMS: dict[str, tuple[IdxName, IdxName]] = {
    "train": ("train-images", "train-labels"),
    "test": ("t10k-images", "t10k-labels"),
}
CHUNK = 256
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")  # Pillow would start programs for some others
MOST_PIXELS = 40_000_000  # of one image: a file of some kilobytes can decode to gigabytes
TOO_LARGE = f"{{}} has more than {MOST_PIXELS:,} pixels: make it smaller"
# Pillow warns of images that are refused here, which are opened in threads, where no filter can be set for a while.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)


class Labelled(NamedTuple):
    """One image file and its label."""

    path: Path
    label: int


def to_idx(
    root: Path, folder: Path, size: int, classes: tuple[str, ...] | None, max_bytes: int
) -> tuple[dict[IdxName, Written], tuple[str, ...]]:
    """Decode every image under ``root`` to ``size`` × ``size`` into IDX files in ``folder``; also the class names.

    Grey images make an (n, size, size) file; if any one has colour, all make (n, size, size, 3).
    """
    parts = _parts(root)
    names = _class_names(root, parts, classes)
    labelled = {part: _labelled(place, names) for part, place in parts.items()}
    everything = list(itertools.chain.from_iterable(labelled.values()))
    files: dict[IdxName, Written] = {}
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        channels = (3,) if any(list(pool.map(_has_colour, (image.path for image in everything)))) else ()
        for part, images in labelled.items():
            images_stem, labels_stem = STEMS[part]
            header = idx.Header((len(images), size, size, *channels))
            if header.file_bytes > max_bytes:
                raise UserError(
                    f"{root} would decode to {header.file_bytes:,} bytes, over data.max_decoded_bytes={max_bytes:,}: "
                    f"raise that setting, or lower data.image_size"
                )
            pixels = _pixels(images_stem, [image.path for image in images], header.shape[1:], pool)
            files[images_stem] = write(folder, images_stem, header, pixels)
            labels = bytes(image.label for image in images)
            files[labels_stem] = write(folder, labels_stem, idx.Header((len(labels),)), [labels])
    return files, names


def _parts(root: Path) -> dict[str, Path]:
    folders = _folders(root)
    if "train" not in folders:
        return {"train": root}
    if strays := sorted(set(folders) - {"train", "test"}):
        raise UserError(f"{root} holds {strays[0]} beside train: only train and test may stand there; move it")
    return {name: folders[name] for name in ("train", "test") if name in folders}


def _class_names(root: Path, parts: dict[str, Path], wanted: tuple[str, ...] | None) -> tuple[str, ...]:
    try:
        names = tuple(map(schema.label, sorted(_folders(parts["train"]))))
    except ValueError as error:
        raise UserError(f"{error}; rename the class's folder") from error
    if not 2 <= len(names) <= 256:
        raise UserError(f"{parts['train']} holds {len(names)} class folders: there must be 2 to 256")
    if wanted is not None and set(wanted) != set(names):
        raise UserError(
            f"data.classes ({', '.join(wanted)}) are not the class folders of {root} ({', '.join(names)}): "
            f"make them the same, or leave data.classes unset"
        )
    for place in parts.values():
        if strays := sorted(set(_folders(place)) - set(names)):
            raise UserError(
                f"{place} holds a class {strays[0]!r} that the training images lack: add some, or remove it"
            )
    return wanted or names


def _folders(place: Path) -> dict[str, Path]:
    return {path.name: path for path in place.iterdir() if path.is_dir() and not path.name.startswith(".")}


def _labelled(place: Path, names: tuple[str, ...]) -> list[Labelled]:
    found = []
    for label, name in enumerate(names):
        if (place / name).is_dir():
            files = sorted(path for path in (place / name).iterdir() if not path.name.startswith("."))
            found += [Labelled(path, label) for path in files]
    return found


def _has_colour(path: Path) -> bool:
    with _opened(path) as image:
        if image.mode not in GREY | COLOUR:
            raise UserError(f"{path} has pixels of type {image.mode}: save it with 8 bits a channel")
        return image.mode in COLOUR


def _opened(path: Path) -> Image.Image:
    with _readable(path):
        image = Image.open(path, formats=FORMATS)
    if image.width * image.height > MOST_PIXELS:
        image.close()
        raise UserError(TOO_LARGE.format(path))
    return image


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """What Pillow says of a broken image in one line; a file that vanished is no broken image."""
    try:
        yield
    except (UnidentifiedImageError, IsADirectoryError) as error:
        raise UserError(f"{path} is not a readable image: mend or remove it") from error
    except Image.DecompressionBombError as error:
        raise UserError(TOO_LARGE.format(path)) from error
    # Pillow's plugins raise what they come upon, as struct.error; only a file has an errno.
    except Exception as error:
        if isinstance(error, UserError) or (isinstance(error, OSError) and error.errno):
            raise
        raise UserError(f"{path} is not a readable image ({error}): mend or remove it") from error


def _decoded(path: Path, shape: tuple[int, ...]) -> bytes:
    with _readable(path), _opened(path) as image:
        upright = ImageOps.exif_transpose(image).convert("RGB" if len(shape) == 3 else "L")
    if upright.size != (shape[1], shape[0]):
        upright = upright.resize((shape[1], shape[0]), Image.Resampling.BICUBIC)
    return upright.tobytes()


def _pixels(label: str, paths: list[Path], shape: tuple[int, ...], pool: ThreadPoolExecutor) -> Iterator[bytes]:
    with progress(f"decoding {label}", len(paths), "images") as advance:
        for start in range(0, len(paths), CHUNK):
            chunk = paths[start : start + CHUNK]
            yield b"".join(pool.map(partial(_decoded, shape=shape), chunk))
            advance(len(chunk))
