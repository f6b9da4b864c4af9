"""From a picture's file to pixels, in one place: training and serving see the same values.

The rules:

- *Depth*: 8 bits a channel or fewer, the latter scaled to 0…255. More than 8 bits (16-bit grey or colour, float TIFF)
  are refused alike: which of them hold the picture, only the one who made it knows.
- *Transparency* (alpha, a palette's transparent entries, a transparent value): composited on the background, before
  anything is resized, so that colours hidden under it never show.
- *Colour*: palettes, CMYK and YCbCr become RGB. Values are taken as stored; colour profiles are not applied.
- *Orientation*: EXIF's, turned upright. Other metadata is not looked at (`mlapp.etl.picture_file`).
- *Frames*: the first one of an animation, or the first page.
- *Size*: resized (bicubic) to the size asked for. Pictures beyond `MOST_PIXELS` or `MOST_BYTES` are refused by their
  header; truncated and damaged ones are refused. One kind of damage cannot be seen: wrong values inside a JPEG's scan
  (or a progressive JPEG cut short whose end marker was written again), which the decoder only guesses around.

No state, no TensorFlow.
"""

from __future__ import annotations

import io
import os
import stat
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFile, TiffImagePlugin, UnidentifiedImageError

from mlapp.etl import picture_file
from mlapp.etl.picture_file import DEPTH, PictureError

__all__ = ["Background", "PictureError", "Pixels", "Recipe", "has_colour", "pixels", "read"]

Background = Literal["white", "black"]
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")  # Pillow would start programs for some others
GREY = {"1", "L", "LA"}
COLOUR = {"P", "PA", "RGB", "RGBA", "CMYK", "YCbCr"}
MOST_PIXELS = 40_000_000  # of one picture: a file of some kilobytes can decode to gigabytes
MOST_BYTES = 200_000_000
BITS_PER_SAMPLE, SAMPLE_FORMAT = 258, 339  # TIFF's tags
TOO_LARGE = f"has more than {MOST_PIXELS:,} pixels: make it smaller"
TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# Pillow warns of what is refused or not looked at here, in threads, where no filter can be set for a while.
warnings.filterwarnings("ignore", category=Image.DecompressionBombWarning)
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")


class Recipe(NamedTuple):
    """What every picture is made into."""

    height: int
    width: int
    channels: Literal[1, 3]
    background: Background = "white"


class Pixels(NamedTuple):
    """Pixels (height, width) or (height, width, 3), and what was done to the picture to get them."""

    values: npt.NDArray[np.uint8]
    converted: tuple[str, ...]


def read(path: Path) -> bytes:
    """The content of a picture's file; a `PictureError` if that is not a regular file, which is never opened."""
    try:
        _require_file(os.stat(path).st_mode)
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY)
    except OSError as error:
        if os.path.islink(path) and not os.path.exists(path):
            raise PictureError("is a link that leads nowhere: correct or remove it") from error
        raise PictureError(f"cannot be read ({error.strerror}): make it readable or remove it") from error
    with open(descriptor, "rb") as stream:
        found = os.fstat(descriptor)
        _require_file(found.st_mode)  # it may have been replaced meanwhile
        if not found.st_size:
            raise PictureError("is empty: replace or remove it")
        if found.st_size > MOST_BYTES:
            raise PictureError(f"has {found.st_size:,} bytes, over {MOST_BYTES:,}: make it smaller")
        return stream.read(MOST_BYTES)


def has_colour(content: bytes) -> bool:
    """Whether a picture is of a kind that can have colours; a `PictureError` if its header says that it is unfit."""
    with _opened(content, picture_file.opened(content)) as image:
        return image.mode in COLOUR


def pixels(content: bytes, recipe: Recipe) -> Pixels:
    """The pixels of a picture; a `PictureError` if it cannot be used."""
    container = picture_file.opened(content)
    with _opened(content, container) as image:
        turned = container.orientation
        with _readable():
            several = container.frames > 1 or bool(getattr(image, "is_animated", False))
            if isinstance(image, TiffImagePlugin.TiffImageFile):  # Pillow itself turns it as it decodes
                turned = int(image.tag_v2.get(picture_file.ORIENTATION, 1))
                image.is_animated = True  # of such a one Pillow looks for no EXIF folders, which may be broken
            image.load()
            done = _named(image, several, turned)
            done += ["grey to colour"] * (recipe.channels == 3 and image.mode in GREY)
            plain, composited = _opaque(image, container.grey_bits, 255 if recipe.background == "white" else 0)
    if container.orientation in TURNS:
        plain = plain.transpose(TURNS[container.orientation])
    plain = plain.convert("RGB" if recipe.channels == 3 else "L")
    if plain.size != (recipe.width, recipe.height):
        plain = plain.resize((recipe.width, recipe.height), Image.Resampling.BICUBIC)
        done.append("resized")
    if composited:
        done.append(f"transparent: composited on {recipe.background}")
    return Pixels(np.asarray(plain), tuple(done))


def _named(image: Image.Image, several: bool, orientation: int) -> list[str]:
    """The conversions that a picture's own form makes necessary."""
    forms = {"1": "1 bit", "P": "palette", "PA": "palette", "CMYK": "CMYK", "YCbCr": "YCbCr"}
    done = [forms[image.mode]] if image.mode in forms else []
    done += ["first of several frames"] * several
    return done + ["turned upright"] * (orientation in TURNS)


def _opaque(image: Image.Image, grey_bits: int, background: int) -> tuple[Image.Image, bool]:
    """The picture without transparency, and whether it had any."""
    transparent = image.info.get("transparency")
    if isinstance(transparent, int) and image.mode == "L":  # Pillow scales the pixels, not this one
        most = 2**grey_bits - 1
        image.info["transparency"] = (transparent & most) * 255 // most
    elif isinstance(transparent, tuple):
        image.info["transparency"] = tuple(value & 255 for value in transparent)
    elif isinstance(transparent, bytes):  # alphas of a palette's entries, of which there are 256 at most
        image.info["transparency"] = transparent[:256]
    if image.mode not in ("LA", "PA", "RGBA") and transparent is None:
        return image, False
    layers = np.asarray(image.convert("LA" if image.mode in GREY else "RGBA")).astype(np.uint16)
    colours, alpha = layers[..., :-1], layers[..., -1:]
    flat = ((colours * alpha + background * (255 - alpha) + 127) // 255).astype(np.uint8)
    return Image.fromarray(flat.squeeze(-1) if flat.shape[-1] == 1 else flat), bool((alpha < 255).any())


def _opened(content: bytes, container: picture_file.Container) -> ImageFile.ImageFile:
    with _readable():
        image = Image.open(io.BytesIO(container.content), formats=FORMATS)
        if image.width * image.height > MOST_PIXELS:
            raise PictureError(TOO_LARGE)
        if (bits := _bits(image)) > 8:
            raise PictureError(DEPTH.format(bits))
        if image.mode not in GREY | COLOUR:
            raise PictureError(f"has pixels of type {image.mode}: save it with 8 bits a channel")
        tags = image.tag_v2 if isinstance(image, TiffImagePlugin.TiffImageFile) else {}
        if {*tags.get(SAMPLE_FORMAT, (1,))} - {1, 4}:
            raise PictureError("has signed or float values: save it with 8 bits a channel, 0 to 255")
        if image.format == "GIF" and "transparency" not in image.info and image.tile[0].extents != (0, 0, *image.size):
            raise PictureError("has a first frame that does not cover it: save that frame by itself")
    return image


def _bits(image: ImageFile.ImageFile) -> int:
    """Bits of a channel by the header of those formats that can have more than 8 and that Pillow scales silently."""
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        return int(max(image.tag_v2.get(BITS_PER_SAMPLE, (1,))))
    if image.format == "PPM":
        arguments = image.tile[0].args
        most = arguments[1] if isinstance(arguments, tuple) and len(arguments) == 2 else 0
        return int(most).bit_length()
    return 16 if image.mode.startswith("I;16") else 8


def _require_file(mode: int) -> None:
    kinds = {stat.S_IFDIR: "folder", stat.S_IFIFO: "pipe", stat.S_IFSOCK: "socket"}
    if not stat.S_ISREG(mode):
        raise PictureError(f"is a {kinds.get(stat.S_IFMT(mode), 'device')}, not a file: move or remove it")


@contextmanager
def _readable() -> Iterator[None]:
    """What Pillow says of a broken picture as a `PictureError`; its plugins raise whatever they come upon."""
    try:
        yield
    except PictureError:
        raise
    except UnidentifiedImageError as error:
        known = ", ".join(FORMATS)
        raise PictureError(f"is not a readable picture ({known}): replace or remove it") from error
    except Image.DecompressionBombError as error:
        raise PictureError(TOO_LARGE) from error
    except MemoryError:
        raise
    except Exception as error:
        raise PictureError(f"is damaged ({error}): replace or remove it") from error
