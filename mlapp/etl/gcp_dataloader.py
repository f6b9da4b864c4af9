"""Extract: bring the data set's files to the raw area, decompressed and checked, from the first source that answers.

The sources, in order: data.source (and then only that); an installed system data set; the official addresses;
Debian's package, fetched without root. Leaves the IDX files train_images, train_labels and, where the source has a
test set, test_images and test_labels; and source.json: name, classes, origin and SHA-256 of each file, and of pictures
how they were read. Of pictures also names.json: the file behind each image. A refusal leaves nothing but
bad_files.csv, where files cannot be used.
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from pydantic import Field
from upath import UPath

from mlapp import storage
from mlapp.errors import UserError
from mlapp.etl import fashion_mnist, idx, image_folder, sources
from mlapp.etl.fingerprint import fingerprint
from mlapp.etl.leftovers import removed_on_refusal
from mlapp.etl.sources import Brought, Source
from mlapp.result import Metric, Outcome
from mlapp.schema import Data, IdxName
from mlapp.stage import stage
from mlapp.storage import Written

log = logging.getLogger("mlapp")
ARTIFACTS: dict[IdxName, str] = {
    "train-images": "train_images",
    "train-labels": "train_labels",
    "t10k-images": "test_images",
    "t10k-labels": "test_labels",
}


class Extract(Data):
    """What to extract."""

    fingerprint: str | None = Field(
        None, description="what data.source lists (names, sizes, times); always taken anew, whatever is given here"
    )


def with_fingerprint(config: Extract) -> Extract:
    """The config with the present fingerprint of the user's source, so that a changed source is extracted again."""
    found = fingerprint(config.source, config.allow_private_addresses) if config.source is not None else None
    return config.model_copy(update={"fingerprint": found})


@stage("extract", area="raw", section="data", resolve=with_fingerprint)
def run(config: Extract, workdir: Path) -> Outcome:
    """Extract into ``workdir``; a `UserError` tells every source that was tried and why it failed."""
    (workdir / image_folder.BAD_FILES).unlink(missing_ok=True)  # of an earlier attempt
    with removed_on_refusal(workdir, keep=(image_folder.BAD_FILES,)), _scratch(workdir / "downloads") as scratch:
        source, brought = _first_that_answers(config, scratch, workdir)
        classes = _classes(config, brought)
        outcome = _described(config, source, brought, classes, workdir)
    shutil.rmtree(scratch)
    return outcome


def _described(config: Extract, source: Source, brought: Brought, classes: tuple[str, ...], workdir: Path) -> Outcome:
    description = {
        "name": config.name,
        "classes": classes,
        "origin": source.label,
        "sha256": {name: file.sha256 for name, file in brought.files.items()},
        **({"pictures": brought.pictures} if brought.pictures else {}),
    }
    storage.write_text(workdir / "source.json", json.dumps(description, indent=2, ensure_ascii=False) + "\n")
    more: dict[str, Path] = {"source": workdir / "source.json"}
    if brought.names:
        more["names"] = workdir / "names.json"
        storage.write_text(more["names"], json.dumps(brought.names, indent=0) + "\n")
    counts = {ARTIFACTS[name]: len(idx.open_idx(file.path)) for name, file in brought.files.items()}
    images = {name: Metric(value=count, unit="images") for name, count in counts.items() if name.endswith("images")}
    headline = (
        f"{config.name}: {' + '.join(f'{image.value:,.0f}' for image in images.values())} images "
        f"of {len(classes)} classes from {source.label}"
    )
    if brought.pictures:
        done = describe_conversions(brought.pictures)
        log.info("extract: %s", done)
        headline += f"; {done}"
    return Outcome(
        artifacts={**{ARTIFACTS[name]: file for name, file in brought.files.items()}, **more},
        metrics={**images, "classes": Metric(value=len(classes), unit="classes")},
        headline=headline,
    )


def describe_conversions(pictures: dict[str, Any]) -> str:
    """What was done to pictures so that all are alike, and which files were passed over, in a line."""
    done = [f"{count:,} {what}" for what, count in pictures["converted"].items()]
    passed = [f"{count:,} {what}" for what, count in pictures["skipped"].items()]
    return f"pictures: {', '.join(done) or 'all taken as they are'}" + (f"; skipped {', '.join(passed)}" * bool(passed))


@contextmanager
def _scratch(folder: Path) -> Iterator[Path]:
    """A folder for what is fetched; after a refusal only downloads that can be continued stay in it."""
    folder.mkdir(exist_ok=True)
    try:
        yield folder
    except Exception:
        resumable = [path for path in folder.rglob("*") if path.suffix in (".part", ".version")]
        for path in sorted(folder.rglob("*"), reverse=True):
            if path.is_dir() and not path.is_symlink():
                with suppress(OSError):  # one that is not empty
                    path.rmdir()
            elif path not in resumable:
                path.unlink()
        with suppress(OSError):
            folder.rmdir()
        raise


def _first_that_answers(config: Extract, scratch: Path, workdir: Path) -> tuple[Source, Brought]:
    failures = []
    for source in sources.known_sources(config):
        try:
            brought = _unpacked(source.provide(scratch), scratch, workdir, config)
        except UserError as error:
            if config.source is not None:
                raise
            log.info("extract: %s does not answer: %s", source.label, error)
            failures.append(f"{source.label}: {error}")
        else:
            log.info("extract: %s from %s", config.name, source.label)
            return source, brought
    raise UserError(
        f"no source of {config.name} answers; install Debian's package {fashion_mnist.DEBIAN_PACKAGE}, or put the four "
        f"files in a folder and give it as data.source. Tried: {'; '.join(failures)}"
    )


def _unpacked(folder: UPath, scratch: Path, workdir: Path, config: Extract) -> Brought:
    try:
        with removed_on_refusal(workdir, keep=(image_folder.BAD_FILES,)):
            brought = sources.bring(folder, scratch, workdir, config)
            _verify(config, brought.files)
    except UserError:
        # What was downloaded is no good: the next run must not take it up again.
        shutil.rmtree(scratch)
        scratch.mkdir()
        raise
    return brought


def _verify(config: Extract, files: dict[IdxName, Written]) -> None:
    known = fashion_mnist.SHA256 if config.name == fashion_mnist.NAME else {}  # which no setting changes
    for name, expected in {**config.sha256, **known}.items():
        if name not in files:
            raise UserError(f"the source lacks {name}, whose SHA-256 is expected: add the file, or mend data.sha256")
        if files[name].sha256 != expected:
            cure = f"fetch it again, or give this data set another data.name than {config.name}"
            cure = "fetch it again, or mend data.sha256" if name not in known else cure
            raise UserError(f"{name} has SHA-256 {files[name].sha256} once decompressed, not {expected}: {cure}")


def _classes(config: Extract, brought: Brought) -> tuple[str, ...]:
    if config.classes and len(set(config.classes)) < len(config.classes):
        raise UserError(
            f"data.classes names a class twice ({', '.join(config.classes)}): give every class its own name"
        )
    if named := config.classes or brought.classes:
        return named
    if config.name == fashion_mnist.NAME:
        return fashion_mnist.CLASSES
    most = int(idx.open_idx(brought.files["train-labels"].path).max())
    if not most:
        raise UserError("all training labels are 0: give images of at least two classes")
    return tuple(str(label) for label in range(most + 1))


if __name__ == "__main__":
    run.main()
