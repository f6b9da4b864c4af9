"""A whole list as a CSV file, for a person and a spreadsheet, which outlasts the refusal that it explains."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from pathlib import Path

from upath import UPath

from mlapp import storage, workspaces

FORMULA = ("=", "+", "-", "@")


def report_table(path: Path, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> UPath:
    """Write the rows, also where the work directory is remote and the work refused; returns where they can be read."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(columns)
    table.writerows([_cell(str(value)) for value in row] for row in rows)
    storage.write_text(path, text.getvalue())
    return workspaces.publish(path)


def _cell(value: str) -> str:
    """Control characters and bytes that are no text are escaped; what a spreadsheet would compute stays a text."""
    safe = "".join(each if each.isprintable() else ascii(each)[1:-1] for each in value)
    return f"'{safe}" if safe.startswith(FORMULA) else safe
