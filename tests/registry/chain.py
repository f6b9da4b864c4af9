"""Choose, vet and promote in one call, as the DAG does."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import get_args

from mlapp.policy import AT_LEAST
from mlapp.registry import promoter
from mlapp.registry.pointer import Pointer
from mlapp.result import StageResult
from mlapp.schema_policy import Measure
from mlapp.vetting import selector, verdict
from mlapp.vetting.verdict import Verdict

NAME = "fashion_mnist"


@dataclass(frozen=True)
class Chain:
    """What a run left."""

    challenger: StageResult
    vetted: StageResult
    promoted: StageResult

    @property
    def verdict(self) -> Verdict:
        return promoter.read_verdict(self.vetted)


def vet(
    folder: Path,
    data: StageResult,
    teacher: StageResult,
    student: StageResult,
    baseline: StageResult | None = None,
    **settings: object,
) -> Chain:
    """Everything but the promotion; ``promoted`` is the vet's own result.

    Settings that are named as a measure are its bound, or what missing it means. Planted models are sure of nothing,
    and know an image by pixels that no corruption leaves as they are.
    """
    models = (teacher.uri, student.uri, *([baseline.uri] if baseline else ()))
    choice = selector.SelectorConfig(results=models, max_accuracy_drop=1.0)
    model = Path(student.folder).name
    chosen = selector.run(choice, folder / "choose" / model)
    given = {name: settings.pop(name) for name in get_args(Measure) if name in settings}
    bounds = {"calibration_error": 1.0, "corrupted_accuracy": 0.0, "corrupted_accuracy_drop": 1.0, **given}
    gates = {name: _changed(name, bound) for name, bound in bounds.items()}
    settings = {"registry": str(folder / "registry"), "name": NAME, "gates": gates, "corrupted_images": 100, **settings}
    if baseline:
        settings["baseline"] = baseline.uri
    config = verdict.VetConfig(challenger=chosen.uri, data=data.uri, **settings)
    vetted = verdict.run(config, folder / "vet" / model)
    return Chain(chosen, vetted, vetted)


def _changed(measure: str, to: float | str) -> dict[str, float | str]:
    return {"otherwise" if isinstance(to, str) else "at_least" if measure in AT_LEAST else "at_most": to}


def promote_config(folder: Path, data: StageResult, chain: Chain, **changes: object) -> promoter.PromoterConfig:
    return promoter.PromoterConfig(
        verdict=chain.vetted.uri,
        challenger=chain.challenger.uri,
        data=data.uri,
        registry=str(folder / "registry"),
        results=(data.uri,),
        **{"name": NAME, **changes},
    )


def run(folder: Path, data: StageResult, teacher: StageResult, student: StageResult, **settings: object) -> Chain:
    """The whole way of a challenger."""
    chain = vet(folder, data, teacher, student, **settings)
    promoted = promoter.run(promote_config(folder, data, chain), folder / "promote")
    return Chain(chain.challenger, chain.vetted, promoted)


def pointer(folder: Path) -> Pointer:
    """The pointer of the registry that `promote_config` promotes to."""
    return Pointer(str(folder / "registry"), NAME)
