"""Under which account a task's job runs, and with whose key its disks are encrypted."""

from __future__ import annotations

from datetime import timedelta

import pytest
import vertex_case as case
from vertex_errand import Attempt, Errand, TaskKey
from vertex_spec import custom_job

from mlapp.schema_cloud import Place, Placement

pytest_plugins = "loopback.fixtures"


@pytest.mark.parametrize(
    ("task", "account"),
    [
        ("train", "training@p1.iam.gserviceaccount.com"),
        ("vet", "promotion@p1.iam.gserviceaccount.com"),
        ("release.promote", "promotion@p1.iam.gserviceaccount.com"),
        ("promote_all", "training@p1.iam.gserviceaccount.com"),
    ],
)
def test_who_may_write_the_registry_runs_vetting_and_promotion_alone(task, account):
    placement = Placement(
        service_account="training@p1.iam.gserviceaccount.com",
        promotion_service_account="promotion@p1.iam.gserviceaccount.com",
        kms_key="projects/p1/locations/europe-west4/keyRings/r/cryptoKeys/k",
    )
    errand = Errand(TaskKey("dag", "run", task), "mlapp.vetting.verdict", (), "gs://b/config.json", case.IMAGE)
    attempt = Attempt("i" * 8, "n", 0, 0, ())
    place = Place(region="europe-west4", machine_type="n2-standard-8")
    job = custom_job(errand, attempt, place, placement, prefix="gs://b/jobs", project="p1", limit=timedelta(hours=1))
    assert job["job_spec"]["service_account"] == account
    assert job["encryption_spec"] == {"kms_key_name": placement.kms_key}
    assert placement.model_copy(update={"promotion_service_account": None}).account_of(task).startswith("training@")
