"""Image: have the training image in the registry, and tell it by its digest.

What the image is made of gives its tag (see `mlapp.images.context`). An image that has the tag already is taken as it
stands; else Cloud Build makes one, or docker or buildah on this machine. Leaves image.json: image (HOST/NAME@sha256:…),
tag, and whether it was built now.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

from pydantic import Field

from mlapp import storage
from mlapp.errors import UserError
from mlapp.images import cloud_build, engine
from mlapp.images.context import Context
from mlapp.images.registry import Repository
from mlapp.result import Outcome
from mlapp.schema import Storage
from mlapp.schema_cloud import Cloud, Images, Placement
from mlapp.stage import stage

PAUSES_S = (0.2, 1.0, 3.0)  # between looks at the registry for what was pushed


class ImageConfig(Images):
    """The `images` settings, and where Cloud Build works."""

    cloud: Cloud = Cloud()
    placement: Placement = Placement()
    storage: Storage = Storage()
    content: str | None = Field(None, description="tag of what the image is made of; always taken anew")
    again: bool = Field(False, description="build even if the registry has the image")


def with_content(config: ImageConfig) -> ImageConfig:
    """The config with the tag of the image's present content, so that each content has a result of its own."""
    return config.model_copy(update={"content": Context.read(config.variant, base=config.base).tag})


@stage("image", area="models", section="images", cached=False, resolve=with_content)
def run(config: ImageConfig, workdir: Path) -> Outcome:
    """Find the image, or build and push it."""
    if config.placement.image:
        return _outcome(workdir, {"image": config.placement.image, "built": False}, "as placement.image says")
    repository, context = _repository(config), Context.read(config.variant, base=config.base)
    began = time.monotonic()
    digest = None if config.again else repository.digest(context.tag)
    if built := digest is None:
        pushed = None
        if config.builder == "cloud_build":
            pushed = cloud_build.build(context, repository, config)
        else:
            engine.build(config.builder, context, repository, config.timeout_minutes)
        digest = _pushed(repository, context.tag)
        if digest and pushed and digest != pushed:
            raise UserError(
                f"{repository.uri}:{context.tag} is {digest}, and Cloud Build pushed {pushed}: somebody else pushes to "
                "this repository; find out who, then run again"
            )
    if digest is None:
        raise UserError(f"the image was built, and {repository.uri} has no {context.tag}: was it deleted? run again")
    image = f"{repository.uri}@{digest}"
    told = f"built in {time.monotonic() - began:.0f} s" if built else "in the registry already, not built again"
    return _outcome(workdir, {"image": image, "tag": context.tag, "built": built}, f"({context.tag}) {told}")


def _pushed(repository: Repository, tag: str) -> str | None:
    """The digest of an image that was pushed a moment ago, which a registry may take seconds to know of."""
    for pause in PAUSES_S:
        if found := repository.digest(tag):
            return found
        time.sleep(pause)
    return repository.digest(tag)


def _outcome(workdir: Path, content: dict[str, Any], told: str) -> Outcome:
    storage.write_text(workdir / "image.json", json.dumps(content, indent=2) + "\n")
    return Outcome(artifacts={"image": workdir / "image.json"}, headline=f"{content['image']}: {told}")


def _repository(config: ImageConfig) -> Repository:
    region, project = config.cloud.region, config.cloud.project or "PROJECT"
    example = f"images.repository={region}-docker.pkg.dev/{project}/mlapp/mlapp-training"
    if not config.repository:
        raise UserError(
            "images.repository is unset: make one with `gcloud artifacts repositories create mlapp "
            f"--repository-format=docker --location={region} --project={project}` and set {example}"
        )
    repository = Repository(config.repository)
    if repository.host.endswith("-docker.pkg.dev") and not repository.in_google:
        raise UserError(
            f"images.repository={config.repository} is no address in Artifact Registry: write "
            f"REGION-docker.pkg.dev/PROJECT/REPOSITORY/IMAGE, like {example}"
        )
    return repository


if __name__ == "__main__":
    run.main()
