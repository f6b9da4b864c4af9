"""Spoil every kind of file that comes from outside, and count what is not refused in one line."""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import random
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from mlapp import cluster, config, storage
from mlapp.configure import read_conf, resolve
from mlapp.errors import UserError
from mlapp.etl import idx, image_folder
from mlapp.etl.unpack import unpack
from mlapp.policy import POLICIES, policy_of
from mlapp.registry import history
from mlapp.registry.bundle import Manifest, verify
from mlapp.result import StageResult
from mlapp.schema_policy import Vetting

Take = Callable[[bytes, Path], object]
IDX = struct.pack(">HBBIII", 0, 8, 3, 6, 4, 4) + bytes(range(96))
LABELS = b"[]"
FILE = {"sha256": hashlib.sha256(LABELS).hexdigest(), "bytes": len(LABELS)}
MANIFEST: dict[str, Any] = {
    "name": "m",
    "files": {"labels.json": FILE},
    "model": "labels.json",
    "predecessor": None,
    "created": "2026-08-26",
    "data": {"name": "fashion_mnist"},
    "stages": {"train": {"key": "k"}},
}
RESULT = {
    "stage": "train",
    "key": "k",
    "headline": "h",
    "config": {"epochs": 3},
    "inputs": {"data": "gs://b/d"},
    "artifacts": {"labels": {"uri": "labels.json", **FILE}},
    "metrics": {"accuracy": {"value": 0.9, "n": 10, "low": 0.8, "high": 1.0}},
    "timings": {"wall_s": 1.0},
    "environment": {"python": "3.11"},
    "finished": "2026-08-26T00:00:00+00:00",
    "hops": [{"place": "local", "outcome": "ran"}],
}
LINES = history.appended(history.appended("", {"champion": "0" * 12}), {"champion": "1" * 12})


@dataclass(frozen=True)
class Spoiled:
    """One input, and what was wrong with the answer; empty where it was refused, or taken for what it still is."""

    kind: str
    wrong: str


def _png() -> bytes:
    return _picture("PNG")


def _picture(kind: str, mode: str = "L", **how: Any) -> bytes:
    made = io.BytesIO()
    Image.new(mode, (9, 7), 128).save(made, kind, **how)
    return made.getvalue()


def _turned() -> bytes:
    """A JPEG with EXIF: an orientation and a resolution."""
    exif = Image.Exif()
    exif[0x0112], exif[0x011A] = 6, 72.0
    return _picture("JPEG", exif=exif.tobytes())


def _idx(content: bytes, folder: Path) -> None:
    idx.open_idx(unpack(io.BytesIO(content), "images", folder, "images", 10_000).path)


def _image(content: bytes, folder: Path) -> None:
    for name in ("a", "b"):
        (folder / "root" / name).mkdir(parents=True)
        (folder / "root" / name / "1.png").write_bytes(_png())
    (folder / "root" / "a" / "2.png").write_bytes(content)
    (folder / "out").mkdir()
    image_folder.to_idx(folder / "root", folder / "out", 8, None, 10_000)


def _written(content: bytes, path: Path) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return str(path)


def _bundle(content: bytes, folder: Path) -> None:
    place = folder / "m" / Manifest(**MANIFEST).id
    _written(content, place / "manifest.json")
    _written(LABELS, place / "labels.json")
    verify(storage.at(place))


def _result(content: bytes, folder: Path) -> None:
    _written(LABELS, folder / "labels.json")
    if damage := StageResult.load(_written(content, folder / "result.json")).damage():
        raise UserError(damage)


def _text(content: bytes) -> str:
    return content.decode(errors="replace")


# By kind: something sound to spoil, and who reads it.
KINDS: dict[str, tuple[bytes, Take]] = {
    "IDX file": (IDX, _idx),
    "gzipped IDX file": (gzip.compress(IDX), _idx),
    "image": (_png(), _image),
    "palette PNG": (_picture("PNG", "P", transparency=128), _image),
    "animated PNG": (_picture("PNG", save_all=True, append_images=[Image.new("L", (9, 7))]), _image),
    "JPEG": (_turned(), _image),
    "GIF": (_picture("GIF", save_all=True, append_images=[Image.new("L", (9, 7))]), _image),
    "TIFF": (_picture("TIFF", "RGBA", compression="tiff_lzw"), _image),
    "WebP": (_picture("WEBP", "RGB"), _image),
    "PPM": (_picture("PPM"), _image),
    "preset": (
        b"training: {epochs: 3}\n",
        lambda content, folder: config.load(_written(content, folder / "p.yaml"), {}, {}),
    ),
    "policy": (
        (POLICIES / "standard.yaml").read_bytes(),
        lambda content, folder: policy_of(Vetting(policy=_written(content, folder / "p.yaml"))),
    ),
    "conf": (
        b'{"preset": "smoke", "training.epochs": 3, "transform": {"limit": 100}}',
        lambda content, _: resolve("smoke", read_conf(_text(content))),
    ),
    "override": (
        b"training.epochs=3",
        lambda content, _: config.load("smoke", config.parse_overrides([_text(content)]), {}),
    ),
    "result.json": (json.dumps(RESULT).encode(), _result),
    "manifest": (json.dumps(MANIFEST).encode(), _bundle),
    "history": (LINES.encode(), lambda content, _: history.moves(_text(content), "HISTORY.jsonl")),
    "TF_CONFIG": (
        b'{"cluster": {"worker": ["a:1", "b:2"]}, "task": {"type": "worker", "index": 0}}',
        lambda content, _: cluster.read({"TF_CONFIG": _text(content)}),
    ),
}


def spoiled(folder: Path, of_each: int, seed: int) -> Iterator[Spoiled]:
    """``of_each`` spoiled inputs of every kind, read in a folder of their own beside which nothing may appear."""
    draw = random.Random(seed)
    for kind, (sound, take) in KINDS.items():
        (folder / kind).mkdir(parents=True)
        take(sound, folder / kind)  # what is refused as it is would tell nothing
        for number in range(of_each):
            place = folder / f"{kind}-{number}" / "inside"
            place.mkdir(parents=True)
            yield Spoiled(kind, _answer(_spoil(sound, draw), place, take))


def _answer(content: bytes, place: Path, take: Take) -> str:
    try:
        with storage.explained():  # as under every command
            take(content, place)
    except UserError as error:
        if "\n" in str(error):
            return f"more than one line: {error}"
    except Exception as error:
        return f"{type(error).__name__}: {error} of {content[:80]!r}"
    outside = [path.name for path in place.parent.iterdir() if path != place]
    return f"written outside: {outside}" if outside else ""


def _spoil(sound: bytes, draw: random.Random) -> bytes:
    """Change, cut, double, nest or replace some of the bytes, once or more."""
    content = bytearray(sound)
    for _ in range(draw.choice([1, 1, 2, 5])):
        start = draw.randrange(len(content) + 1)
        end = min(len(content), start + draw.choice([1, 1, 4, 20]))
        match draw.choice(["byte", "cut", "drop", "double", "token", "noise", "deep"]):
            case "byte":
                content[start:end] = bytes([draw.randrange(256)])
            case "cut":
                del content[start:]
            case "drop":
                del content[start:end]
            case "double":
                content[start:start] = content[start:end]
            case "token":
                content[start:end] = draw.choice(TOKENS)
            case "noise":
                content[start:end] = draw.randbytes(draw.randrange(40))
            case "deep":
                content[start:end] = draw.choice([b"[", b'{"a":', b"- "]) * 20_000
    return bytes(content)


TOKENS = [
    *(
        b"../../etc/passwd",
        b"/dev/null",
        b"null",
        b"NaN",
        b"-1",
        b"1e999",
        b'""',
        b"{}",
        b"[]",
        b"&a [*a]",
        b"!!python/name:os.system",
    ),
    *(b"\xff\xff\xff\xff", b"\x00", b"$(touch x)", b"`id`", b"\r\n", b"\xe2\x80\xae", b"__class__", b"9" * 400),
]
