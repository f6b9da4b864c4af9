"""Where a data set can come from: what a folder or an address holds, and its IDX files brought to the raw area."""

from __future__ import annotations

import hashlib
import logging
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple, get_args

from upath import UPath

from mlapp import storage
from mlapp.errors import TryAgainError, UserError, first_few
from mlapp.etl import class_folders, debian_package, fashion_mnist, image_folder, picture
from mlapp.etl.download import MissingFileError, download
from mlapp.etl.raw_data import Part
from mlapp.etl.unpack import unpack
from mlapp.schema import Data, IdxName
from mlapp.storage import Written

log = logging.getLogger("mlapp")
IDX_NAMES: tuple[IdxName, ...] = get_args(IdxName)
IDX_FILE = re.compile(r"(train|t10k|test)-(images|labels)[-.]idx[1-4]-ubyte(\.gz)?")
ARCHIVE = re.compile(r"\.(zip|tar|tgz|7z|rar|npz|npy|tar\.\w+)$", re.IGNORECASE)
LIKE_IDX = re.compile(r"(images|labels).*idx[1-4]|idx[1-4].*ubyte", re.IGNORECASE)


class Source(NamedTuple):
    """A place that may hold the data set; ``provide`` makes it a readable folder, with scratch space at hand."""

    label: str
    provide: Callable[[Path], UPath]


class Brought(NamedTuple):
    """Decompressed IDX files by name; of class folders also the classes, how pictures were read, and their names."""

    files: dict[IdxName, Written]
    classes: tuple[str, ...] | None = None
    pictures: dict[str, Any] | None = None
    names: dict[Part, list[str]] | None = None


def known_sources(data: Data) -> list[Source]:
    """The sources to try, in order: just the user's own where one is given."""
    if data.source is not None:
        return [Source(data.source, lambda scratch: _users_own(str(data.source), scratch, data))]
    if data.name != fashion_mnist.NAME:
        raise UserError(f"no source is known for data.name={data.name}: give data.source, a folder or an address")
    system, url, package = fashion_mnist.SYSTEM_FOLDER, fashion_mnist.OFFICIAL_URL, fashion_mnist.DEBIAN_PACKAGE
    return [
        Source(f"the system data set {system}", lambda scratch: existing_folder(system)),
        Source(f"the official address {url}", lambda scratch: _from_http(url, scratch, data)),
        Source(
            f"Debian's package {package}",
            lambda scratch: existing_folder(f"{debian_package.fetch(package, scratch)}{system}"),
        ),
    ]


def bring(folder: UPath, scratch: Path, target: Path, data: Data) -> Brought:
    """Put the IDX files of ``folder`` into ``target`` decompressed, made from class folders where it holds those."""
    found = _idx_files(folder)
    if not found:
        _require_class_folders(folder)
        here = storage.is_local(folder)
        local = Path(folder.path) if here else _copied(folder, scratch / "images")
        made = image_folder.to_idx(
            *(local, target, data.image_size, data.classes, data.max_decoded_bytes, data.background),
            origin=None if here else str(folder),
        )
        return Brought(*made)
    if folders := sorted(path.name for path in folder.iterdir() if path.is_dir() and not LIKE_IDX.search(path.name)):
        log.warning("%s: its IDX files are read, its folders (%s) are not", folder, ", ".join(folders[:6]))
    files: dict[IdxName, Written] = {}
    faults = []
    for name in _wanted(folder, set(found)):
        try:
            with found[name].open("rb") as stream:
                files[name] = unpack(stream, str(found[name]), target, name, data.max_decoded_bytes)
        except UserError as error:
            faults.append(str(error))
    if faults:
        raise UserError("; ".join(faults))
    return Brought(files)


def _require_class_folders(folder: UPath) -> None:
    names = sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))
    if nested := [name for name in names if IDX_FILE.fullmatch(name) and (folder / name).is_dir()]:
        raise UserError(
            f"{folder} holds folders named like IDX files ({', '.join(nested)}): move the files in them into one folder"
        )
    packed = [name for name in names if ARCHIVE.search(name)]
    like = [name for name in names if LIKE_IDX.search(name) and name not in packed and (folder / name).is_file()]
    if like:
        expected = "train-images-idx3-ubyte, train-labels-idx1-ubyte, t10k-images-… and t10k-labels-…"
        transposed = "; EMNIST's images are stored transposed, so transpose them too" * ("emnist" in like[0].lower())
        raise UserError(
            f"{folder} holds IDX files by other names ({first_few(like)}): rename them to {expected}{transposed}"
        )
    if not any((folder / name).is_dir() for name in names):
        cure = f"unpack or convert {first_few(packed)}" if packed else "check data.source"
        raise UserError(
            f"{folder} holds neither IDX files (train-images-idx3-ubyte.gz, …) nor class folders "
            f"({class_folders.EXPECTED}); it holds {first_few(names) or 'nothing'}: {cure}"
        )


def _copied(folder: UPath, local: Path) -> Path:
    """Class folders of a store, fetched; refused before that where a name leads out or the disk would not hold them."""
    sizes = {str(name): int(info["size"]) for name, info in folder.fs.find(folder.path, detail=True).items()}
    root = str(folder.path).rstrip("/") + "/"
    names = {name: name.removeprefix(root) for name in sizes}
    targets = {name: inside for name, inside in names.items() if not name.endswith("/")}
    if odd := [name for name, inside in names.items() if {"", ".", "..", "/"} & {*PurePosixPath(inside).parts}]:
        raise UserError(f"{folder} holds an object named {odd[0]!r}, which would lead out of the folder: rename it")
    if large := [name for name in targets if sizes[name] > picture.MOST_BYTES]:
        raise UserError(
            f"{len(large):,} objects are over {picture.MOST_BYTES:,} bytes ({first_few(large)}): make them smaller"
        )
    needed, free = sum(sizes.values()), shutil.disk_usage(local.parent).free
    if needed > free:
        raise UserError(
            f"{folder} holds {needed:,} bytes, but {local.parent} has room for {free:,}: free some disk space"
        )
    for name in ("", *sizes.keys() - targets.keys()):  # an object "bird/" stands for a folder, which may be empty
        (local / names.get(name, "")).mkdir(parents=True, exist_ok=True)
    folder.fs.get([*targets], [f"{local}/{inside}" for inside in targets.values()])
    return local


def existing_folder(uri: str) -> UPath:
    """The folder behind a URI; a `UserError` where there is none or it cannot be reached."""
    try:
        folder = storage.at(os.path.expanduser(uri) if uri.startswith("~") else uri)
        with storage.explained():
            exists, is_folder = folder.exists(), folder.is_dir()
    except (UserError, TryAgainError):
        raise
    # Every kind of remote storage has exceptions of its own: not installed, no credentials, no such bucket, no network.
    except Exception as error:
        raise UserError(f"cannot look into {uri} ({' '.join(str(error).split())}): check address and access") from error
    if not exists:
        raise storage.missing(folder, f"there is nothing at {uri}: check the path")
    if not is_folder:
        raise UserError(f"{uri} is a file: give the folder that holds the IDX files or the class folders")
    return folder


def is_http(uri: str) -> bool:
    """Whether the source is an address, which can be asked for files but lists none."""
    return uri.startswith(("http://", "https://"))


def usual_addresses(url: str, name: IdxName) -> list[str]:
    """Where an IDX file may be under an address, the likeliest first."""
    dimensions = "1" if name.endswith("labels") else "34"
    return [f"{url.rstrip('/')}/{name}-idx{count}-ubyte{suffix}" for count in dimensions for suffix in (".gz", "")]


def _users_own(uri: str, scratch: Path, data: Data) -> UPath:
    return _from_http(uri, scratch, data) if is_http(uri) else existing_folder(uri)


def _from_http(url: str, scratch: Path, data: Data) -> UPath:
    """Download the IDX files under an address, by their usual names since nothing can be listed there."""
    folder = scratch / hashlib.sha256(url.encode()).hexdigest()[:12]
    for name in IDX_NAMES:
        addresses = usual_addresses(url, name)
        if not any(_downloaded(file, folder / file.rpartition("/")[2], data) for file in addresses):
            log.info("%s has no %s", url, name)
    if not any(folder.glob("*")):
        raise UserError(f"none of the IDX files ({', '.join(IDX_NAMES)}) is at {url}: check the address")
    return storage.at(folder)


def _downloaded(url: str, target: Path, data: Data) -> bool:
    try:
        if not target.exists():
            download(url, target, data.max_decoded_bytes, data.allow_private_addresses)
    except MissingFileError:
        return False
    return True


def _idx_files(folder: UPath) -> dict[IdxName, UPath]:
    found: dict[IdxName, UPath] = {}
    for path in sorted(folder.iterdir(), key=lambda path: path.name, reverse=True):
        if (match := IDX_FILE.fullmatch(path.name)) and not path.is_dir():  # Kaggle has folders of these names beside
            if not path.is_file():  # a pipe would be waited on for ever
                raise UserError(f"{path} is not a regular file, or a link that leads nowhere: replace or remove it")
            part, kind = ("t10k" if match[1] == "test" else match[1]), match[2]
            name = next(name for name in IDX_NAMES if name == f"{part}-{kind}")
            if name in found:
                log.warning("%s: %s is read, %s is not", folder, path.name, found[name].name)
            found[name] = path
    return found


def _wanted(folder: UPath, found: set[IdxName]) -> list[IdxName]:
    """The names to read: training images and labels always, test images and labels both or neither."""
    wanted = [
        name for name in IDX_NAMES if name.startswith("train") or "t10k-images" in found or "t10k-labels" in found
    ]
    if missing := [name for name in wanted if name not in found]:
        raise UserError(f"{folder} has no {' and '.join(missing)}: images and labels go together; add the file")
    return wanted
