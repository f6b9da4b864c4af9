"""Cloud Build and the image registry in bad weather: one build, never cancelled, its digest found."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator

import grpc
import pytest
from loopback import chaos, cloud_build, image_registry
from loopback.cloud_build import CloudBuild, Status

from mlapp import authenticate
from mlapp.errors import TryAgainError
from mlapp.images import builder, registry
from mlapp.images import cloud_build as ordering
from mlapp.schema import Storage
from mlapp.schema_cloud import Cloud

pytest_plugins = "loopback.fixtures"
BLIND = ("UNAVAILABLE", "UNAUTHENTICATED", "PERMISSION_DENIED", "NOT_FOUND", "ABORTED", "UNKNOWN", "RESOURCE_EXHAUSTED")


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ordering, "BACKOFF_S", (0.01,) * 6)
    monkeypatch.setattr(builder, "PAUSES_S", (0.01,) * 4)
    monkeypatch.setattr(registry, "RETRIES", registry.RETRIES.new(backoff_factor=0))
    monkeypatch.setattr(registry, "PAUSES_S", (0.01,) * 2)
    monkeypatch.setattr(authenticate, "member", lambda: "user:me@example.com")


@pytest.fixture
def images() -> Iterator[image_registry.Registry]:
    with image_registry.serving() as service:
        yield service


def config_at(address: str) -> builder.ImageConfig:
    return builder.ImageConfig(
        repository=f"{address}/mlapp/mlapp-training",
        cloud=Cloud(project="my-project"),
        storage=Storage(models="gs://models/area"),
        poll_seconds=0.05,
    )


@pytest.mark.parametrize("seed", range(4))
def test_one_build_is_ordered_and_goes_on(
    cloud: dict[str, str],
    images: image_registry.Registry,
    bad_weather: Callable[..., chaos.Proxy],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path,
    seed: int,
) -> None:
    weather = chaos.Weather(seed, dict.fromkeys(chaos.GRPC_RATES, 0.1), in_a_row=3)
    proxy = bad_weather(f"http://{images.address}", seed, dict.fromkeys(chaos.HTTP_RATES, 0.08), in_a_row=1)
    pushed = CloudBuild(
        looks=6,
        pushes=lambda build: [images.push(image.replace(proxy.address, images.address)) for image in build.images],
    )
    with cloud_build.serving(pushed, weather) as service:
        monkeypatch.setenv("MLAPP_CLOUD_BUILD_ENDPOINT", service.address)
        result = builder.run(config_at(proxy.address), tmp_path)
    assert [build.status for build in service.builds.values()] == [Status.SUCCESS]
    assert json.loads(result.local("image").read_text())["image"].partition("@")[2] in images.digests.values()
    assert sum(weather.done.values()) >= 2


def test_a_status_that_is_newer_than_the_library_is_looked_at_again(
    cloud: dict[str, str], images: image_registry.Registry, monkeypatch: pytest.MonkeyPatch, tmp_path
) -> None:
    service = CloudBuild(pushes=lambda build: [images.push(image) for image in build.images])
    look, looks = service.get, []

    def get(request, context):
        build = look(request, context)
        looks.append(build.status)
        if len(looks) == 1:
            newer = type(build)(build)
            type(newer).pb(newer).status = 77
            return newer
        return build

    monkeypatch.setattr(service, "get", get)
    with cloud_build.serving(service) as serving:
        monkeypatch.setenv("MLAPP_CLOUD_BUILD_ENDPOINT", serving.address)
        builder.run(config_at(images.address), tmp_path)
    assert [build.status for build in service.builds.values()] == [Status.SUCCESS]


@pytest.mark.parametrize("code", BLIND)
def test_a_failed_look_leaves_the_build_alone(
    cloud: dict[str, str], images: image_registry.Registry, monkeypatch: pytest.MonkeyPatch, tmp_path, caplog, code: str
) -> None:
    blind = [code] * 3
    service = CloudBuild(pushes=lambda build: [images.push(image) for image in build.images])
    look = service.get

    def get(request: object, context: grpc.ServicerContext) -> object:
        if blind:
            context.abort(grpc.StatusCode[blind.pop()], "interrupted")
        return look(request, context)

    monkeypatch.setattr(service, "get", get)
    with cloud_build.serving(service):
        monkeypatch.setenv("MLAPP_CLOUD_BUILD_ENDPOINT", service.address)
        config = config_at(images.address)
        placement = config.placement.model_copy(update={"alert_after_minutes": 0.0})
        builder.run(config.model_copy(update={"placement": placement}), tmp_path)
    assert [build.status for build in service.builds.values()] == [Status.SUCCESS]
    assert sum("it goes on" in record.message for record in caplog.records if record.levelname == "ERROR") == 1


@pytest.mark.parametrize("fault", sorted(set(chaos.HTTP_RATES) - {"shortened"}))
def test_each_fault_of_a_registry_alone_is_got_over(
    images: image_registry.Registry, bad_weather: Callable[..., chaos.Proxy], fault: str
) -> None:
    proxy = bad_weather(f"http://{images.address}", 1, {fault: 1.0}, in_a_row=1)
    repository = registry.Repository(f"{proxy.address}/mlapp/training")
    images.push(f"{images.address}/mlapp/training:cpu-1")
    assert repository.digest("cpu-1") == images.digests["mlapp/training:cpu-1"]


def test_a_registry_that_stays_away_is_for_the_next_try(
    images: image_registry.Registry, bad_weather: Callable[..., chaos.Proxy]
) -> None:
    proxy = bad_weather(f"http://{images.address}", 1, {"reset_after": 1.0}, in_a_row=10**6)
    with pytest.raises(TryAgainError, match=r"does not answer .*: run again"):
        registry.Repository(f"{proxy.address}/mlapp/training").digest("cpu-1")
