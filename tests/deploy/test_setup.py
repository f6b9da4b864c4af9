"""What deploy/setup.sh does to a project: the commands, the rights that it gives, and that it can be repeated."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import vertex_records
from gcloud_stub import Gcloud
from vertex_errand import Attempt

from mlapp import config

ROOT = Path(__file__).parents[2]
SETUP, README = ROOT / "deploy" / "setup.sh", ROOT / "deploy" / "README.md"
PROJECT, REGION = "shop-1-prod", "europe-west4"
COMPOSER, TRAINING, PROMOTION, BUILD = "mlapp-composer", "mlapp-training", "mlapp-promotion", "mlapp-build"
BUCKETS = [f"gs://{PROJECT}-mlapp-{kind}" for kind in ("raw", "processed", "models", "experiments", "registry")]
RAW, PROCESSED, MODELS, EXPERIMENTS, REGISTRY = BUCKETS
VIEWER, USER = "roles/storage.objectViewer", "roles/storage.objectUser"
KEY = f"projects/keys-1/locations/{REGION}/keyRings/ring/cryptoKeys/key"
GUARDED = ["--kms-key", KEY, "--network", "inner", "--perimeter", "42/inside"]
# All that each account may do: where, and in which role. A right more is a decision, made here.
RIGHTS = {
    COMPOSER: {
        (PROJECT, "roles/composer.worker"),
        (PROJECT, "roles/aiplatform.user"),
        (PROJECT, "roles/cloudbuild.builds.editor"),
        (f"{TRAINING}@{PROJECT}.iam.gserviceaccount.com", "roles/iam.serviceAccountUser"),
        (f"{PROMOTION}@{PROJECT}.iam.gserviceaccount.com", "roles/iam.serviceAccountUser"),
        (f"{BUILD}@{PROJECT}.iam.gserviceaccount.com", "roles/iam.serviceAccountUser"),
        ("mlapp", "roles/artifactregistry.reader"),
        ("mlapp-wandb", "roles/secretmanager.secretAccessor"),
        *((bucket, USER) for bucket in (RAW, PROCESSED, MODELS, EXPERIMENTS)),
        (REGISTRY, VIEWER),
    },
    # Not aiplatform.user: a job without an account of its own runs as an agent that may write every bucket.
    TRAINING: {
        (PROJECT, "roles/logging.logWriter"),
        ("mlapp-wandb", "roles/secretmanager.secretAccessor"),
        *((bucket, USER) for bucket in (RAW, PROCESSED, MODELS)),
        (EXPERIMENTS, VIEWER),
        (EXPERIMENTS, f"{USER} but the settings"),
    },
    PROMOTION: {
        (PROJECT, "roles/logging.logWriter"),
        ("mlapp-wandb", "roles/secretmanager.secretAccessor"),
        *((bucket, VIEWER) for bucket in (RAW, PROCESSED, EXPERIMENTS)),
        *((bucket, USER) for bucket in (MODELS, REGISTRY)),
        (EXPERIMENTS, f"{USER} but the settings"),
    },
    BUILD: {
        (PROJECT, "roles/logging.logWriter"),
        (MODELS, VIEWER),
        (MODELS, "roles/storage.objectCreator"),
        ("mlapp", "roles/artifactregistry.writer"),
        ("gs://europe-west4-mlapp-1-bucket", "roles/storage.objectUser"),
    },
}


@pytest.fixture
def gcloud(tmp_path: Path) -> Gcloud:
    return Gcloud(tmp_path / "bin")


def setup(gcloud: Gcloud, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [SETUP, *arguments], env=gcloud.environ, capture_output=True, text=True, check=False, timeout=60
    )


def flags(call: list[str]) -> dict[str, str]:
    pairs = (argument.partition("=") for argument in call if argument.startswith("--"))
    return {name: value for name, _, value in pairs}


def rights(gcloud: Gcloud) -> dict[str, set[tuple[str, str]]]:
    """What each account was given, and where."""
    given: dict[str, set[tuple[str, str]]] = {}
    for call in gcloud.calls:
        if "add-iam-policy-binding" in call and call[0] != "kms":
            account = re.fullmatch(
                rf"serviceAccount:([a-z-]+)@{PROJECT}\.iam\.gserviceaccount\.com", flags(call)["--member"]
            )
            assert account, call
            where = call[call.index("add-iam-policy-binding") + 1]
            bound = "" if flags(call).get("--condition", "None") == "None" else " but the settings"
            given.setdefault(account[1], set()).add((where, flags(call)["--role"] + bound))
    return given


def test_each_account_has_these_rights_and_no_more(gcloud: Gcloud) -> None:
    assert setup(gcloud, "--wandb", PROJECT, REGION).returncode == 0
    assert rights(gcloud) == RIGHTS
    table = re.findall(r"^\|(?: `([a-z-]+)`)? \| `([A-Za-z.]+)` \|", README.read_text(), re.MULTILINE)
    account, told = "", set()
    for named, role in table:
        account = named or account
        told.add((account, f"roles/{role}"))
    assert told == {(account, role.partition(" ")[0]) for account, given in RIGHTS.items() for _, role in given}


def test_only_the_promotion_account_writes_the_registry(gcloud: Gcloud) -> None:
    """Of all, whatever is asked for; but Airflow's own, where somebody wants its DAG to move the champion."""
    for options, writers in (([], {PROMOTION}), (GUARDED, {PROMOTION}), (["--airflow-moves"], {PROMOTION, COMPOSER})):
        assert setup(gcloud, *options, PROJECT, REGION).returncode == 0
        given = {(account, role) for account, all_of in rights(gcloud).items() for at, role in all_of if at == REGISTRY}
        assert {account for account, role in given if role != VIEWER} == writers
        (gcloud.folder / "calls").unlink()


def test_no_job_may_change_a_run_s_settings(gcloud: Gcloud) -> None:
    setup(gcloud, PROJECT, REGION)
    conditions = [
        flags(call)["--condition"] for call in gcloud.calls if EXPERIMENTS in call and "--role" in flags(call)
    ]
    (condition,) = set(conditions) - {"None"}
    assert conditions.count(condition) == 2
    for name in ("config.json", "origins.json"):
        assert f'!resource.name.endsWith("/{name}")' in condition


def test_a_key_of_one_s_own_encrypts_all_that_is_kept(gcloud: Gcloud) -> None:
    assert setup(gcloud, *GUARDED, PROJECT, REGION).returncode == 0
    made = [
        call
        for call in gcloud.calls
        if "create" in call and call[:2] in (["storage", "buckets"], ["artifacts", "repositories"])
    ]
    made += [call for call in gcloud.calls if call[:3] == ["composer", "environments", "create"]]
    assert len(made) == len(BUCKETS) + 2
    assert all(KEY in (flags(call).get("--kms-key"), flags(call).get("--default-encryption-key")) for call in made)
    agents = [flags(call)["--member"] for call in gcloud.calls if call[:2] == ["kms", "keys"]]
    assert "serviceAccount:service-123456789012@gcp-sa-aiplatform.iam.gserviceaccount.com" in agents
    assert all("cryptoKeyEncrypterDecrypter" in str(call) for call in gcloud.calls if call[:2] == ["kms", "keys"])


def test_a_private_environment_and_its_jobs_are_in_the_network_and_the_project_in_the_perimeter(gcloud: Gcloud) -> None:
    assert setup(gcloud, *GUARDED, PROJECT, REGION).returncode == 0
    (create,) = [call for call in gcloud.calls if call[:3] == ["composer", "environments", "create"]]
    assert {"--enable-private-environment", "--enable-private-builds-only", "--network=inner"} <= {*create}
    variables = dict(pair.split("=", 1) for pair in flags(create)["--env-variables"].split(","))
    placement = config.load(environ=variables).placement
    assert (placement.network, placement.kms_key) == ("projects/123456789012/global/networks/inner", KEY)
    (perimeter,) = [call for call in gcloud.calls if call[0] == "access-context-manager"]
    assert perimeter[:4] == ["access-context-manager", "perimeters", "update", "inside"]
    assert "storage.googleapis.com" in flags(perimeter)["--add-restricted-services"]


def test_buckets_are_closed_to_the_outside_and_models_keep_old_versions(gcloud: Gcloud) -> None:
    setup(gcloud, PROJECT, REGION)
    made = [call for call in gcloud.calls if call[:3] == ["storage", "buckets", "create"]]
    assert [call[3] for call in made] == BUCKETS
    for call in made:
        assert {"--uniform-bucket-level-access", "--public-access-prevention"} <= {*call}
        assert flags(call)["--location"] == REGION
    updated = {call[3]: call for call in gcloud.calls if call[:3] == ["storage", "buckets", "update"]}
    assert {*updated} == {*BUCKETS}  # those that were made by hand too
    assert all({"--uniform-bucket-level-access", "--public-access-prevention"} <= {*call} for call in updated.values())
    assert {name for name, call in updated.items() if "--versioning" in call} == {MODELS, EXPERIMENTS, REGISTRY}
    assert "--soft-delete-duration=90d" in updated[REGISTRY]


def test_the_environments_variables_are_settings_of_the_project(gcloud: Gcloud) -> None:
    setup(gcloud, "--wandb", PROJECT, REGION)
    (create,) = [call for call in gcloud.calls if call[:3] == ["composer", "environments", "create"]]
    variables = dict(pair.split("=", 1) for pair in flags(create)["--env-variables"].split(","))
    settings = config.load(environ=variables)
    assert settings.cloud.project == PROJECT
    assert settings.placement.runner == "vertex"
    assert settings.placement.service_account == f"{TRAINING}@{PROJECT}.iam.gserviceaccount.com"
    assert settings.placement.promotion_service_account == f"{PROMOTION}@{PROJECT}.iam.gserviceaccount.com"
    assert settings.images.repository == f"{REGION}-docker.pkg.dev/{PROJECT}/mlapp/mlapp-training"
    assert settings.tracking.wandb_secret == f"projects/{PROJECT}/secrets/mlapp-wandb"
    assert not settings.promotion.starter_may_approve
    places = settings.storage.model_dump().values()
    assert all(place.startswith("gs://") for place in places)
    assert {place.split("/")[2] for place in places} == {bucket.removeprefix("gs://") for bucket in BUCKETS}
    assert flags(create)["--image-version"] == "composer-3-airflow-3.3.1"


def test_a_dry_run_says_what_a_run_does_and_asks_nothing(gcloud: Gcloud, tmp_path: Path) -> None:
    said = setup(gcloud, "--dry-run", "--wandb", PROJECT, REGION)
    assert said.returncode == 0
    assert not gcloud.calls
    done = setup(gcloud, "--wandb", PROJECT, REGION)
    assert done.stdout == said.stdout.replace("BUCKET-OF-THE-ENVIRONMENT", "europe-west4-mlapp-1-bucket")
    named = [line for line in said.stdout.splitlines() if line.startswith("gcloud ")]
    assert len(named) == len(gcloud.changes) + 1  # the last one, that gives the secret its value, is the user's


def test_what_is_said_can_be_pasted_into_a_shell(gcloud: Gcloud, tmp_path: Path) -> None:
    said = setup(gcloud, "--dry-run", "--wandb", PROJECT, REGION).stdout
    script = "\n".join(line for line in said.splitlines() if line.startswith("gcloud ") and "versions add" not in line)
    pasted = Gcloud(tmp_path / "pasted")
    subprocess.run(["bash", "-c", script], env=pasted.environ, check=True)
    setup(gcloud, "--wandb", PROJECT, REGION)
    assert [[*map(neutral, call)] for call in pasted.calls] == [[*map(neutral, call)] for call in gcloud.changes]


def neutral(argument: str) -> str:
    return argument.replace("BUCKET-OF-THE-ENVIRONMENT", "europe-west4-mlapp-1-bucket")


def test_what_exists_is_not_made_again(gcloud: Gcloud) -> None:
    gcloud.there = True
    again = setup(gcloud, "--wandb", PROJECT, REGION)
    assert again.returncode == 0
    assert not [call for call in gcloud.calls if "create" in call or call[:3] == ["composer", "environments", "update"]]
    assert "mlapp exists and is left as it is. Its variables should be:\n  MLAPP_DEPLOYMENT=vertex_cpu" in again.stdout


def test_without_wandb_there_is_no_secret(gcloud: Gcloud) -> None:
    assert setup(gcloud, PROJECT, REGION).returncode == 0
    assert not [call for call in gcloud.calls if call[0] == "secrets"]
    assert "WANDB" not in str(gcloud.calls)


def test_without_an_environment_the_rest_is_there(gcloud: Gcloud) -> None:
    assert setup(gcloud, "--environment", "none", PROJECT, REGION).returncode == 0
    assert not [call for call in gcloud.calls if call[0] == "composer"]
    assert [call for call in gcloud.calls if call[0] == "artifacts"]


def test_a_failed_command_ends_it(gcloud: Gcloud) -> None:
    gcloud.fails = "artifacts repositories create"
    assert setup(gcloud, PROJECT, REGION).returncode == 1
    assert gcloud.calls[-1][:3] == ["artifacts", "repositories", "create"]


def test_a_right_that_cannot_be_given_ends_it_at_once(gcloud: Gcloud) -> None:
    gcloud.there = True
    gcloud.fails = "projects add-iam-policy-binding"
    assert setup(gcloud, PROJECT, REGION).returncode == 1
    assert [call[:2] for call in gcloud.calls].count(["projects", "add-iam-policy-binding"]) == 1


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ((), "give PROJECT and REGION, like deploy/setup.sh my-project europe-west4"),
        ((PROJECT,), "give PROJECT and REGION"),
        (("Shop_1", REGION), "'Shop_1' is no project id: gcloud projects list shows yours"),
        (("$(touch hacked)", REGION), "is no project id"),
        (("--kms-key", KEY.replace(REGION, "us-east1"), PROJECT, REGION), f"is no key in {REGION}: write it like"),
        (("--network", "a b", PROJECT, REGION), "'a b' is no name of a network"),
        (("--subnetwork", "inner", PROJECT, REGION), "--subnetwork needs --network"),
        (("--perimeter", "inside", PROJECT, REGION), "'inside' is no perimeter: write it like 123456789/NAME"),
        ((PROJECT, "europe"), "'europe' is no region: write it like europe-west4"),
        (("--environment", "My Env", PROJECT, REGION), "'My Env' is no name for an environment"),
        (("--deployment", "../x", PROJECT, REGION), "no deployment '../x': make deploy/presets/../x.yaml"),
        (("--environment",), "--environment needs a name"),
        (("--force", PROJECT, REGION), "unknown option --force"),
    ],
)
def test_what_is_wrong_is_told_in_one_line_before_anything_is_done(
    gcloud: Gcloud, arguments: tuple[str, ...], told: str
) -> None:
    ended = setup(gcloud, *arguments)
    assert ended.returncode == 2
    assert ended.stderr.startswith("setup.sh: error: ")
    assert told in ended.stderr
    assert len(ended.stderr.splitlines()) == 1
    assert not ended.stdout
    assert not gcloud.calls


@pytest.mark.parametrize(
    ("trouble", "told"),
    [
        ("login", "gcloud has no login: run gcloud auth login"),
        ("project", f"no project {PROJECT}, or no access to it: gcloud projects list shows yours"),
    ],
)
def test_no_login_and_no_project_are_told_before_anything_is_done(gcloud: Gcloud, trouble: str, told: str) -> None:
    setattr(gcloud, trouble, False)
    ended = setup(gcloud, PROJECT, REGION)
    assert (ended.returncode, ended.stderr) == (2, f"setup.sh: error: {told}\n")
    assert not gcloud.changes


def test_no_gcloud_is_told(tmp_path: Path) -> None:
    tools = tmp_path / "tools"
    tools.mkdir()
    for tool in ("bash", "dirname"):
        (tools / tool).symlink_to(str(shutil.which(tool)))
    ended = subprocess.run(
        [SETUP, PROJECT, REGION], env={"PATH": str(tools)}, capture_output=True, text=True, check=False
    )
    assert (ended.returncode, ended.stdout) == (2, "")
    assert "gcloud is missing: install the Google Cloud CLI, then run gcloud auth login" in ended.stderr


def test_gcloud_itself_takes_every_command(gcloud: Gcloud, tmp_path: Path) -> None:
    """Of each command the call with the most arguments: gcloud takes a second to start."""
    setup(gcloud, "--wandb", *GUARDED, PROJECT, REGION)
    kinds = {(*call[:3], "^;^" in str(call)): call for call in sorted(gcloud.changes, key=len)}
    check_syntax([*kinds.values()], tmp_path)


def test_gcloud_itself_takes_the_commands_of_the_readme(tmp_path: Path) -> None:
    text = README.read_text().replace("PROJECT", PROJECT)
    calls = [shlex.split(line, comments=True)[1:] for line in text.splitlines() if line.lstrip().startswith("gcloud ")]
    assert len(calls) > 10
    logins = [call for call in calls if call[0] == "auth"]
    check_syntax([call for call in calls if call not in logins], tmp_path)


def check_syntax(calls: list[list[str]], tmp_path: Path) -> None:
    """With the real gcloud, without a login: what it does not take ends with 2, all else with 1."""
    real = shutil.which("gcloud")
    if not real:
        pytest.skip("gcloud is not installed, so its commands cannot be checked")
    environ = {**os.environ, "CLOUDSDK_CONFIG": str(tmp_path / "config"), "CLOUDSDK_CORE_DISABLE_PROMPTS": "1"}
    for call in calls:
        ended = subprocess.run([real, *call], env=environ, capture_output=True, text=True, check=False, input="")
        assert ended.returncode == 1, (call, ended.stderr)
        assert "gcloud auth login" in ended.stderr, (call, ended.stderr)


def test_the_script_is_clean() -> None:
    shellcheck = Path(sys.executable).with_name("shellcheck")
    if not shellcheck.exists():
        pytest.skip("shellcheck is not installed, so the script is not checked")
    subprocess.run([shellcheck, SETUP], check=True)


LIFECYCLES = sorted(path.name for path in SETUP.parent.glob("lifecycle*.json"))


def test_what_the_texts_say_of_lifecycles_is_what_the_files_do() -> None:
    """Each number of days, of the script's own words and of the README's, from the rules."""
    rules = {name: json.loads((SETUP.parent / name).read_text())["rule"] for name in LIFECYCLES}
    days = {
        name: {
            "uploads": [rule["condition"]["age"] for rule in all_of if rule["action"]["type"].startswith("Abort")],
            "live": [rule["condition"]["age"] for rule in all_of if rule["condition"].get("isLive")],
            "old": [rule["condition"].get("daysSinceNoncurrentTime") for rule in all_of if "Time" in str(rule)],
        }
        for name, all_of in rules.items()
    }
    assert days == {
        "lifecycle.json": {"uploads": [7], "live": [], "old": []},
        "lifecycle-experiments.json": {"uploads": [7], "live": [30], "old": [30]},
        "lifecycle-models.json": {"uploads": [7], "live": [30], "old": [30]},
        "lifecycle-registry.json": {"uploads": [7], "live": [], "old": [365]},
    }
    script, readme = SETUP.read_text(), " ".join(README.read_text().split())
    assert "Uploads that broke off go after a week" in script
    assert "goes from \\\nmodels and experiments after 30 days; old versions are kept for 30 days" in script
    assert "those of the registry for a year" in script
    assert "old versions of models and run folders for 30 days, of the registry for a year" in readme


@pytest.mark.parametrize("name", LIFECYCLES)
def test_what_the_lifecycle_removes_can_be_made_again(name: str) -> None:
    """A rule that deletes live objects names the prefixes of what is only handed over: build contexts, jobs' ends."""
    removed = {
        "lifecycle-models.json": ["builds/"],
        "lifecycle-experiments.json": ["experiments/.mlapp/jobs/attempts/"],
    }
    assert prefixes_deleted(name) == removed.get(name, [])


def test_the_lifecycle_removes_the_ends_of_jobs_and_keeps_the_notes_of_where_to_look() -> None:
    """Given the buckets and areas as the script makes them: the notes are all that the reaper knows of old regions."""
    script = SETUP.read_text()
    assert 'make_bucket "$experiments" "$HERE/lifecycle-experiments.json"' in script
    assert 'make_bucket "$models" "$HERE/lifecycle-models.json"' in script
    assert "MLAPP_STORAGE__EXPERIMENTS=gs://$experiments/experiments" in script
    area = vertex_records.jobs_area(config.load("smoke", {"storage.experiments": "gs://b/experiments"}, {}))
    attempt = Attempt("f" * 32, "20261121-100000-000000-abcd", 0, 0, ())
    deleted = tuple(f"gs://b/{prefix}" for prefix in prefixes_deleted("lifecycle-experiments.json"))
    assert f"{attempt.folder(area)}/ended.json".startswith(deleted)
    for note in (vertex_records.SUBMITTED, vertex_records.REGIONS):
        assert not f"{area}/{note}/".startswith(deleted)


def prefixes_deleted(name: str) -> list[str]:
    """Where the rules of a file delete live objects; everywhere is the empty prefix."""
    conditions = [
        rule["condition"]
        for rule in json.loads((SETUP.parent / name).read_text())["rule"]
        if rule["action"]["type"] == "Delete" and "daysSinceNoncurrentTime" not in rule["condition"]
    ]
    return [prefix for condition in conditions for prefix in condition.get("matchesPrefix", [""])]


def test_the_newest_images_are_kept() -> None:
    policies = json.loads((SETUP.parent / "image-cleanup.json").read_text())
    assert {"action": {"type": "Keep"}, "mostRecentVersions": {"keepCount": 10}, "name": "keep-the-newest"} in policies
