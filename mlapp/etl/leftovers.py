"""A refused stage leaves nothing in its work directory but the reports that say why."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def removed_on_refusal(folder: Path, keep: Collection[str] = ()) -> Iterator[None]:
    """Remove every file that is written to ``folder`` inside the block if that fails, except those named ``keep``.

    What was there before is not touched: the work directory may be a folder with a user's own files.
    """
    before = _files(folder)
    try:
        yield
    except Exception:
        for path, version in _files(folder).items():
            if before.get(path) != version and path.name not in keep:
                path.unlink(missing_ok=True)
        raise


def _files(folder: Path) -> dict[Path, tuple[int, int]]:
    """The files of a folder by inode and time: a file that was written again is another one."""
    found = [path for path in folder.glob("[!.]*") if path.is_file()] if folder.is_dir() else []
    return {path: (path.stat().st_ino, path.stat().st_mtime_ns) for path in found}
