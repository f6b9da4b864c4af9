"""A gcloud that notes how it is called and answers what it is told to; it does nothing."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

STUB = """#!/bin/bash
printf '%s\\x1f' "$@" >>"$GCLOUD_CALLS"
printf '\\n' >>"$GCLOUD_CALLS"
words="$*"
[[ -n "$GCLOUD_FAILS" && "$words" == "$GCLOUD_FAILS"* ]] && exit 1
case "$words" in
  "composer environments describe"*"format=value"*) echo "gs://europe-west4-mlapp-1-bucket/dags" ;;
  "projects describe"*"projectNumber"*) echo 123456789012 ;;
  "auth print-access-token"*) [[ "$GCLOUD_LOGIN" == yes ]] ;;
  "projects describe"*) [[ "$GCLOUD_PROJECT_THERE" == yes ]] ;;
  *" describe "*) [[ "$GCLOUD_THERE" == yes ]] ;;
esac
"""


@dataclass
class Gcloud:
    """The stub, in a folder of its own that is to stand first on PATH."""

    folder: Path
    login: bool = True
    project: bool = True
    there: bool = False  # whether everything that is described exists
    fails: str = ""  # how the command begins that fails

    def __post_init__(self) -> None:
        self.folder.mkdir()
        (self.folder / "gcloud").write_text(STUB)
        (self.folder / "gcloud").chmod(0o755)

    @property
    def environ(self) -> dict[str, str]:
        told = {"GCLOUD_LOGIN": self.login, "GCLOUD_PROJECT_THERE": self.project, "GCLOUD_THERE": self.there}
        return {
            "PATH": f"{self.folder}:/usr/bin:/bin",
            "GCLOUD_FAILS": self.fails,
            "GCLOUD_CALLS": str(self.folder / "calls"),
            **{name: "yes" if value else "no" for name, value in told.items()},
        }

    @property
    def calls(self) -> list[list[str]]:
        """The arguments of each call."""
        file = self.folder / "calls"
        lines = file.read_text().splitlines() if file.exists() else []
        return [line.split("\x1f")[:-1] for line in lines]

    @property
    def changes(self) -> list[list[str]]:
        """The calls that change something."""
        return [call for call in self.calls if not {"describe", "print-access-token"} & {*call}]
