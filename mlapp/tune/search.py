"""The search itself: Ray Tune over the trials, Optuna's TPE to suggest, ASHA to stop what falls behind."""

from __future__ import annotations

import logging
import warnings
from typing import Any

from mlapp.errors import UserError
from mlapp.schema import Section, Tuning
from mlapp.search_space import SearchSpace
from mlapp.tune.cluster import Cluster, connected, stops
from mlapp.tune.space import Point, distributions
from mlapp.tune.trials import Trial, Trials
from mlapp.tune.worker import METRIC, Assignment, run_trial

log = logging.getLogger("mlapp")
STARTUP_SHARE = 3  # the first third of the trials is drawn at random, at most TPE's own ten


def search(
    trials: Trials, config: Tuning, space: SearchSpace, first: Point, module: str, settings: Section, epochs: int
) -> None:
    """Make the trials that are still to be made; ``trials`` holds them all afterwards.

    ``settings`` are those of the trainer in ``module``, for up to ``epochs`` epochs a trial; ``first`` is the point
    to begin with. Trials that are over are told to the sampler, not made again; interrupted ones go first.
    """
    left = config.trials - len(trials.over)
    if left <= 0:
        return
    from mlapp.tune.watch import Watch

    logging.getLogger("ray").setLevel(logging.ERROR)
    log.info("%d trials to make, of up to %d epochs each; starting Ray", left, epochs)
    with warnings.catch_warnings(), connected(config, trials.folder) as cluster, stops() as check:
        warnings.simplefilter("ignore")
        log.info("Ray is up: trials at once %d, processors of each %d", cluster.plan.concurrency, cluster.plan.cpus)
        assignment = Assignment(
            module=module,
            settings=settings.model_dump(mode="json"),
            cpus=cluster.plan.cpus,
            scratch=str(trials.folder) if cluster.own else None,
        )
        watch = Watch(trials, config.trials, epochs, check)
        suggestions = _suggestions(trials, config, space, first)
        _tuner(config, assignment, suggestions, watch, cluster, left, epochs).fit()
    if not any(trial.usable for trial in trials):
        _tell_failure(trials.over)


def _tuner(
    config: Tuning, assignment: Assignment, suggestions: Any, watch: Any, cluster: Cluster, left: int, epochs: int
) -> Any:
    from ray import tune
    from ray.tune.schedulers import ASHAScheduler

    scheduler = ASHAScheduler(
        time_attr="epoch",
        metric=METRIC,
        mode="max",
        max_t=epochs,
        grace_period=max(1, round(config.grace_period * epochs)),
        reduction_factor=config.reduction_factor,
        stop_last_trials=False,
    )
    trainable = tune.with_resources(tune.with_parameters(run_trial, assignment=assignment), cluster.plan.resources)
    return tune.Tuner(
        trainable,
        tune_config=tune.TuneConfig(
            num_samples=left,
            max_concurrent_trials=cluster.plan.concurrency,
            search_alg=suggestions,
            scheduler=scheduler,
            reuse_actors=True,
        ),
        run_config=tune.RunConfig(name="search", storage_path=str(cluster.folder), verbose=0, callbacks=[watch]),
    )


def _suggestions(trials: Trials, config: Tuning, space: SearchSpace, first: Point) -> Any:
    """Optuna's sampler, told of what is over. A resumed search draws from another stream: the same would repeat."""
    import numpy as np
    import optuna
    from ray.tune.search.optuna import OptunaSearch

    optuna.logging.set_verbosity(optuna.logging.ERROR)
    over, interrupted = trials.over, [trial.parameters for trial in trials.interrupted]
    sampler = optuna.samplers.TPESampler(
        seed=int(np.random.SeedSequence([config.seed, len(trials)]).generate_state(1)[0]),
        n_startup_trials=max(2, min(10, config.trials // STARTUP_SHARE)),
        multivariate=True,
        constant_liar=True,
    )
    begin = [first] if not over and first not in interrupted else []
    suggestions = OptunaSearch(
        space=distributions(space),
        metric=METRIC,
        mode="max",
        sampler=sampler,
        points_to_evaluate=[*begin, *interrupted],
    )
    for trial in over:
        suggestions.add_evaluated_point(trial.parameters, trial.accuracy if trial.usable else 0.0)
    return suggestions


def _tell_failure(over: list[Trial]) -> None:
    first = over[0]
    if first.blame == "user":
        raise UserError(first.reason)
    raise RuntimeError(f"all {len(over)} trials failed, the first with {first.reason}")
