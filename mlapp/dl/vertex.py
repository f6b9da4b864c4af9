"""The folders that Vertex AI gives a training job: AIP_MODEL_DIR and AIP_TENSORBOARD_LOG_DIR.

AIP_CHECKPOINT_DIR is not used: `workspaces.keep` takes checkpoints to the work directory, wherever the next start is.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

Variable = Literal["AIP_MODEL_DIR", "AIP_TENSORBOARD_LOG_DIR"]


def vertex_folder(variable: Variable, otherwise: Path | None = None) -> Path:
    """The folder named by ``variable``, reached through the Cloud Storage mount at /gcs; else ``otherwise``."""
    value = os.environ.get(variable) or str(otherwise)
    return Path(value.replace("gs://", "/gcs/", 1))
