"""Which pictures a folder holds, and of which class: ``train/<class>/*`` with ``test/<class>/*``, or ``<class>/*``.

Files that systems leave behind, and files whose names say that they are not pictures, are skipped and counted.
Whatever else cannot be a picture of a class is named.
"""

from __future__ import annotations

import os
import unicodedata
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from mlapp import schema
from mlapp.errors import UserError, first_few
from mlapp.etl.raw_data import Part

EXPECTED = "expected <class>/<picture>, or train/<class>/<picture> with test/<class>/<picture>"
SYSTEM = {
    ".ds_store",
    "thumbs.db",
    "ehthumbs.db",
    "desktop.ini",
    "__macosx",
    "@eadir",
    "$recycle.bin",
    "lost+found",
    "icon\r",
    "readme",
    "license",
}
PICTURES = {
    *(".avif", ".bmp", ".gif", ".heic", ".heif", ".jfif", ".jpe", ".jpeg", ".jpg", ".pbm", ".pgm", ".png"),
    *(".pnm", ".ppm", ".tif", ".tiff", ".webp"),
}
NO_PICTURES = {
    *(".csv", ".tsv", ".txt", ".json", ".jsonl", ".xml", ".yaml", ".yml", ".md", ".rst", ".html", ".htm"),
    *(".ini", ".cfg", ".toml", ".log", ".xmp", ".aae", ".py", ".ipynb", ".sh", ".bat", ".pdf", ".doc", ".docx", ".xls"),
    *(".xlsx", ".zip", ".tar", ".gz", ".tgz", ".rar", ".7z", ".npy", ".npz", ".pkl", ".parquet", ".mat"),
    *(".h5", ".db", ".sqlite", ".url", ".lnk", ".md5", ".sha256", ".torrent", ".part", ".tmp", ".bak"),
}
SPLITS = {"train", "training", "test", "testing", "val", "valid", "validation", "dev", "eval", "holdout"}
SHOWN = 6
NO_FILE = "leads nowhere or is not a file: correct or remove it"


class Picture(NamedTuple):
    """A file to read, and its label."""

    path: Path
    label: int


class Folders(NamedTuple):
    """The pictures of each part in the order of classes and names, what was skipped by kind, and what cannot be."""

    parts: dict[Part, list[Picture]]
    classes: tuple[str, ...]
    skipped: dict[str, int]
    bad: dict[Path, str]


class _Listing(NamedTuple):
    folders: dict[str, Path]
    files: list[Path]


class _Walk:
    """Looks into folders, and keeps count of what is skipped and what is bad."""

    def __init__(self) -> None:
        self.skipped: Counter[str] = Counter()
        self.bad: dict[Path, str] = {}

    def listing(self, place: Path) -> _Listing:
        found = _Listing({}, [])
        try:
            paths = sorted(place.iterdir())
        except OSError as error:
            self.bad[place] = f"cannot be listed ({error.strerror}): make it readable or remove it"
            return found
        for path in paths:
            if path.name.startswith(".") or path.name.lower() in SYSTEM:
                self.skipped[path.name if path.name.lower() in SYSTEM else "hidden files"] += 1
            elif os.path.isdir(path):  # unlike pathlib's, it answers of what cannot be looked at too
                name = unicodedata.normalize("NFC", path.name)  # macOS writes é as two characters, others as one
                if name in found.folders:
                    self.bad[path] = "has the name of the folder beside it in other Unicode characters: merge them"
                found.folders[name] = path
            elif os.path.isfile(path) and path.suffix.lower() in NO_PICTURES:
                self.skipped[path.suffix.lower()] += 1
            else:
                found.files.append(path)
        return found

    def beside_folders(self, files: list[Path]) -> None:
        """Files where class folders are: a README is skipped; a picture, or what is not a file, is misplaced."""
        for path in files:
            if not os.path.isfile(path):
                self.bad[path] = NO_FILE
            elif path.suffix.lower() in PICTURES:
                self.bad[path] = "is a picture outside the class folders: move it into one"
            else:
                self.skipped[path.suffix.lower() or "files without an ending, beside the class folders"] += 1


def find(root: Path, wanted: tuple[str, ...] | None) -> Folders:
    """The pictures under ``root``; a `UserError` says what was found where no class folders were."""
    walk = _Walk()
    try:
        places = _parts(root, walk)
        listings = {part: walk.listing(place) for part, place in places.items()}
        for listing in listings.values():
            walk.beside_folders(listing.files)
        classes = _class_names(root, places, listings, wanted)
    except UserError:
        if not walk.bad:
            raise
        return Folders({}, (), {}, walk.bad)  # a link that leads nowhere may be the class that is missing
    parts: dict[Part, list[Picture]] = {}
    for part, listing in listings.items():
        pictures = []
        for label, name in enumerate(classes):
            if name in listing.folders:
                inside = walk.listing(listing.folders[name])
                walk.bad |= dict.fromkeys(inside.folders.values(), "is a folder inside a class: move its pictures up")
                pictures += [Picture(path, label) for path in inside.files]
        parts[part] = pictures
    _require_pictures(parts, places, classes, walk)
    return Folders(parts, classes, dict(sorted(walk.skipped.items())), walk.bad)


def seen(place: Path) -> str:
    """What a folder holds, in a few words."""
    names = sorted(f"{path.name}/" if os.path.isdir(path) else path.name for path in place.iterdir())
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return f"{place} holds {', '.join(names[:SHOWN]) or 'nothing'}{more}"


def _parts(root: Path, walk: _Walk) -> dict[Part, Path]:
    top = walk.listing(root)
    walk.bad |= dict.fromkeys((path for path in top.files if not os.path.isfile(path)), NO_FILE)
    inner = {name: _Walk().listing(path) for name, path in top.folders.items()}
    splits = {name for name in inner if name.lower() in SPLITS}
    if not any(inner[name].folders for name in splits) and (not splits or splits != set(inner)):
        name, inside = next(iter(inner.items()), ("", _Listing({}, [])))
        holds_idx = len(inner) == 1 and any("ubyte" in path.name for path in top.folders[name].iterdir())
        if len(inner) == 1 and (holds_idx or (inside.folders and not inside.files)):
            raise UserError(f"{seen(root)}, one folder around all: give {root / name} as data.source")
        if inner and all(inside.folders and not inside.files for inside in inner.values()):
            raise UserError(f"{seen(root)}, which hold folders and no pictures; {EXPECTED}: rename or move the folders")
        walk.skipped.clear()  # `find` lists the same place again
        return {"train": root}
    if "train" in splits and not (strays := sorted(set(inner) - {"train", "test"})):
        walk.beside_folders(top.files)
        present: tuple[Part, ...] = ("train", "test") if "test" in inner else ("train",)
        return {part: top.folders[part] for part in present}
    if "train" in splits:
        kinds = {name.lower() for name in strays}
        cure = (
            "merge validation images into train, from which validation is split off"
            if kinds <= SPLITS
            else "move them away"
        )
        cure = "rename the test set to test" if kinds & {"test", "testing"} else cure
        raise UserError(
            f"{root} holds {first_few(strays)} beside train ({seen(root)}): only train and test are read; {cure}"
        )
    raise UserError(f"{seen(root)}; {EXPECTED}: rename the folders (train, test), or move them")


def _class_names(
    root: Path, places: dict[Part, Path], listings: dict[Part, _Listing], wanted: tuple[str, ...] | None
) -> tuple[str, ...]:
    names = tuple(sorted(listings["train"].folders))
    _require_labels(names, places["train"])
    if not 2 <= len(names) <= 256:
        raise UserError(
            f"{places['train']} holds {len(names)} class folders, there must be 2 to 256: "
            f"{seen(places['train'])}; {EXPECTED}"
        )
    if wanted is not None and set(wanted) != set(names):
        raise UserError(
            f"data.classes ({', '.join(wanted)}) are not the class folders of {root} ({', '.join(names)}): "
            f"make them the same, or leave data.classes unset"
        )
    for part, listing in listings.items():
        if strays := sorted(set(listing.folders) - set(names)):
            raise UserError(
                f"{places[part]} holds classes without training images ({first_few(map(repr, strays))}), whose classes "
                f"are {first_few(names)}: add training images, or rename or remove the folders"
            )
    return wanted or names


def _require_labels(names: tuple[str, ...], place: Path) -> None:
    wrong = []
    for name in names:
        try:
            schema.label(name)
        except ValueError as error:
            wrong.append(str(error))
    if wrong:
        raise UserError(f"{place}: {first_few(wrong, '; ')}; rename the class folders")


def _require_pictures(
    parts: dict[Part, list[Picture]], places: dict[Part, Path], classes: tuple[str, ...], walk: _Walk
) -> None:
    """Every class has pictures to train on and a test set has some, unless what lies there is named as bad anyway."""
    if walk.bad:
        return
    present = {picture.label for picture in parts["train"]}
    skipped = first_few(f"{count:,} {kind}" for kind, count in sorted(walk.skipped.items()))
    cure = f"{f' (skipped by their names: {skipped})' * bool(skipped)}: add some, or remove the folder"
    if empty := [name for label, name in enumerate(classes) if label not in present]:
        raise UserError(f"{places['train']} has no picture of {first_few(empty)}{cure}")
    if not parts.get("test", True):
        raise UserError(f"{places['test']} has no picture{cure}")
