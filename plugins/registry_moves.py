"""Move the pointer to the champion from Airflow's own pages."""

from __future__ import annotations

import logging

log = logging.getLogger("airflow.task")
ACTIONS = ("rollback", "promote")
ASKED = ("action", "bundle", "why")


def move(conf: str, by: str) -> str:
    """Promote or roll back, as a run's form asks; returns the new champion's bundle.

    ``by`` names this very run, so that a second try does not move once more; it goes into the history.
    """
    from stage_operator import BadInput

    from mlapp import storage
    from mlapp.config import DEFAULT_PRESET
    from mlapp.configure import read_conf, resolve
    from mlapp.errors import UserError
    from mlapp.registry.moves import rollback

    given = read_conf(conf)
    action, bundle, why = (given.pop(name, None) for name in ASKED)
    if action not in ACTIONS:
        raise BadInput(f"action is {action!r}: choose {' or '.join(ACTIONS)}")
    if (action == "promote") != bool(bundle):
        raise BadInput(f"{action} takes {'a bundle' if action == 'promote' else 'no bundle, but the predecessor'}")
    try:
        settings = resolve(DEFAULT_PRESET, given)
        with storage.explained():
            registry, name, keys = settings.storage.registry, settings.model_name, settings.signing
            former, new = rollback(registry, name, bundle, by=by, why=str(why or ""), request=by, keys=keys)
    except UserError as error:
        raise BadInput(str(error)) from error
    log.info("%s: the champion is %s, before it was %s", name, new, former)
    return new
