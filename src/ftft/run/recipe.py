"""The recipe: the dataclasses a YAML file is read into. Reading, overriding and checking are in ``reading.py``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from ftft.data.settings import DataFile, DataSettings
from ftft.engine.settings import DynamicsSettings, ModelSettings, SearchSettings, StopSettings, TrainSettings
from ftft.settings import setting

# Settings that came after stages had been stored and compared: at these values they are left out of every key, so that what
# was computed before they existed is still known. "*" stands for every name.
LATER_COLUMNS: dict[str, Any] = {"columns": {"inputs": None}}
LATER: dict[str, Any] = {
    "data": {**LATER_COLUMNS, "corrections": None, "train": LATER_COLUMNS, "evaluation": {"*": LATER_COLUMNS}},
    "stages": {
        "*": {
            "create": None,
            "use_model_of": None,
            "use_models_of": [],
            "trainer": None,
            "data": None,
            "model": {"stage": None},
            "other_models": {},
            "search": None,
            "train": {"end_at": None, "pack": False, "sharding": "none"},
        }
    },
}

Section = dict[str, Any]  # {"name": method, setting: value, ...}; "name" alone may be written as a plain string


@dataclass(frozen=True)
class Stage:
    """One training run: a model, what it learns from, and how. Each method section answers one of the seven questions."""

    model: ModelSettings
    train: TrainSettings = field(default_factory=TrainSettings)
    create: Section | None = setting(None, "what the training examples are made into before any is selected; null: nothing")
    select: Section = setting({"name": "all"}, "which examples the model learns from", factory=dict)
    use_dynamics_of: str | None = setting(None, "the stage (or the path of a dynamics file) whose dynamics `select` uses")
    use_model_of: str | None = setting(
        None, "an earlier stage whose finished model `create` and `select` work with; by default this stage's own, untrained"
    )
    use_models_of: list[str] = setting(
        (), "earlier stages whose finished models `combine` gets beside this one's", factory=list
    )
    other_models: dict[str, ModelSettings] = setting(
        {}, "pretrained models beside `model` that a method needs, by the role it has for them", factory=dict
    )
    adapt: Section = setting({"name": "full"}, "which parameters may change", factory=dict)
    objective: Section = setting({"name": "cross_entropy"}, "what is minimised", factory=dict)
    optimize: Section = setting({"name": "adamw"}, "how each step is taken", factory=dict)
    combine: Section = setting({"name": "last"}, "what comes out at the end", factory=dict)
    stop: StopSettings | None = setting(None, "stop before the planned end; null trains to the end")
    search: SearchSettings | None = setting(None, "search settings of this stage by short trials before it trains; null: none")
    dynamics: DynamicsSettings | None = setting(None, "what to record of the training dynamics; null records nothing")
    trainer: Section | None = setting(
        None, "a trainer of TRL that runs the stage instead of the engine (dpo, kto, grpo); it minimises its own objective"
    )
    data: DataFile | None = setting(
        None, "the rows that the stage's trainer learns from; by default those of data.train, where it can read them"
    )
    evaluate: Section | list[Section] = setting(
        {}, "what is measured, on every evaluation set and of the model; by default what the task names", factory=dict
    )
    seed: int | None = setting(None, "this stage's seed; by default the recipe's", ge=0, lt=4294967296)


def evaluators(stage: Stage) -> list[Section]:
    """The stage's evaluators as a list, however the recipe writes them."""
    if isinstance(stage.evaluate, list):
        return list(stage.evaluate)
    return [stage.evaluate] if stage.evaluate else []


def without_later(settings: Mapping[str, Any], later: Mapping[str, Any] = LATER) -> dict[str, Any]:
    """A recipe's settings (or, with a part of ``LATER``, a part's) for a key: later ones only where they say something."""
    kept: dict[str, Any] = {}
    for name, value in settings.items():
        if name in later and value == later[name]:
            continue
        inner = later.get(name, later.get("*"))
        if isinstance(inner, Mapping) and isinstance(value, Mapping):
            kept[name] = without_later(value, inner)
        elif isinstance(inner, Mapping) and isinstance(value, list):
            kept[name] = [without_later(one, inner) if isinstance(one, Mapping) else one for one in value]
        else:
            kept[name] = value
    return kept


LATER_IN_STAGE: dict[str, Any] = LATER["stages"]["*"]


@dataclass(frozen=True)
class Recipe:
    """A list of named stages over one set of data. A later stage may use what an earlier one left."""

    data: DataSettings
    stages: dict[str, Stage]
    name: str | None = setting(None, "the run's name; by default the file's")
    seed: int = setting(0, "seeds shuffling, dropout, heads and the bootstrap", ge=0, lt=4294967296)
    task: Section = setting({"name": "text_classification"}, "what kind of data and model it is", factory=dict)
    baseline: str | None = setting(None, "the stage that is plain fine-tuning (ERM), for comparison and as the unit of cost")
    main: str | None = setting(None, "the stage whose model is the run's result; by default the last that is not the baseline")
    only: list[str] | None = setting(
        None, "run these stages and those whose dynamics they use, and leave the others out; by default all"
    )
    report_texts: bool = setting(False, "show the training rows' texts in the report's data map")
    output: str = setting("runs", "the folder that gets a folder for this run")
    store: str | None = setting(None, "where finished stages are kept for reuse; by default `.store` in `output`")


@dataclass
class OneStage:
    """A stage of a recipe, by its name."""

    recipe: Recipe
    name: str

    @property
    def stage(self) -> Stage:
        return self.recipe.stages[self.name]

    @property
    def where(self) -> str:
        """The stage's path in the recipe, for messages."""
        return f"stages.{self.name}"

    @property
    def seed(self) -> int:
        return self.recipe.seed if self.stage.seed is None else self.stage.seed


def result_stage(recipe: Recipe) -> str:
    """The stage whose model is the run's result: ``main`` as named, else the last that is not the baseline."""
    if recipe.main is not None:
        return recipe.main
    others = [name for name in recipe.stages if name != recipe.baseline]
    return (others or list(recipe.stages))[-1]


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


def pretrained(recipe: Recipe, name: str) -> ModelSettings:
    """Where the model of a stage comes from in the end: of one that begins with another stage's, that one's, with the layers
    and the dropout that the later one says."""
    own = recipe.stages[name].model
    if own.stage is None:
        return own
    source = pretrained(recipe, own.stage)
    dropout = source.dropout if own.dropout is None else own.dropout
    return replace(source, keep_layers=own.keep_layers or source.keep_layers, dropout=dropout)


def uses(stage: Stage) -> list[str]:
    """What a stage takes from others: the model it begins with, the source of its dynamics (a stage or a file), the stage
    whose model selects, and those whose models it combines; each once."""
    sources = (stage.model.stage, stage.use_dynamics_of, stage.use_model_of)
    single = [source for source in sources if source is not None]
    return list(dict.fromkeys([*single, *stage.use_models_of]))
