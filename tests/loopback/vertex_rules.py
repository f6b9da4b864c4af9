"""What the real service refuses of a custom job, as far as its rules are known: the same code, a message alike."""

from __future__ import annotations

import re
from typing import NoReturn

from google.cloud.aiplatform_v1 import types
from google.rpc.code_pb2 import Code

LABEL_KEY = re.compile(r"[a-z][a-z0-9_-]{0,62}")
LABEL_VALUE = re.compile(r"[a-z0-9_-]{0,63}")
ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
IMAGE = re.compile(
    r"[a-z0-9][a-z0-9.-]*(:[0-9]+)?(/[a-z0-9][a-z0-9._-]*)+(:[A-Za-z0-9_][A-Za-z0-9._-]{0,127})?(@sha256:[0-9a-f]{64})?"
)
SERVICE_ACCOUNT = re.compile(r"[a-z0-9-]+@([a-z0-9-]+\.iam|developer|appspot)\.gserviceaccount\.com")
NETWORK = re.compile(r"projects/[0-9]+/global/networks/[a-z]([a-z0-9-]*[a-z0-9])?")
DAYS_7 = 7 * 24 * 3600
# Machine types of custom training by family, and the accelerators that each family takes.
MACHINES = re.compile(
    r"n1-(standard|highmem|highcpu)-(4|8|16|32|64|96)|n2-(standard|highmem|highcpu)-(4|8|16|32|48|64|80)"
    r"|e2-(standard|highmem|highcpu)-(4|8|16|32)|c2-standard-(4|8|16|30|60)|a2-highgpu-[1248]g|g2-standard-(4|8|12|16|24|32|48|96)"
)
ACCELERATORS = {
    "n1": {"NVIDIA_TESLA_T4", "NVIDIA_TESLA_P4", "NVIDIA_TESLA_P100", "NVIDIA_TESLA_V100"},
    "a2": {"NVIDIA_TESLA_A100"},
    "g2": {"NVIDIA_L4"},
}
Strategy = types.Scheduling.Strategy


class RefusedError(Exception):
    """The request breaks a rule."""

    def __init__(self, code: int, message: str, reason: str = "") -> None:
        super().__init__(message)
        self.code, self.message, self.reason = code, message, reason


def invalid(message: str) -> NoReturn:
    raise RefusedError(Code.INVALID_ARGUMENT, message)


def check_job(job: types.CustomJob) -> None:
    """Refuse a job that the real service would refuse when it is created."""
    if not 1 <= len(job.display_name) <= 128:
        invalid(f"display_name must be 1 to 128 characters long, not {len(job.display_name)}.")
    check_labels(dict(job.labels))
    spec = job.job_spec
    pools = list(spec.worker_pool_specs)
    if not pools:
        invalid("At least one worker pool spec is required.")
    if pools[0].replica_count != 1:
        invalid("The replica count of the first worker pool must be 1.")
    if len(pools) > 4:
        invalid("At most four worker pools are allowed.")
    for pool in pools:
        check_pool(pool)
    if spec.network and spec.psc_interface_config:
        invalid("Only one of network and psc_interface_config can be set.")
    if spec.network and not NETWORK.fullmatch(spec.network):
        invalid(f"{spec.network} is not a full network name with the project's number.")
    if spec.service_account and not SERVICE_ACCOUNT.fullmatch(spec.service_account):
        invalid(f"Service account {spec.service_account} is not valid.")
    output = spec.base_output_directory.output_uri_prefix
    if output and not output.startswith("gs://"):
        invalid(f"{output} is not a Cloud Storage URI.")
    if spec.tensorboard and not (spec.service_account and output):
        invalid("A TensorBoard needs a service account and a base output directory.")
    check_scheduling(spec.scheduling)


def check_labels(labels: dict[str, str]) -> None:
    if len(labels) > 64:
        invalid("At most 64 labels are allowed.")
    for key, value in labels.items():
        if not LABEL_KEY.fullmatch(key) or not LABEL_VALUE.fullmatch(value):
            invalid(f"Label {key}={value!r} is not valid: lower-case letters, digits, _ and -, at most 63.")


def check_pool(pool: types.WorkerPoolSpec) -> None:
    check_machine(pool.machine_spec)
    if pool.replica_count < 1:
        invalid("replica_count must be at least 1.")
    disk = pool.disk_spec
    if disk.boot_disk_size_gb and not 100 <= disk.boot_disk_size_gb <= 64000:
        invalid("boot_disk_size_gb must be between 100 and 64000.")
    if disk.boot_disk_type and disk.boot_disk_type not in ("pd-ssd", "pd-standard", "hyperdisk-balanced"):
        invalid(f"boot_disk_type {disk.boot_disk_type} is not supported.")
    if ("container_spec" in pool) == ("python_package_spec" in pool):
        invalid("Exactly one of container_spec and python_package_spec must be set.")
    container = pool.container_spec
    if not IMAGE.fullmatch(container.image_uri):
        invalid(f"Image {container.image_uri!r} is not a valid image name.")
    names = [variable.name for variable in container.env]
    if len(set(names)) < len(names):
        invalid("Environment variables must be unique.")
    for name in names:
        if not ENV_NAME.fullmatch(name):
            invalid(f"Environment variable {name!r} is not a valid C identifier.")


def check_machine(machine: types.MachineSpec) -> None:
    if not machine.machine_type:
        invalid("machine_type is required.")
    if not MACHINES.fullmatch(machine.machine_type):
        invalid(f"Machine type {machine.machine_type!r} is not supported.")
    if bool(machine.accelerator_type) != bool(machine.accelerator_count):
        invalid("accelerator_type and accelerator_count must be set together.")
    if machine.accelerator_type:
        name = types.AcceleratorType(machine.accelerator_type).name
        if name not in ACCELERATORS.get(machine.machine_type.split("-")[0], ()):
            invalid(f'Accelerator "{name}" is not supported for machine type "{machine.machine_type}".')


def check_scheduling(scheduling: types.Scheduling) -> None:
    timeout = scheduling.timeout
    if timeout is not None and timeout and not 0 < timeout.total_seconds() <= DAYS_7:
        invalid("timeout must be positive, and at most 7 days.")
    if "max_wait_duration" in scheduling and scheduling.strategy != Strategy.FLEX_START:
        invalid("max_wait_duration is for the FLEX_START strategy only.")
    if scheduling.strategy in (Strategy.ON_DEMAND, Strategy.LOW_COST):
        invalid("The scheduling strategy is deprecated: use STANDARD or SPOT.")
