"""Register with Vertex AI: Model Registry shows what the registry holds, under the aliases `champion` and `challenger`.

One model for each promotion.name, one version for each bundle. `champion` and `default` are the version of the bundle
that the pointer names, whoever moved it. A challenger that was held is uploaded too, as `challenger`, until the next
promotion settles it; one that was rejected is not uploaded.

With --promoted, after a run: what came of it, if the run's settings ask for it. With --bundle, by hand: a bundle, or
the champion of a model's folder (production_models/NAME), wherever it was trained.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any, NamedTuple

from pydantic import Field, ValidationError
from upath import UPath

from mlapp import storage
from mlapp.errors import UserError
from mlapp.registry import promoter
from mlapp.registry.bundle import MANIFEST, Draft, Manifest, install, verify
from mlapp.registry.pointer import BUNDLE_ID, Pointer, manifest_of
from mlapp.registry.promoter import PromoterConfig
from mlapp.registry.signature import SIGNATURE
from mlapp.registry.vertex_versions import Versions
from mlapp.result import Outcome, ResultUri, StageResult
from mlapp.schema import Signing, Storage
from mlapp.schema_cloud import Cloud, Registration
from mlapp.stage import stage
from mlapp.text_table import interval, percent
from mlapp.vertex_client import Service
from mlapp.vetting.verdict import Verdict


class RegisterConfig(Registration):
    """The `registration` settings, and what to register."""

    cloud: Cloud = Cloud()
    storage: Storage = Storage()
    signing: Signing = Signing()
    promoted: ResultUri | None = Field(None, description="result of promoter, to register what came of a run")
    bundle: str | None = Field(None, description="folder of a bundle, or of a model: then its champion")


class Found(NamedTuple):
    """What the registry holds to be registered: folders of bundles."""

    name: str
    champion: UPath | None
    challenger: UPath | None = None
    other: UPath | None = None


@stage("register", area="models", section="registration", cached=False)
def run(config: RegisterConfig, workdir: Path) -> Outcome:
    """Upload the versions that are missing, then let the aliases name the right ones."""
    if (config.promoted is None) == (config.bundle is None):
        raise UserError("what to register: give either --promoted, a run's promotion, or --bundle, a folder")
    if config.promoted and not config.model_registry:
        return Outcome(headline="not asked for (registration.model_registry=false)")
    found = (
        _of_run(config.promoted, config) if config.promoted else _by_hand(storage.at((config.bundle or "").rstrip("/")))
    )
    present = [place for place in (found.champion, found.challenger, found.other) if place]
    if not present:
        return Outcome(headline=f"{found.name} has no champion yet, and nothing was held: nothing to register")
    versions = Versions(Service("model", config.cloud), config.model_id or found.name, config.timeout_minutes)
    registered = {place: versions.ensure(*_described(_in_bucket(place, config), config)) for place in present}
    if found.champion:
        champion = registered[found.champion]
        if versions.aliases().get("champion") != champion:
            versions.give("challenger", None)  # it was one of the former champion; first, or a kill would leave it
        versions.give("champion", champion)
        versions.give("default", champion)
    if found.challenger:
        versions.give("challenger", registered[found.challenger])
    return _told(versions, workdir, {place.name: version for place, version in registered.items()})


def _by_hand(place: UPath) -> Found:
    """A bundle, with the champion's role if it is the champion; or the champion of a model's folder."""
    folder = place.parent if BUNDLE_ID.fullmatch(place.name) else place
    manifest = manifest_of(str(folder.parent), folder.name, Pointer(str(folder.parent), folder.name).read())
    champion = manifest.parent if manifest else None
    if folder == place:
        if champion is None:
            raise UserError(f"{place} has no champion: give a folder like production_models/NAME, or a bundle's in it")
        return Found(folder.name, champion)
    return Found(folder.name, champion) if champion == place else Found(folder.name, None, other=place)


def _of_run(promoted: str, settings: RegisterConfig) -> Found:
    """The champion as the pointer names it now, and this run's challenger if it was held against that one."""
    result = StageResult.load(promoted)
    try:
        config = PromoterConfig.model_validate(result.config)
    except ValidationError as error:
        raise UserError(f"{result.uri} is no promotion of this version: give --bundle, the promoted folder") from error
    present = Pointer(config.registry, config.name).read()
    named = manifest_of(config.registry, config.name, present)
    champion = named.parent if named else None
    vetted = StageResult.load(config.verdict)
    verdict = promoter.read_verdict(vetted)
    if verdict.decision != "hold" or verdict.champion_before != present:
        return Found(config.name, champion)
    parent = _bucket(settings) / config.name
    with Draft(parent) as draft:
        manifest = promoter.fill(draft, config, verdict, vetted, StageResult.load(config.challenger))
        held = install(draft, manifest, parent, settings.signing)
    return Found(config.name, champion, held)


def _bucket(config: RegisterConfig) -> UPath:
    """Where bundles that lie in no bucket yet are copied to."""
    models = storage.at(config.storage.models)
    if config.artifacts or not storage.is_local(models):
        return storage.at(config.artifacts) if config.artifacts else models / "registered"
    raise UserError(
        "Vertex AI reads models from buckets only: give registration.artifacts=gs://BUCKET/FOLDER, where they are "
        "copied to"
    )


def _in_bucket(place: UPath, config: RegisterConfig) -> UPath:
    """A bundle that is whole, in a bucket."""
    manifest = verify(place, config.signing)
    if not storage.is_local(place):
        return place
    parent = _bucket(config) / manifest.name
    with Draft(parent) as draft:
        signed = [SIGNATURE] if (place / SIGNATURE).exists() else []
        for name in (*manifest.files, *signed):
            shutil.copyfile(storage.fetch(place / name), draft / name)
        return install(draft, manifest, parent)


def _described(place: UPath, config: RegisterConfig) -> tuple[dict[str, str], dict[str, Any]]:
    """The labels that tell a bundle's version from all others, and the version."""
    manifest = Manifest.load(place / MANIFEST)
    try:
        verdict = Verdict.model_validate_json((place / "verdict.json").read_text(encoding="utf-8"))
    except ValidationError as error:
        raise UserError(f"{place / 'verdict.json'} is not a verdict of this version: promote the model anew") from error
    accuracy = verdict.challenger.accuracy
    image = config.serving_image
    labels = {
        "mlapp-name": manifest.name,
        "mlapp-bundle": manifest.id,
        "mlapp-serving": hashlib.sha256(image.encode()).hexdigest()[:12] if image else "none",
        # A label holds 63 characters, a digest is one longer.
        "mlapp-model": manifest.model_sha256[:32],
        "mlapp-data": verdict.data[:32],
        "mlapp-verdict": verdict.decision,
    }
    told = (
        f"{percent(accuracy)} on {accuracy.n:,} test images (95 % interval {interval(accuracy)}); {verdict.decision}; "
        f"bundle {manifest.id}, {manifest.model} {manifest.model_sha256}, data {verdict.data}; {place}"
    )
    served = {"artifact_uri": str(place), "container_spec": {"image_uri": image}} if image else {}
    return labels, {"display_name": manifest.name, "version_description": told, **served}


def _told(versions: Versions, workdir: Path, registered: dict[str, str]) -> Outcome:
    aliases = versions.aliases()
    content = {"model": versions.name, "versions": registered, "aliases": aliases}
    storage.write_text(workdir / "registered.json", json.dumps(content, indent=2) + "\n")
    named = [f"{alias} is version {aliases[alias]}" for alias in ("champion", "challenger") if alias in aliases]
    told = "; ".join([*named, *(f"bundle {bundle} is version {version}" for bundle, version in registered.items())])
    return Outcome(artifacts={"registered": workdir / "registered.json"}, headline=f"{versions.name}: {told}")


if __name__ == "__main__":
    run.main()
