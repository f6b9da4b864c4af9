"""What Vertex AI would refuse of a place, a network or a label is refused when a run is configured."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from mlapp import vertex_machines
from mlapp.config import load
from mlapp.errors import UserError

PLACE = {"region": "europe-west4", "machine_type": "n1-standard-8"}
ROOT = Path(__file__).parents[1]


def configured(**placement: Any) -> Any:
    return load("smoke", {"placement": placement}, environ={}).placement


def test_the_names_are_those_of_the_installed_library() -> None:
    from google.cloud.aiplatform_v1.types import AcceleratorType

    assert {each.name for each in AcceleratorType} - {"ACCELERATOR_TYPE_UNSPECIFIED"} == {*vertex_machines.ACCELERATORS}


@pytest.mark.parametrize(
    ("machine", "accelerator", "count"),
    [
        ("n1-standard-8", None, 1),
        ("n1-standard-8", "NVIDIA_TESLA_T4", 1),
        ("n1-standard-32", "NVIDIA_TESLA_T4", 2),
        ("n1-standard-16", "NVIDIA_TESLA_V100", 2),
        ("n1-highmem-2", "NVIDIA_TESLA_P100", 1),
        ("n2-standard-8", None, 1),
        ("a2-highgpu-4g", "NVIDIA_TESLA_A100", 4),
        ("a2-ultragpu-1g", "NVIDIA_A100_80GB", 1),
        ("a3-highgpu-8g", "NVIDIA_H100_80GB", 8),
        ("g2-standard-24", "NVIDIA_L4", 2),
        ("c3-standard-22", None, 1),
        ("z9-standard-8", None, 1),
    ],
)
def test_what_vertex_takes_is_taken(machine: str, accelerator: str | None, count: int) -> None:
    given = {"accelerator_type": accelerator, "accelerator_count": count} if accelerator else {}
    (place,) = configured(places=[{**PLACE, "machine_type": machine, **given}]).places
    assert place.machine_type == machine


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"accelerator_type": "NVIDIA_T4"}, "has no accelerator NVIDIA_T4: take NVIDIA_L4 or NVIDIA_TESLA_T4"),
        ({"accelerator_type": "TESLA_T4"}, "take NVIDIA_TESLA_T4"),
        ({"accelerator_type": "ACCELERATOR_TYPE_UNSPECIFIED"}, "has no accelerator ACCELERATOR_TYPE_UNSPECIFIED"),
        ({"accelerator_type": "NVIDIA_TESLA_K80"}, "Vertex AI no longer has it"),
        ({"accelerator_type": "TPU_V3"}, "nothing here trains on TPUs"),
        ({"accelerator_type": "NVIDIA_L4"}, "n1-standard-8 does not take NVIDIA_L4: take g2-standard-4"),
        ({"accelerator_type": "NVIDIA_TESLA_T4", "accelerator_count": 3}, "takes 1, 2, 4 of NVIDIA_TESLA_T4, not 3"),
        (
            {"machine_type": "n1-standard-32", "accelerator_type": "NVIDIA_TESLA_T4"},
            "takes 2, 4 of NVIDIA_TESLA_T4, not 1",
        ),
        ({"machine_type": "n2-standard-8", "accelerator_type": "NVIDIA_TESLA_T4"}, "takes no accelerators"),
        ({"machine_type": "a2-highgpu-2g"}, "set accelerator_type=NVIDIA_TESLA_A100 and accelerator_count=2"),
        (
            {"machine_type": "a3-highgpu-8g", "accelerator_type": "NVIDIA_H100_80GB"},
            "set accelerator_type=NVIDIA_H100_80GB and accelerator_count=8",
        ),
        ({"machine_type": "n1-standard-12"}, "has no machine type n1-standard-12: take n1-standard-"),
        ({"machine_type": "n2-standrad-8"}, "has no machine type n2-standrad-8: take n2-standard-8"),
        ({"machine_type": "g2-standard-7"}, "has no machine type g2-standard-7: take g2-standard-"),
    ],
)
def test_what_vertex_refuses_is_refused_with_what_to_set(given: dict[str, Any], told: str) -> None:
    with pytest.raises(UserError) as error:
        configured(places=[{**PLACE, **given}])
    assert told in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("placement", "told"),
    [
        (
            {"network": "projects/my-project/global/networks/default"},
            "`gcloud projects describe my-project --format='value(projectNumber)'` prints it",
        ),
        ({"network": "projects/$(touch X)/global/networks/n"}, "write projects/NUMBER/global/networks/NAME"),
        ({"network": "default"}, "write projects/NUMBER/global/networks/NAME"),
        ({"network": "projects/123/global/networks/My_Net"}, "is not a network's name"),
        ({"network": "projects/١٢٣/global/networks/default"}, "names no network"),
        ({"labels": {"Team": "x"}}, "labels"),
        (
            {
                "kms_key": "projects/p/locations/europe-west4/keyRings/r/cryptoKeys/k",
                "places": [{**PLACE, "region": "us-central1"}, "local"],
            },
            "kms_key is a key of europe-west4, and jobs in us-central1 cannot use it: Vertex AI takes a key of the "
            "job's own region only, so give a place in europe-west4, or a key of their region",
        ),
    ],
)
def test_networks_and_labels_are_checked_too(placement: dict[str, Any], told: str) -> None:
    with pytest.raises(UserError) as error:
        configured(**placement)
    assert told in str(error.value)


@pytest.mark.parametrize(
    ("region", "told"),
    [
        ("europe-wset4", "europe-west4"),
        ("europe-west4-a", "europe-west4"),
        ("europe-west44", "europe-west4"),
        ("us-centrall", "us-central1"),
        ("EUROPE-WEST4", "europe-west4"),
        ("eu-west-1", "take "),
        ("moon-west9", "take "),
        ("evil.example/#-west1", "take "),
        ("europe-west4\n", "europe-west4"),
        ("europe-west٤", "europe-west"),
    ],
)
def test_a_region_that_does_not_exist_is_refused_with_the_ones_meant(region: str, told: str) -> None:
    with pytest.raises(UserError, match="Google Cloud has no region") as error:
        configured(places=[{**PLACE, "region": region}])
    assert told in str(error.value)


@pytest.mark.parametrize("region", [*vertex_machines.REGIONS, "europe-west13", "us-north1"])
def test_a_region_that_may_exist_is_taken(region: str) -> None:
    (place,) = configured(places=[{**PLACE, "region": region}]).places
    assert place.region == region


def test_a_key_of_the_places_region_is_taken() -> None:
    """Places where the key cannot be used are left out; a deployment names some, whatever the key is."""
    key = "projects/p/locations/europe-west4/keyRings/r/cryptoKeys/k"
    placement = configured(kms_key=key, places=[PLACE, {**PLACE, "region": "us-central1"}, "local"])
    assert placement.kms_key == key
    assert placement.places == configured(places=[PLACE, "local"]).places
    assert configured(kms_key=key).places == ()


def test_a_network_by_number_is_taken() -> None:
    network = "projects/123456789012/global/networks/default"
    assert configured(network=network).network == network


def test_what_is_taken_here_is_taken_by_the_stand_in_too() -> None:
    """So that the two sets of rules do not drift apart."""
    from google.cloud.aiplatform_v1 import types
    from loopback.vertex_rules import MACHINES, check_machine

    for machine, (accelerator, count) in vertex_machines.BUILT_IN.items():
        if MACHINES.fullmatch(machine) and machine.startswith("g2"):
            check_machine(
                types.MachineSpec(machine_type=machine, accelerator_type=accelerator, accelerator_count=count)
            )
    for accelerator in vertex_machines.ADDED:
        assert vertex_machines.refusal("n1-standard-8", accelerator, 1) is None
        check_machine(
            types.MachineSpec(machine_type="n1-standard-8", accelerator_type=accelerator, accelerator_count=1)
        )


def test_the_deployments_that_ship_are_taken() -> None:
    for file in sorted((ROOT / "deploy" / "presets").glob("*.yaml")):
        assert configured(**yaml.safe_load(file.read_text())["placement"]).places


def test_the_check_imports_nothing_of_googles() -> None:
    code = "import mlapp.schema_cloud, sys; sys.exit(any('aiplatform' in name for name in sys.modules))"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True)
