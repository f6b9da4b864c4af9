"""The search itself: Ray Tune makes the trials, Optuna's TPE suggests them, ASHA stops what falls behind."""

from __future__ import annotations

import logging
import warnings
from dataclasses import dataclass
from typing import Any

from mlapp.errors import UserError
from mlapp.schema import Tuning
from mlapp.search_space import SearchSpace
from mlapp.section import Section
from mlapp.tune.cluster import Cluster, connected, stops
from mlapp.tune.space import Point, distributions, every
from mlapp.tune.trials import Trial, Trials
from mlapp.tune.worker import METRIC, Assignment, run_trial

log = logging.getLogger("mlapp")
STARTUP_SHARE = 3  # the first third of the trials is drawn at random, at most TPE's own ten


@dataclass(frozen=True)
class Search:
    """What is searched: over ``space``, from ``first`` on, around the ``settings`` of the trainer in ``module``."""

    config: Tuning
    module: str
    settings: Section
    space: SearchSpace
    first: Point
    epochs: int

    @property
    def points(self) -> list[Point]:
        """What is tried where the space has no more points than trials are asked for: each of them, once."""
        points = every(self.space, self.config.trials)
        return sorted(points, key=lambda point: point != self.first)

    @property
    def total(self) -> int:
        """How many trials there are to be."""
        return len(self.points) or self.config.trials


def search(what: Search, trials: Trials) -> None:
    """Make the trials that are still to be made; ``trials`` holds them all afterwards.

    Trials that are over are told to the sampler, not made again; interrupted ones go first. If all failed, the first
    one's reason is raised as a `UserError`.
    """
    if (left := what.total - len(trials.over)) > 0:
        _make(what, trials, left)
        for trial in trials.interrupted:  # the search is over: what it never heard of again is lost
            lost = {"state": "failed", "reason": "Ray lost it: it never ended", "blame": "code"}
            log.warning("trial %d/%d failed: %s", trial.number, what.total, lost["reason"])
            trials.put(trial.model_copy(update=lost))
    if not any(trial.usable for trial in trials):
        over = trials.over
        trials.forget()  # once the reason is mended, the same command tries them anew
        _tell_failure(over)


def _make(what: Search, trials: Trials, left: int) -> None:
    logging.getLogger("ray").setLevel(logging.ERROR)
    if what.total < what.config.trials:
        log.info("the space has only %d points, each is tried once", what.total)
    log.info("%d trials to make, of up to %d epochs each; starting Ray", left, what.epochs)
    with warnings.catch_warnings(), connected(what.config, trials.folder) as cluster, stops() as check:
        from mlapp.tune.watch import Watch  # not above: Ray, which it imports, reads the environment at once

        warnings.simplefilter("ignore")
        log.info("Ray is up: trials at once %d, processors of each %d", cluster.plan.concurrency, cluster.plan.cpus)
        watch = Watch(trials, what.total, what.epochs, check, cluster.folder if cluster.own else None)
        _tuner(what, trials, left, cluster, watch).fit()


def _tuner(what: Search, trials: Trials, left: int, cluster: Cluster, watch: Any) -> Any:
    from ray import tune
    from ray.tune.schedulers import ASHAScheduler

    assignment = Assignment(
        module=what.module,
        settings=what.settings.model_dump(mode="json"),
        cpus=cluster.plan.cpus,
        scratch=str(trials.folder) if cluster.own else None,
    )
    scheduler = ASHAScheduler(
        time_attr="epoch",
        metric=METRIC,
        mode="max",
        max_t=what.epochs,
        grace_period=max(1, round(what.config.grace_period * what.epochs)),
        reduction_factor=what.config.reduction_factor,
        stop_last_trials=False,
    )
    return tune.Tuner(
        tune.with_resources(tune.with_parameters(run_trial, assignment=assignment), cluster.plan.resources),
        tune_config=tune.TuneConfig(
            num_samples=left,
            max_concurrent_trials=cluster.plan.concurrency,
            search_alg=_suggestions(what, trials),
            scheduler=scheduler,
            reuse_actors=True,
        ),
        run_config=tune.RunConfig(name="search", storage_path=str(cluster.folder), verbose=0, callbacks=[watch]),
    )


def _suggestions(what: Search, trials: Trials) -> Any:
    """Optuna's sampler, told of what is over. A resumed search draws from another stream: the same would repeat."""
    import numpy as np
    import optuna
    from ray.tune.search.optuna import OptunaSearch

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    known = [trial.parameters for trial in trials]
    ahead = [point for point in what.points or [what.first] if point not in known]
    sampler = optuna.samplers.TPESampler(
        seed=int(np.random.SeedSequence([what.config.seed, len(trials)]).generate_state(1)[0]),
        n_startup_trials=max(2, min(10, what.config.trials // STARTUP_SHARE)),
        multivariate=True,
        constant_liar=True,
    )
    suggestions = OptunaSearch(
        space=distributions(what.space),
        metric=METRIC,
        mode="max",
        sampler=sampler,
        points_to_evaluate=[*(trial.parameters for trial in trials.interrupted), *ahead],
    )
    for trial in trials.over:
        suggestions.add_evaluated_point(trial.parameters, trial.accuracy if trial.usable else 0.0)
    return suggestions


def _tell_failure(over: list[Trial]) -> None:
    first = over[0]
    if first.blame == "user":
        raise UserError(first.reason)
    raise UserError(
        f"all {len(over)} trials failed, the first with {first.reason}: the search found nothing; search other values "
        "(tuning.space), give a trial more memory (tuning.memory_per_trial_mb), or train once without a search, which "
        "shows the whole error"
    )
