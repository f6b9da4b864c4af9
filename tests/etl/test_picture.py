"""Each kind of picture becomes exactly the pixels that its rule says, or is refused."""

from __future__ import annotations

import io
import os
import socket
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mlapp.etl import picture
from mlapp.etl.picture import PictureError, Pixels, Recipe
from mlapp.etl.picture_file import orientation_of

SIDE = 4


def chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def png(depth: int, colour: int, rows: list[bytes], *more: bytes, after: tuple[bytes, ...] = ()) -> bytes:
    """A PNG as wide and high as it has rows, from its packed rows."""
    size = len(rows)
    header = struct.pack(">IIBBBBB", size, size, depth, colour, 0, 0, 0)
    pixels = zlib.compress(b"".join(b"\0" + row for row in rows))
    parts = [chunk(b"IHDR", header), *more, chunk(b"IDAT", pixels), *after, chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def saved(image: Image.Image, kind: str = "PNG", **how: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **how)
    return stream.getvalue()


def made(content: bytes, channels: int = 1, side: int = SIDE, background: str = "white") -> Pixels:
    return picture.pixels(content, Recipe(side, side, channels, background))


def exif(orientation: int, order: str = "<", broken: bool = True) -> bytes:
    """A TIFF header with an orientation and, beside it, a rational that lies outside and a folder that is none."""
    mark = b"II*\0" if order == "<" else b"MM\0*"
    entries = [struct.pack(f"{order}HHIHH", 0x0112, 3, 1, orientation, 0)]
    if broken:
        entries = [
            struct.pack(f"{order}HHII", 0x010F, 2, 0x7FFFFFFF, 0xFFFFFFF0),
            *entries,
            struct.pack(f"{order}HHII", 0x011A, 5, 1, 0xFFFFFF),
            struct.pack(f"{order}HHII", 0x8769, 4, 1, 0xFFFFFF),
        ]
    return mark + struct.pack(f"{order}IH", 8, len(entries)) + b"".join(entries) + b"\0" * 4


GREY = [bytes([0, 80, 160, 255])] * SIDE


def test_eight_bits_stay_as_they_are() -> None:
    assert made(png(8, 0, GREY)).values[0].tolist() == [0, 80, 160, 255]
    assert made(png(8, 0, GREY)).converted == ()
    colour = png(8, 2, [bytes(range(12))] * SIDE)
    assert made(colour, 3).values[0].tolist() == [[0, 1, 2], [3, 4, 5], [6, 7, 8], [9, 10, 11]]
    assert picture.has_colour(colour)
    assert not picture.has_colour(png(8, 0, GREY))
    assert made(png(8, 0, GREY), 3).values[0, 1].tolist() == [80, 80, 80]
    assert made(png(8, 0, GREY), 3).converted == ("grey to colour",)


@pytest.mark.parametrize(
    ("depth", "row", "values"),
    [(1, b"\x50", [0, 255, 0, 255]), (2, b"\x1b", [0, 85, 170, 255]), (4, b"\x01\xef", [0, 17, 238, 255])],
)
def test_fewer_bits_are_scaled_to_the_full_range(depth: int, row: bytes, values: list[int]) -> None:
    assert made(png(depth, 0, [row] * SIDE)).values[1].tolist() == values


@pytest.mark.parametrize(
    ("depth", "row", "transparent", "values"),
    [
        (1, b"\x50", 0, [255, 255, 255, 255]),
        (2, b"\x1b", 1, [0, 255, 170, 255]),
        (4, b"\x01\xef", 14, [0, 17, 255, 255]),
        (8, GREY[0], 80, [0, 255, 160, 255]),
        (8, GREY[0], 0x0150, [0, 255, 160, 255]),
    ],
)
def test_a_grey_value_that_is_transparent_shows_the_background(
    depth: int, row: bytes, transparent: int, values: list[int]
) -> None:
    found = made(png(depth, 0, [row] * SIDE, chunk(b"tRNS", struct.pack(">H", transparent))))
    assert found.values[0].tolist() == values
    assert found.converted[-1] == "transparent: composited on white"


def test_a_colour_that_is_transparent_shows_the_background() -> None:
    content = png(8, 2, [bytes(range(12))] * SIDE, chunk(b"tRNS", struct.pack(">HHH", 3, 4, 5)))
    assert made(content, 3).values[0].tolist() == [[0, 1, 2], [255, 255, 255], [6, 7, 8], [9, 10, 11]]
    assert made(content, 3, background="black").values[0, 1].tolist() == [0, 0, 0]


@pytest.mark.parametrize("alphas", [b"\xff\x00", b"\xff\x00\x80"], ids=["one index", "alphas"])
def test_a_palettes_transparent_entries_show_the_background(alphas: bytes) -> None:
    """Black bars on hidden red: what is hidden never shows."""
    palette = chunk(b"PLTE", bytes([0, 0, 0, 255, 0, 0, 0, 0, 100]))
    content = png(8, 3, [bytes([0, 1, 2, 0])] * SIDE, palette, chunk(b"tRNS", alphas))
    found = made(content, 3)
    last = [0, 0, 100] if len(alphas) == 2 else [127, 127, (100 * 128 + 255 * 127 + 127) // 255]
    assert found.values[0].tolist() == [[0, 0, 0], [255, 255, 255], last, [0, 0, 0]]
    assert found.converted == ("palette", "transparent: composited on white")
    assert made(content, 1).values[0, 1] == 255


@pytest.mark.parametrize("background", ["white", "black"])
@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP"])
def test_alpha_is_composited_on_the_background(kind: str, background: str) -> None:
    layers = np.zeros((SIDE, SIDE, 4), np.uint8)
    layers[..., 0] = 200
    layers[:, :, 3] = [0, 1, 128, 255]
    how = {"lossless": True, "exact": True} if kind == "WEBP" else {}
    found = made(saved(Image.fromarray(layers), kind, **how), 3, background=background)
    below = 255 if background == "white" else 0
    expected = [[(c * a + below * (255 - a) + 127) // 255 for c in (200, 0, 0)] for a in (0, 1, 128, 255)]
    assert found.values[2].tolist() == expected
    assert found.converted == (f"transparent: composited on {background}",)


def test_grey_with_alpha_stays_grey() -> None:
    layers = np.dstack([np.full((SIDE, SIDE), 40, np.uint8), np.full((SIDE, SIDE), [0, 255, 255, 51], np.uint8)])
    content = saved(Image.fromarray(layers, "LA"))
    assert not picture.has_colour(content)
    assert made(content).values[0].tolist() == [255, 40, 40, 212]


def test_what_is_opaque_throughout_is_not_reported() -> None:
    assert made(saved(Image.new("RGBA", (SIDE, SIDE), (1, 2, 3, 255))), 3).converted == ()


def test_a_palette_with_alpha_in_tiff() -> None:
    image = Image.new("P", (SIDE, SIDE))
    image.putpalette([10, 20, 30, 40, 50, 60])
    image = image.convert("PA")
    content = saved(image, "TIFF")
    assert made(content, 3).values[0, 0].tolist() == [10, 20, 30]


def test_hidden_colours_do_not_bleed_when_resized() -> None:
    layers = np.zeros((64, 64, 4), np.uint8)  # transparent black, with an opaque white square
    layers[16:48, 16:48] = 255
    assert (made(saved(Image.fromarray(layers)), 3).values == 255).all()


@pytest.mark.parametrize(("mode", "value"), [("CMYK", (0, 0, 0, 0)), ("YCbCr", (255, 128, 128))])
def test_other_colour_spaces_become_rgb(mode: str, value: tuple[int, ...]) -> None:
    kinds = ["TIFF", "JPEG"] if mode == "CMYK" else ["JPEG"]
    for kind in kinds:
        found = made(saved(Image.new(mode, (SIDE, SIDE), value), kind), 3)
        assert found.values[0, 0].tolist() == [255, 255, 255]
        assert found.converted == (("CMYK",) if mode == "CMYK" else ())


def test_an_adobe_cmyk_jpeg_is_not_inverted() -> None:
    content = saved(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), "JPEG")
    assert b"Adobe" in content
    red = made(content, 3, side=16).values[8, 8]
    assert red[0] > 240
    assert max(red[1:]) < 15


DEEP = "bits a channel: save it with 8"


@pytest.mark.parametrize(
    "content",
    [
        png(16, 0, [bytes(2 * SIDE)] * SIDE),
        png(16, 2, [b"\x0f\xff" * 3 * SIDE] * SIDE),
        png(16, 4, [bytes(4 * SIDE)] * SIDE),
        png(16, 6, [bytes(8 * SIDE)] * SIDE),
        saved(Image.new("I;16", (SIDE, SIDE), 999), "TIFF"),
        saved(Image.new("I", (SIDE, SIDE), 70000), "TIFF"),
        saved(Image.new("F", (SIDE, SIDE), 0.5), "TIFF"),
        b"P5 4 4 4095 " + bytes(32),
        b"P6 4 4 65535 " + bytes(96),
        b"P3 4 4 1023 " + b"1000 " * 48,
        b"Pf 4 4 -1.0\n" + bytes(64),
    ],
    ids=["grey", "rgb", "la", "rgba", "tiff-16", "tiff-32", "tiff-float", "pgm", "ppm", "plain-ppm", "pfm"],
)
def test_more_than_8_bits_are_refused_alike(content: bytes) -> None:
    for take in (picture.has_colour, made):
        with pytest.raises(PictureError, match=rf"(\d\d {DEEP}|with 8 bits a channel)"):
            take(content)


def test_16_bit_colour_tiff_and_12_bit_jpeg_are_refused_by_their_header() -> None:
    entries = [(256, 3, 4), (257, 3, 4), (258, 3, 16), (259, 3, 1), (262, 3, 2), (273, 4, 8), (277, 3, 3), (278, 3, 4)]
    entries += [(279, 4, 96)]
    ifd = struct.pack("<H", len(entries)) + b"".join(struct.pack("<HHII", tag, kind, 1, v) for tag, kind, v in entries)
    content = b"II*\0" + struct.pack("<I", 104) + bytes(96) + ifd + bytes(4)
    with pytest.raises(PictureError, match=f"16 {DEEP}"):
        made(content, 3)
    jpeg = bytearray(saved(Image.new("L", (SIDE, SIDE)), "JPEG"))
    jpeg[jpeg.index(b"\xff\xc0") + 4] = 12
    with pytest.raises(PictureError, match=f"12 {DEEP}"):
        made(bytes(jpeg))


def test_signed_tiff_is_refused() -> None:
    entries = [(256, 3, 4), (257, 3, 4), (258, 3, 8), (259, 3, 1), (262, 3, 1), (273, 4, 8), (277, 3, 1), (278, 3, 4)]
    entries += [(279, 4, 16), (339, 3, 2)]
    ifd = struct.pack("<H", len(entries)) + b"".join(struct.pack("<HHII", tag, kind, 1, v) for tag, kind, v in entries)
    with pytest.raises(PictureError, match="signed or float values"):
        made(b"II*\0" + struct.pack("<I", 24) + bytes(16) + ifd + bytes(4))


UPRIGHT = np.arange(16, dtype=np.uint8).reshape(4, 4) * 16
AS_STORED = {  # what a camera stores for each orientation, by EXIF's standard
    1: UPRIGHT,
    2: UPRIGHT[:, ::-1],
    3: UPRIGHT[::-1, ::-1],
    4: UPRIGHT[::-1],
    5: UPRIGHT.T,
    6: np.rot90(UPRIGHT, 1),
    7: UPRIGHT[::-1, ::-1].T,
    8: np.rot90(UPRIGHT, -1),
}


@pytest.mark.parametrize("broken", [False, True])
@pytest.mark.parametrize("orientation", AS_STORED)
def test_every_orientation_is_turned_upright_whatever_else_is_broken(orientation: int, broken: bool) -> None:
    stored = Image.fromarray(np.ascontiguousarray(AS_STORED[orientation]))
    data = exif(orientation, ">" if orientation % 2 else "<", broken)
    content = saved(stored)
    place = content.index(b"IDAT") - 4
    with_exif = content[:place] + chunk(b"eXIf", data) + content[place:]
    found = made(with_exif)
    assert found.values.tolist() == UPRIGHT.tolist()
    assert found.converted == (("turned upright",) if orientation > 1 else ())

    large = stored.resize((64, 64), Image.Resampling.NEAREST)
    jpeg = saved(large, "JPEG", quality=100)
    segment = b"\xff\xe1" + struct.pack(">H", len(data) + 8) + b"Exif\0\0" + data
    turned = made(jpeg[:2] + segment + jpeg[2:], side=64)
    np.testing.assert_allclose(turned.values, UPRIGHT.repeat(16, 0).repeat(16, 1), atol=12)
    webp = saved(stored.convert("RGB"), "WEBP", lossless=True, exif=b"Exif\0\0" + data)
    assert made(webp, 3).values[..., 0].tolist() == UPRIGHT.tolist()


def _tiff(orientation: int, stored: np.ndarray) -> bytes:
    """A TIFF whose EXIF folder lies outside of the file and whose resolution is divided by zero."""
    side = len(stored)
    entries = [
        (256, 3, side),
        (257, 3, side),
        (258, 3, 8),
        (259, 3, 1),
        (262, 3, 1),
        (273, 4, 8),
        (274, 3, orientation),
    ]
    entries += [(277, 3, 1), (278, 3, side), (279, 4, side * side), (282, 5, 0), (34665, 4, 0xFFFFFF)]
    ifd = struct.pack("<H", len(entries)) + b"".join(struct.pack("<HHII", tag, kind, 1, v) for tag, kind, v in entries)
    return b"II*\0" + struct.pack("<I", 8 + side * side) + stored.tobytes() + ifd + bytes(4)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("orientation", AS_STORED)
def test_a_tiff_is_turned_upright_once_whatever_else_is_broken(orientation: int) -> None:
    found = made(_tiff(orientation, AS_STORED[orientation]))
    assert found.values.tolist() == UPRIGHT.tolist()
    assert ("turned upright" in found.converted) == (orientation > 1)


@pytest.mark.parametrize(
    "data",
    [b"", b"II*\0", b"MM\0*\0\0\0\x08\xff\xff", exif(9, broken=False), exif(0, broken=False), b"Exif\0\0II*\0\xff"],
)
def test_an_orientation_that_cannot_be_read_is_upright(data: bytes) -> None:
    assert orientation_of(data) == 1


@pytest.mark.parametrize(
    "bad",
    [
        chunk(b"iCCP", b"x\0\0" + b"no zlib"),
        chunk(b"iCCP", b"x\0\x07"),
        chunk(b"zTXt", b"k\0\x09zzz"),
        chunk(b"zTXt", b"k\0\0" + zlib.compress(bytes(80_000_000))),
        chunk(b"tEXt", b""),
        chunk(b"iTXt", b"\xff" * 9),
        chunk(b"pHYs", b"\0"),
        chunk(b"sRGB", b""),
        chunk(b"gAMA", b"\0"),
        chunk(b"tIME", b"\xff")[:-4] + b"bad!",
        chunk(b"acTL", b"\0"),
        chunk(b"fcTL", b"\0" * 3),
    ],
    ids=lambda content: content[4:8].decode(),
)
def test_bad_metadata_costs_no_png(bad: bytes) -> None:
    assert made(png(8, 0, GREY, bad, after=(bad,))).values[0].tolist() == [0, 80, 160, 255]


@pytest.mark.parametrize("marker", [0xE0, 0xE1, 0xE2, 0xED, 0xEE, 0xFE])
@pytest.mark.parametrize(
    "data",
    [b"", b"Exif\0\0", b"Exif\0\0" + b"\xff" * 30, b"ICC_PROFILE\0\x09\x09x", b"MPF\0" + b"\xff" * 9, b"Photoshop"],
)
def test_bad_metadata_costs_no_jpeg(marker: int, data: bytes) -> None:
    jpeg = saved(Image.new("L", (SIDE, SIDE), 90), "JPEG")
    segment = bytes([0xFF, marker]) + struct.pack(">H", len(data) + 2) + data
    assert abs(int(made(jpeg[:2] + segment + jpeg[2:]).values[0, 0]) - 90) <= 1


@pytest.mark.parametrize("kind", ["GIF", "TIFF", "WEBP", "PNG", "MPO"])
def test_the_first_of_several_frames_is_taken_and_reported(kind: str) -> None:
    frames = [Image.new("L", (SIDE, SIDE), value) for value in (30, 200, 90)]
    how = {"lossless": True} if kind == "WEBP" else {}
    found = made(saved(frames[0], kind, save_all=True, append_images=frames[1:], **how))
    assert abs(int(found.values[0, 0]) - 30) <= 1
    assert "first of several frames" in found.converted


def test_more_alphas_than_a_palette_can_have_are_ignored() -> None:
    palette = chunk(b"PLTE", bytes([0, 0, 0, 255, 0, 0, 0, 0, 100] + [9] * 759))
    content = png(8, 3, [bytes([0, 1, 2, 0])] * SIDE, palette, chunk(b"tRNS", b"\xff\0" + b"\xfe" * 300))
    assert made(content, 3).values[0].tolist() == [[0, 0, 0], [255, 255, 255], [1, 1, 101], [0, 0, 0]]


def test_a_palette_picture_without_its_palette_is_refused() -> None:
    with pytest.raises(PictureError, match="its palette is missing"):
        made(png(8, 3, GREY), 3)


@pytest.mark.parametrize("how", [{}, {"subsampling": 0}, {"optimize": True}, {"restart_marker_blocks": 3}])
def test_a_jpeg_cut_short_is_refused_although_its_end_marker_was_written_again(how: dict[str, object]) -> None:
    """The decoder alone fills the missing part with grey and says nothing."""
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    whole = saved(Image.fromarray(noise), "JPEG", **how)
    expected = np.asarray(Image.open(io.BytesIO(whole)))
    for content in (whole, whole + b"after the end", whole[:-2] + bytes(228) + whole[-2:]):
        assert np.array_equal(made(content, 3, side=64).values, expected)
    for share in (0.3, 0.6, 0.95):
        with pytest.raises(PictureError, match="truncated"):
            made(whole[: int(share * len(whole))].rstrip(b"\xff") + b"\xff\xd9", 3, side=64)


def test_a_cmyk_jpeg_that_does_not_say_whether_it_is_inverted_is_refused() -> None:
    content = saved(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), "JPEG")
    place = content.index(b"\xff\xee")
    bare = content[:place] + content[place + 16 :]
    with pytest.raises(PictureError, match="CMYK values without Adobe's marker"):
        made(bare, 3)


def test_a_gif_whose_first_frame_leaves_a_border_is_refused_unless_it_is_transparent() -> None:
    image = Image.new("P", (SIDE, SIDE), 1)
    image.putpalette([0, 0, 0, 255, 0, 0, 10, 20, 30])
    for transparent in (False, True):
        how = {"transparency": 0} if transparent else {}
        content = bytearray(saved(image, "GIF", optimize=False, **how))
        content[6:10] = struct.pack("<HH", SIDE + 1, SIDE)
        if transparent:
            values = picture.pixels(bytes(content), Recipe(SIDE, SIDE + 1, 3)).values
            assert values[0].tolist() == [[255, 0, 0]] * SIDE + [[255, 255, 255]]
        else:
            with pytest.raises(PictureError, match="first frame that does not cover it"):
                made(bytes(content), 3)


@pytest.mark.parametrize("kind", picture.FORMATS)
def test_what_ends_too_early_is_refused(kind: str) -> None:
    noise = np.random.default_rng(0).integers(0, 255, (64, 64), dtype=np.uint8)
    content = saved(Image.fromarray(noise), kind)
    for share in (0.02, 0.3, 0.6, 0.95):
        with pytest.raises(PictureError):
            made(content[: int(share * len(content))], side=64)


@pytest.mark.parametrize(
    "content", [png(8, 0, []), b"P5 0 4 255\n", b"P6 4 0 255\n", b"GIF89a" + bytes(20), b"\xff\xd8\xff"]
)
def test_a_picture_of_no_pixels_is_refused(content: bytes) -> None:
    for take in (picture.has_colour, made):
        with pytest.raises(PictureError):
            take(content)


def test_a_gifs_transparent_index_shows_the_background() -> None:
    image = Image.new("P", (SIDE, SIDE))
    image.putpalette([0, 0, 0, 255, 0, 0, 10, 20, 30])
    image.putdata([0, 1, 2, 0] * SIDE)
    found = made(saved(image, "GIF", transparency=1), 3)
    assert found.values[0].tolist() == [[0, 0, 0], [255, 255, 255], [10, 20, 30], [0, 0, 0]]


def test_a_png_that_was_altered_or_has_no_end_is_refused() -> None:
    content = png(8, 0, GREY)
    spoiled = content.replace(b"IDAT", b"IDAT", 1)
    place = spoiled.index(b"IDAT") + 6
    with pytest.raises(PictureError, match="checksum is wrong"):
        made(spoiled[:place] + bytes([spoiled[place] ^ 1]) + spoiled[place + 1 :])
    with pytest.raises(PictureError, match="is truncated"):
        made(content[:-12])


def test_bombs_are_refused_by_their_header() -> None:
    for kind in ("PNG", "GIF", "TIFF", "BMP"):
        content = saved(Image.new("1", (9000, 9000)), kind)
        for take in (picture.has_colour, made):
            with pytest.raises(PictureError, match="more than 40,000,000 pixels: make it smaller"):
                take(content)


def test_what_is_no_file_is_named_and_never_waited_on(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "nowhere").symlink_to(tmp_path / "gone")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    (tmp_path / "folder").mkdir()
    (tmp_path / "to-folder").symlink_to(tmp_path / "folder")
    (tmp_path / "empty").touch()
    (tmp_path / "device").symlink_to("/dev/zero")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "socket"))
    (tmp_path / "large").touch()
    os.truncate(tmp_path / "large", 200_000_001)
    gist = {
        "pipe": "is a pipe",
        "nowhere": "leads nowhere",
        "loop": "leads nowhere",
        "folder": "is a folder",
        "to-folder": "is a folder",
        "empty": "is empty",
        "device": "is a device",
        "socket": "is a socket",
        "gone": "cannot be read",
        "large": "200,000,001 bytes, over 200,000,000",
    }
    for name, line in gist.items():
        with pytest.raises(PictureError, match=line):
            picture.read(tmp_path / name)
    (tmp_path / "good").write_bytes(b"x")
    (tmp_path / "to-good").symlink_to(tmp_path / "good")
    assert picture.read(tmp_path / "to-good") == b"x"


def test_it_needs_no_tensorflow() -> None:
    code = "import sys, mlapp.etl.picture; sys.exit('tensorflow' in sys.modules or 'mlapp.schema' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
