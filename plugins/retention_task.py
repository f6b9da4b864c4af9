"""Show, or remove, what is old, from Airflow's own pages."""

from __future__ import annotations

import logging

log = logging.getLogger("airflow.task")


def clean(conf: str) -> list[str]:
    """Find runs and work directories that are old; removes them if the run's form says so. Returns their folders."""
    from stage_operator import BadInput

    from mlapp import retention
    from mlapp.config import DEFAULT_PRESET
    from mlapp.configure import read_conf, resolve
    from mlapp.errors import UserError

    try:
        given = read_conf(conf)
    except UserError as error:
        raise BadInput(str(error)) from error
    older_than, remove = given.pop("older_than_days", 90), given.pop("remove", False)
    if isinstance(older_than, bool) or not isinstance(older_than, int | float) or not 1 <= older_than <= 36_500:
        raise BadInput(f"older_than_days is {older_than!r}: give 1 to 36,500 days")
    try:
        areas = resolve(DEFAULT_PRESET, given).storage
        # Bundles go by command alone: this task's account need not be able to write the registry.
        found = retention.clean(areas, float(older_than), remove_them=remove is True, bundles=False)
    except UserError as error:
        raise BadInput(str(error)) from error
    for line in (
        retention.report(found, removed=remove is True).replace("--yes removes", "`remove` removes").splitlines()
    ):
        log.info("%s", line)
    return [str(each.folder) for each in found]
