"""What the training image is made of, and the tag that stands for it: the same content is not built twice."""

from __future__ import annotations

import gzip
import hashlib
import io
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from mlapp.errors import UserError

DOCKERFILE = "Dockerfile.training"
PACKAGE = Path(__file__).parents[1]
# The folder that holds the package: the project's root, or the DAGs folder of a Composer environment.
ROOT = PACKAGE.parent
KINDS = {".py", ".yaml", ".j2"}
BESIDE_THE_PACKAGE = (DOCKERFILE, "requirements-pip.txt", "requirements-training.txt", "requirements-training-cuda.txt")


@dataclass(frozen=True)
class Context:
    """The files that an image is built from, by their path, the variant that is built of them, and another base."""

    files: Mapping[str, bytes]
    variant: str
    base: str | None = None

    @classmethod
    def read(cls, variant: str, root: Path = ROOT, base: str | None = None) -> Context:
        """The context as it stands in the project; a `UserError` names a file that lacks."""
        files = {str(path.relative_to(root)): path.read_bytes() for path in _package(root / PACKAGE.name)}
        for name in BESIDE_THE_PACKAGE:
            if not (root / name).is_file():
                raise UserError(
                    f"{root / name} is missing, so no image can be built: copy it there from the project "
                    "(`make deploy` does), or set placement.image to an image that exists"
                )
            files[name] = (root / name).read_bytes()
        return cls(dict(sorted(files.items())), variant, base)

    @property
    def tag(self) -> str:
        """The variant and 16 hex digits over every file's path and content, and over a base that was set."""
        digest = hashlib.sha256((self.base or "").encode())
        for name, content in self.files.items():
            digest.update(f"{name}\0{len(content)}\0".encode())
            digest.update(content)
        return f"{self.variant}-{digest.hexdigest()[:16]}"

    @property
    def build_arguments(self) -> list[str]:
        """The flags of a build that its Dockerfile's arguments are set by."""
        base = [f"--build-arg=BASE={self.base}"] if self.base else []
        return [f"--build-arg=VARIANT={self.variant}", *base]

    def write(self, folder: Path) -> None:
        """Lay the files out in a folder, for an engine."""
        for name, content in self.files.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
            path.chmod(0o644)

    def archive(self) -> bytes:
        """The files as a .tgz, the same bytes for the same content."""
        packed = io.BytesIO()
        with gzip.GzipFile(fileobj=packed, mode="wb", mtime=0) as zipped, tarfile.open(fileobj=zipped, mode="w") as tar:
            for name, content in self.files.items():
                entry = tarfile.TarInfo(name)
                entry.size = len(content)
                tar.addfile(entry, io.BytesIO(content))
        return packed.getvalue()


def _package(folder: Path) -> Iterator[Path]:
    """The package's own files: whatever else lies in its folder, as in a Composer environment, is left out."""
    for path in folder.rglob("*"):
        hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
        if path.suffix in KINDS and path.is_file() and not hidden:
            yield path
