"""The predicted cost of a recipe as a table on the terminal, and what was assumed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from rich.console import Console

from ftft.report.columns import Column, print_columns, say
from ftft.report.figures import count, memory, percent, scientific

if TYPE_CHECKING:
    from ftft.run.predicted_costs import PredictedCosts, PredictedStage

NOT_KNOWN = "not known"


def print_predicted_costs(found: PredictedCosts, console: Console) -> None:
    """One row for each stage, then what makes its figures smaller, less exact or unknown, then what all of them assume."""
    stages = list(found.stages.values())
    say("", console)
    say("Predicted cost, in floating-point operations (FLOPs); nothing was trained, and no weights were read:", console, "bold")
    columns = [
        Column("Stage", list(found.stages), left=True),
        Column("Examples", [count(one.examples) for one in stages]),
        Column("Steps", [count(one.steps) for one in stages]),
        Column("Predicted FLOPs\nof the stage", [_own(one) for one in stages]),
        Column("with those\nit uses", [_known(scientific, found.whole(name)) for name in found.stages]),
        Column("% of\nERM cost", [_known(percent, found.fraction(name)) for name in found.stages]),
        Column("Evaluation\nafterwards", [_known(scientific, one.reporting) for one in stages]),
        Column("Memory: weights,\ngradients, optimizer", [_known(memory, one.memory) for one in stages]),
    ]
    print_columns(columns, console)
    for name, one in found.stages.items():
        for words, reasons in (
            ("cost is not known", one.unknown),
            ("figures are the largest", [f"without {reason}" for reason in one.largest]),
            ("figures are about right", one.about),
        ):
            if reasons:
                say(f"stage {name}: {words}: {_listed(reasons)}", console)
    for source in found.not_counted():
        say(f"not counted: what recording the dynamics in {source} cost", console)
    source = found.erm.source.replace("measured:", "predicted:")
    unit = f"ERM's cost, the unit: {source}. " if found.erm.flops else "What plain fine-tuning (ERM) costs is not known. "
    say(f"{unit}{ASSUMED}", console, "dim")


ASSUMED = (
    "Assumed: one process, every planned step, and steps of one shape that all cost what the first one does, on the device "
    "that is here. Not counted: time, activations in memory, and evaluators' own computations."
)


def _own(stage: PredictedStage) -> str:
    """The stage's own operations: all of them, and below by phase where there are several."""
    phases = {phase: cost.flops for phase, cost in stage.ledger.effective.items() if cost.flops}
    if stage.unknown:
        return "\n".join([NOT_KNOWN, *(f"{phase} {scientific(flops)}" for phase, flops in phases.items())])
    total = scientific(sum(phases.values()))
    return total if len(phases) < 2 else "\n".join([total, *(f"{phase} {scientific(one)}" for phase, one in phases.items())])


def _known(written: Callable[[float], str], value: float | None) -> str:
    return NOT_KNOWN if value is None else written(value)


def _listed(reasons: Sequence[str]) -> str:
    return "; ".join(dict.fromkeys(reasons))
