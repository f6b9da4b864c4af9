"""Refuse a run whose settings cannot work, when it is configured: everything that the settings alone give away.

What a later stage would refuse after hours is refused here within a second, all of it in one line.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from mlapp import authenticate, small_file, storage
from mlapp import config as configuration
from mlapp.errors import UserError
from mlapp.policy import policy_of
from mlapp.schema import Config, Signing
from mlapp.schema_cloud import Place
from mlapp.section import Section
from mlapp.tune import space

PROMOTING = "promote"  # the task that signs
BUILT_IN = "fashion_mnist"


def refuse_unworkable(config: Config) -> None:
    """A `UserError` names every group of settings that no run can succeed with."""
    found = list(_faults(config))
    if found:
        raise UserError("; ".join(found))


def _faults(config: Config) -> Iterator[str]:
    for look in (_policy, _keys, _search):
        try:
            look(config)
        except UserError as error:
            yield str(error)
    yield from _data(config)
    if config.placement.runner == "vertex":
        yield from _placement(config)


def _policy(config: Config) -> None:
    policy_of(config.vetting)


def _data(config: Config) -> Iterator[str]:
    data = config.data
    if data.source is None and data.name != BUILT_IN:
        yield f"no source is known for data.name={data.name}: give data.source, a folder or an address"
    if data.classes and (twice := sorted({name for name in data.classes if data.classes.count(name) > 1})):
        yield f"data.classes names {', '.join(twice)} twice: give every class its own name"


def _search(config: Config) -> None:
    """A search needs a trainer, and its space must suit every trainer that is searched for, in as many epochs."""
    if not config.tuning.trials:
        return
    if not config.tuning.trainers:
        raise UserError("tuning.trials is set, but tuning.trainers is empty: name a trainer, or set tuning.trials=0")
    sections = {"train": config.training, "distill": config.distillation, "baseline": config.baseline}
    for trainer in config.tuning.trainers:
        section: Section = sections[trainer]
        given = section.model_dump()
        if config.tuning.epochs and "epochs" in given:
            given["epochs"] = min(given["epochs"], config.tuning.epochs)
            section = configuration.validate(type(section), given, {})
        space.checked(config.tuning.space, section, space.searchable(type(section)), trainer)


def _placement(config: Config) -> Iterator[str]:
    """What a custom job of Vertex AI needs, and what it cannot reach."""
    placement = config.placement
    if not placement.places:
        yield (
            "placement.runner is vertex, but placement.places is empty: name places, or take a deployment that does, "
            "as in MLAPP_DEPLOYMENT=vertex_cpu"
        )
    areas = config.storage.model_dump().items()
    if here := [f"storage.{area}={uri}" for area, uri in areas if storage.is_local(storage.at(uri))]:
        yield (
            f"placement.runner is vertex, but {', '.join(here)} lie on this machine: set them to gs:// URIs "
            "(gcloud storage buckets create gs://NAME makes a bucket)"
        )
    if not (placement.image or config.images.repository):
        yield "placement.runner is vertex without an image: set images.repository to build one, or placement.image"
    key = config.signing.private_key
    if key and not authenticate.SECRET.fullmatch(key) and PROMOTING not in placement.local_tasks:
        yield (
            f"signing.private_key is a file, which the job that runs {PROMOTING} does not have: give a secret's name "
            f"(projects/P/secrets/S), or add {PROMOTING} to placement.local_tasks"
        )
    for place in placement.places:
        if isinstance(place, Place):
            yield from _batches(config, place)


def _batches(config: Config, place: Place) -> Iterator[str]:
    """A batch is split evenly over all devices of a place."""
    each = place.accelerator_count if place.accelerator_type else 1
    devices = place.replicas * min(each, config.devices.gpus or each)
    for section in ("training", "distillation", "pruning"):
        settings: Any = getattr(config, section)
        if settings.scaling == "none" and settings.batch_size % devices:
            yield (
                f"{section}.batch_size={settings.batch_size} does not divide among the {devices} devices of "
                f"{place.region} {place.machine_type}: give a multiple of {devices}"
            )


def _keys(config: Config) -> None:
    """The keys can be read, are elliptic-curve ones, and belong together; a secret is fetched only where it signs."""
    signing = config.signing
    public = _public(signing)
    if public and not signing.private_key:
        raise UserError(
            "signing.public_key is set without signing.private_key, so what the run promotes could not be signed, and "
            "an unsigned bundle is refused: set signing.private_key too"
        )
    if not signing.private_key or authenticate.SECRET.fullmatch(signing.private_key):
        return
    if not storage.is_local(storage.at(signing.private_key)):
        raise UserError("signing.private_key: give a file on this machine, or a secret's name (projects/P/secrets/S)")
    private = _loaded(signing.private_key, "private_key")
    if public and private.public_key().public_numbers() != public.public_numbers():
        raise UserError("signing.private_key and signing.public_key are not of one pair: give the two halves of a key")


def _public(signing: Signing) -> Any:
    return _loaded(signing.public_key, "public_key") if signing.public_key else None


def _loaded(uri: str, name: str) -> Any:
    """A key from its PEM file."""
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    try:
        with storage.explained():
            text = small_file.read(storage.at(uri)).encode()
        if name == "public_key":
            key: Any = serialization.load_pem_public_key(text)
        else:
            key = serialization.load_pem_private_key(text, password=None)
    except UserError as error:
        raise UserError(f"signing.{name}: {error}") from error
    except Exception as error:  # the library has many, none of which may show what the file holds
        raise UserError(f"signing.{name}: {uri} is no PEM key without a password: make one as README says") from error
    if not isinstance(key, ec.EllipticCurvePublicKey | ec.EllipticCurvePrivateKey):
        raise UserError(f"signing.{name}: {uri} is not an elliptic-curve key: make one as README says")
    return key
