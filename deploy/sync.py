"""Bring the DAGs with all that they need into the bucket of a Composer environment; what `make deploy` calls.

What was brought there is written down in dags/mlapp/DEPLOYED, so the next time what no longer belongs there is removed,
and nothing of anybody else's is touched: other teams' DAGs stay, and a file of theirs in the way ends it all.
"""

from __future__ import annotations

import argparse
import base64
import fnmatch
import hashlib
import os
import re
import subprocess
import sys
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from mlapp import authenticate, storage
from mlapp.cloud_errors import brief, could_not_look, is_not_found
from mlapp.errors import OneLineError, UserError
from mlapp.images.context import BESIDE_THE_PACKAGE

ROOT = Path(__file__).parents[1]
DEPLOYED = "dags/mlapp/DEPLOYED"
OF_OTHERS = "surrogateescape"  # other teams' lines stay as they are, in whatever encoding
# Folders of dags/ that hold no DAGs, and would cost time if they were searched for some.
IGNORED = ("mlapp/", "deploy/presets/")
# What earlier versions added, which also hid other teams' files of the same names, in whatever folder.
OUTDATED = (
    ("mlapp/", "deploy/"),
    (
        "# What DAGs import by name is no plugin: Airflow would load each of these files a second time.",
        *("approval.py", "stage_operator.py", "stage_runner.py", "stage_wiring.py", "local_runner.py"),
        *("registry_moves.py", "training_assets.py", "trigger_form.py", "dags_test.py", "vertex_*.py"),
    ),
)


def tree(root: Path = ROOT) -> dict[str, Path]:
    """What belongs into the bucket: path there, and file here.

    Composer puts dags/ and plugins/ on sys.path, so the package goes into dags/. What it looks for beside itself, the
    deployments and what the image is built from, goes there too.
    """
    beside = [*root.glob("dags/*.py"), *(root / name for name in BESIDE_THE_PACKAGE if (root / name).exists())]
    found = {
        **{f"dags/{file.name}": file for file in beside},
        **{f"plugins/{file.name}": file for file in root.glob("plugins/*.py")},
        **_below(root / "mlapp", "dags/mlapp"),
        **_below(root / "deploy" / "presets", "dags/deploy/presets"),
    }
    return dict(sorted(found.items(), key=lambda pair: _rank(pair[0])))


def sync(bucket: str, files: Mapping[str, Path], *, dry_run: bool = False) -> list[str]:
    """Make the bucket hold these files, and none that an earlier time brought; returns what was done, a line each."""
    place = storage.at(bucket)
    there = _listed(place)
    ours = _read(place, DEPLOYED) if DEPLOYED in there else ""
    earlier = set(ours.splitlines())
    changed = [path for path, file in files.items() if there.get(path) != _md5(file)]
    in_the_way = [path for path in changed if path in there and path not in earlier]
    if in_the_way:
        raise UserError(
            f"{bucket} holds files of somebody else where these should go: {', '.join(in_the_way)}; move them away, "
            "or deploy to another environment"
        )
    gone = sorted((earlier & set(there)) - set(files))
    if not dry_run:
        _note(place, earlier | set(files))  # before anything else: what is cut off is known to be ours the next time
        left = anchored([path.removeprefix("plugins/") for path in gone if path.startswith("plugins/")])
        _ignore(place, there, "dags/.airflowignore", anchored(IGNORED))
        _ignore(place, there, "plugins/.airflowignore", anchored(not_plugins()), left)
        for path in changed:
            place.fs.put_file(str(files[path]), _key(place, path), consistency="md5")
        for path in gone:
            place.fs.rm_file(_key(place, path))
        _note(place, set(files))
    return [*(f"put {path}" for path in changed), *(f"removed {path}" for path in gone)]


def bucket_of(environment: str, region: str, project: str | None) -> str:
    """The bucket of a Composer environment, as gcloud tells it."""
    command = ["gcloud", "composer", "environments", "describe", environment, f"--location={region}"]
    command += ["--format=value(config.dagGcsPrefix)", *([f"--project={project}"] if project else [])]
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, "CLOUDSDK_CORE_DISABLE_PROMPTS": "1"},
        )
    except FileNotFoundError as error:
        raise UserError("gcloud is missing: install the Google Cloud CLI, or give BUCKET=gs://…") from error
    folder = done.stdout.strip()
    if done.returncode or not folder.endswith("/dags"):
        told = next((line for line in done.stderr.splitlines() if line.startswith("ERROR")), "it names no bucket")
        where = f"gcloud composer environments list --locations={region}"
        raise UserError(f"cannot find the environment {environment} ({told}): `{where}` shows what there is")
    return folder.removesuffix("/dags")


def main(argv: list[str] | None = None) -> None:
    """Deploy from the command line. Exit codes: 0 done, 2 the user can fix it, 75 run again."""
    parser = argparse.ArgumentParser(
        prog="python deploy/sync.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--environment", default="mlapp", help="the Composer environment (%(default)s)")
    parser.add_argument("--region", help="its region")
    parser.add_argument("--project", help="its project; default: gcloud's own")
    parser.add_argument("--bucket", help="gs://… of the environment, instead of the three above")
    parser.add_argument("--dry-run", action="store_true", help="only say what would be done")
    arguments = parser.parse_args(argv)
    try:
        bucket = _bucket(arguments)
        done = _explained(bucket, dry_run=arguments.dry_run)
    except KeyboardInterrupt:
        parser.exit(130, f"{parser.prog}: stopped; the same command goes on\n")
    except OneLineError as error:
        parser.exit(error.exit_code, f"{parser.prog}: error: {error}\n")
    sys.stdout.writelines(f"{line}\n" for line in done)
    sys.stdout.write(f"the reaper of jobs that nobody waits for must be on: `{reaper_on(arguments)}`\n")
    sys.stdout.write(f"{len(done)} changes in {bucket}{' would be made' if arguments.dry_run else ''}\n")


def reaper_on(arguments: argparse.Namespace) -> str:
    """The command that switches on `dags/vertex_reaper.py`, where a deployment of before has left it off."""
    where = f"--location={arguments.region or 'REGION'}{f' --project={arguments.project}' if arguments.project else ''}"
    return f"gcloud composer environments run {arguments.environment} {where} dags unpause -- vertex_reaper"


def _bucket(arguments: argparse.Namespace) -> str:
    """The bucket that was named, or that of the environment that was."""
    if not (named := arguments.bucket):
        if not arguments.region:
            raise UserError("which environment? give REGION=europe-west4 (ENVIRONMENT=, PROJECT=), or BUCKET=gs://…")
        return bucket_of(arguments.environment, arguments.region, arguments.project)
    if not named.startswith("gs://"):
        raise UserError(f"{named} is no bucket: write it like BUCKET=gs://europe-west4-mlapp-1234-bucket")
    return str(named).rstrip("/").removesuffix("/dags")


def _explained(bucket: str, *, dry_run: bool) -> list[str]:
    if not os.environ.get("STORAGE_EMULATOR_HOST"):
        authenticate.access_token()  # without credentials gcsfs goes on as nobody
    try:
        return sync(bucket, tree(), dry_run=dry_run)
    except OneLineError:
        raise
    except Exception as error:
        if is_not_found(error):
            where = "gcloud composer environments list --locations=REGION"
            raise UserError(f"there is no bucket {bucket}: `{where}` shows environments") from error
        if line := storage.explain(error):
            raise line from error
        if not could_not_look(error):
            raise
        raise UserError(
            f"{bucket} refuses ({brief(error, 200)}): run `gcloud storage buckets add-iam-policy-binding {bucket} "
            f"--member={authenticate.member()} --role=roles/storage.objectUser`"
        ) from error


def _below(folder: Path, there: str) -> dict[str, Path]:
    files = [file for file in folder.rglob("*") if file.is_file() and "__pycache__" not in file.parts]
    return {f"{there}/{file.relative_to(folder)}": file for file in files}


def _rank(path: str) -> tuple[int, str]:
    """DAGs last: one that is read must find all that it imports."""
    return (2 if path.count("/") == 1 and path.startswith("dags/") else 0, path)


def _key(place: Any, path: str) -> str:
    return f"{place.path.rstrip('/')}/{path}"


def _listed(place: Any) -> dict[str, str]:
    """The bucket's dags/ and plugins/: MD5 by path."""
    place.fs.invalidate_cache()
    place.fs.ls(place.path.rstrip("/"))  # a bucket that is not there
    found = {}
    for folder in ("dags", "plugins"):
        for path, info in place.fs.find(_key(place, folder), detail=True).items():
            found[path.removeprefix(_key(place, ""))] = info.get("md5Hash", "")
    return found


def _md5(file: Path) -> str:
    return base64.b64encode(hashlib.md5(file.read_bytes(), usedforsecurity=False).digest()).decode()


def _read(place: Any, path: str) -> str:
    return str(place.fs.cat_file(_key(place, path)).decode("utf-8", OF_OTHERS))


def _write(place: Any, path: str, lines: Iterable[str]) -> None:
    place.fs.pipe_file(_key(place, path), "".join(f"{line}\n" for line in lines).encode("utf-8", OF_OTHERS))


def _note(place: Any, paths: set[str]) -> None:
    _write(place, DEPLOYED, sorted(paths))


def not_plugins(root: Path = ROOT) -> list[str]:
    """Our files in plugins/ that DAGs import by name, as the ignore file there lists them."""
    lines = (root / "plugins" / ".airflowignore").read_text(encoding="utf-8").splitlines()
    patterns = [line.lstrip("/") for line in lines if line and not line.startswith("#")]
    names = sorted(file.name for file in root.glob("plugins/*.py"))
    return [name for name in names if any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)]


def anchored(paths: Sequence[str]) -> list[str]:
    """Lines of an ignore file for these very paths and none of the same name elsewhere, in both of Airflow's syntaxes.

    Whichever is set, the lines for the other one match nothing: `**` after a character is no regular expression, which
    Airflow passes over, and no file has a name with `^` and `$`.
    """
    globs = [f"/{path}**" for path in paths]
    expressions = [f"^{re.escape(path.rstrip('/'))}{'(/|$)' if path.endswith('/') else '$'}" for path in paths]
    return [*globs, *expressions]


def _ignore(
    place: Any, there: Mapping[str, str], path: str, wanted: Sequence[str], unwanted: Collection[str] = ()
) -> None:
    """Add lines to an ignore file, which is everybody's, in place of those that an earlier version added."""
    text = _read(place, path) if path in there else ""
    before = text.removesuffix("\n").split("\n") if text else []
    lines = [line for line in before if line not in unwanted]
    for old in OUTDATED:
        starts = [at for at in range(len(lines)) if tuple(lines[at : at + len(old)]) == old]
        for at in reversed(starts):
            lines = [*lines[:at], *lines[at + len(old) :]]
    lines = [*lines, *(line for line in wanted if line not in lines)]
    if lines != before:
        _write(place, path, lines)


if __name__ == "__main__":
    main()
