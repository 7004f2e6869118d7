"""The recipe: the dataclasses a YAML file is read into. Reading, overriding and checking are in ``reading.py``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from ftft.data.settings import DataSettings
from ftft.engine.settings import DynamicsSettings, ModelSettings, StopSettings, TrainSettings
from ftft.settings import setting

# Settings of a stage that came after stages had been stored and compared: at these values they are left out of every key,
# so that what was computed before they existed is still known.
LATER: dict[str, Any] = {"use_models_of": [], "train": {"end_at": None}}

Section = dict[str, Any]  # {"name": method, setting: value, ...}; "name" alone may be written as a plain string


@dataclass(frozen=True)
class Stage:
    """One training run: a model, what it learns from, and how. Each method section answers one of the seven questions."""

    model: ModelSettings
    train: TrainSettings = field(default_factory=TrainSettings)
    select: Section = setting({"name": "all"}, "which examples the model learns from", factory=dict)
    use_dynamics_of: str | None = setting(None, "the stage (or the path of a dynamics file) whose dynamics `select` uses")
    use_models_of: list[str] = setting(
        (), "earlier stages whose finished models `combine` gets beside this one's", factory=list
    )
    adapt: Section = setting({"name": "full"}, "which parameters may change", factory=dict)
    objective: Section = setting({"name": "cross_entropy"}, "what is minimised", factory=dict)
    optimize: Section = setting({"name": "adamw"}, "how each step is taken", factory=dict)
    combine: Section = setting({"name": "last"}, "what comes out at the end", factory=dict)
    stop: StopSettings | None = setting(None, "stop before the planned end; null trains to the end")
    dynamics: DynamicsSettings | None = setting(None, "what to record of the training dynamics; null records nothing")
    evaluate: Section = setting({"name": "classification"}, "what is measured on every evaluation set", factory=dict)
    seed: int | None = setting(None, "this stage's seed; by default the recipe's", ge=0, lt=4294967296)


def without_later(stage: Mapping[str, Any], later: Mapping[str, Any] = LATER) -> dict[str, Any]:
    """A stage's settings for a key: those of ``LATER`` only where they say something."""
    kept = {}
    for name, value in stage.items():
        if isinstance(later.get(name), Mapping) and isinstance(value, Mapping):
            kept[name] = without_later(value, later[name])
        elif name not in later or value != later[name]:
            kept[name] = value
    return kept


@dataclass(frozen=True)
class TaskSettings:
    """What kind of task it is, and how long an input may be."""

    name: str = setting("text_classification", "one of `ftft list tasks`")
    max_length: int = setting(128, "tokens; longer inputs are cut", ge=1)


@dataclass(frozen=True)
class Recipe:
    """A list of named stages over one set of data. A later stage may use what an earlier one left."""

    data: DataSettings
    stages: dict[str, Stage]
    name: str | None = setting(None, "the run's name; by default the file's")
    seed: int = setting(0, "seeds shuffling, dropout, heads and the bootstrap", ge=0, lt=4294967296)
    task: TaskSettings = field(default_factory=TaskSettings)
    baseline: str | None = setting(None, "the stage that is plain fine-tuning (ERM), for comparison and as the unit of cost")
    main: str | None = setting(None, "the stage whose model is the run's result; by default the last that is not the baseline")
    only: list[str] | None = setting(
        None, "run these stages and those whose dynamics they use, and leave the others out; by default all"
    )
    report_texts: bool = setting(False, "show the training rows' texts in the report's data map")
    output: str = setting("runs", "the folder that gets a folder for this run")
    store: str | None = setting(None, "where finished stages are kept for reuse; by default `.store` in `output`")


def upstream(stages: Mapping[str, Stage], name: str) -> list[str]:
    """The stages that ``name`` uses, directly or through others, in the recipe's order."""
    found: set[str] = set()
    waiting = list(uses(stages[name]))
    while waiting:
        other = waiting.pop()
        if other in stages and other not in found:
            found.add(other)
            waiting += uses(stages[other])
    return [other for other in stages if other in found]


def uses(stage: Stage) -> list[str]:
    """What a stage takes from others: the source of its dynamics (a stage or a file) and the stages whose models it gets."""
    return [*([] if stage.use_dynamics_of is None else [stage.use_dynamics_of]), *stage.use_models_of]
