"""Which trackers listen to a stage, as the settings say."""

from __future__ import annotations

import logging
import os
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from upath import UPath

from mlapp import cluster, storage
from mlapp.dl.vertex import vertex_folder
from mlapp.errors import Dismissed, UserError
from mlapp.schema import Config
from mlapp.trackers.event_files import TensorBoard
from mlapp.trackers.run_folder import RunFolder
from mlapp.trackers.wandb_spool import WeightsAndBiases
from mlapp.tracking import Tracker

log = logging.getLogger("mlapp")
BOARD: Final = "AIP_TENSORBOARD_LOG_DIR"


def of_run(settings: Config, stage: str) -> list[Tracker]:
    """What keeps the run's folder, for a stage that belongs to a run."""
    return [RunFolder(run_folder(settings), stage)] if settings.tracking.group and _is_chief() else []


def of_stage(settings: Config, workdir: str) -> list[Tracker]:
    """What follows one stage, with its files in the run's folder, or in ``workdir`` where it belongs to no run."""
    if not _is_chief():
        return []
    tracking, own = settings.tracking, storage.at(workdir)
    trackers: list[Tracker] = []
    if tracking.tensorboard and (os.environ.get(BOARD) or storage.is_local(own)):
        trackers.append(TensorBoard(vertex_folder(BOARD, Path(own.path) / "tensorboard")))
    wandb = _wished(tracking.wandb)
    if wandb != "off" and find_spec("wandb") is None:
        log.info("W&B is not installed on this machine: this stage is not among its runs")
    elif wandb != "off":
        folder = run_folder(settings) if tracking.group else own
        chosen = tracking.model_copy(update={"wandb": wandb})
        # The run's summary, which works in the run's own folder, is its last stage.
        trackers.append(WeightsAndBiases(folder, chosen, last=bool(tracking.group) and folder == own))
    return trackers


def run_folder(settings: Config) -> UPath:
    """The folder of the run that a stage belongs to."""
    return storage.at(settings.storage.experiments) / str(settings.tracking.group)


def _wished(setting: str) -> str:
    """W&B's own switch (WANDB_MODE) counts where the setting leaves it open."""
    named = {"disabled": "off", "offline": "offline", "dryrun": "offline"}
    return named.get(os.environ.get("WANDB_MODE", ""), setting) if setting == "auto" else setting


def _is_chief() -> bool:
    """Whether this process is the one of several workers (TF_CONFIG) that speaks for all."""
    try:
        crew = cluster.read()
    except (UserError, Dismissed):
        return True  # the stage itself tells what is wrong
    return crew is None or crew.is_chief
