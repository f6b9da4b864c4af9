"""Where a data set can come from: what a folder or an address holds, and its IDX files brought to the raw area."""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, get_args

from upath import UPath

from mlapp import storage
from mlapp.errors import TryAgainError, UserError
from mlapp.etl import debian_package, fashion_mnist, image_folder
from mlapp.etl.download import MissingFileError, download
from mlapp.etl.unpack import unpack
from mlapp.schema import Data, IdxName
from mlapp.storage import Written

log = logging.getLogger("mlapp")
IDX_NAMES: tuple[IdxName, ...] = get_args(IdxName)
IDX_FILE = re.compile(r"(train|t10k|test)-(images|labels)[-.]idx[1-4]-ubyte(\.gz)?")


class Source(NamedTuple):
    """A place that may hold the data set; ``provide`` makes it a readable folder, with scratch space at hand."""

    label: str
    provide: Callable[[Path], UPath]


class Brought(NamedTuple):
    """Decompressed IDX files by name, and the class names where the source itself tells them."""

    files: dict[IdxName, Written]
    classes: tuple[str, ...] | None


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
        if not any(path.is_dir() and not path.name.startswith(".") for path in folder.iterdir()):
            raise UserError(f"{folder} holds neither IDX files (train-images-idx3-ubyte.gz, …) nor class folders")
        local = Path(folder.path) if storage.is_local(folder) else scratch / "images"
        if not storage.is_local(folder):
            folder.fs.get(folder.path.rstrip("/") + "/", f"{local}/", recursive=True)
        return Brought(*image_folder.to_idx(local, target, data.image_size, data.classes, data.max_decoded_bytes))
    files: dict[IdxName, Written] = {}
    for name in _wanted(folder, set(found)):
        with found[name].open("rb") as stream:
            files[name] = unpack(stream, str(found[name]), target, name, data.max_decoded_bytes)
    return Brought(files, None)


def existing_folder(uri: str) -> UPath:
    """The folder behind a URI; a `UserError` where there is none or it cannot be reached."""
    try:
        folder = storage.at(uri)
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
        if not any(_downloaded(file, folder / file.rpartition("/")[2], data.max_decoded_bytes) for file in addresses):
            log.info("%s has no %s", url, name)
    if not any(folder.glob("*")):
        raise UserError(f"none of the IDX files ({', '.join(IDX_NAMES)}) is at {url}: check the address")
    return storage.at(folder)


def _downloaded(url: str, target: Path, max_bytes: int) -> bool:
    try:
        if not target.exists():
            download(url, target, max_bytes)
    except MissingFileError:
        return False
    return True


def _idx_files(folder: UPath) -> dict[IdxName, UPath]:
    found: dict[IdxName, UPath] = {}
    for path in sorted(folder.iterdir(), key=lambda path: path.name, reverse=True):
        if match := IDX_FILE.fullmatch(path.name):
            part, kind = ("t10k" if match[1] == "test" else match[1]), match[2]
            found[next(name for name in IDX_NAMES if name == f"{part}-{kind}")] = path
    return found


def _wanted(folder: UPath, found: set[IdxName]) -> list[IdxName]:
    """The names to read: training images and labels always, test images and labels both or neither."""
    wanted = [
        name for name in IDX_NAMES if name.startswith("train") or "t10k-images" in found or "t10k-labels" in found
    ]
    if missing := [name for name in wanted if name not in found]:
        raise UserError(f"{folder} lacks {' and '.join(missing)}: images and labels go together; add the file")
    return wanted
