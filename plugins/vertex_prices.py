"""What a job costs, by the prices that the settings list."""

from __future__ import annotations

from typing import Any

from mlapp.schema_cloud import Place, Placement


def hourly(place: Place, settings: Placement) -> float | None:
    """Price of an hour at a place, all replicas; None where the settings do not list every part of it."""
    machine = _price(place.machine_type, place, settings)
    accelerator = _price(place.accelerator_type, place, settings) if place.accelerator_type else 0.0
    if machine is None or accelerator is None:
        return None
    return place.replicas * (machine + place.accelerator_count * accelerator)


def estimate(place: Place, settings: Placement, hours: float) -> str:
    """The sentence before a job is submitted."""
    price = hourly(place, settings)
    if price is None:
        return "not estimated: placement.prices does not list it"
    at_most = f"{price * hours:.2f} {settings.currency} if it takes all of its {hours:.3g} h"
    return f"{price:.2f} {settings.currency} an hour, at most {at_most}"


def cost(job: Any, place: Place, settings: Placement) -> float | None:
    """What a job that is over has cost: the time from its start to its end, as far as its prices are listed."""
    if not job.start_time:
        return 0.0
    price = hourly(place, settings)
    if price is None:
        return None
    return float(price * (job.end_time - job.start_time).total_seconds() / 3600)


def _price(what: str, place: Place, settings: Placement) -> float | None:
    key = f"{what}/spot" if place.spot else what
    return settings.prices.get(f"{key}@{place.region}", settings.prices.get(key))
