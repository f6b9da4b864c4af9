"""The settings that only a run on Google Cloud needs; a laptop leaves them all as they are.

Nothing here is part of a stage's result, so moving a run to the cloud computes nothing anew.
"""

from __future__ import annotations

import re
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, Field, field_validator, model_validator

from mlapp.section import Section
from mlapp.vertex_machines import refusal, region_refusal


def _region(name: str) -> str:
    if told := region_refusal(name):
        raise ValueError(told)
    return name


Region = Annotated[str, AfterValidator(_region)]
ServiceAccount = Annotated[str, Field(pattern=r"^[a-z0-9][a-z0-9-]*@[a-z0-9.-]+\.gserviceaccount\.com$")]
# A tag may stand for another image tomorrow, a digest cannot.
BY_DIGEST = r"^[a-z0-9][a-z0-9._:/-]*@sha256:[0-9a-f]{64}$"
PROMOTING = ("vet", "promote")  # the tasks that decide which model is the champion
# Keys and values as Google Cloud takes them.
LabelKey = Annotated[str, Field(pattern=r"^[a-z][a-z0-9_-]{0,62}$")]
NETWORK = re.compile(r"projects/(?P<project>[a-z0-9.:-]+)/global/networks/(?P<name>[^/]+)")
LabelValue = Annotated[str, Field(pattern=r"^[a-z0-9_-]{0,63}$")]


class Cloud(Section):
    """The Google Cloud project that a run uses."""

    project: str | None = Field(
        None,
        pattern=r"^[a-z][a-z0-9-]{4,28}[a-z0-9]$",
        description="id of the Google Cloud project; unset: that of Airflow's connection or of the credentials",
    )
    region: Region = Field("europe-west4", description="region of images, Model Registry and Vertex Experiments")


class Place(Section):
    """One place where Vertex AI may run a stage: a rung of the ladder in `Placement.places`."""

    region: Region = Field(description="region of the job")
    machine_type: str = Field(pattern=r"^[a-z][a-z0-9-]+$", description="machine type of each replica: n2-standard-8")
    accelerator_type: str | None = Field(
        None, pattern=r"^[A-Z][A-Z0-9_]+$", description="accelerator as Vertex AI names it: NVIDIA_TESLA_T4"
    )
    accelerator_count: int = Field(1, ge=1, le=16, description="accelerators a replica, where there is a type")
    replicas: int = Field(1, ge=1, le=64, description="machines that train together (TF_CONFIG), for trainers only")
    spot: bool = Field(False, description="spot capacity: cheaper, and taken away at any moment")
    preemptions: int = Field(
        2, ge=0, le=20, description="times that spot capacity may be taken away here before the next place is tried"
    )
    max_wait_minutes: float = Field(
        20.0, gt=0, le=1440, description="minutes that a job may wait for capacity before the next place is tried"
    )
    disk_gb: int = Field(100, ge=100, le=64000, description="boot disk of each replica, GB")

    @model_validator(mode="after")
    def _is_taken(self) -> Self:
        if told := refusal(self.machine_type, self.accelerator_type, self.accelerator_count):
            raise ValueError(told)
        return self


class Placement(Section):
    """Where stages run: on the worker, or as Vertex AI custom jobs on the first place that has room."""

    runner: Literal["local", "vertex"] = Field("local", description="local: on the worker itself; vertex: custom jobs")
    local_tasks: tuple[str, ...] = Field(
        ("summarise", "register", "log_experiment"),
        description="tasks that run on the worker whatever the runner; configure always does",
    )
    places: tuple[Place | Literal["local"], ...] = Field(
        (), max_length=16, description="ladder of places, tried in order; `local`, as the last, is the worker itself"
    )
    image: str | None = Field(
        None,
        pattern=BY_DIGEST,
        description="training image to run, NAME@sha256:…; unset: the one that the run's image step built",
    )
    service_account: ServiceAccount | None = Field(None, description="service account that the jobs run as")
    promotion_service_account: ServiceAccount | None = Field(
        None,
        description="service account that the jobs of vet and promote run as, so that it alone need be able to write "
        "the registry; unset: service_account",
    )
    network: str | None = Field(
        None, description="VPC network to peer the jobs with: projects/NUMBER/global/networks/NAME, by project number"
    )
    kms_key: str | None = Field(
        None,
        pattern=r"^projects/[^/]+/locations/[^/]+/keyRings/[^/]+/cryptoKeys/[^/]+$",
        description="customer-managed key that encrypts the jobs' disks; places in other regions than the key's are "
        "left out, as Vertex AI takes no key of another region; unset: Google's own",
    )
    labels: dict[LabelKey, LabelValue] = Field(default_factory=dict, max_length=32, description="labels of every job")
    deadline_hours: float = Field(8.0, gt=0, le=168, description="hours after which a job is ended, queue included")
    poll_seconds: float = Field(
        30.0, ge=0.05, le=600, description="seconds between two looks at a job; 10 at least where the task is deferred"
    )
    alert_after_minutes: float = Field(
        5.0,
        ge=0,
        le=1440,
        description="minutes without an answer about a job or a build after which its task's log has an error line; "
        "the job goes on and is looked at again all the same",
    )
    prices: dict[str, Annotated[float, Field(ge=0)]] = Field(
        default_factory=dict,
        description="price an hour by machine type and accelerator type, `/spot` appended for spot capacity, "
        "`@region` for one region; what is not listed is not estimated",
    )
    currency: str = Field("USD", pattern=r"^[A-Z]{3}$", description="currency of the prices")

    @field_validator("network")
    @classmethod
    def _is_by_number(cls, network: str | None) -> str | None:
        if network is None:
            return None
        if not (found := NETWORK.fullmatch(network)):
            raise ValueError(f"{network} names no network: write projects/NUMBER/global/networks/NAME")
        project, name = found["project"], found["name"]
        if not (project.isascii() and project.isdecimal()):
            number = f"gcloud projects describe {project} --format='value(projectNumber)'"
            raise ValueError(
                f"Vertex AI takes a network by its project's number, not by {project}: `{number}` prints it"
            )
        if not re.fullmatch(r"[a-z]([a-z0-9-]{0,61}[a-z0-9])?", name):
            raise ValueError(f"{name} is not a network's name: `gcloud compute networks list --project={project}`")
        return network

    @model_validator(mode="after")
    def _key_is_of_the_region(self) -> Self:
        if self.kms_key is None:
            return self
        own = self.kms_key.split("/")[3]
        usable = tuple(each for each in self.places if not isinstance(each, Place) or each.region == own)
        if len(self.places) > len(usable) == len([each for each in usable if each == "local"]):
            others = sorted({each.region for each in self.places if isinstance(each, Place)})
            raise ValueError(
                f"kms_key is a key of {own}, and jobs in {', '.join(others)} cannot use it: Vertex AI takes a key "
                f"of the job's own region only, so give a place in {own}, or a key of their region"
            )
        object.__setattr__(self, "places", usable)
        return self

    def account_of(self, task: str) -> str | None:
        """The service account that a task's job runs as."""
        return (task.rpartition(".")[2] in PROMOTING and self.promotion_service_account) or self.service_account

    @field_validator("places")
    @classmethod
    def _local_is_last(cls, places: tuple[Place | str, ...]) -> tuple[Place | str, ...]:
        if "local" in places[:-1]:
            raise ValueError("the worker itself always has room: give `local` last, or not at all")
        return places


class Images(Section):
    """How the training image is made and where it is kept."""

    repository: str | None = Field(
        None,
        pattern=r"^[a-z0-9][a-z0-9._:-]*(/[a-z0-9][a-z0-9._-]*)+$",
        description="where images are pushed to: REGION-docker.pkg.dev/PROJECT/REPOSITORY/mlapp-training",
    )
    builder: Literal["cloud_build", "docker", "buildah"] = Field(
        "cloud_build", description="who builds: Cloud Build, or an engine on the worker"
    )
    variant: Literal["cpu", "cuda"] = Field("cpu", description="what the image's TensorFlow runs on")
    base: str | None = Field(
        None,
        pattern=BY_DIGEST,
        description="base image by its digest, NAME@sha256:…; unset: the one in Dockerfile.training",
    )
    build_service_account: ServiceAccount | None = Field(None, description="service account that Cloud Build runs as")
    timeout_minutes: float = Field(40.0, gt=0, le=240, description="minutes that a build may take")
    poll_seconds: float = Field(5.0, ge=0.05, le=60, description="seconds between two looks at Cloud Build")


class Registration(Section):
    """What Vertex AI is told of a run once it is over; each is optional, and works for a model trained anywhere."""

    model_registry: bool = Field(False, description="upload a promoted model to Vertex Model Registry")
    model_id: str | None = Field(
        None,
        pattern=r"^[a-z_][a-z0-9_-]{0,62}$",
        description="id of the model in Vertex Model Registry; unset: promotion.name",
    )
    serving_image: str | None = Field(
        None,
        pattern=BY_DIGEST,
        description="container that serves the model from its bundle, NAME@sha256:…; unset: registered by name and "
        "address only, because Vertex AI takes files only together with a container",
    )
    artifacts: str | None = Field(
        None,
        pattern=r"^gs://[a-z0-9][a-z0-9._-]{1,220}[a-z0-9](/[^?#]*)?$",
        description="where bundles of a local registry, and of held challengers, are copied to; "
        "unset: below storage.models, where that is in a bucket",
    )
    timeout_minutes: float = Field(30.0, gt=0, le=240, description="minutes to wait for an upload")
    experiment: str | None = Field(
        None,
        pattern=r"^[a-z0-9][a-z0-9-]{3,63}$",
        description="Vertex Experiment to log runs to, made if it is not there; unset: none",
    )
