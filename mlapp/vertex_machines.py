"""What Vertex AI takes as a place, as data: a wrong region, machine or accelerator is refused when a run is configured.

After `google.cloud.aiplatform_v1.types.AcceleratorType` (a test compares; importing it costs a second) and the table in
https://cloud.google.com/vertex-ai/docs/training/configure-compute. A machine family or region that is not listed here
may be newer than this page: it passes, and Vertex AI judges.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping

# Names of the library's enum; not ACCELERATOR_TYPE_UNSPECIFIED, which stands for none.
ACCELERATORS = (
    *("NVIDIA_TESLA_K80", "NVIDIA_TESLA_P100", "NVIDIA_TESLA_V100", "NVIDIA_TESLA_P4", "NVIDIA_TESLA_T4"),
    *("NVIDIA_TESLA_A100", "NVIDIA_A100_80GB", "NVIDIA_L4", "NVIDIA_H100_80GB", "NVIDIA_H100_MEGA_80GB"),
    *("NVIDIA_H200_141GB", "NVIDIA_B200", "NVIDIA_GB200", "NVIDIA_RTX_PRO_6000"),
    *("TPU_V2", "TPU_V3", "TPU_V4_POD", "TPU_V5_LITEPOD"),
)
ENDED = {"NVIDIA_TESLA_K80": "Vertex AI no longer has it"}
# The machines that bring their accelerators: which, and how many.
BUILT_IN: Mapping[str, tuple[str, int]] = {
    **{f"a2-highgpu-{count}g": ("NVIDIA_TESLA_A100", count) for count in (1, 2, 4, 8)},
    "a2-megagpu-16g": ("NVIDIA_TESLA_A100", 16),
    **{f"a2-ultragpu-{count}g": ("NVIDIA_A100_80GB", count) for count in (1, 2, 4, 8)},
    **{f"a3-highgpu-{count}g": ("NVIDIA_H100_80GB", count) for count in (1, 2, 4, 8)},
    "a3-edgegpu-8g": ("NVIDIA_H100_80GB", 8),
    "a3-megagpu-8g": ("NVIDIA_H100_MEGA_80GB", 8),
    "a3-ultragpu-8g": ("NVIDIA_H200_141GB", 8),
    "a4-highgpu-8g": ("NVIDIA_B200", 8),
    "a4x-highgpu-4g": ("NVIDIA_GB200", 4),
    **{f"g2-standard-{size}": ("NVIDIA_L4", 1) for size in (4, 8, 12, 16, 32)},
    **{f"g2-standard-{size}": ("NVIDIA_L4", count) for size, count in ((24, 2), (48, 4), (96, 8))},
    **{f"g4-standard-{size}": ("NVIDIA_RTX_PRO_6000", count) for size, count in ((48, 1), (96, 2), (192, 4), (384, 8))},
}
# Those that accelerators may be added to (n1): how many of each there may be, and how many processors one serves.
ADDED: Mapping[str, tuple[tuple[int, ...], int]] = {
    "NVIDIA_TESLA_T4": ((1, 2, 4), 24),
    "NVIDIA_TESLA_P4": ((1, 2, 4), 24),
    "NVIDIA_TESLA_P100": ((1, 2, 4), 24),
    "NVIDIA_TESLA_V100": ((1, 2, 4, 8), 12),
}
N1 = {"standard": (4, 8, 16, 32, 64, 96), "highmem": (2, 4, 8, 16, 32, 64, 96), "highcpu": (16, 32, 64, 96)}
# Families without accelerators, and the sizes of their machines.
PLAIN: Mapping[str, Mapping[str, tuple[int, ...]]] = {
    "n1": N1,
    "e2": {"standard": (4, 8, 16, 32), "highmem": (2, 4, 8, 16), "highcpu": (16, 32)},
    "n2": {"standard": (4, 8, 16, 32, 48, 64, 80), "highmem": (2, 4, 8, 16, 32, 48, 64, 80)}
    | {"highcpu": (16, 32, 48, 64, 80)},
    "c2": {"standard": (4, 8, 16, 30, 60)},
}
REGIONS = (
    *("africa-south1", "asia-east1", "asia-east2", "asia-northeast1", "asia-northeast2", "asia-northeast3"),
    *("asia-south1", "asia-south2", "asia-southeast1", "asia-southeast2", "asia-southeast3", "australia-southeast1"),
    *("australia-southeast2", "europe-central2", "europe-north1", "europe-north2", "europe-southwest1", "europe-west1"),
    *("europe-west2", "europe-west3", "europe-west4", "europe-west6", "europe-west8", "europe-west9", "europe-west10"),
    *("europe-west12", "me-central1", "me-central2", "me-west1", "northamerica-northeast1", "northamerica-northeast2"),
    *("northamerica-south1", "southamerica-east1", "southamerica-west1", "us-central1", "us-central2", "us-east1"),
    *("us-east4", "us-east5", "us-east7", "us-south1", "us-west1", "us-west2", "us-west3", "us-west4", "us-west8"),
)
NEWER = 3  # how much higher the number of a newer one may be
WITH_THEIR_OWN = frozenset(name.partition("-")[0] for name in BUILT_IN)
REGION = re.compile(r"(?P<area>[a-z]+)-(?P<side>[a-z]+)(?P<number>[1-9][0-9]?)")
FORM = re.compile(r"(?P<family>[a-z0-9]+)-(?P<kind>[a-z]+)-(?P<size>\d+)")


def region_refusal(region: str) -> str | None:
    """Why there is no such region, and which is probably meant; None where there may be one."""
    forms = [form for each in REGIONS if (form := REGION.fullmatch(each))]
    areas, sides = {form["area"] for form in forms}, {form["side"] for form in forms}
    if (given := REGION.fullmatch(region)) and given["area"] in areas and given["side"] in sides:
        numbers = [int(form["number"]) for form in forms if form.groups()[:2] == given.groups()[:2]]
        if int(given["number"]) <= max(numbers, default=0) + NEWER:
            return None
    return f"Google Cloud has no region {region}: take {_close(region.lower(), REGIONS)}"


def refusal(machine: str, accelerator: str | None, count: int) -> str | None:
    """Why Vertex AI would refuse these accelerators at this machine, and what to set instead; None if it would not."""
    if told := _of_accelerator(accelerator):
        return told
    family = machine.partition("-")[0]
    if family in WITH_THEIR_OWN:
        return _of_built_in(machine, family, accelerator, count)
    return _of_plain(machine, family, accelerator, count) if family in PLAIN else None


def _of_plain(machine: str, family: str, accelerator: str | None, count: int) -> str | None:
    sizes, form = PLAIN[family], FORM.fullmatch(machine)
    if not form or int(form["size"]) not in sizes.get(form["kind"], ()):
        known = [f"{family}-{kind}-{size}" for kind, several in sizes.items() for size in several]
        return f"Vertex AI has no machine type {machine}: take {_close(machine, known)}"
    if accelerator is None:
        return None
    if family != "n1":
        return f"{machine} takes no accelerators: take an n1 machine for {accelerator}, or leave accelerator_type out"
    return _of_added(machine, int(form["size"]), accelerator, count)


def _of_accelerator(name: str | None) -> str | None:
    if name is None:
        return None
    if name not in ACCELERATORS:
        return f"Vertex AI has no accelerator {name}: take {_close(name, ACCELERATORS)}"
    if name in ENDED:
        return f"{name}: {ENDED[name]}: take NVIDIA_TESLA_T4"
    return f"{name}: nothing here trains on TPUs: take a GPU" if name.startswith("TPU") else None


def _of_built_in(machine: str, family: str, accelerator: str | None, count: int) -> str | None:
    if machine not in BUILT_IN:
        known = [name for name in BUILT_IN if name.startswith(f"{family}-")]
        return f"Vertex AI has no machine type {machine}: take {_close(machine, known)}"
    if BUILT_IN[machine] == (accelerator, count):
        return None
    wanted, number = BUILT_IN[machine]
    return f"{machine} brings its accelerators: set accelerator_type={wanted} and accelerator_count={number}"


def _of_added(machine: str, processors: int, accelerator: str, count: int) -> str | None:
    if accelerator not in ADDED:
        machines = [name for name, (own, _) in BUILT_IN.items() if own == accelerator]
        return f"{machine} does not take {accelerator}: take {' or '.join(machines[:4])}"
    counts, serves = ADDED[accelerator]
    enough = [number for number in counts if number * serves >= processors] or [counts[-1]]
    if count in enough:
        return None
    allowed = ", ".join(map(str, enough))
    return f"{machine} takes {allowed} of {accelerator}, not {count}: set accelerator_count to one of {allowed}"


def _close(name: str, known: list[str] | tuple[str, ...]) -> str:
    """The names that were probably meant."""
    return " or ".join(difflib.get_close_matches(name, known, 3, 0.5) or known[:6])
